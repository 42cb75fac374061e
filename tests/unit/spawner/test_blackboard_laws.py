"""A4: laws of the blackboard, for any order of writes and of what comes again. `test_laws` has them in every story."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sluice_contracts.messages.agent import AgentAnswer
from sluice_contracts.messages.blackboard import BlackboardConflictDetected, BlackboardWritten
from tests.unit.spawner.blackboard_laws import check_blackboard
from tests.unit.spawner.world import World, of, plan

TASKS = ("a", "b", "c", "d")


def working() -> World:
    world = World()
    world.spawn(plan(*({"id": task_id, "timeout_s": 86_400} for task_id in TASKS)))
    for task_id in TASKS:
        world.start(task_id)
        world.turn(task_id, 1)
    return world


@pytest.mark.covers("A4")
@settings(deadline=None)  # a machine may be busy
@given(st.permutations(TASKS), st.lists(st.tuples(st.integers(0, 3), st.integers(0, 11)), max_size=12))
def test_of_all_who_write_on_one_version_exactly_the_first_wins(order: list[str], again: list[tuple[int, int]]) -> None:
    """Whatever comes again in between, of the writes or of anything before them: it changes nothing."""
    world = working()
    for number, task_id in enumerate(order):
        said = world.write(task_id, "plan", 0, task_id)
        [answer] = of(AgentAnswer, said)
        assert (answer.answer.problem is None) == (number == 0)
        for after, which in again:
            if after == number:
                assert world.hear(world.heard[-1 - which % len(world.heard)][0]) == []
    [written] = world.all(BlackboardWritten)
    assert (written.agent_id, written.key_version) == (world.agent_id(order[0]), 1)
    losers = [one.agent_id for one in world.all(BlackboardConflictDetected)]
    assert losers == [world.agent_id(task_id) for task_id in order[1:]]
    check_blackboard(world)


@pytest.mark.covers("A4")
@settings(deadline=None)  # a machine may be busy
@given(st.lists(st.tuples(st.sampled_from(TASKS), st.integers(0, 3), st.sampled_from([0, 0, 20, 70])), max_size=16))
def test_a_version_that_was_read_fits_as_long_as_nobody_wrote_and_it_lives(steps: list[tuple[str, int, int]]) -> None:
    """A value of a minute: who writes on what it read last is accepted if, and only if, that is still so."""
    world = working()
    read = dict.fromkeys(TASKS, 0)
    turns = dict.fromkeys(TASKS, 1)
    version, last, expires_at_ms = 0, 0, 0
    for task_id, kind, seconds in steps:
        world.wait(seconds)
        version = version if world.now_ms < expires_at_ms else 0
        said = world.read(task_id, "plan") if kind == 0 else world.write(task_id, "plan", read[task_id], ttl_s=60)
        [answer] = of(AgentAnswer, said)
        if kind != 0:
            assert (answer.answer.problem is None) == (read[task_id] == version)
            if answer.answer.problem is None:
                last = version = last + 1
                expires_at_ms = world.now_ms + 60_000
        if answer.answer.answer is not None:
            read[task_id] = json.loads(answer.answer.answer)["version"]
            assert read[task_id] == version
        turns[task_id] += 1
        world.turn(task_id, turns[task_id])
        check_blackboard(world)
