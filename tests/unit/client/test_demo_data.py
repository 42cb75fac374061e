"""The demonstration deletes nothing but what a demonstration has made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sluice_client.demo.flow import MARKER, demonstrate, emptied
from sluice_client.demo.incident import incident_directory
from sluice_client.errors import InputInvalid

NOTHING: Any = None


def test_a_folder_with_something_in_it_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(InputInvalid, match="not made by a demonstration"):
        demonstrate(tmp_path, incident_directory(None), "none", NOTHING, NOTHING, timeout_s=1)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_new_or_empty_folder_and_an_earlier_demonstrations_are_taken(tmp_path: Path) -> None:
    directory = tmp_path / "new" / "demo"
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").touch()
    for _ in range(2):
        emptied(directory)
        assert [path.name for path in directory.iterdir()] == [MARKER]
        (directory / "kafka" / "data").mkdir(parents=True)
        (directory / "kafka" / "data" / "segment").touch()
        (directory / "lock").touch()
        (directory / "elsewhere").symlink_to(kept)
    emptied(kept.parent / "empty")
    assert (kept / "file").is_file(), "a link was followed"


def test_what_is_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputInvalid, match="can't be used"):
        emptied(tmp_path / "file")
    assert (tmp_path / "file").is_file()
