"""Workspaces of runners that were killed: whoever starts next clears them away, and nothing else."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import pytest

from sluice_agent_runner.adapters.workspaces import DiskWorkspaces
from sluice_agent_runner.bootstrap import agent_runner
from sluice_agent_runner.settings import RunnerSettings
from sluice_runtime.broker import Broker
from tests.unit.agent_runner.builders import Store, TestTime, agent_run

pytestmark = pytest.mark.covers("W6", "P12")

RUNNER = """
import asyncio, sys, time
from pathlib import Path
from sluice_agent_runner.adapters.workspaces import DiskWorkspaces
from tests.unit.agent_runner.builders import Store, TestTime, agent_run
store = Store()
workspaces = DiskWorkspaces(Path(sys.argv[1]), store, TestTime())
run = agent_run(inputs=[store.put_now(b"x", name="logs/a.log")])
asyncio.run(workspaces.open(sys.argv[2], run, ()))
print("held", flush=True)
time.sleep(60)
"""


@contextmanager
def runner(directory: Path, pipeline_id: str) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that holds a workspace."""
    process = subprocess.Popen(
        [sys.executable, "-c", RUNNER, str(directory), pipeline_id],
        stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def pipelines(directory: Path) -> set[str]:
    return {path.parents[2].name for path in directory.glob("runner-*/*/*/logs/a.log")}


def test_what_a_killed_runner_left_is_removed_and_what_a_living_one_holds_stays(tmp_path: Path) -> None:
    directory = tmp_path / "workspaces"
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    with runner(directory, "killed") as killed, runner(directory, "frozen") as frozen:
        frozen.send_signal(signal.SIGSTOP)
        killed.kill()
        killed.wait()
        (directory / "projects" / "agent-1-1").mkdir(parents=True)
        (directory / "runner-of-mine").mkdir()
        (directory / f"runner-{'a' * 16}").symlink_to(outside)
        (directory / f"runner-{'b' * 16}").write_text("a file")
        assert pipelines(directory) == {"killed", "frozen"}
        workspaces = DiskWorkspaces(directory, Store(), TestTime())
        own = asyncio.run(workspaces.open("own", agent_run(), ()))
        assert workspaces.sweep() == 1
        assert pipelines(directory) == {"frozen"}
        assert (directory / "projects" / "agent-1-1").is_dir()
        assert (directory / "runner-of-mine").is_dir()
        assert (directory / f"runner-{'b' * 16}").is_file()
        assert (outside / "kept").read_text() == "kept"
        assert len(list(directory.glob("*/own/agent-1-1"))) == 1
        assert workspaces.sweep() == 0
        asyncio.run(own.close())
    assert workspaces.sweep() == 1
    workspaces.close()
    assert pipelines(directory) == set()


def test_runners_that_start_and_sweep_at_once_keep_out_of_each_other_s_way(tmp_path: Path) -> None:
    errors: list[BaseException] = []

    def life() -> None:
        try:
            for _ in range(30):
                workspaces = DiskWorkspaces(tmp_path, Store(), TestTime())
                workspaces.sweep()
                workspace = asyncio.run(workspaces.open("p", agent_run(), ()))
                assert len(list(tmp_path.glob(f"{workspaces._name}/p/agent-1-1"))) == 1
                asyncio.run(workspace.close())
                workspaces.close()
        except BaseException as error:
            errors.append(error)

    lives = [threading.Thread(target=life) for _ in range(4)]
    for one in lives:
        one.start()
    for one in lives:
        one.join()
    assert errors == []
    assert list(tmp_path.iterdir()) == []


def test_a_runner_sweeps_when_it_starts(tmp_path: Path) -> None:
    directory = tmp_path / "workspaces"
    left = directory / f"runner-{'0' * 16}" / "p" / "a-1" / "logs"
    left.mkdir(parents=True)
    (left / "a.log").write_text("x")
    settings = RunnerSettings(
        kafka_bootstrap_servers="127.0.0.1:1",
        artifacts_url=f"file://{tmp_path}/artifacts",
        workspaces_directory=directory,
    )

    async def scenario() -> None:
        async with agent_runner(settings, cast(Broker, None)):
            assert pipelines(directory) == set()

    asyncio.run(scenario())
    assert list(directory.iterdir()) == []
