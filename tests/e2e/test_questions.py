"""Agents ask people, and the answer comes, whatever happens in between (P10)."""

from __future__ import annotations

import signal

import pytest

from sluice_contracts.messages.agent import AgentAnswer, AgentRun, AgentTurnFinished
from sluice_contracts.messages.pipeline import (
    PipelineAnswer,
    PipelineCompleted,
    PipelineRefused,
    PipelineStateChanged,
    QuestionAnswered,
    QuestionAsked,
)
from sluice_contracts.messages.plan import Plan, TaskSpec
from tests.installation import Installation

ASK = """
agents:
  - turns:
      - tool_calls: [{name: ask_human, arguments: {question: "Which one?", options: [red, blue]}}]
      - capture: [{tool: ask_human, pattern: '(?P<said>\\w+)'}]
        tool_calls: [{name: finish, arguments: {summary: "It is {{said}}."}}]
"""
ASK_WITH_DEFAULT = """
agents:
  - turns:
      - tool_calls: [{name: ask_human, arguments: {question: "Go on?", default: "yes"}}]
      - assert: [{tool: ask_human, pattern: '^yes$'}]
        tool_calls: [{name: finish, arguments: {summary: went on}}]
"""


@pytest.mark.covers("P10", "P12")
def test_an_answer_reaches_an_agent_whose_runner_was_killed(installation: Installation) -> None:
    pipeline = installation.spawn(installation.scenario("ask", ASK))
    asked = installation.await_event(pipeline, QuestionAsked).data
    assert (asked.question, asked.options) == ("Which one?", ("red", "blue"))
    installation.await_event(pipeline, PipelineStateChanged, lambda one: one.to_state == "NEEDS_INPUT")
    installation.until(
        lambda: installation.get("api", f"/runs/{pipeline}/status").json["state"] == "NEEDS_INPUT", what="the api knows"
    )
    installation.stack.kill_service("agent-runner", signal.SIGKILL)
    command = installation.send(pipeline, PipelineAnswer(question_id=asked.question_id, answer="blue"))
    answered = installation.await_event(pipeline, QuestionAnswered)
    assert (answered.causation_id, answered.data.answer, answered.data.answered_by) == (command, "blue", "command")
    late = installation.send(pipeline, PipelineAnswer(question_id=asked.question_id, answer="red"))
    refused = installation.await_event(pipeline, PipelineRefused)
    assert refused.data.command_id == late
    installation.await_event(pipeline, PipelineCompleted)
    [result] = installation.until(
        lambda: installation.sql(f"SELECT summary FROM tasks WHERE pipeline_id = '{pipeline}' AND status = 'succeeded'")
    )
    assert result["summary"] == "It is blue."
    turns = installation.events(pipeline, AgentTurnFinished, "agent.events.default")
    assert [one.data.turn for one in turns] == [1, 2], "the turn that asked is not run again"
    runs = installation.events(pipeline, AgentRun, "agent.tasks.default")
    told = [one.data.answer.answer for one in installation.events(pipeline, AgentAnswer, "agent.inbox.default")]
    brought = [answer.answer for one in runs for answer in one.data.answers]
    assert set(told + brought) == {"blue"}


@pytest.mark.covers("P10")
def test_a_default_counts_when_the_deadline_has_passed(installation: Installation) -> None:
    hasty = TaskSpec(id="ask", objective="ask", role="hasty")
    model = installation.scenario("ask-with-default", ASK_WITH_DEFAULT)
    pipeline = installation.submit(Plan(objective="ask", tasks=(hasty,), model=model))
    answered = installation.await_event(pipeline, QuestionAnswered)
    asked = installation.await_event(pipeline, QuestionAsked)
    assert (answered.data.answer, answered.data.answered_by) == ("yes", "deadline")
    assert answered.time_ms >= asked.data.deadline_at_ms
    installation.await_event(pipeline, PipelineCompleted)


@pytest.mark.covers("P10")
def test_an_unattended_pipeline_does_not_wait(installation: Installation) -> None:
    model = installation.scenario("ask-with-default", ASK_WITH_DEFAULT)
    pipeline = installation.spawn(model, unattended=True)
    assert installation.await_event(pipeline, QuestionAnswered).data.answered_by == "default"
    installation.await_event(pipeline, PipelineCompleted)
    states = [one.data.to_state for one in installation.events(pipeline, PipelineStateChanged)]
    assert "NEEDS_INPUT" not in states
