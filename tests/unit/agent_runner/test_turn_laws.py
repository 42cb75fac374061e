"""Laws of the turn machine, for any model and any moment of a crash."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from sluice_agent_runner.domain.actions import Ask, CallModel, Fail, Succeed
from sluice_agent_runner.domain.conversation import ModelReply, ToolCallRequest
from sluice_agent_runner.domain.events import (
    Attempt,
    requested,
    succeeded,
    too_large,
    turn_finished,
    turn_texts,
)
from sluice_agent_runner.domain.limits import ARTIFACTS_MAX_COUNT
from sluice_contracts import codec
from sluice_contracts.envelope import CloudEvent, Record
from sluice_contracts.messages.agent import AgentTurnFinished, Answer
from sluice_contracts.messages.base import ArtifactRef, Usage
from tests.unit.agent_runner.builders import NOW_MS, Driver, Store, agent_run, call, finish, reply, role, task

CALLS = st.one_of(
    st.sampled_from(
        [
            call("list_files"),
            call("read_file", path="a.log"),
            call("write_artifact", name="a.md", kind="report", content="x"),
            call("finish", summary="done", result={"n": 1}),
            call("ask_human", question="which?"),
            call("blackboard_get", "g", key="plan"),
            call("blackboard_list", "l"),
            call("blackboard_set", "s", key="plan", value="x", version=1),
            call("blackboard_delete", "d", key="plan"),
            call("unknown"),
        ]
    ),
    st.builds(ToolCallRequest, st.text(max_size=80), st.text(max_size=10), st.text(max_size=30)),
)
REPLIES = st.builds(
    lambda calls, text, tokens: ModelReply(
        text, tuple(calls), "stop", Usage(input_tokens=tokens, output_tokens=1), "test", "m", 1
    ),
    st.lists(CALLS, max_size=4),
    st.text(max_size=20),
    st.integers(0, 50),
)


def settle(driver: Driver) -> None:
    """Answers every question at once."""
    while isinstance(driver.action, Ask):
        asked = driver.action
        driver.machine.on_asked(NOW_MS)
        for question in asked.requests:
            driver.action = driver.machine.on_answer(Answer(request_id=question.request_id, answer="this"), NOW_MS)
        if isinstance(driver.action, CallModel):
            driver.requests.append(driver.action.request)


def play(driver: Driver, replies: list[ModelReply]) -> None:
    """Gives the answers until the machine ends or they do."""
    settle(driver)
    for answer in replies:
        if isinstance(driver.action, Succeed | Fail):
            return
        driver.says(answer)
        settle(driver)


def decision(driver: Driver) -> object:
    """What the machine wants now; the attempt's number is all that a restart may change of it."""
    if isinstance(driver.action, CallModel):
        return replace(driver.action.request, attempt=0)
    return driver.action


SILENT = st.builds(lambda text: reply(text=text), st.sampled_from(["", "hm", "It is line 17.", '{"n": 1}']))
SCHEMAS: list[dict[str, Any] | None] = [
    None,
    {"type": "object", "required": ["n"]},
    {"$ref": "#/$defs/missing"},  # shows its fault only when it is applied
]


@settings(deadline=None)  # nine attempts are played in one example
@given(
    st.lists(st.one_of(REPLIES, SILENT), max_size=12),
    st.sampled_from(SCHEMAS),
    st.booleans(),
)
@pytest.mark.covers("P12")
def test_a_crash_after_any_durable_turn_changes_nothing(
    replies: list[ModelReply], schema: dict[str, Any] | None, talker: bool
) -> None:
    """One attempt, and one that was cut after any turn and went on in another: the same links, requests and end.

    Also where the end was decided and not yet told: it is told then, and no turn is paid for it.
    """
    run = agent_run(task(budget={"tokens": 300}, output_schema=schema), max_iterations=8)
    straight = Driver(run, role(finish_without_tool=talker))
    play(straight, replies)
    links = straight.links()
    for cut in range(len(links) + 1):
        second = straight.resumed(after=cut)
        play(second, replies[cut:])
        assert links[:cut] + second.links() == links
        assert decision(second) == decision(straight)
        assert [one.messages for one in second.requests] == [one.messages for one in straight.requests[cut:]]


@given(st.lists(REPLIES, max_size=15))
def test_turns_are_numbered_without_gaps_and_limits_hold(replies: list[ModelReply]) -> None:
    run = agent_run(task(budget={"tokens": 100}), max_iterations=5)
    driver = Driver(run)
    play(driver, replies)
    assert [one.record.turn for one in driver.finished] == list(range(1, len(driver.finished) + 1))
    assert len(driver.finished) <= 5
    spent = 0
    for one in driver.finished:
        assert spent < 100
        usage = one.record.reply.usage
        spent += usage.input_tokens + usage.output_tokens


@given(st.lists(REPLIES, max_size=10))
def test_every_tool_call_gets_exactly_one_result_before_the_model_is_asked_again(replies: list[ModelReply]) -> None:
    """What the chat protocol demands of a conversation."""
    driver = Driver(agent_run(max_iterations=20))
    play(driver, replies)
    for request in driver.requests:
        open_calls: list[str] = []
        for message in request.messages:
            if message.role == "tool":
                assert message.call_id is not None
                open_calls.remove(message.call_id)
            else:
                assert open_calls == []
                open_calls = [one.call_id for one in message.tool_calls]
        assert open_calls == []


TEXTS = st.one_of(
    st.text(max_size=200),
    st.builds(lambda part, count: part * count, st.sampled_from(["\x00", "ü", "x", '"', "😀"]), st.integers(0, 90_000)),
)
ARGUMENTS = st.sampled_from(
    ["", "{}", '{"a": 1}', "[1]", "{broken", '{"a": [' + "1e15," * 3_000 + "1]}", '{"a": ' + "[" * 30 + "]" * 30 + "}"]
)


@given(TEXTS, st.lists(st.tuples(ARGUMENTS, TEXTS), max_size=6))
@pytest.mark.covers("O1")
def test_every_turn_fits_into_its_message_and_can_be_read(text: str, calls: list[tuple[str, str]]) -> None:
    """Whatever a model writes: the spawner can decode the event, and every text is there, inline or by reference."""
    store = Store()
    driver = Driver()
    requests = [ToolCallRequest(f"c{n}", "list_files", arguments) for n, (arguments, _) in enumerate(calls)]
    driver.says(reply(*requests, text=text))
    record = driver.finished[0].record
    texts = turn_texts(record)
    for n, (_, result) in enumerate(calls):
        texts[f"result.{n}"] = result
    stored = {name: store.put_now(texts[name].encode()) for name in too_large(texts)}
    data = turn_finished(
        Attempt("agent-1", 1, "runner-1"), record, ArtifactRef(sha256="0" * 64, size_bytes=1), texts, stored
    )
    event = CloudEvent("id-1", "agent-runner/runner-1", "acme", "pipeline-1", NOW_MS, data)
    outgoing = codec.encode(event, topic="agent.events.default", key="pipeline-1")
    decoded = codec.decode(
        Record(outgoing.topic, 0, 0, NOW_MS, outgoing.key, outgoing.value, outgoing.headers)
    ).data  # fmt: skip
    assert isinstance(decoded, AgentTurnFinished)

    def read(inline: str | None, ref: ArtifactRef | None) -> str | None:
        return store.bodies[ref.sha256].decode() if ref is not None else inline

    assert read(decoded.response.text, decoded.response.ref) == text
    for n, one in enumerate(decoded.tool_calls):
        assert read(one.result.text, one.result.ref) == calls[n][1]
        assert (one.arguments is None) == (one.arguments_ref is not None)


@pytest.mark.covers("O1", "P10")
def test_every_lawful_question_and_result_fits_into_its_message() -> None:
    """The largest that the tools take: what is larger comes back to the model, and never gets so far."""
    wide = "\x01"  # six bytes in JSON
    driver = Driver()
    largest = call(
        "ask_human", "q", question=wide * 4_000, options=[wide * 500] * 20, default=wide * 4_000
    )  # fmt: skip
    action = driver.says(reply(largest))
    assert isinstance(action, Ask)
    attempt = Attempt("agent-1", 1, "runner-1")
    asked = requested(attempt, action.requests[0], 60)
    driver = Driver()
    writes = [
        call("write_artifact", name=f"{n:03}" + "😀" * 63 + "/" + "😀" * 63, kind=wide * 64, content="x")
        for n in range(ARTIFACTS_MAX_COUNT)
    ]
    for n in range(0, len(writes), 10):
        driver.says(reply(*writes[n : n + 10]))
    done = driver.says(finish(summary=wide * 4_000, result="x" * 60_000))
    assert isinstance(done, Succeed)
    assert len(done.artifacts) == ARTIFACTS_MAX_COUNT
    said = succeeded(attempt, done, {"result": done.conclusion.result}, {})
    for data in (asked, said):
        event = CloudEvent("id-1", "agent-runner/runner-1", "acme", "pipeline-1", NOW_MS, data)
        codec.encode(event, topic="agent.events.default", key="pipeline-1")


def test_small_turns_need_no_artifact() -> None:
    driver = Driver()
    driver.says(reply(call("read_file", path="a.log"), text="x" * 2_000))
    assert too_large(turn_texts(driver.finished[0].record)) == []
    driver.says(finish())
    assert too_large(turn_texts(driver.finished[1].record)) == []
