"""What a later attempt finds out from a transcript, as tables; the law stands in test_turn_laws."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from sluice_agent_runner.domain.actions import Ask, CallModel
from sluice_contracts.messages.agent import Answer
from sluice_contracts.messages.base import ArtifactRef
from tests.unit.agent_runner.builders import (
    NOW_MS,
    Driver,
    agent_run,
    call,
    failed,
    finish,
    reply,
    role,
    task,
)


@pytest.mark.covers("P12")
def test_a_finished_task_whose_last_word_was_lost_says_it_again_without_a_turn() -> None:
    driver = Driver()
    driver.says(reply(call("write_artifact", name="a.md", kind="report", content="x")))
    done = driver.says(finish())
    again = driver.resumed()
    assert again.action == done
    assert again.requests == []


@pytest.mark.parametrize("lie", [{"turn": 2}, {"turn": 0}])
def test_a_transcript_that_does_not_fit_is_refused(lie: dict[str, int]) -> None:
    driver = Driver()
    driver.says(reply(call("list_files")))
    assert failed(driver.resumed(**lie)) == "transcript_inconsistent"


@pytest.mark.parametrize("talker", [False, True])
def test_a_nudge_and_its_count_survive_a_resume(talker: bool) -> None:
    spec = task(output_schema={"type": "object"})
    driver = Driver(agent_run(spec), role(finish_without_tool=talker))
    driver.says(reply(text="hm"))
    again = driver.resumed()
    assert again.requests[0].messages == driver.requests[-1].messages
    assert ("not yet a result" in again.requests[0].messages[-1].content) == talker
    again.says(reply(text="hm"))
    assert failed(again) == "model_did_not_finish"


def test_a_schema_that_showed_its_fault_fails_a_resumed_task_without_a_turn() -> None:
    driver = Driver(agent_run(task(output_schema={"$ref": "#/$defs/missing"})))
    driver.says(finish(result={}))
    again = driver.resumed()
    assert failed(again) == "invalid_output_schema"
    assert again.action == driver.action
    assert again.requests == []


def test_a_question_of_an_older_release_that_is_not_lawful_any_more_is_told_to_its_agent() -> None:
    """Else its event could not be made, at every resume."""
    driver = Driver()
    driver.says(reply(call("ask_human", "q", question="which?", default="short"), call("ask_human", "r", question="?")))
    (link,) = driver.links()
    said = link.said
    long = call("ask_human", "q", question="which?", default="x" * 40_000)
    older = replace(said, tool_calls=(long, said.tool_calls[1]))
    link = replace(link, messages=tuple(older if message is said else message for message in link.messages))
    ref = ArtifactRef(sha256="0" * 64, size_bytes=1)
    again = Driver(agent_run(attempt=2, turn=1, transcript=ref), links=[link])
    assert isinstance(again.action, Ask)
    (question,) = again.action.requests
    again.machine.on_asked(NOW_MS)
    action = again.machine.on_answer(Answer(request_id=question.request_id, answer="b"), NOW_MS)
    assert isinstance(action, CallModel)
    told = {message.call_id: (message.is_error, message.content) for message in action.request.messages[-2:]}
    assert told["r"] == (False, "b")
    assert told["q"][0]
    assert "length <= 4000 - at `$.default`" in told["q"][1]
