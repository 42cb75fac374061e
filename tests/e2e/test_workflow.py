"""What a plan's edges, keys and commands do, on the whole installation."""

from __future__ import annotations

import hashlib

import pytest

from sluice_contracts.messages.agent import AgentTurnFinished
from sluice_contracts.messages.pipeline import (
    PipelineCancel,
    PipelineCancelled,
    PipelineCompleted,
    PipelineFailed,
    PipelineRefused,
    PipelineReported,
    PipelineSpawn,
    PipelineSpawned,
    PipelineTick,
)
from sluice_contracts.messages.plan import Dependency, Plan, TaskSpec
from tests.history import every_spawned_pipeline_has_one_terminal_event
from tests.installation import Installation

DONE = """
agents:
  - turns:
      - tool_calls: [{name: finish, arguments: {summary: done, result: done}}]
  - task: broken
    turns:
      - assert: [{from: prompt, pattern: what never stands there}]
        text: unreachable
"""
LONG = """
agents:
  - turns:
      - {text: look, tool_calls: [{name: list_files}], delay_ms: 200, repeat: 500}
"""
BIG = """
agents:
  - turns:
      - text: "%s"
        tool_calls: [{name: write_artifact, arguments: {name: report.md, kind: report, content: "# Written"}}]
      - tool_calls: [{name: finish, arguments: {summary: done, result: done}}]
""" % ("0123456789abcdef" * 5_000)
"""An answer of 80,000 characters: more than stands in an event."""


def task(name: str, *edges: tuple[str, str]) -> TaskSpec:
    dependencies = tuple(Dependency(task=source, on=on) for source, on in edges)  # type: ignore[arg-type]
    return TaskSpec(id=name, objective=f"do {name}", role="researcher", dependencies=dependencies)


@pytest.mark.covers("P4")
def test_a_failing_branch_leaves_the_others_their_results(installation: Installation) -> None:
    tasks = (
        task("broken"), task("sound"),
        task("behind-broken", ("broken", "succeeded")), task("behind-sound", ("sound", "succeeded")),
        task("instead", ("broken", "failed")), task("join", ("behind-broken", "finished"), ("instead", "succeeded")),
        task("never", ("sound", "failed")),
    )  # fmt: skip
    model = installation.scenario("done", DONE)
    pipeline = installation.submit(Plan(objective="branches", tasks=tasks, model=model, on_failure="carry_on"))
    report = installation.await_event(pipeline, PipelineReported).data
    assert {one.task_id: one.status for one in report.outcomes} == {
        "broken": "failed", "sound": "succeeded", "behind-broken": "skipped", "behind-sound": "succeeded",
        "instead": "succeeded", "join": "succeeded", "never": "skipped",
    }  # fmt: skip
    problems = {one.task_id: one.problem.code for one in report.outcomes if one.problem is not None}
    assert problems == {"broken": "scenario_assertion_failed"}
    rows = installation.until(
        lambda: _statuses(installation, pipeline) if len(_statuses(installation, pipeline)) == 7 else None
    )
    installation.until(lambda: _statuses(installation, pipeline)["join"] == "succeeded", what="SQL tells the same")
    assert rows.keys() == {one.id for one in tasks}


@pytest.mark.covers("P4", "P1")
def test_fail_fast_ends_the_pipeline(installation: Installation) -> None:
    tasks = (task("broken"), task("behind", ("broken", "succeeded")))
    pipeline = installation.submit(Plan(objective="stop", tasks=tasks, model=installation.scenario("done", DONE)))
    ended = installation.await_event(pipeline, PipelineFailed).data
    assert ended.tasks == {"broken": "failed", "behind": "skipped"}
    assert ended.problem is not None
    assert ended.problem.code == "scenario_assertion_failed"


@pytest.mark.covers("P3")
def test_a_dedupe_key_names_one_pipeline(installation: Installation) -> None:
    model = installation.scenario("done", DONE)
    first = installation.spawn(model, dedupe_key="only-once")
    installation.await_event(first, PipelineCompleted)
    second = installation.spawn(model, dedupe_key="only-once", tasks=3)
    assert second == first
    mark = installation.send(first, PipelineTick())
    cancel = installation.send(first, PipelineCancel())
    refused = installation.await_event(first, PipelineRefused)
    assert (refused.data.command_id, refused.data.problem.code) == (cancel, "pipeline_ended")
    assert mark not in {one.data.command_id for one in installation.events(first, PipelineRefused)}
    [spawned] = installation.events(first, PipelineSpawned)
    assert len(spawned.data.plan.tasks) == 1
    history = installation.history()
    assert len(history.ended[first]) == 1
    assert len(installation.events(first, PipelineSpawn, "pipeline.commands")) == 2
    every_spawned_pipeline_has_one_terminal_event(history, set(history.ended))


@pytest.mark.covers("P1", "P12")
def test_tick_and_cancel(installation: Installation) -> None:
    """A tick leaves a healthy pipeline as it is; a cancel stops its agent."""
    pipeline = installation.spawn(installation.scenario("long", LONG))
    installation.await_event(pipeline, AgentTurnFinished, topic="agent.events.default")
    tick = installation.send(pipeline, PipelineTick())
    stranger = installation.send("nobody-knows-it", PipelineTick())
    unknown = installation.await_event("nobody-knows-it", PipelineRefused)
    assert (unknown.causation_id, unknown.data.problem.code) == (stranger, "unknown_pipeline")
    cancel = installation.send(pipeline, PipelineCancel(reason="changed our mind"))
    cancelled = installation.await_event(pipeline, PipelineCancelled)
    assert (cancelled.causation_id, cancelled.data.reason) == (cancel, "changed our mind")
    assert cancelled.data.tasks == {"t0": "cancelled"}
    causes = {one.causation_id for one in installation.history().events("pipeline.events") if one.subject == pipeline}
    assert tick not in causes
    [agent] = {one.data.agent_id for one in installation.events(pipeline, AgentTurnFinished, "agent.events.default")}

    def held() -> bool:
        installation.log.poll()
        last = installation.log.records["runner.heartbeats"][-1]
        return agent.encode() in (last.value or b"")

    installation.until(lambda: not held(), what="the runner has stopped the agent")


@pytest.mark.covers("O1", "O2", "W7")
def test_bodies_and_artifacts_are_reached_from_sql_by_their_hash(installation: Installation) -> None:
    pipeline = installation.spawn(installation.scenario("big", BIG))
    installation.await_event(pipeline, PipelineCompleted)
    where = f"WHERE pipeline_id = '{pipeline}'"
    rows = installation.until(
        lambda: installation.sql(f"SELECT response, response_sha256 AS hash FROM turns {where} AND turn = 1")
    )
    assert rows[0]["response"] == ""
    body = installation.get("api", f"/api/artifacts/{rows[0]['hash']}").body
    assert hashlib.sha256(body).hexdigest() == rows[0]["hash"]
    assert b"0123456789abcdef" * 5_000 in body
    [listed] = installation.until(lambda: installation.get("api", f"/runs/{pipeline}/artifacts").json)
    artifact = listed["artifact"]
    assert (artifact["name"], artifact["kind"]) == ("report.md", "report")
    assert installation.get("api", f"/api/artifacts/{artifact['sha256']}").body == b"# Written"
    stored = installation.until(lambda: installation.sql(f"SELECT sha256 AS hash FROM artifacts {where}"))
    assert stored == [{"hash": artifact["sha256"]}]


def _statuses(installation: Installation, pipeline: str) -> dict[str, str]:
    rows = installation.sql(f"SELECT task_id, status FROM tasks WHERE pipeline_id = '{pipeline}'")
    return {row["task_id"]: row["status"] for row in rows}
