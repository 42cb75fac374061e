"""Which heartbeats keep an attempt alive."""

from __future__ import annotations

import pytest

from sluice_contracts.messages.agent import HeldAttempt, RunnerHeartbeat
from sluice_spawner.adapters.leases import LeaseWatch
from sluice_spawner.domain.state import AgentEntity
from tests.doubles import ManualClock


def heartbeat(runner_id: str, attempt: int = 1) -> RunnerHeartbeat:
    held = HeldAttempt(agent_id="a", attempt=attempt, state="running")
    return RunnerHeartbeat(runner_id=runner_id, queues=("q",), slots=1, attempts=(held,))


@pytest.mark.covers("W10")
@pytest.mark.parametrize(
    ("heard", "lives"),
    [(heartbeat("r1"), True), (heartbeat("r2"), False), (heartbeat("r1", attempt=2), False)],
    ids=["its holder", "another runner that has it queued", "another attempt"],
)
def test_only_the_holder_of_an_attempt_keeps_its_lease(heard: RunnerHeartbeat, lives: bool) -> None:
    clock = ManualClock()
    watch = LeaseWatch(clock, lease_ms=3_000)
    watch.observe(4, "p/agent/a", AgentEntity(task_id="t", role="r", queue="q", attempt=1, runner_id="r1"))
    found = {}
    for _ in range(3):
        clock.advance(1_500)
        watch.heard(heard)
        found |= watch.expired()
    assert list(found) == ([] if lives else [4])


def test_a_partition_that_is_gone_has_no_leases() -> None:
    clock = ManualClock()
    watch = LeaseWatch(clock, lease_ms=1_000)
    watch.observe(4, "p/agent/a", AgentEntity(task_id="t", role="r", queue="q", attempt=1, runner_id="r1"))
    watch.forget(4)
    clock.advance(1_500)
    assert watch.expired() == {}
