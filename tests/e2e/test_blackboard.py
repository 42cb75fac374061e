"""Two agents of a pipeline write one key on the same version: one wins, the other hears it and decides anew (A4)."""

from __future__ import annotations

import pytest

from sluice_contracts.messages.blackboard import (
    BlackboardConflictDetected,
    BlackboardConflictResolved,
    BlackboardWritten,
)
from sluice_contracts.messages.pipeline import AgentCreated, PipelineAnswer, PipelineCompleted, QuestionAsked
from sluice_contracts.messages.plan import Plan, TaskSpec
from tests.installation import Installation

DISAGREE = """
agents:
  - task: first
    turns:
      - tool_calls: [{name: blackboard_get, arguments: {key: cause}}]
      - assert: [{tool: blackboard_get, pattern: '"version":0'}]
        tool_calls: [{name: ask_human, arguments: {question: first}}]
      - tool_calls: [{name: blackboard_set, arguments: {key: cause, value: the pool is exhausted}}]
      - assert: [{tool: blackboard_set, pattern: '"version":1'}]
        tool_calls: [{name: finish, arguments: {summary: wrote it}}]
  - task: second
    turns:
      - tool_calls: [{name: blackboard_get, arguments: {key: cause}}]
      - assert: [{tool: blackboard_get, pattern: '"version":0'}]
        tool_calls: [{name: ask_human, arguments: {question: second}}]
      - tool_calls: [{name: blackboard_set, arguments: {key: cause, value: a slow query}}]
      - assert: [{tool: blackboard_set, pattern: '^refused, blackboard_conflict: task first was first'}]
        tool_calls: [{name: blackboard_get, arguments: {key: cause}}, {name: blackboard_list}]
      - capture:
          - {tool: blackboard_get, pattern: '"version":(?P<version>\\d+).*"value":"(?P<said>[^"]+)"'}
        assert: [{tool: blackboard_list, pattern: '"key":"cause","version":1,"task":"first"'}]
        tool_calls:
          - name: blackboard_set
            arguments: {key: cause, value: "{{said}}, by a slow query", version: "{{version:int}}"}
      - tool_calls: [{name: finish, arguments: {summary: "went on from {{said}}"}}]
"""
AGREED = "the pool is exhausted, by a slow query"


@pytest.mark.covers("A4")
def test_of_two_who_write_on_one_version_one_wins_and_the_other_goes_on_from_there(installation: Installation) -> None:
    tasks = tuple(TaskSpec(id=name, objective="find the cause", role="researcher") for name in ("first", "second"))
    model = installation.scenario("disagree", DISAGREE)
    pipeline = installation.submit(Plan(objective="find the cause", tasks=tasks, model=model))
    for name in ("first", "second"):  # both have read the key by then
        installation.await_event(pipeline, QuestionAsked, lambda one, name=name: one.question == name)
    asked = {one.data.question: one.data.question_id for one in installation.events(pipeline, QuestionAsked)}
    installation.send(pipeline, PipelineAnswer(question_id=asked["first"], answer="now"))
    installation.await_event(pipeline, BlackboardWritten)
    installation.send(pipeline, PipelineAnswer(question_id=asked["second"], answer="now"))
    installation.await_event(pipeline, PipelineCompleted)

    agents = {one.data.task_id: one.data.agent_id for one in installation.events(pipeline, AgentCreated)}
    first, second = (one.data for one in installation.events(pipeline, BlackboardWritten))
    assert (first.key_version, first.agent_id, second.key_version) == (1, agents["first"], 2)
    assert (second.agent_id, second.value) == (agents["second"], AGREED)
    [detected] = installation.events(pipeline, BlackboardConflictDetected)
    assert (detected.data.agent_id, detected.data.written_by) == (agents["second"], agents["first"])
    [resolved] = installation.events(pipeline, BlackboardConflictResolved)
    assert (resolved.data.conflict_id, resolved.data.resolution) == (detected.data.conflict_id, "retried")

    where = f"WHERE pipeline_id = '{pipeline}'"
    writes = installation.until(
        lambda: (
            (rows := installation.sql(f"SELECT version, agent_id, value FROM blackboard {where} ORDER BY sequence"))
            and len(rows) == 2
            and rows
        ),
        what="both writes are in SQL",
    )
    assert [(int(row["version"]), row["agent_id"]) for row in writes] == [(1, agents["first"]), (2, agents["second"])]
    assert writes[1]["value"] == AGREED
    [conflict] = installation.until(
        lambda: installation.sql(f"SELECT key, agent_id, resolution FROM conflicts {where} AND resolution != ''"),
        what="the conflict is in SQL, settled",
    )
    assert conflict == {"key": "cause", "agent_id": agents["second"], "resolution": "retried"}
    status = installation.until(
        lambda: (found := installation.get("api", f"/runs/{pipeline}/status").json)["state"] == "COMPLETED" and found
    )
    assert (status["conflicts_detected"], status["conflicts_resolved"]) == (1, 1)
    assert status["blackboard"]["cause"]["version"] == 2
