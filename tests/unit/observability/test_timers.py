"""Timers of the monitor: none is missed, none is late, and what is kept does not grow with what happens."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping

import pytest

from sluice_contracts.envelope import CloudEvent
from sluice_contracts.messages.alert import BudgetSet
from sluice_contracts.messages.signal import ErrorReported, WatchChanged
from sluice_observability.domain.budget_limits import Limits
from sluice_observability.domain.timers import STALE_MAX_COUNT, Timers
from sluice_runtime.broker import TopicPartition
from tests.unit.observability.test_budget_watch import PARTITIONS, World

CHANGES = 5_000


def test_each_key_is_taken_once_and_never_later_than_was_said_last() -> None:
    for seed in range(50):
        draw = random.Random(seed)
        last = {str(number): draw.randrange(100) for number in range(10)}
        timers = Timers(last)
        for now_ms in range(200):
            keys, _ = timers.take(now_ms, 1_000)
            assert len(keys) == len(set(keys))
            for key in keys:
                if last[key] > now_ms:
                    timers.put(key, last[key])
                else:
                    del last[key]
            assert all(look_ms > now_ms for look_ms in last.values()), f"seed {seed}"
            key = str(draw.randrange(10))
            last[key] = now_ms + draw.randrange(1, 90)
            timers.put(key, last[key])


def test_what_is_kept_does_not_grow_with_what_is_put() -> None:
    timers = Timers({})
    for number in range(CHANGES):  # each earlier than the one before, so that all others count no more
        timers.put("key", 10 * CHANGES - number)
    assert len(timers) <= STALE_MAX_COUNT + 2


def test_timers_that_count_no_more_are_part_of_what_is_taken() -> None:
    timers = Timers({})
    for number in range(STALE_MAX_COUNT):
        timers.put("key", CHANGES - number)
    assert timers.take(CHANGES, 10) == (["key"], 10)
    assert timers.take(CHANGES, 10) == ([], 10)


@pytest.mark.covers("O4")
def test_signals_of_a_living_pipeline_leave_one_timer() -> None:
    """An hour of a pipeline's life, each second a signal, and its agent watched and not in turn."""
    made: list[Timers] = []

    class Kept(Timers):
        def __init__(self, planned: Mapping[str, int]) -> None:
            super().__init__(planned)
            made.append(self)

    async def scenario() -> None:
        world = World(1, Limits(errors_per_minute=5_000), Kept)
        watch = await world.live(mortal=False)
        for number in range(3_600):
            world.clock.advance(1_000)
            watching = WatchChanged(agent_id="a", attempt=1, watched=number % 120 < 60)
            data = watching if number % 60 == 0 else ErrorReported(code="timeout")
            world.write(CloudEvent(f"e{number}", "runner/1", "acme", "p", world.clock.now_ms(), data))
            at = TopicPartition("signals", world.broker.partition_for(b"p", PARTITIONS))
            await watch.observe(world.log.read(at, number), world.table)
        assert sum(len(timers) for timers in made) < 100

    asyncio.run(scenario())


@pytest.mark.covers("V5")
@pytest.mark.parametrize("scope", ["installation", "tenant", "pipeline"])
def test_a_limit_sets_anew_the_timers_of_those_it_is_about(scope: str) -> None:
    """A shorter one is looked at in time, and nobody else's timer is touched."""
    put: list[str] = []

    class Noted(Timers):
        def put(self, key: str, look_ms: int) -> None:
            put.append(key)
            super().put(key, look_ms)

    about = {"installation": {"p1", "p2", "q1"}, "tenant": {"p1", "p2"}, "pipeline": {"p1"}}[scope]

    async def scenario() -> None:
        world = World(1, Limits(), Noted)
        for name, tenant in [("p1", "acme"), ("p2", "acme"), ("q1", "other")]:
            watched = WatchChanged(agent_id="a", attempt=1, watched=True)
            world.write(CloudEvent(f"w-{name}", "spawner", tenant, name, world.clock.now_ms(), watched))
        watch = await world.live(mortal=False)
        put.clear()
        name = {"installation": None, "tenant": "acme", "pipeline": "p1"}[scope]
        budget = BudgetSet.model_validate({"scope": scope, "name": name, "progress_timeout_s": 2})
        watch.replan(world.budgets.put(budget.key, budget))
        assert set(put) == about
        await watch.look(dict.fromkeys(range(PARTITIONS), world.clock.now_ms() + 3_001), world.table)
        alerts = [one for at in range(PARTITIONS) for one in world.log.read(TopicPartition("alerts", at), 0)]
        assert {(one.key or b"").decode() for one in alerts} == about

    asyncio.run(scenario())
