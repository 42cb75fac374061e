"""The gate on the real stack: a credential per attempt, gone the moment the budget breaks, and what follows."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import pytest

from sluice_contracts import codec, diagnosis, ids
from sluice_contracts.envelope import CloudEvent
from sluice_contracts.messages.agent import AgentGrantOpened, AgentStop, AgentTurnFinished, RunnerHeartbeat
from sluice_contracts.messages.alert import AlertRaised, BudgetSet
from sluice_contracts.messages.base import Message
from sluice_contracts.messages.pipeline import (
    AgentStateChanged,
    PipelineCancel,
    PipelineCancelled,
    PipelineCompleted,
    PipelineFailed,
    PipelineSpawned,
    TaskRetried,
)
from sluice_contracts.messages.report import HandoffReported
from sluice_contracts.messages.signal import ErrorReported, ProgressReported, ViolationReported
from sluice_contracts.messages.token import TokenGranted, TokenRevoke, TokenRevoked
from tests.installation import QUEUE, TENANT, Installation

SAID, INBOX = f"agent.events.{QUEUE}", f"agent.inbox.{QUEUE}"
TURNS = 400
"""That an agent here would have, were it not stopped."""

FAILS = """
agents:
  - turns:
      - {text: look, tool_calls: [{name: read_file, arguments: {path: missing.txt}}], delay_ms: 20, repeat: 400}
  - role: diagnostician
    turns:
      - {text: read, tool_calls: [{name: read_file, arguments: {path: handoff.md}}]}
      - text: found
        capture: [{tool: read_file, pattern: '(?P<errors>[0-9]+) errors '}]
        tool_calls:
          - name: finish
            arguments:
              summary: the file is missing
              result: '{"cause": "missing.txt is missing", "evidence": [], "recommendations": ["lay it in"]}'
"""
WORKS = """
agents:
  - turns:
      - {text: look, tool_calls: [{name: list_files}], delay_ms: 50, repeat: 400}
  - role: diagnostician
    turns:
      - tool_calls:
          - name: finish
            arguments:
              summary: seen
              result: '{"cause": "somebody said so", "evidence": [], "recommendations": []}'
"""


def tell(installation: Installation, topic: str, pipeline: str, data: Message, *, key: str | None = None) -> None:
    """A record of another system's."""
    event = CloudEvent(str(uuid.uuid4()), "dlp-scanner", TENANT, pipeline, time.time_ns() // 1_000_000, data)
    installation.write([codec.encode(event, topic=topic, key=key or pipeline)])


def living(installation: Installation) -> set[str]:
    """The accessors of all tokens that Vault knows."""
    assert installation.stack.vault is not None
    return set(installation.stack.vault.admin().list("auth/token/accessors"))


def accessors(installation: Installation, pipeline: str) -> set[str]:
    return {one.data.accessor for one in installation.events(pipeline, TokenGranted, "token.events")}


def stopped_soon(installation: Installation, pipeline: str) -> None:
    """Whoever was told to stop said nothing more after its runner's second heartbeat from then on.

    The agents here have a turn every few milliseconds, for many heartbeats. Moments are those that the events have.
    """
    stops = installation.events(pipeline, AgentStop, INBOX)
    assert stops
    for stop in stops:
        agent_id, attempt = stop.data.agent_id, stop.data.attempt
        turns = [
            one for one in installation.events(pipeline, AgentTurnFinished, SAID)
            if (one.data.agent_id, one.data.attempt) == (agent_id, attempt)
        ]  # fmt: skip
        assert turns
        [runner_id] = {one.data.runner_id for one in turns}

        def beats(runner_id: str = runner_id, told_ms: int = stop.time_ms) -> list[int]:
            found = (codec.decode(one) for one in installation.log.records["runner.heartbeats"])
            return sorted(
                one.time_ms for one in found
                if isinstance(one.data, RunnerHeartbeat) and one.data.runner_id == runner_id and one.time_ms > told_ms
            )  # fmt: skip

        installation.until_read(lambda beats=beats: len(beats()) >= 4, what="it would go on, if it did")
        installation.log.catch_up()
        said: list[CloudEvent[Any]] = [
            *installation.events(pipeline, AgentTurnFinished, SAID),
            *installation.events(pipeline, ProgressReported, "signals"),
            *installation.events(pipeline, ErrorReported, "signals"),
        ]
        last_ms = max(one.time_ms for one in said if (one.data.agent_id, one.data.attempt) == (agent_id, attempt))
        assert last_ms < beats()[1]
        assert max(one.data.turn for one in turns) < TURNS, "it was at work"


def ended_well(
    installation: Installation, pipeline: str, reason: str, *, diagnosed: bool
) -> dict[str, CloudEvent[Any]]:
    """What must hold of every full revocation, however it came; returns the events by type."""
    failed = installation.await_event(pipeline, PipelineFailed)
    assert failed.data.problem is not None
    assert failed.data.problem.code == failed.data.reason == reason
    installation.log.catch_up()
    [report] = installation.events(pipeline, HandoffReported, "reports")
    revoked = [one for one in installation.events(pipeline, TokenRevoked, "token.events") if one.data.reason == reason]
    assert len(revoked) == 1
    assert revoked[0].data.agent_id is None
    assert report.data.cause_id == revoked[0].id
    assert revoked[0].time_ms <= report.time_ms <= failed.time_ms
    assert failed.causation_id == report.id
    states = [one.data.to_state for one in installation.events(pipeline, AgentStateChanged)]
    assert states[-1] == "TERMINATED"
    granted = accessors(installation, pipeline)
    assert len(granted) >= 2, "the pipeline's own, and its agent's"
    assert granted <= set(revoked[0].data.accessors)
    assert not granted & living(installation), "Vault knows none of them"
    stopped_soon(installation, pipeline)
    diagnostic = diagnosis.diagnostic_id(TENANT, report.id)
    if diagnosed:
        spawned = installation.await_event(diagnostic, PipelineSpawned)
        assert spawned.data.parent_pipeline_id == pipeline
        assert spawned.data.diagnosed is not None
        assert spawned.data.diagnosed.pipeline_id == pipeline
        installation.await_event(diagnostic, PipelineCompleted)
        own = accessors(installation, diagnostic)
        assert own.isdisjoint(granted), "it has a root token of its own"
        installation.until(lambda: not own & living(installation), what="the diagnostic's tokens are gone with it")
    else:
        installation.log.catch_up()
        assert installation.events(diagnostic, PipelineSpawned) == []
    return {"failed": failed, "report": report, "revoked": revoked[0]}


def taken_over(installation: Installation, report: dict[str, Any], directory: Path) -> None:
    """Whoever has the report and nothing else runs its commands, and has a pipeline that goes on."""
    url = {service: f"http://127.0.0.1:{installation.stack.port(service)}" for service in ("api", "store")}
    environment = {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "SLUICE_URL": url["api"],
        "SLUICE_SQL_URL": url["store"],
    }
    said = {}
    for one in report["commands"]:
        line = one["command"].removesuffix(" --watch")  # it would go on, and fail, as the first one did
        done = subprocess.run(
            line, shell=True, cwd=directory, env=environment, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, (line, done.stderr)
        said[one["purpose"]] = done.stdout
    [turns] = [text for purpose, text in said.items() if purpose.startswith("What agent")]
    assert "missing.txt" in turns
    goes_on = said["Go on with it"].split()[-1]
    [spawned] = installation.events(goes_on, PipelineSpawned) or [installation.await_event(goes_on, PipelineSpawned)]
    assert (spawned.tenant, spawned.data.parent_pipeline_id) == (TENANT, report["pipeline_id"])
    assert [one.id for one in spawned.data.plan.tasks] == [one["task_id"] for one in report["context"]["tasks"]]
    installation.send(goes_on, PipelineCancel())
    installation.await_event(goes_on, PipelineCancelled)


@pytest.mark.covers("V1", "V3", "V5", "V7", "O4", "O5", "O6")
def test_errors_break_the_budget(installation: Installation, tmp_path: Path) -> None:
    key = str(uuid.uuid4())
    pipeline = ids.pipeline_id(TENANT, key)
    budget = BudgetSet(scope="pipeline", name=pipeline, errors_per_minute=5)
    tell(installation, "budgets", pipeline, budget, key=f"pipeline/{pipeline}")
    where = f"SELECT 1 AS one FROM events WHERE type = 'budget.set' AND payload LIKE '%{pipeline}%'"
    installation.until(lambda: installation.sql(where), what="the budget is set")
    assert installation.spawn(installation.scenario("fails", FAILS), dedupe_key=key) == pipeline
    found = ended_well(installation, pipeline, "error_budget_exceeded", diagnosed=True)
    [alert] = installation.events(pipeline, AlertRaised, "alerts")
    assert (alert.data.observed, alert.data.limit, alert.data.action) == (6, 5, "revoke_pipeline")
    assert found["revoked"].data.alert_id == alert.id
    [opened] = installation.events(pipeline, AgentGrantOpened, SAID)
    assert opened.data.accessor in found["revoked"].data.accessors
    where = f"FROM diagnoses WHERE pipeline_id = '{pipeline}'"
    installation.until(lambda: installation.sql(f"SELECT 1 AS one {where} AND state = 'COMPLETED'"), what="a diagnosis")
    [row] = installation.sql(f"SELECT cause, alert_id {where}")
    assert row == {"cause": "missing.txt is missing", "alert_id": alert.id}
    report = installation.get("api", f"/api/artifacts/{found['report'].data.report.sha256}").json
    because = report["recommended_actions"][0]["because"]
    errors = report["summary"]["errors"]  # six broke the budget; until the agent was stopped there may be more
    assert because == f"{errors} × read_file: missing.txt does not exist; list_files shows what does"
    taken_over(installation, report, tmp_path)
    query = f"SELECT state, reason, alert_id FROM token_lives WHERE pipeline_id = '{pipeline}'"
    revoked = [{"state": "revoked", "reason": "error_budget_exceeded", "alert_id": alert.id}] * 2
    installation.until(lambda: installation.sql(query) == revoked, what="both lives are told in SQL")


@pytest.mark.covers("V5", "O6")
def test_another_system_reports_a_violation(installation: Installation) -> None:
    pipeline = installation.spawn(installation.scenario("works", WORKS))
    installation.await_event(pipeline, AgentTurnFinished, topic=SAID)
    violation = ViolationReported(policy="no-customer-data", severity="CRITICAL", detail="an address in a prompt")
    tell(installation, "signals", pipeline, violation)
    ended_well(installation, pipeline, "policy_violation", diagnosed=True)
    [alert] = installation.events(pipeline, AlertRaised, "alerts")
    assert alert.data.condition == "policy_violation"


@pytest.mark.covers("V5")
def test_a_person_revokes_by_a_record(installation: Installation) -> None:
    pipeline = installation.spawn(installation.scenario("works", WORKS))
    installation.await_event(pipeline, AgentTurnFinished, topic=SAID)
    tell(installation, "token.commands", pipeline, TokenRevoke(detail="the key has leaked"))
    found = ended_well(installation, pipeline, "manual", diagnosed=False)
    assert found["revoked"].data.detail == "the key has leaked"


@pytest.mark.covers("V5", "O5", "W7")
def test_a_pipeline_fails_when_its_report_can_be_stored_again(installation: Installation) -> None:
    pipeline = installation.spawn(installation.scenario("works", WORKS))
    installation.await_event(pipeline, AgentTurnFinished, topic=SAID)
    folder = installation.stack.directory / "artifacts"
    aside = folder.rename(folder.with_name("aside"))
    folder.write_text("a file where the folder was")
    try:
        tell(installation, "token.commands", pipeline, TokenRevoke(detail="by hand"))
        log = installation.stack.log_file("api")
        away = "the artifact store is away"
        installation.until(lambda: away in log.read_text(), what="the report can't be stored")
        assert not accessors(installation, pipeline) & living(installation), "revoked all the same"
        assert installation.events(pipeline, PipelineFailed) == []
    finally:
        folder.unlink()
        aside.rename(folder)
    ended_well(installation, pipeline, "manual", diagnosed=False)


@pytest.mark.covers("V3", "V5", "W10")
def test_one_agent_s_token_is_revoked_and_the_task_goes_on(installation: Installation) -> None:
    pipeline = installation.spawn(installation.scenario("works", WORKS))
    first = installation.await_event(pipeline, AgentTurnFinished, topic=SAID)
    agent_id = first.data.agent_id
    tell(installation, "token.commands", pipeline, TokenRevoke(agent_id=agent_id, detail="not this one"))
    retried = installation.await_event(pipeline, TaskRetried)
    assert retried.data.problem.code == "manual"
    later = installation.await_event(pipeline, AgentTurnFinished, lambda turn: turn.attempt == 2, topic=SAID)
    assert later.data.turn > 1, "from the last finished turn on"
    installation.log.catch_up()
    granted = {
        (one.data.agent_id, one.data.attempt): one.data.accessor
        for one in installation.events(pipeline, TokenGranted, "token.events")
    }
    stopped_soon(installation, pipeline)
    alive = living(installation)
    assert granted[agent_id, 1] not in alive
    assert {granted[None, None], granted[agent_id, 2]} <= alive
    tell(installation, "token.commands", pipeline, TokenRevoke())
    installation.await_event(pipeline, PipelineFailed)
