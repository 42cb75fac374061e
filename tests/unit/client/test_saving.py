"""Artifacts become files; their names were chosen by agents."""

from __future__ import annotations

from pathlib import Path

import pytest

from sluice_client.client import Json
from sluice_client.errors import InputInvalid
from sluice_client.saving import save_artifacts

BODY = b"report"


def artifact(name: str | None, task: str = "t") -> Json:
    return {"task_id": task, "artifact": {"name": name, "sha256": "ab" * 32}}


@pytest.mark.covers("U2")
def test_artifacts_are_saved_by_task_and_name(tmp_path: Path) -> None:
    saved = save_artifacts([artifact("a/b.md"), artifact(None)], tmp_path / "out", lambda sha256: BODY)
    assert saved == [tmp_path / "out/t/a/b.md", tmp_path / "out/t" / ("ab" * 8)]
    assert saved[0].read_bytes() == BODY
    assert save_artifacts([artifact("a/b.md")], tmp_path / "out", lambda sha256: BODY) == saved[:1]
    with pytest.raises(InputInvalid, match="another content"):
        save_artifacts([artifact("a/b.md")], tmp_path / "out", lambda sha256: b"other")
    assert saved[0].read_bytes() == BODY


@pytest.mark.parametrize(
    "name", ["../x", "/etc/x", "a//b", "a/../../x", "..", ".", "a\\b", "a\x00b", "a\nb", "x" * 300]
)
def test_a_name_that_could_leave_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputInvalid, match="not saved"):
        save_artifacts([artifact(name)], tmp_path / "out", lambda sha256: BODY)
    assert list(tmp_path.rglob("*")) == []


def test_symbolic_links_are_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "t").symlink_to(outside)
    with pytest.raises(InputInvalid, match="symbolic link"):
        save_artifacts([artifact("x")], tmp_path / "out", lambda sha256: BODY)
    (tmp_path / "out" / "u").mkdir()
    (tmp_path / "out" / "u" / "x").symlink_to(outside / "y")
    with pytest.raises(InputInvalid, match="another content"):
        save_artifacts([artifact("x", task="u")], tmp_path / "out", lambda sha256: BODY)
    assert list(outside.iterdir()) == []
