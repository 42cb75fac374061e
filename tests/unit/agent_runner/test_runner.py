"""The runner's places, backlog, stops, answers, heartbeats and end, with a model that the test holds in its hand."""

from __future__ import annotations

import asyncio

import pytest

from sluice_agent_runner.ports import ModelUnavailable, UnusableInput
from sluice_agent_runner.supervision.runner import Runner
from sluice_contracts.messages.agent import AgentAnswer, AgentStop, Answer
from sluice_contracts.messages.base import ArtifactRef
from sluice_runtime.artifacts import ArtifactStoreUnavailable
from tests.unit.agent_runner.builders import (
    call,
    finish,
    reply,
    task,
    until,
)
from tests.unit.agent_runner.runner_world import World, in_world


@pytest.mark.covers("W10", "P12")
def test_an_attempt_says_what_it_does_in_order() -> None:
    async def scenario(world: World) -> None:
        await world.task("a")
        await world.models.says("a", reply(call("list_files")))
        await world.models.says("a", finish(result={"n": 1}))
        (success,) = await world.log.until("agent.succeeded")
        assert world.log.types() == [
            "agent.attempt_started", "agent.turn_finished", "agent.turn_finished", "agent.succeeded",
        ]  # fmt: skip
        assert success.source == "agent-runner/runner-1"
        assert success.causation_id == "a-1"
        assert success.data.result.text == '{"n":1}'  # type: ignore[attr-defined]
        await world.until_free()
        assert (world.workspaces.opened, world.workspaces.closed) == (1, 1)
        assert await world.held() == {}

    in_world(scenario)


def test_the_link_is_stored_before_the_turn_is_told_and_told_before_the_next_begins() -> None:
    async def scenario(world: World) -> None:
        await world.task("a")
        await world.models.says("a", reply(call("list_files")))
        await world.models.until_asked("a")
        (turn,) = await world.log.until("agent.turn_finished")
        assert turn.data.transcript.sha256 in world.store.bodies  # type: ignore[attr-defined]
        await world.models.says("a", finish())
        await world.log.until("agent.succeeded")

    in_world(scenario)


def test_places_are_limited_and_the_backlog_keeps_its_order() -> None:
    async def scenario(world: World) -> None:
        for agent in "abcd":
            await world.task(agent)
        await world.models.until_asked("a", "b")
        assert await world.held() == {
            "a": (1, "running"), "b": (1, "running"), "c": (1, "queued"), "d": (1, "queued"),
        }  # fmt: skip
        assert world.runner.room == 8
        await world.log.until("agent.attempt_started", 4)
        assert sorted(world.started()) == [("a", 1), ("b", 1), ("c", 1), ("d", 1)], "all are held, also those that wait"
        assert set(world.models.asked) == {"a", "b"}
        await world.models.says("b", finish())
        await world.models.until_asked("c")

    in_world(scenario)


@pytest.mark.covers("W10")
def test_a_newer_attempt_takes_the_older_one_s_place_and_an_older_one_is_ignored() -> None:
    async def scenario(world: World) -> None:
        for agent in "abcd":
            await world.task(agent)
        await world.models.until_asked("a", "b")
        await world.task("c", 2)
        await world.task("a", 3)
        await world.task("a", 2)
        await world.task("b", 1)
        await until(lambda: len(world.models.requests) == 3)  # a and b, and then a's third attempt
        await until(lambda: ("a", 3) in world.started())
        assert await world.held() == {
            "a": (3, "running"), "b": (1, "running"), "c": (2, "queued"), "d": (1, "queued"),
        }  # fmt: skip
        await world.models.says("a", finish())
        await world.models.says("b", finish())
        await world.models.until_asked("c", "d")
        assert sorted(world.started()) == [("a", 1), ("a", 3), ("b", 1), ("c", 1), ("c", 2), ("d", 1)]
        assert world.log.types("a") == ["agent.attempt_started"] * 2 + ["agent.turn_finished", "agent.succeeded"]

    in_world(scenario)


@pytest.mark.covers("W10")
def test_a_stop_ends_what_runs_what_waits_and_what_comes_late() -> None:
    async def scenario(world: World) -> None:
        for agent in "abc":
            await world.task(agent)
        await world.models.until_asked("a", "b")
        for agent in "acz":
            await world.runner.on_stop(AgentStop(agent_id=agent, attempt=2, reason="enough"))
        await world.runner.on_stop(AgentStop(agent_id="b", attempt=1, reason="enough"))
        await world.task("z", 2)
        await world.task("z", 1)
        assert await world.held() == {}
        await world.task("z", 3)
        await world.task("b", 2)
        await until(lambda: len(world.models.requests) == 4)  # the first two, and then the newer ones
        await world.log.until("agent.attempt_started", 5)
        assert sorted(world.started()) == [("a", 1), ("b", 1), ("b", 2), ("c", 1), ("z", 3)]
        assert "agent.failed" not in world.log.types()
        # A stop of an older attempt changes nothing.
        await world.runner.on_stop(AgentStop(agent_id="z", attempt=2, reason="late"))
        assert (await world.held())["z"] == (3, "running")

    in_world(scenario)


@pytest.mark.covers("W10", "P12")
def test_an_attempt_that_ended_and_comes_again_is_not_paid_for_again() -> None:
    async def scenario(world: World) -> None:
        empty = world.runner.room
        await world.task("a")
        await world.models.says("a", finish())
        await world.log.until("agent.succeeded")
        await until(lambda: world.runner.room == empty)
        await world.task("a")
        assert await world.held() == {}
        assert world.started() == [("a", 1)]

    in_world(scenario)


@pytest.mark.covers("W10")
def test_a_stop_for_another_runner_is_not_meant_for_this_one() -> None:
    async def scenario(world: World) -> None:
        await world.task("a")
        await world.models.until_asked("a")
        await world.runner.on_stop(AgentStop(agent_id="a", attempt=1, reason="late", runner_id="another"))
        assert await world.held() == {"a": (1, "running")}

    in_world(scenario)


@pytest.mark.covers("P10")
def test_who_waits_for_a_person_leaves_the_place_and_comes_back_before_the_backlog() -> None:
    async def scenario(world: World) -> None:
        for agent in "abc":
            await world.task(agent)
        await world.models.says("a", reply(call("ask_human", "q", question="which?")))
        (asked,) = await world.log.until("agent.input_requested")
        await world.models.until_asked("b")
        assert await world.held() == {"a": (1, "running"), "b": (1, "running"), "c": (1, "queued")}
        question = asked.data.request_id  # type: ignore[attr-defined]
        for request_id in ("another", question, question):
            answer = Answer(request_id=request_id, answer="this")
            await world.runner.on_answer(AgentAnswer(agent_id="a", answer=answer))
        await world.runner.on_answer(AgentAnswer(agent_id="nobody", answer=answer))
        await world.models.says("b", finish())
        await world.models.until_asked("a")
        assert "c" not in world.models.asked
        await world.models.says("a", finish())
        await world.models.until_asked("c")

    in_world(scenario, slots=1)


def test_a_stop_while_coming_back_gives_the_place_on() -> None:
    async def scenario(world: World) -> None:
        for agent in "ab":
            await world.task(agent)
        await world.models.says("a", reply(call("ask_human", "q", question="which?")))
        (asked,) = await world.log.until("agent.input_requested")
        await world.models.until_asked("b")
        answer = Answer(request_id=asked.data.request_id, answer="x")  # type: ignore[attr-defined]
        await world.runner.on_answer(AgentAnswer(agent_id="a", answer=answer))
        for _ in range(5):
            await asyncio.sleep(0)  # a waits for b's place now
        await world.task("c")
        await world.runner.on_stop(AgentStop(agent_id="a", attempt=1, reason="enough"))
        await world.models.says("b", finish())
        await world.models.until_asked("c")
        assert await world.held() == {"c": (1, "running")}

    in_world(scenario, slots=1)


@pytest.mark.parametrize("type_", ["agent.attempt_started", "agent.turn_finished", "agent.succeeded"])
def test_an_attempt_keeps_its_place_while_the_log_is_away_and_then_goes_on(type_: str) -> None:
    async def scenario(world: World) -> None:
        world.log.away = type_
        await world.task("a")
        await world.models.says("a", finish())
        for _ in range(20):
            await asyncio.sleep(0)
        assert type_ not in world.log.types()
        assert await world.held() == {"a": (1, "running")}
        world.log.back.set()
        await world.log.until("agent.succeeded")
        assert world.log.types("a") == ["agent.attempt_started", "agent.turn_finished", "agent.succeeded"]

    in_world(scenario)


def test_an_attempt_that_is_stopped_while_the_log_is_away_says_nothing_more() -> None:
    async def scenario(world: World) -> None:
        world.log.away = "agent.turn_finished"
        await world.task("a")
        await world.models.says("a", finish())
        await world.log.until("agent.attempt_started")
        for _ in range(20):
            await asyncio.sleep(0)
        await world.runner.on_stop(AgentStop(agent_id="a", attempt=1, reason="its lease ran out"))
        world.log.back.set()
        await world.until_free()
        assert world.log.types("a") == ["agent.attempt_started"]

    in_world(scenario)


@pytest.mark.parametrize(
    ("fault", "code", "retryable"),
    [
        (UnusableInput("hostile_artifact_name", "the name '../CANARY' …"), "hostile_artifact_name", False),
        (OSError(28, "No space left on device", "/private/path"), "store_unavailable", True),
        (ArtifactStoreUnavailable("the store is away"), "store_unavailable", True),
    ],
)
def test_what_the_workspace_can_not_do_fails_the_attempt(fault: Exception, code: str, retryable: bool) -> None:
    async def scenario(world: World) -> None:
        world.workspaces.failing = fault
        await world.task("a")
        (failed,) = await world.log.until("agent.failed")
        assert (failed.data.problem.code, failed.data.retryable) == (code, retryable)  # type: ignore[attr-defined]
        assert "CANARY" not in failed.data.problem.detail  # type: ignore[attr-defined]
        assert "/private" not in failed.data.problem.detail  # type: ignore[attr-defined]

    in_world(scenario)


def test_an_unknown_role_and_a_lost_transcript_fail_for_good() -> None:
    async def scenario(world: World) -> None:
        await world.task("a", task=task(role="stranger"))
        await world.task("b", turn=1, transcript=ArtifactRef(sha256="0" * 64, size_bytes=1))
        broken = await world.store.put(b"{}")
        await world.task("c", turn=1, transcript=broken)
        failed = await world.log.until("agent.failed", 3)
        codes = {event.data.agent_id: event.data.problem.code for event in failed}  # type: ignore[attr-defined]
        assert codes == {"a": "unknown_role", "b": "transcript_broken", "c": "transcript_broken"}
        assert not any(event.data.retryable for event in failed)  # type: ignore[attr-defined]
        assert world.models.requests == []

    in_world(scenario, slots=3)


def test_a_model_that_is_away_fails_the_attempt_so_that_it_can_be_tried_again() -> None:
    async def scenario(world: World) -> None:
        await world.task("a")
        await world.models.until_asked("a")
        world.models.asked.pop("a").set_exception(ModelUnavailable("rate_limited", "429 CANARY"))
        (failed,) = await world.log.until("agent.failed")
        assert (failed.data.problem.code, failed.data.retryable) == ("rate_limited", True)  # type: ignore[attr-defined]
        assert "CANARY" not in failed.data.problem.detail  # type: ignore[attr-defined]

    in_world(scenario)


@pytest.mark.covers("D1")
def test_a_graceful_stop_lets_the_running_turn_become_durable_and_begins_no_other() -> None:
    async def scenario(world: World) -> None:
        for agent in "abcd":
            await world.task(agent)
        await world.models.says("a", reply(call("ask_human", "q", question="?")))
        await world.log.until("agent.input_requested")
        await world.models.until_asked("b", "c")
        stopping = asyncio.create_task(world.runner.stop(60))
        await asyncio.sleep(0)
        assert world.runner.room == 0
        await world.task("e")
        await world.models.says("b", reply(call("list_files")))
        await world.models.says("c", finish())
        await stopping
        assert world.log.types("b") == ["agent.attempt_started", "agent.turn_finished"]
        assert world.log.types("c") == ["agent.attempt_started", "agent.turn_finished", "agent.succeeded"]
        assert world.log.types("d") == ["agent.attempt_started"]
        assert "e" not in {agent for agent, _ in world.started()}
        assert await world.held() == {}
        assert world.workspaces.closed == 3

    in_world(scenario)


def test_a_stop_s_grace_has_an_end() -> None:
    async def scenario(world: World) -> None:
        await world.task("a")
        await world.models.until_asked("a")
        await world.runner.stop(0.01)
        assert world.log.types() == ["agent.attempt_started"]

    in_world(scenario)


def test_more_attempts_than_a_heartbeat_can_name_are_refused() -> None:
    async def scenario(world: World) -> None:
        with pytest.raises(ValueError, match="more than 1400 attempts"):
            Runner(world.services, slots=1_000, backlog_max_count=401, queues=("default",))

    in_world(scenario)
