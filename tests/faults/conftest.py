"""An installation for a file's faults, on small disks that a test can fill; and one for those of the gate."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.faults.verifying import SETTINGS
from tests.gate import SETTINGS as GATE_SETTINGS
from tests.gate import Gate
from tests.installation import Installation

DISK_MIB = 192
"""Of ClickHouse, and of the artifacts: more than all of these tests write, and filled in a moment."""


@pytest.fixture(scope="module")
def small_disks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A data directory; where mounting is allowed, ClickHouse and artifacts are on file systems of their own."""
    directory = tmp_path_factory.mktemp("faults")
    with ExitStack() as mounted:
        for name in ("clickhouse", "artifacts"):
            disk = directory / name
            disk.mkdir()
            options = f"size={DISK_MIB}m,mode=0700"
            done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", disk], capture_output=True)
            if done.returncode == 0:
                mounted.callback(subprocess.run, ["umount", "--lazy", disk], check=True)
        yield directory


@pytest.fixture(scope="module")
def installation(small_disks: Path) -> Iterator[Installation]:
    with Installation(small_disks, SETTINGS) as running:
        yield running


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:
    with Gate(tmp_path_factory.mktemp("gate"), GATE_SETTINGS) as running:
        yield running


@pytest.fixture
def disks(installation: Installation) -> list[Path]:
    """ClickHouse's and the artifacts' file systems."""
    found = [installation.directory / "clickhouse", installation.directory / "artifacts"]
    if not all(os.path.ismount(disk) for disk in found):
        pytest.skip("a disk is filled only if it is its own: mounting a tmpfs was not allowed; run it as root")
    return found
