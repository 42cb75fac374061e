"""The path of one event, as docs/architecture.md tells it: one command, followed through every topic to its row."""

from __future__ import annotations

import pytest

from sluice_contracts.envelope import CloudEvent
from sluice_contracts.ids import INSTALLATION_ID
from sluice_contracts.messages import Message
from sluice_contracts.messages.admission import AdmissionGranted, AdmissionRequested
from sluice_contracts.messages.agent import (
    AgentAttemptStarted,
    AgentGrantOpened,
    AgentRun,
    AgentSucceeded,
    AgentTurnFinished,
)
from sluice_contracts.messages.pipeline import (
    AgentCreated,
    PipelineCompleted,
    PipelineReported,
    PipelineSpawn,
    PipelineSpawned,
    TaskAssigned,
    TaskStarted,
    TaskSucceeded,
)
from sluice_contracts.messages.token import TokenGranted, TokenRequest
from sluice_contracts.topics import topic_of
from tests.installation import QUEUE, Installation

WALK = """
agents:
  - turns:
      - {text: look, tool_calls: [{name: list_files}], usage: {input_tokens: 7, output_tokens: 3, cost_usd: 0.5}}
      - {text: done, tool_calls: [{name: finish, arguments: {summary: found it, result: found it}}]}
"""
PATH: list[tuple[type[Message], type[Message] | None]] = [
    (PipelineSpawn, None),
    (PipelineSpawned, PipelineSpawn),
    (AdmissionRequested, PipelineSpawn),
    (AdmissionGranted, AdmissionRequested),
    (AgentCreated, AdmissionGranted),
    (TokenRequest, AdmissionGranted),
    (TokenGranted, TokenRequest),
    (TaskAssigned, TokenGranted),
    (AgentRun, TokenGranted),
    (AgentAttemptStarted, AgentRun),
    (AgentGrantOpened, AgentRun),
    (TaskStarted, AgentAttemptStarted),
    (AgentTurnFinished, AgentRun),
    (AgentSucceeded, AgentRun),
    (TaskSucceeded, AgentSucceeded),
    (PipelineReported, AgentSucceeded),
    (PipelineCompleted, AgentSucceeded),
]
"""Each message of the path, and the one that caused it."""


@pytest.mark.covers("P1", "O1", "C1", "W3")
def test_one_spawn_from_the_command_to_its_rows(installation: Installation) -> None:
    pipeline = installation.spawn(installation.scenario("walk", WALK))
    installation.await_event(pipeline, PipelineCompleted)
    installation.log.catch_up()
    walked: dict[type[Message], CloudEvent[Message]] = {}
    for message, cause in PATH:
        topic = topic_of(message).for_queue(QUEUE)
        found = installation.events(message.only_subject or pipeline, message, topic)
        if message is AdmissionRequested:  # of all pipelines; each asks once more, for nothing, when it ends
            found = [one for one in found if one.data.pipeline_id == pipeline and one.data.slots > 0]  # type: ignore[attr-defined]
        if message in (TokenRequest, TokenGranted):  # the pipeline's own comes before
            found = [one for one in found if one.data.agent_id is not None]  # type: ignore[attr-defined]
        assert found, f"{message.type} does not stand on {topic}"
        walked[message] = found[0]
        assert {event.causation_id for event in found} == {None if cause is None else walked[cause].id}, message.type
        assert {event.tenant for event in found} == {"tenant"}

    rows = installation.until(
        lambda: (found := _rows(installation, pipeline)) and all(one.id in found for one in walked.values()) and found,
        what="all of it is in the log",
    )
    for message, event in walked.items():
        row = rows[event.id]
        expected = (message.type, topic_of(message).for_queue(QUEUE), event.causation_id or "")
        assert (row["type"], row["topic"], row["causation_id"]) == expected
    [told] = installation.sql(f"SELECT * FROM pipelines WHERE pipeline_id = '{pipeline}'")
    assert (told["state"], int(told["input_tokens"]), told["cost_usd"]) == ("COMPLETED", 7, 0.5)
    story = installation.sql(f"SELECT what FROM pipeline_story WHERE pipeline_id = '{pipeline}' ORDER BY position")
    assert len(story) > 5


@pytest.mark.covers("U1", "O2")
def test_what_the_api_reads_is_what_sql_says(installation: Installation) -> None:
    pipeline = installation.spawn(installation.scenario("walk", WALK), tasks=2)
    installation.await_event(pipeline, PipelineCompleted)
    where = f"WHERE pipeline_id = '{pipeline}'"

    def both() -> bool:
        view = installation.get("api", f"/runs/{pipeline}/status").json
        rows = installation.sql(
            f"SELECT state, agents_used, duration_ms, input_tokens, cost_usd FROM pipelines {where}"
        )
        tasks = installation.sql(f"SELECT task_id, status, agent_id, turns, summary FROM tasks {where}")
        agents = installation.sql(f"SELECT agent_id, state FROM agents {where}")
        if not rows or view.get("state") != "COMPLETED" or rows[0]["state"] != "COMPLETED":
            return False
        names = ("state", "agents_used", "duration_ms")
        assert {name: str(view[name]) for name in names} == {name: str(rows[0][name]) for name in names}
        assert view["usage"]["input_tokens"] == int(rows[0]["input_tokens"]) == 14
        assert view["usage"]["cost_usd"] == rows[0]["cost_usd"] == 1.0
        columns = ("status", "agent_id", "turns", "summary")
        assert {one: {name: view["tasks"][one][name] for name in columns} for one in view["tasks"]} == {
            row["task_id"]: {name: row[name] for name in columns} for row in tasks
        }
        assert {one: view["agents"][one]["state"] for one in view["agents"]} == {
            row["agent_id"]: row["state"] for row in agents
        }
        return True

    installation.until(both, what="api and SQL tell of the end")

    def same_events() -> bool:
        """The pipeline's last events, of its credentials, may still be on their way into the one or the other."""
        listed = installation.get("api", f"/runs/{pipeline}/events?limit=1000").json["items"]
        rows = installation.sql(f"SELECT event_id FROM events {where}")
        assert len({one["id"] for one in listed}) == len(listed)
        return {one["id"] for one in listed} == {row["event_id"] for row in rows}

    installation.until(same_events, what="api and SQL list the same events")


def _rows(installation: Installation, pipeline: str) -> dict[str, dict[str, str]]:
    where = f"WHERE pipeline_id IN ('{pipeline}', '{INSTALLATION_ID}')"
    query = f"SELECT event_id, type, topic, causation_id FROM events {where}"
    return {row["event_id"]: row for row in installation.sql(query)}
