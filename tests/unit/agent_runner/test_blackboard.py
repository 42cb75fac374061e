"""A4: what an agent asks of the blackboard, and hears later; the law of resuming stands in test_turn_laws."""

from __future__ import annotations

from typing import Any

import pytest

from sluice_agent_runner.domain.actions import Ask, BoardRead, BoardWrite, CallModel, Question, Succeed, Wait
from sluice_agent_runner.domain.events import Attempt, requested
from sluice_contracts import codec
from sluice_contracts.envelope import CloudEvent
from sluice_contracts.messages.agent import AgentAnswer, Answer
from sluice_contracts.messages.base import Problem
from sluice_contracts.messages.blackboard import BlackboardReadRequested, BlackboardWriteRequested
from sluice_contracts.messages.signal import ProgressReported
from tests.unit.agent_runner.builders import (
    NOW_MS,
    Driver,
    agent_run,
    call,
    finish,
    last_results,
    reply,
    task,
    until,
)
from tests.unit.agent_runner.runner_world import World, in_world

CONFLICT = Problem(code="blackboard_conflict", detail="task b was first", field="key_version")


def asked(driver: Driver, *calls: Any) -> Ask:
    action = driver.says(reply(*calls))
    assert isinstance(action, Ask)
    return action


def hears(driver: Driver, request_id: str, **answer: Any) -> Any:
    driver.action = driver.machine.on_answer(Answer(request_id=request_id, **answer), NOW_MS)
    if isinstance(driver.action, CallModel):
        driver.requests.append(driver.action.request)
    return driver.action


@pytest.mark.covers("A4")
def test_requests_are_published_after_their_turn_in_the_order_of_the_calls() -> None:
    driver = Driver()
    action = asked(
        driver,
        call("blackboard_set", "s", key="plan", value="mine", version=3, ttl_s=60),
        call("blackboard_get", "g", key="plan"),
        call("blackboard_list", "l", prefix="pl"),
        call("blackboard_delete", "d", key="old", version=1),
    )
    assert len(driver.finished) == 1
    ids = [request.request_id for request in action.requests]
    assert action.requests == (
        BoardWrite(ids[0], 1, "set", "plan", 3, "mine", 60),
        BoardRead(ids[1], 1, key="plan"),
        BoardRead(ids[2], 1, prefix="pl"),
        BoardWrite(ids[3], 1, "delete", "old", 1),
    )
    assert len(set(ids)) == 4
    waits = driver.machine.on_asked(NOW_MS)
    assert waits == Wait(for_person=False)
    for request_id in ids[:3]:
        assert hears(driver, request_id, answer="there") == waits
    hears(driver, ids[3], answer="gone")
    told = driver.requests[-1].messages[-4:]
    assert [(one.call_id, one.content, one.is_error) for one in told] == [
        ("s", "there", False), ("g", "there", False), ("l", "there", False), ("d", "gone", False),
    ]  # fmt: skip


@pytest.mark.covers("A4")
def test_a_loser_hears_why_and_what_stands_there() -> None:
    driver = Driver()
    [request] = asked(driver, call("blackboard_set", "s", key="plan", value="mine")).requests
    driver.machine.on_asked(NOW_MS)
    hears(driver, request.request_id, answer='{"key":"plan","version":1}', problem=CONFLICT)
    last = driver.requests[-1].messages[-1]
    assert last.is_error
    assert last.content == 'refused, blackboard_conflict: task b was first\n{"key":"plan","version":1}'
    [request] = asked(driver, call("blackboard_set", "s", key="plan", value="mine", version=1)).requests
    driver.machine.on_asked(NOW_MS)
    limit = Problem(code="blackboard_limit_exceeded", detail="too large", field="value", limit="MAX: 3072 bytes")
    hears(driver, request.request_id, problem=limit)
    assert driver.requests[-1].messages[-1].content == "refused, blackboard_limit_exceeded: too large (MAX: 3072 bytes)"
    assert not [one for one in driver.machine.signals.take() if not isinstance(one.data, ProgressReported)]


@pytest.mark.covers("A4", "P12")
def test_a_later_attempt_asks_the_same_under_the_same_id_or_takes_the_answer_that_it_was_given() -> None:
    """Between asking and hearing: never under another id, and never for a turn more."""
    driver = Driver()
    first = asked(
        driver, call("blackboard_set", "s", key="plan", value="mine"), call("ask_human", "q", question="which?")
    )
    write, question = first.requests
    assert isinstance(write, BoardWrite)
    assert isinstance(question, Question)
    assert driver.machine.on_asked(NOW_MS) == Wait(for_person=True)
    assert hears(driver, question.request_id, answer="this") == Wait(for_person=False)
    assert driver.resumed().action == first
    again = driver.resumed(answers=(Answer(request_id=write.request_id, problem=CONFLICT),))
    assert again.action == Ask((question,))
    assert again.requests == []
    both = (
        Answer(request_id=write.request_id, answer="written"),
        Answer(request_id=question.request_id, answer="this"),
    )
    third = driver.resumed(answers=both)
    assert isinstance(third.action, CallModel)
    assert third.action.request.turn == 2
    assert [message.content for message in third.requests[0].messages[-2:]] == ["written", "this"]


@pytest.mark.covers("A4")
def test_finish_waits_for_what_was_asked_beside_it() -> None:
    driver = Driver()
    action = asked(driver, call("blackboard_set", "s", key="plan", value="mine"), call("finish", summary="done"))
    assert last_results(driver)["finish"] == ("refused: you also asked something; wait for the answer", True)
    driver.machine.on_asked(NOW_MS)
    hears(driver, action.requests[0].request_id, answer="written")
    assert isinstance(driver.says(finish()), Succeed)


@pytest.mark.covers("A4", "P3")
def test_read_only_takes_writing_away_and_leaves_reading() -> None:
    driver = Driver(agent_run(task(constraints=["read-only"])))
    names = [tool.name for tool in driver.requests[0].tools]
    assert ("blackboard_get" in names, "blackboard_list" in names) == (True, True)
    assert ("blackboard_set" in names, "blackboard_delete" in names) == (False, False)
    driver.says(reply(call("blackboard_set", "s", key="plan", value="mine")))
    assert "there is no tool 'blackboard_set'" in last_results(driver)["blackboard_set"][0]
    broken = [one.data for one in driver.machine.signals.take() if one.data.type == "violation.reported"]
    assert [one.policy for one in broken] == ["read-only"]  # type: ignore[attr-defined]


@pytest.mark.covers("A4", "O1")
def test_every_request_that_the_tools_take_fits_into_its_message() -> None:
    driver = Driver()
    wide = "\x01"  # six bytes in JSON
    action = asked(
        driver,
        call("blackboard_set", "s", key=wide * 1_024, value=wide * 32_000, version=2**53 - 1, ttl_s=2**53 - 1),
        call("blackboard_get", "g", key=wide * 1_024),
        call("blackboard_list", "l", prefix=wide * 1_024),
    )
    for request in action.requests:
        data = requested(Attempt("agent-1", 1, "runner-1"), request, 60)
        event = CloudEvent("id-1", "agent-runner/runner-1", "acme", "pipeline-1", NOW_MS, data)
        codec.encode(event, topic="agent.events.default", key="pipeline-1")


@pytest.mark.covers("A4", "W10")
def test_who_waits_for_the_blackboard_keeps_the_place_and_looks_alive() -> None:
    async def scenario(world: World) -> None:
        for agent in "ab":
            await world.task(agent)
        calls = call("blackboard_get", "g", key="plan"), call("blackboard_set", "s", key="plan", value="x")
        await world.models.says("a", reply(*calls))
        (read,) = await world.log.until("blackboard.read_requested")
        (write,) = await world.log.until("blackboard.write_requested")
        assert isinstance(read.data, BlackboardReadRequested)
        assert isinstance(write.data, BlackboardWriteRequested)
        assert (read.data.turn, write.data.turn, write.data.runner_id) == (1, 1, "runner-1")
        held = world.runner._held["a"].attempt
        await until(lambda: held._held_up)
        assert not held.waiting
        assert "b" not in world.models.asked
        for event in (write, read):
            answer = Answer(request_id=event.data.request_id, answer="it")  # type: ignore[attr-defined]
            await world.runner.on_answer(AgentAnswer(agent_id="a", answer=answer))
        await world.models.says("a", finish())
        await world.models.until_asked("b")
        assert not held._held_up

    in_world(scenario, slots=1)
