"""A4: the blackboard of a pipeline, as tables; the laws stand in test_blackboard_laws and test_laws."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sluice_contracts.messages.agent import AgentAnswer, AgentRun, Answer
from sluice_contracts.messages.base import Problem
from sluice_contracts.messages.blackboard import (
    BlackboardConflictDetected,
    BlackboardConflictResolved,
    BlackboardDeleted,
    BlackboardWritten,
)
from sluice_contracts.messages.pipeline import AgentAttemptRefused, PipelineCompleted, QuestionAsked
from sluice_spawner.domain import policy
from sluice_spawner.domain.policy import SpawnerPolicy
from sluice_spawner.domain.state import PipelineEntity
from sluice_spawner.domain.state_blackboard import BlackboardEntity, KeyEntity
from tests.unit.spawner.world import PIPELINE, START_MS, World, plan, types

TTL_MS = 3_600_000


def working(*tasks: str, policy_: SpawnerPolicy | None = None, **more: Any) -> World:
    """Agents that have finished a turn each."""
    world = World(policy_)
    world.spawn(plan(*(tasks or ("a", "b")), **more))
    for task in tasks or ("a", "b"):
        world.start(task)
        world.turn(task, 1)
    return world


def answered(world: World) -> Answer:
    return world.last(AgentAnswer).answer


def told(world: World) -> Any:
    text = answered(world).answer
    assert text is not None
    return json.loads(text)


def problem(world: World) -> Problem:
    found = answered(world).problem
    assert found is not None
    return found


def counted(world: World) -> tuple[int, int]:
    pipeline = world.state[f"{PIPELINE}/pipeline"]
    assert isinstance(pipeline, PipelineEntity)
    return pipeline.conflicts_detected, pipeline.conflicts_unresolved


@pytest.mark.covers("A4")
def test_a_value_is_written_read_listed_and_deleted() -> None:
    world = working()
    world.read("a", "plan")
    assert told(world) == {"key": "plan", "version": 0, "value": None}
    assert types(world.write("a", "plan", 0, "first", "w")) == ["blackboard.written", "agent.answer"]
    assert told(world) == {"key": "plan", "version": 1, "accepted": "set"}
    written = world.last(BlackboardWritten)
    assert (written.key, written.key_version, written.value) == ("plan", 1, "first")
    assert (written.agent_id, written.expires_at_ms) == (world.agent_id("a"), START_MS + TTL_MS)
    assert world.said[-1].topic == "agent.inbox.general"
    world.read("b", "plan")
    assert told(world) == {
        "key": "plan", "version": 1, "task": "a", "expires_at_ms": START_MS + TTL_MS, "value": "first",
    }  # fmt: skip
    world.write("b", "other", 0, request_id="w")
    world.read("b", request_id="l")
    assert told(world) == {
        "keys": [{"key": "other", "version": 1, "task": "b"}, {"key": "plan", "version": 1, "task": "a"}],
        "not_shown": 0,
    }
    world.read("b", prefix="pl", request_id="m")
    assert [one["key"] for one in told(world)["keys"]] == ["plan"]
    assert types(world.write("b", "plan", 1, request_id="d", action="delete")) == ["blackboard.deleted", "agent.answer"]
    assert world.last(BlackboardDeleted).key_version == 2
    world.read("b", "plan", "r")
    assert told(world)["version"] == 0
    world.write("b", "plan", 0, request_id="again")
    assert told(world)["version"] == 3, "an old version never fits again"


@pytest.mark.covers("A4")
def test_the_second_writer_on_a_version_has_a_conflict_and_settles_it_by_writing_anew() -> None:
    world = working()
    world.write("a", "plan", 0, "mine")
    said = world.write("b", "plan", 0, "no, mine")
    assert types(said) == ["blackboard.conflict_detected", "agent.answer"]
    detected = world.last(BlackboardConflictDetected)
    assert (detected.key, detected.key_version, detected.expected_version) == ("plan", 1, 0)
    assert (detected.agent_id, detected.written_by) == (world.agent_id("b"), world.agent_id("a"))
    assert (problem(world).code, problem(world).field) == ("blackboard_conflict", "key_version")
    assert told(world)["value"] == "mine"
    assert counted(world) == (1, 1)
    said = world.write("b", "plan", 1, "ours", "again")
    assert types(said) == ["blackboard.written", "blackboard.conflict_resolved", "agent.answer"]
    resolved = world.last(BlackboardConflictResolved)
    assert (resolved.conflict_id, resolved.resolution, resolved.key_version) == (detected.conflict_id, "retried", 2)
    assert (resolved.expected_version, resolved.written_by) == (0, world.agent_id("a"))
    assert counted(world) == (1, 0)


@pytest.mark.covers("A4")
@pytest.mark.parametrize("end", ["succeeds", "fails", "is cancelled", "loses its pipeline"])
def test_a_conflict_is_let_be_when_the_loser_s_task_ends(end: str) -> None:
    world = working(on_failure="fail_fast" if end == "loses its pipeline" else "carry_on")
    world.write("a", "plan")
    world.write("b", "plan")
    if end == "succeeds":
        world.succeed("b")
    elif end == "fails":
        world.fail("b")
    elif end == "is cancelled":
        world.cancel()
    else:
        world.fail("a")
    resolved = world.last(BlackboardConflictResolved)
    assert (resolved.agent_id, resolved.resolution, resolved.key_version) == (world.agent_id("b"), "let_be", 1)
    if end in ("succeeds", "fails"):
        assert counted(world) == (1, 0)


@pytest.mark.covers("A4")
def test_where_the_plan_says_so_the_first_wins_at_once() -> None:
    world = working(on_conflict="first_wins")
    world.write("a", "plan", 0, "mine")
    said = world.write("b", "plan")
    assert types(said) == ["blackboard.conflict_detected", "blackboard.conflict_resolved", "agent.answer"]
    assert world.last(BlackboardConflictResolved).resolution == "first_wins"
    assert (problem(world).code, told(world)["value"]) == ("blackboard_conflict", "mine")
    assert counted(world) == (1, 0)


@pytest.mark.covers("A4")
def test_a_value_expires_and_its_version_goes_on() -> None:
    world = working(policy_=SpawnerPolicy(blackboard_ttl_s=60))
    world.write("a", "plan", ttl_s=10)
    world.write("a", "other", request_id="o")
    world.wait(10)
    world.read("b", "plan")
    assert told(world)["version"] == 0
    world.read("b", request_id="l")
    assert [one["key"] for one in told(world)["keys"]] == ["other"]
    world.write("b", "plan", 1, request_id="w")
    assert problem(world).code == "blackboard_version_unknown", "nobody was first: that is no conflict"
    world.write("b", "plan", 0, request_id="x")
    assert told(world)["version"] == 2
    world.wait(50)
    world.read("b", "other", "y")
    assert told(world)["version"] == 0


@pytest.mark.covers("A4")
@pytest.mark.parametrize(
    ("request_", "code"),
    [
        ({"version": 3}, "blackboard_version_unknown"),
        ({"key": "new", "version": 3}, "blackboard_version_unknown"),
        ({"key": "new", "action": "delete"}, "blackboard_key_unknown"),
        ({"key": "not a key"}, "blackboard_key_invalid"),
        ({"key": "k" * 129}, "blackboard_key_invalid"),
        ({"key": "line\n"}, "blackboard_key_invalid"),
        ({"turn": 2}, "blackboard_turn_unknown"),
    ],
)
def test_what_can_not_be_meant_is_answered_and_changes_nothing(request_: dict[str, Any], code: str) -> None:
    world = working()
    world.write("a", "plan")
    said = world.write("b", **{"key": "plan", **request_})
    assert types(said) == ["agent.answer"]
    assert (problem(world).code, problem(world).field is not None) == (code, True)
    assert world.hear(world.heard[-1][0]) == []
    assert counted(world) == (0, 0)


@pytest.mark.covers("A4", "P13")
def test_every_limit_is_named_with_its_field() -> None:
    world = working()

    def limit(**request: Any) -> tuple[str, str | None, str | None]:
        said = world.write("a", **request)
        assert types(said) == ["agent.answer"]
        assert world.hear(world.heard[-1][0]) == []
        return problem(world).code, problem(world).field, problem(world).limit

    exceeded = "blackboard_limit_exceeded"
    assert limit(key="k", value="x" * 3_100) == (exceeded, "value", "BLACKBOARD_VALUE_MAX_BYTES: 3072 bytes")
    assert limit(key="k", ttl_s=700_000) == (exceeded, "ttl_s", "BLACKBOARD_TTL_MAX_S: 604800 s")
    for number in range(policy.BLACKBOARD_REQUESTS_PER_TURN_MAX_COUNT):
        world.write("a", f"k{number}", request_id=f"w{number}")
    asked = "BLACKBOARD_REQUESTS_PER_TURN_MAX_COUNT: 16 requests"
    assert limit(key="k", request_id="w") == (exceeded, "turn", asked)
    world.turn("a", 2)
    for number in range(4):
        world.write("a", f"k{number}", 1, "x" * 3_000, f"w{number}")
    for number in range(5):
        world.read("a", f"k{number % 4}", f"r{number}")
    assert problem(world).limit == "BLACKBOARD_ANSWERS_MAX_BYTES: 16384 bytes"
    turn = 3
    for number in range(policy.BLACKBOARD_KEYS_MAX_COUNT):
        if number % 16 == 0:
            world.turn("a", turn)
            turn += 1
        world.write("a", f"n{number}", request_id=f"w{number}")
    world.turn("a", turn)
    assert limit(key="one-more") == (exceeded, "key", "BLACKBOARD_KEYS_MAX_COUNT: 128 keys")
    for number in range(policy.CONFLICTS_PER_AGENT_MAX_COUNT + 1):
        if number % 4 == 0:
            world.turn("b", number // 4 + 2)
        world.write("b", f"n{number}", request_id=f"w{number}")
    assert problem(world).limit == "CONFLICTS_PER_AGENT_MAX_COUNT: 16 conflicts"
    assert counted(world) == (16, 16)


@pytest.mark.covers("A4", "P12")
def test_an_answer_survives_the_attempt_that_asked_and_asking_again_changes_nothing() -> None:
    world = working()
    world.write("a", "plan", 0, "first")
    again = world.heard[-1][0]
    assert world.hear(again) == []
    world.lose("a")
    assert world.hear(again) == [], "what counted is passed over in silence"
    [brought] = world.last(AgentRun).answers
    assert (brought.request_id, json.loads(brought.answer or "")["version"]) == ("b", 1)
    world.start("a", runner="r2")
    assert world.write("a", "plan", 0, "first", runner="r2") == [], "it came with the attempt"
    world.turn("a", 2, runner="r2")
    assert world.agent("a").answers == ()
    assert world.hear(again) == []
    assert world.write("a", "plan", 0, "first", turn=1, runner="r2") == []
    assert len(world.all(BlackboardWritten)) == 1


@pytest.mark.covers("A4", "P12")
def test_a_conflict_is_told_once_and_again_to_the_next_attempt() -> None:
    world = working()
    world.write("a", "plan", 0, "mine")
    world.write("b", "plan")
    world.lose("b")
    [brought] = world.last(AgentRun).answers
    assert brought.problem is not None
    assert (brought.problem.code, json.loads(brought.answer or "")["value"]) == ("blackboard_conflict", "mine")
    world.start("b", runner="r2")
    assert world.write("b", "plan", runner="r2") == []
    assert counted(world) == (1, 1)


@pytest.mark.covers("A4", "W10")
def test_who_does_not_hold_the_attempt_writes_nothing() -> None:
    world = working()
    said = world.write("a", "plan", runner="r9")
    assert "agent.attempt_refused" in types(said)
    assert world.all(BlackboardWritten) == []
    world.write("a", "plan", attempt=7)
    assert len(world.all(AgentAttemptRefused)) == 2


@pytest.mark.covers("A4")
def test_after_the_end_nothing_remains_of_it() -> None:
    world = working()
    world.write("a", "plan")
    world.write("b", "other")
    kinds = (BlackboardEntity, KeyEntity)
    assert len([one for one in world.state.values() if isinstance(one, kinds)]) == 3
    world.succeed("a")
    world.succeed("b")
    assert isinstance(world.terminal(), PipelineCompleted)
    assert not [one for one in world.state.values() if isinstance(one, kinds)]
    said = world.write("b", "other", 1, turn=1, attempt=1)
    assert said == [], "what the attempt might have said before its end"


@pytest.mark.covers("A4", "P13")
def test_a_list_shows_what_fits() -> None:
    world = working()
    for number in range(40):
        if number % 16 == 0:
            world.turn("a", number // 16 + 2)
        world.write("a", f"{number:02}" + "k" * 126, request_id=f"w{number}")
    world.read("b")
    shown = told(world)
    assert len(shown["keys"]) + shown["not_shown"] == 40
    assert 10 < len(shown["keys"]) < 40


@pytest.mark.covers("A4", "P13")
def test_the_largest_answers_of_people_and_blackboard_fit_into_an_attempt_s_record() -> None:
    """Everything at its limit at once; the world checks the size of every attempt that is handed out."""
    world = World()
    names = ["t" * 120 + str(number) for number in range(2)]
    world.spawn(plan({"id": names[0]}, {"id": names[1], "objective": "x" * 31_000}))
    for name in names:
        world.start(name)
        world.turn(name, 1)
    for number in range(4):
        world.ask(names[1], f"q{number}")
        world.answer(world.last(QuestionAsked).question_id, "\n" * 2_047)
        world.write(names[0], str(number) * 128, 0, '"' * 766, request_id=f"w{number}")
        world.write(names[1], str(number) * 128, 0, request_id=str(number) + "r" * 127)
        kept = world.agent(names[1]).answers[-1]
        assert kept.fault is not None
        assert 3_500 < len(world.last(AgentAnswer).answer.model_dump_json(exclude_none=True)) <= policy.ANSWER_MAX_BYTES
    world.lose(names[1])
    assert len(world.last(AgentRun).answers) == 8
