"""Laws of the turn machine, for any model and any moment of a crash."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice_agent_runner.domain.actions import AskHuman, CallModel, Fail, Succeed, Wait
from sluice_agent_runner.domain.conversation import ModelReply, ToolCallRequest
from sluice_agent_runner.domain.events import Attempt, too_large, turn_finished, turn_texts
from sluice_contracts import codec
from sluice_contracts.envelope import CloudEvent, Record
from sluice_contracts.messages.agent import AgentTurnFinished, Answer
from sluice_contracts.messages.base import ArtifactRef, Usage
from tests.unit.agent_runner.builders import NOW_MS, Driver, Store, agent_run, call, finish, reply, task

CALLS = st.one_of(
    st.sampled_from(
        [
            call("list_files"),
            call("read_file", path="a.log"),
            call("write_artifact", name="a.md", kind="report", content="x"),
            call("finish", summary="done", result={"n": 1}),
            call("ask_human", question="which?"),
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


def play(driver: Driver, replies: list[ModelReply]) -> None:
    """Gives the answers until the machine ends or they do; a question is answered at once."""
    for answer in replies:
        if isinstance(driver.action, CallModel):
            driver.says(answer)
        while isinstance(driver.action, AskHuman | Wait):
            action = driver.action
            assert isinstance(action, AskHuman)
            driver.machine.on_asked(NOW_MS)
            for question in action.questions:
                driver.action = driver.machine.on_answer(Answer(request_id=question.request_id, answer="this"), NOW_MS)
            if isinstance(driver.action, CallModel):
                driver.requests.append(driver.action.request)
        if isinstance(driver.action, Succeed | Fail):
            return


@given(st.lists(REPLIES, max_size=12), st.integers(0, 12))
@pytest.mark.covers("P12")
def test_a_crash_after_any_durable_turn_changes_nothing(replies: list[ModelReply], crash_at: int) -> None:
    """One attempt, and one that was cut after some turn and went on in another, make the same links and one end."""
    run = agent_run(task(budget={"tokens": 300}), max_iterations=8)
    straight = Driver(run)
    play(straight, replies)

    first = Driver(run)
    play(first, replies[:crash_at])
    if isinstance(first.action, Succeed | Fail):
        assert first.action == straight.action
        if isinstance(first.action, Succeed):
            assert first.resumed().action == straight.action
        return
    second = first.resumed()
    while isinstance(second.action, AskHuman):  # asked again: answered again
        asked = second.action
        second.machine.on_asked(NOW_MS)
        for question in asked.questions:
            second.action = second.machine.on_answer(Answer(request_id=question.request_id, answer="this"), NOW_MS)
    play(second, replies[len(first.finished) :])
    links = first.links() + second.links()
    straight_links = straight.links()
    if isinstance(straight.action, Fail) and straight.action.problem.code == "model_did_not_finish":
        # A new attempt nudges anew: that is what a retry is for.
        assert links[: len(straight_links)] == straight_links
        return
    if len(links) == len(straight_links):
        assert links == straight_links


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


def test_small_turns_need_no_artifact() -> None:
    driver = Driver()
    driver.says(reply(call("read_file", path="a.log"), text="x" * 2_000))
    assert too_large(turn_texts(driver.finished[0].record)) == []
    driver.says(finish())
    assert too_large(turn_texts(driver.finished[1].record)) == []
