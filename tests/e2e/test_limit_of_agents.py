"""P13: the limit of agents per installation, on an installation that may have two at once."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from sluice_contracts.ids import INSTALLATION_ID
from sluice_contracts.messages.admission import AdmissionGranted, AdmissionRequested
from sluice_contracts.messages.agent import AgentTurnFinished
from sluice_contracts.messages.pipeline import (
    AgentCreated,
    PipelineCancel,
    PipelineCancelled,
    PipelineCompleted,
    TaskAssigned,
    TaskCancelled,
    TaskFailed,
    TaskSucceeded,
)
from sluice_contracts.messages.plan import Plan, TaskSpec
from tests.history import check
from tests.installation import Installation

AGENTS_MAX = 2
PIPELINES = 6
WORK = """
agents:
  - turns:
      - {text: look, tool_calls: [{name: list_files}], delay_ms: 20, repeat: 5}
      - {tool_calls: [{name: finish, arguments: {summary: done, result: done}}]}
"""
LONG = """
agents:
  - turns:
      - {text: look, tool_calls: [{name: list_files}], delay_ms: 200, repeat: 500}
"""
ENDS = {one.type for one in (TaskSucceeded, TaskFailed, TaskCancelled)}
DOCUMENT = Path(__file__).parents[2] / "docs" / "analytics.md"
EXAMPLES = re.findall(r"```sql\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
[WAITING] = [one for one in EXAMPLES if "admission_waiting" in one]


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    settings = {"spawner": {"SLUICE_MAX_AGENTS": str(AGENTS_MAX)}}
    with Installation(tmp_path_factory.mktemp("limit-of-agents"), settings) as running:
        yield running


def parallel(model: str, count: int) -> Plan:
    tasks = tuple(TaskSpec(id=f"t{number}", objective="work", role="researcher") for number in range(count))
    return Plan(objective="many at once", tasks=tasks, model=model)


def most_at_once(installation: Installation) -> int:
    """Agents that were assigned and not ended, at the moment that had the most of them."""
    moments = []
    for event in installation.history().events("pipeline.events"):
        if event.data.type == AgentCreated.type:
            moments.append((event.time_ms, 1, event.subject))
        elif event.data.type in ENDS:
            moments.append((event.time_ms, -1, event.subject))
    most = alive = 0
    for _, change, _ in sorted(moments):  # what ends in a millisecond made room for what begins in it
        alive += change
        most = max(most, alive)
    assert alive == 0
    return most


@pytest.mark.covers("P13")
def test_never_more_agents_than_the_installation_may_have(installation: Installation) -> None:
    model = installation.scenario("work", WORK)
    pipelines = [installation.submit(parallel(model, 3)) for _ in range(PIPELINES)]
    installation.await_ends()
    for pipeline in pipelines:
        assert len(installation.events(pipeline, PipelineCompleted)) == 1
    assert most_at_once(installation) == AGENTS_MAX
    check(installation.history(), installation.spawned)


@pytest.mark.covers("P13", "O2")
def test_whoever_waits_is_seen_and_a_cancelled_pipeline_makes_room(installation: Installation) -> None:
    long, work = installation.scenario("long", LONG), installation.scenario("work", WORK)
    first, second = installation.submit(parallel(long, 1)), installation.submit(parallel(long, 1))
    for pipeline in (first, second):
        installation.await_event(pipeline, AgentTurnFinished, topic="agent.events.default")
    third = installation.submit(parallel(work, 2))

    def asked() -> list[AdmissionRequested]:
        requests = installation.events(INSTALLATION_ID, AdmissionRequested, "admission")
        return [one.data for one in requests if one.data.pipeline_id == third]

    assert [one.slots for one in installation.until_read(asked, what="the third asks")] == [2]
    rows = installation.until(lambda: installation.sql(WAITING), what="SQL tells who waits")
    assert [(row["pipeline_id"], int(row["wanted"]), int(row["granted"])) for row in rows] == [(third, 2, 0)]
    assert installation.get("api", f"/runs/{third}/status").json["state"] == "RUNNING"
    assert not installation.events(third, TaskAssigned)
    installation.send(first, PipelineCancel())
    installation.await_event(first, PipelineCancelled)
    granted = installation.await_event(third, AdmissionGranted, topic="admission")
    assert granted.data.slots == 1
    installation.await_event(third, PipelineCompleted)
    installation.send(second, PipelineCancel())
    installation.await_ends()
    assert most_at_once(installation) == AGENTS_MAX
    check(installation.history(), installation.spawned)
    assert installation.until(lambda: installation.sql(WAITING) == [], what="nobody waits")
