"""Which installation a command means."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from sluice_client.errors import InputInvalid, NotRunning
from sluice_client.installation import (
    STATE_FILE,
    Installation,
    data_directory,
    default_data_directory,
    find,
    forget,
    holder,
    save,
    saved,
)

URL = "http://127.0.0.1:1234"


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Path]:
    """A directory whose lock is held, as a running stack holds it."""
    directory = tmp_path / "stack"
    directory.mkdir()
    descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT)
    os.write(descriptor, b"4711\n")
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    yield directory
    os.close(descriptor)


def test_what_was_saved_is_found(running: Path) -> None:
    installation = Installation(api_url=URL, queues=("a", "b"), partitions=3, data_directory=str(running))
    save(installation, running)
    assert (running / STATE_FILE).stat().st_mode & 0o777 == 0o600
    assert holder(running) == 4711
    assert find(data=running, environment={}) == installation
    assert find(environment={"SLUICE_DATA_DIRECTORY": str(running)}) == installation
    assert find(url=URL + "/", environment={"SLUICE_DATA_DIRECTORY": str(running)}) == installation


def test_a_later_release_may_say_more(running: Path) -> None:
    save(Installation(api_url=URL), running)
    content = json.loads((running / STATE_FILE).read_text())
    (running / STATE_FILE).write_text(json.dumps({**content, "new": 1}))
    assert saved(running).api_url == URL


def test_what_does_not_run_is_told_with_the_next_step(running: Path, tmp_path: Path) -> None:
    with pytest.raises(NotRunning, match="still starting"):
        saved(running)
    (running / STATE_FILE).write_text("[]")
    with pytest.raises(NotRunning, match="can't be read"):
        saved(running)
    stale = tmp_path / "stale"
    stale.mkdir()
    (stale / "lock").touch()
    save(Installation(api_url=URL), stale)
    assert holder(stale) is None
    with pytest.raises(NotRunning, match=r"no stack runs in .*sluice up"):
        find(data=stale, environment={})
    forget(stale)
    forget(stale)


def test_a_url_brings_what_settings_say(tmp_path: Path) -> None:
    settings = {
        "SLUICE_URL": URL,
        "SLUICE_SQL_URL": "http://sql",
        "SLUICE_DATA_DIRECTORY": str(tmp_path),
        "SLUICE_QUEUES": "a, b",
    }
    found = find(environment=settings)
    assert (found.api_url, found.needed_sql_url(), found.queues) == (URL, "http://sql", ("a", "b"))
    with pytest.raises(NotRunning, match="SLUICE_CREDENTIALS_DIRECTORY"):
        found.credentials_file("operator")
    with pytest.raises(NotRunning, match="SLUICE_SQL_URL"):
        find(url="https://other", environment={"SLUICE_DATA_DIRECTORY": str(tmp_path)}).needed_sql_url()
    with pytest.raises(InputInvalid, match="http://host:port"):
        find(url="localhost:80", environment={})
    with pytest.raises(NotRunning, match="no stack runs"):  # --data wins over SLUICE_URL
        find(data=tmp_path, environment=settings)


def test_the_nearest_stack_is_meant(tmp_path: Path) -> None:
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    assert default_data_directory(deep) == deep / ".sluice" / "stack"
    (tmp_path / ".sluice" / "stack").mkdir(parents=True)
    assert default_data_directory(deep) == tmp_path / ".sluice" / "stack"
    assert data_directory(Path("x"), {}) == Path.cwd() / "x"
