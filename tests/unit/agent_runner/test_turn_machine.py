"""The turn machine, as tables."""

from __future__ import annotations

from typing import Any

import pytest

from sluice_agent_runner.domain.actions import Ask, CallModel, FinishTurn, RunTools, Succeed, Wait
from sluice_agent_runner.domain.conversation import ToolCallRequest
from sluice_agent_runner.domain.turns import MachineMisused
from sluice_contracts.messages.agent import Answer
from sluice_contracts.messages.base import ArtifactRef, Problem
from tests.unit.agent_runner.builders import (
    NOW_MS,
    Driver,
    agent_run,
    call,
    failed,
    finish,
    last_results,
    reply,
    role,
    task,
)


@pytest.mark.covers("P3")
def test_first_prompt_tells_the_whole_task() -> None:
    spec = task(
        success_criteria=["names the line"],
        acceptance_criteria=["two people agree"],
        constraints=["sandbox-only"],
        expected_artifacts=[{"name": "report.md", "kind": "report"}],
        output_schema={"type": "object"},
    )
    outcome = {
        "task_id": "t0", "status": "succeeded", "summary": "it is in app.log:17",
        "artifacts": [{"sha256": "0" * 64, "size_bytes": 1, "name": "notes.md"}],
    }  # fmt: skip
    driver = Driver(agent_run(spec, dependency_outcomes=[outcome]))
    system, user = driver.requests[0].messages
    assert system.role == "system"
    assert system.content.startswith("You work.")
    for part in (
        "find it", "all of it", "names the line", "two people agree", "sandbox-only", "report.md (kind: report)",
        '{"type": "object"}', "it is in app.log:17", "dependencies/t0/notes.md",
    ):  # fmt: skip
        assert part in user.content
    assert [tool.name for tool in driver.requests[0].tools] == list(role().tools)


@pytest.mark.covers("W4")
def test_a_turn_runs_its_tools_and_then_finishes() -> None:
    driver = Driver()
    driver.says(reply(call("list_files", "a"), call("read_file", "b", path="x.log"), text="looking"))
    record = driver.finished[0].record
    assert record.turn == 1
    assert record.model_ms == 7
    assert [one.result.content for one in record.tool_calls] == ["result of list_files", "result of read_file"]
    assert [message.role for message in record.link.messages] == ["system", "user", "assistant", "tool", "tool"]
    assert isinstance(driver.says(finish(result={"line": 17})), Succeed)
    assert driver.action.conclusion.result == '{"line":17}'  # type: ignore[union-attr]
    second = driver.finished[1].record
    assert [message.role for message in second.link.messages] == ["assistant", "tool"]
    assert second.prompt == ()


def test_a_turn_adds_to_the_conversation_and_stores_only_what_it_added() -> None:
    driver = Driver()
    for _ in range(30):
        driver.says(reply(call("list_files"), text="again"))
    sizes = [len(body) for body in driver.stored.values()]
    assert max(sizes[1:]) <= min(sizes[1:]) + 8
    assert len(driver.requests[-1].messages) == 2 + 30 * 2
    assert [link.previous for link in driver.links()] == [None, *list(driver.stored)[:-1]]


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        (call("delete_everything"), "there is no tool 'delete_everything'"),
        (call("read_file"), "missing required field `path`"),
        (call("read_file", path="x", limit="many"), "$.limit"),
        (call("read_file", path="x", limit=100_000), "$.limit"),
        (call("read_file", path="x", colour="red"), "colour"),
        (ToolCallRequest("c", "read_file", '{"path": '), "read_file are invalid"),
        (ToolCallRequest("c", "read_file", "[1]"), "read_file are invalid"),
        (ToolCallRequest("c", "read_file", '{"path": "\\ud800"}'), "read_file are invalid"),
        (ToolCallRequest("c", "finish", '{"summary": "s", "result": ' + "[" * 50 + "]" * 50 + "}"), "nested deeper"),
        (ToolCallRequest("c", "finish", '{"summary": "s", "result": ' + "1" * 5_000 + "}"), "out of range"),
        (call("finish", summary="s" * 4_001), "$.summary"),
        (call("ask_human", question="which?", default="x" * 4_001), "$.default"),
        (call("ask_human", question="x" * 4_001), "$.question"),
        (call("ask_human", question="which?", options=["x" * 501]), "$.options"),
        (call("ask_human", question="which?", options=["x"] * 21), "$.options"),
        (call("write_artifact", name="x" * 256, kind="k", content="x"), "$.name"),
        (call("write_artifact", name="x", kind="k" * 65, content="x"), "$.kind"),
        (ToolCallRequest("c", "read_file", '{"path": "' + "x" * 2_000_000 + '"}'), "at most 1048576"),
    ],
)
@pytest.mark.covers("W4")
def test_what_a_model_calls_wrongly_comes_back_to_it(request_: ToolCallRequest, says: str) -> None:
    driver = Driver()
    assert isinstance(driver.says(reply(request_)), CallModel)
    content, is_error = last_results(driver)[request_.name]
    assert is_error
    assert says in content
    assert driver.requests[-1].messages[-1].content == content


def test_calls_beyond_the_role_s_limit_are_not_run() -> None:
    driver = Driver(the_role=role(limits={"max_tool_calls_per_turn": 2}))
    action = driver.machine.on_model_reply(reply(*[call("list_files", f"c{n}") for n in range(4)]), 0)
    assert isinstance(action, RunTools)
    assert [one.call_id for one in action.calls] == ["c0", "c1"]


def test_call_ids_become_unique_and_short() -> None:
    driver = Driver()
    driver.says(reply(call("list_files", "same"), call("list_files", "same"), call("list_files", "x" * 500)))
    ids = [one.request.call_id for one in driver.finished[0].record.tool_calls]
    assert ids == ["same", "call_1_2", "call_1_3"]


# Finishing


@pytest.mark.covers("P3")
def test_finish_is_refused_until_the_expected_artifacts_are_written() -> None:
    driver = Driver(agent_run(task(expected_artifacts=[{"name": "report.md", "kind": "report"}])))
    assert isinstance(driver.says(finish()), CallModel)
    assert "artifact report.md is not written" in last_results(driver)["finish"][0]
    driver.says(reply(call("write_artifact", name="report.md", kind="notes", content="x")))
    assert isinstance(driver.says(finish()), CallModel)
    assert "must be of kind report" in last_results(driver)["finish"][0]
    write = call("write_artifact", name="report.md", kind="report", content="better")
    # In one answer, and in the wrong order: what finish needs is done first.
    assert isinstance(driver.says(reply(call("finish", summary="done"), write)), Succeed)
    assert isinstance(driver.action, Succeed)
    assert [(one.name, one.kind, one.size_bytes) for one in driver.action.artifacts] == [("report.md", "report", 6)]


SCHEMA = {
    "type": "object",
    "required": ["file", "line"],
    "properties": {
        "file": {"type": "string", "pattern": "^[a-z]+\\.log$"},
        "line": {"type": "integer", "minimum": 1, "multipleOf": 0.5},
    },
}


@pytest.mark.parametrize(
    ("result", "says"),
    [
        (None, "'done' is not of type 'object'"),
        ({"file": "app.log"}, "'line' is a required property"),
        ({"file": "APP.LOG", "line": 3}, "$.file: 'APP.LOG' does not match"),
        ({"file": "app.log", "line": 0}, "$.line: 0 is less than the minimum"),
        ("{not json", "is not of type 'object'"),
        ({"file": "app.log", "line": 10**400}, "too large to be held against the schema"),
    ],
)
@pytest.mark.covers("P3", "W1")
def test_a_result_must_satisfy_the_schema(result: Any, says: str) -> None:
    driver = Driver(agent_run(task(output_schema=SCHEMA)))
    assert isinstance(driver.says(finish(result=result)), CallModel)
    assert says in last_results(driver)["finish"][0]
    assert isinstance(driver.says(finish(result={"file": "app.log", "line": 3})), Succeed)


def test_a_quoted_result_counts_and_the_role_s_schema_serves_where_the_task_has_none() -> None:
    driver = Driver(the_role=role(output_schema=SCHEMA))
    assert isinstance(driver.says(finish(result='{"file": "app.log", "line": 3}')), Succeed)
    assert driver.action.conclusion.result == '{"file":"app.log","line":3}'  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ({"type": "objekt"}, "invalid at"),
        ({"properties": {"a": {"pattern": "(?=x)"}}}, "not a regular expression of RE2"),
        ({"enum": "x" * 70_000}, "at most 65536"),
    ],
)
def test_a_wrong_schema_fails_the_task_before_any_model_call(schema: dict[str, Any], says: str) -> None:
    driver = Driver(agent_run(task(output_schema=schema)))
    assert failed(driver) == "invalid_output_schema"
    assert says in driver.action.problem.detail  # type: ignore[union-attr]
    assert driver.requests == []


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#/$defs/missing"},
        {"$ref": "http://127.0.0.1:9/schema.json"},
        {"$ref": "#"},
        {
            "$defs": {
                f"s{n}": {"allOf": [{"$ref": f"#/$defs/s{n + 1}"}, {"$ref": f"#/$defs/s{n + 1}"}]} for n in range(40)
            }
            | {"s40": {"type": "object"}},
            "$ref": "#/$defs/s0",
        },
    ],
)
def test_a_schema_that_shows_its_fault_only_when_applied(schema: dict[str, Any]) -> None:
    driver = Driver(agent_run(task(output_schema=schema)))
    driver.says(finish(result={}))
    assert failed(driver) == "invalid_output_schema"
    assert len(driver.finished) == 1  # the turn was paid: it is kept


def test_finish_beside_a_question_waits_and_a_second_finish_is_refused() -> None:
    driver = Driver()
    action = driver.says(reply(call("finish", summary="done"), call("ask_human", "q", question="really?")))
    assert isinstance(action, Ask)
    assert last_results(driver)["finish"] == ("refused: you also asked something; wait for the answer", True)
    twice = Driver()
    assert isinstance(twice.says(reply(call("finish", "a", summary="1"), call("finish", "b", summary="2"))), Succeed)
    assert twice.action.conclusion.summary == "1"  # type: ignore[union-attr]


def test_an_answer_without_a_tool_is_nudged_once() -> None:
    driver = Driver()
    assert isinstance(driver.says(reply(text="I think…")), CallModel)
    assert "without calling a tool" in driver.requests[-1].messages[-1].content
    driver.says(reply(call("list_files")))
    assert isinstance(driver.says(reply(text="hm")), CallModel)
    driver.says(reply(text="hm"))
    assert failed(driver) == "model_did_not_finish"
    assert len(driver.finished) == 4
    # A later attempt has the same transcript: it decides the same, and pays for no turn.
    assert not driver.action.retryable  # type: ignore[union-attr]
    again = driver.resumed()
    assert again.action == driver.action
    assert again.requests == []


def test_an_answer_without_a_tool_is_the_result_where_the_role_says_so() -> None:
    talker = role(finish_without_tool=True)
    driver = Driver(the_role=talker)
    assert isinstance(driver.says(reply(text="It is line 17.")), Succeed)
    assert driver.action.conclusion.result == "It is line 17."  # type: ignore[union-attr]
    strict = Driver(agent_run(task(output_schema=SCHEMA)), talker)
    assert isinstance(strict.says(reply(text="line 17")), CallModel)
    assert "is not of type 'object'" in strict.requests[-1].messages[-1].content
    assert isinstance(strict.says(reply(text='{"file": "app.log", "line": 17}')), Succeed)


# Questions


@pytest.mark.covers("P10")
def test_a_question_is_asked_after_its_turn_is_durable_and_answered_in_the_next() -> None:
    driver = Driver()
    asked = driver.machine.on_model_reply(
        reply(call("list_files", "l"), call("ask_human", "q", question="which?", options=["a", "b"], default="a")), 0
    )
    assert isinstance(asked, RunTools)
    action = driver._settle(asked)
    assert len(driver.finished) == 1
    assert isinstance(action, Ask)
    (question,) = action.requests
    assert (question.question, question.options, question.default) == ("which?", ("a", "b"), "a")
    assert isinstance(driver.machine.on_asked(NOW_MS), Wait)
    assert isinstance(driver.machine.on_answer(Answer(request_id="another", answer="x"), NOW_MS), Wait)
    action = driver.machine.on_answer(Answer(request_id=question.request_id, answer="b"), NOW_MS)
    assert isinstance(action, CallModel)
    last = action.request.messages[-1]
    assert (last.role, last.call_id, last.content) == ("tool", "q", "b")
    driver.action = action
    driver.says(finish())
    assert [message.content for message in driver.finished[1].record.prompt] == ["b"]


@pytest.mark.covers("P10", "P12")
def test_a_resumed_agent_asks_the_same_question_again_or_takes_the_answer_it_was_given() -> None:
    driver = Driver()
    driver.says(reply(call("ask_human", "q1", question="which?"), call("ask_human", "q2", question="when?")))
    first = driver.action
    assert isinstance(first, Ask)
    again = driver.resumed().action
    assert again == first
    one = Answer(request_id=first.requests[0].request_id, answer="this")
    half = driver.resumed(answers=(one,)).action
    assert isinstance(half, Ask)
    assert half.requests == first.requests[1:]
    problem = Problem(code="question_unanswered", detail="no default")
    two = Answer(request_id=first.requests[1].request_id, problem=problem)
    both = driver.resumed(answers=(two, one))
    assert isinstance(both.action, CallModel)
    contents = [(message.call_id, message.is_error) for message in both.requests[0].messages[-2:]]
    assert contents == [("q1", False), ("q2", True)]


# Redaction


@pytest.mark.covers("O1")
def test_what_comes_in_is_redacted_before_anything_keeps_it() -> None:
    spec = task(objective="use CANARY")
    driver = Driver(agent_run(spec, objective="CANARY"))
    driver.says(reply(call("read_file", path="CANARY"), call("CANARY"), text="the key is CANARY"))
    driver.says(reply(call("ask_human", "q", question="is it CANARY?")))
    assert isinstance(driver.action, Ask)
    driver.machine.on_asked(NOW_MS)
    answer = Answer(request_id=driver.action.requests[0].request_id, answer="CANARY")
    driver.action = driver.machine.on_answer(answer, NOW_MS)
    driver.says(finish(summary="CANARY", result={"CANARY": "CANARY"}))
    assert isinstance(driver.action, Succeed)
    kept = [repr(request.messages) for request in driver.requests] + [repr(one) for one in driver.finished]
    assert not any("CANARY" in text for text in [*kept, repr(driver.action)])
    assert any("[redacted:canary]" in text for text in kept)
    failing = Driver()
    assert "CANARY" not in repr(failing.machine.on_model_failed("model_malformed", "it said CANARY", retryable=True))


# Order of calls


def test_a_driver_that_calls_out_of_order_is_told() -> None:
    driver = Driver()
    with pytest.raises(MachineMisused, match="expects 'model'; it was given 'tools'"):
        driver.machine.on_tool_results([])
    action = driver.machine.on_model_reply(finish(), 0)
    assert isinstance(action, FinishTurn)
    with pytest.raises(MachineMisused):
        driver.machine.on_model_reply(finish(), 0)
    driver.machine.on_turn_durable("0" * 64, NOW_MS)
    with pytest.raises(MachineMisused, match="expects 'nothing'"):
        driver.machine.start(NOW_MS)


def test_a_transcript_of_another_pipeline_is_never_taken_up() -> None:
    ref = ArtifactRef(sha256="0" * 64, size_bytes=1)
    driver = Driver(agent_run(turn=3, transcript=ref))
    assert failed(driver) == "transcript_inconsistent"
