"""The disks of ClickHouse and of the artifacts are full for a while: everybody waits and says why, nothing is lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from sluice_contracts.messages.agent import AgentFailed
from sluice_contracts.messages.pipeline import TaskRetried
from tests.faults.verifying import WORK, verify
from tests.installation import Installation, fill


@pytest.mark.needs("mount")
@pytest.mark.covers("O1", "P12", "W7")
def test_full_disks(installation: Installation, disks: list[Path]) -> None:
    model = installation.scenario("work", WORK)
    running = [installation.spawn(model, tasks=2) for _ in range(4)]
    ballasts = [fill(disk) for disk in disks]
    try:
        running += [installation.spawn(model, tasks=2) for _ in range(4)]
        unready = installation.until(
            lambda: (answer := installation.get("store", "/readyz")).status == 503 and answer, what="the store waits"
        )
        assert b"ClickHouse" in unready.body
        assert b"space" in unready.body
        failed = installation.until_read(
            lambda: [
                event.data
                for pipeline in running
                for event in installation.events(pipeline, AgentFailed, "agent.events.default")
            ],
            what="an attempt that could not store its turn",
        )
        assert {(one.problem.code, one.retryable) for one in failed} == {("store_unavailable", True)}
    finally:
        for ballast in ballasts:
            ballast.unlink()
    installation.stack.wait_ready("store", 60)
    history = verify(installation)
    assert any(isinstance(event.data, TaskRetried) for event in history.events("pipeline.events"))
