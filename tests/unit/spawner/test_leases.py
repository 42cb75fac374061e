"""Which heartbeats keep an attempt alive."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from sluice_contracts.messages.agent import HeldAttempt, RunnerHeartbeat
from sluice_spawner.adapters.leases import DEAF_MAX_MS, LeaseWatch
from sluice_spawner.domain.state import AgentEntity
from tests.doubles import ManualClock

HELD = AgentEntity(task_id="t", role="r", queue="q", attempt=1, runner_id="r1")
LEASE_MS = 3_000
LOOK_MS = 500


def watching(clock: ManualClock) -> LeaseWatch:
    watch = LeaseWatch(clock, lease_ms=LEASE_MS)
    watch.observe(4, "p/agent/a", HELD)
    return watch


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
    watch = watching(clock)
    found = {}
    for _ in range(3):
        clock.advance(1_500)
        watch.heard(heard)
        found |= watch.expired(clock.now_ms())
    assert list(found) == ([] if lives else [4])


def test_a_partition_that_is_gone_has_no_leases() -> None:
    clock = ManualClock()
    watch = watching(clock)
    watch.forget(4)
    assert silence(watch, clock, 2 * LEASE_MS) == 0


@pytest.mark.covers("W10")
def test_a_change_of_the_agent_that_leaves_its_holder_does_not_renew_the_lease() -> None:
    clock = ManualClock()
    watch = watching(clock)
    assert silence(watch, clock, LEASE_MS) == 0
    watch.observe(4, "p/agent/a", replace(HELD, turn=1))
    assert silence(watch, clock, LOOK_MS) == 1
    watch.observe(4, "p/agent/a", replace(HELD, attempt=2))
    assert silence(watch, clock, LEASE_MS) == 0


@pytest.mark.covers("W10", "P12")
def test_deafness_is_not_taken_for_the_death_of_a_runner() -> None:
    """We look all the time, but until when we have heard all stands still: the broker is away."""
    clock = ManualClock()
    watch = watching(clock)
    heard_through_ms = clock.now_ms()
    for _ in range(21_000 // LOOK_MS):
        clock.advance(LOOK_MS)
        assert watch.expired(heard_through_ms) == {}
    assert silence(watch, clock, LEASE_MS) == 0, "it begins anew with the first answer"
    assert silence(watch, clock, 2 * LOOK_MS) == 1, "now a silence that we heard"


@pytest.mark.covers("W10")
def test_silence_counts_as_far_as_we_listened() -> None:
    clock = ManualClock()
    watch = watching(clock)
    assert silence(watch, clock, LEASE_MS) == 0
    heard_through_ms = clock.now_ms()
    clock.advance(DEAF_MAX_MS)
    assert watch.expired(heard_through_ms) == {}
    assert list(watch.expired(clock.now_ms())) == [4]


@pytest.mark.covers("W10")
def test_a_clock_that_jumps_back_begins_leases_anew() -> None:
    clock = ManualClock()
    watch = watching(clock)
    clock.advance(-30_000)
    assert silence(watch, clock, LEASE_MS) == 0
    assert silence(watch, clock, 2 * LOOK_MS) == 1


@pytest.mark.covers("W10")
def test_a_clock_that_jumps_back_while_we_are_deaf_ages_no_lease() -> None:
    clock = ManualClock()
    watch = watching(clock)
    heard_through_ms = clock.now_ms()
    clock.advance(-30_000)
    watch.observe(4, "p/agent/a", replace(HELD, attempt=2))
    for _ in range(30_000 // LOOK_MS):
        assert watch.expired(heard_through_ms) == {}
        clock.advance(LOOK_MS)


def silence(watch: LeaseWatch, clock: ManualClock, milliseconds: int) -> int:
    """Listens for so long and hears nothing; returns how many attempts expired."""
    count = 0
    for _ in range(milliseconds // LOOK_MS):
        clock.advance(LOOK_MS)
        count += sum(len(inputs) for inputs in watch.expired(clock.now_ms()).values())
    return count
