"""Revoking, renewing, handing off and diagnosing over HTTP and by command; the test is spawner and vault-broker."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import jsonschema
import pytest
from websockets.sync.client import connect

from sluice_client import cli
from sluice_client.cli.exits import REFUSED
from sluice_contracts import topics
from sluice_contracts.envelope import CloudEvent
from sluice_contracts.messages import Message, pipeline, token
from sluice_contracts.messages.base import Problem
from tests.integration.observability.conftest import StartService
from tests.integration.observability.spawner import Spawner
from tests.integration.observability.support import Service, Writer, wait_for
from tests.integration.observability.test_reports import SCHEMA
from tests.kafka import TestKafka
from tests.unit.observability.breaches import FINDINGS, Safeguard, breach, diagnosing
from tests.unit.observability.events import Teller, failing, finishing, spawning

SEALED = "c2VhbGVkLXNlY3JldA=="


@pytest.fixture
def api(start: StartService, store: Service) -> Service:
    service = start("api", SLUICE_SQL_URL=store.url, SLUICE_AFTER_WAIT_MAX_S="5")
    service.ready()
    return service


@pytest.fixture
def http(api: Service) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=api.url, timeout=60) as client:
        yield client


@pytest.fixture
def broker(kafka: TestKafka, prefix: str, writer: Writer) -> Iterator[Spawner]:
    one = Spawner(kafka, prefix, writer, topics.TOKEN_COMMANDS.name)
    yield one
    one.end()


@pytest.fixture
def spawner(kafka: TestKafka, prefix: str, writer: Writer) -> Iterator[Spawner]:
    one = Spawner(kafka, prefix, writer)
    yield one
    one.end()


def obeys(command: CloudEvent[Message]) -> list[CloudEvent[Message]]:
    """Revokes and renews as the vault-broker does, whose answers name what asked for them."""
    safeguard = Safeguard(Teller(command.subject, command.tenant))
    asked = command.data
    if isinstance(asked, token.TokenRenew):
        data: Message = token.TokenRenewed(accessor=safeguard.root, expires_at_ms=9_000_000)
    elif isinstance(asked, token.TokenRevoke):
        names = (safeguard.root, safeguard.child) if asked.agent_id is None else (safeguard.child,)
        data = token.TokenRevoked(
            accessors=names, agent_id=asked.agent_id, reason=asked.reason, detail=asked.detail, latency_ms=3
        )
    else:
        return []
    return [_answer(safeguard, data, command)]


def _answer(safeguard: Safeguard, data: Message, command: CloudEvent[Message]) -> CloudEvent[Message]:
    made = safeguard.broker(data, command.id)
    return CloudEvent(**{**{name: getattr(made, name) for name in made.__slots__}, "id": f"of-{command.id}"})


def denies(command: CloudEvent[Message]) -> list[CloudEvent[Message]]:
    problem = Problem(code="pipeline_ended", detail="pipeline p9 has ended, and its credentials with it")
    denied = token.TokenDenied(problem=problem, command="token.revoke")
    return [_answer(Safeguard(Teller(command.subject)), denied, command)]


def run_cli(capsys: pytest.CaptureFixture[str], api: Service, *arguments: str) -> str:
    assert cli.run([*arguments, "--url", api.url]) == 0, capsys.readouterr().err
    return capsys.readouterr().out


@pytest.mark.covers("U1", "V7", "O8")
def test_a_revocation_is_a_command_waited_for_and_streamed(
    api: Service, http: httpx.Client, broker: Spawner, writer: Writer
) -> None:
    teller = Teller("p1")
    writer.tell(*spawning(teller), *Safeguard(teller).granted())
    wait_for("the tokens", lambda: http.get("/api/pipeline/token?pipeline_id=p1").json().get("items"))
    heard: list[dict[str, Any]] = []
    with connect(f"{api.url.replace('http', 'ws')}/ws/events?type=token_revoked&type=error_handoff") as socket:
        listening = threading.Thread(target=lambda: heard.extend(json.loads(socket.recv(30)) for _ in range(3)))
        listening.start()
        broker.answers(obeys)
        body = {"pipeline_id": "p1", "agent_id": teller.agent_id, "reason": "it does nonsense"}
        one = http.post("/api/pipeline/revoke", json=body, headers={"Prefer": "wait=20", "Idempotency-Key": "k"})
        assert (one.status_code, one.json()["state"]) == (200, "RUNNING")
        assert one.headers["Sluice-Position"].startswith("token.commands/")
        sent = http.post("/api/observability/revoke", json={"pipeline_id": "p1"})
        assert sent.status_code == 202
        listening.join(40)
    assert [one["name"] for one in heard] == ["token_revoked", "token_revoked", "error_handoff"]
    listed = http.get("/api/pipeline/token", params={"pipeline_id": "p1", "after": sent.json()["position"]}).json()
    assert [(one["accessor"], one["state"], one["detail"]) for one in listed["items"]] == [
        ("root.p1", "revoked", ""), ("child.p1", "revoked", "it does nonsense"),
    ]  # fmt: skip
    command = broker.commands[-2]
    assert isinstance(command.data, token.TokenRevoke)
    assert (command.tenant, command.data.reason, command.data.detail) == ("acme", "manual", "it does nonsense")
    status = wait_for("the report", lambda: _with(http, "p1", "handoffs"))
    assert [(one["cause"], one["reason"]) for one in status["handoffs"]] == [("revocation", "manual")]
    for path in ("/api/pipeline/token?pipeline_id=p1", "/runs/p1/status", "/runs/p1/events"):
        assert SEALED not in http.get(path).text, path


def _with(http: httpx.Client, pipeline_id: str, name: str) -> dict[str, Any] | None:
    view: dict[str, Any] = http.get(f"/runs/{pipeline_id}/status").json()
    return view if view.get(name) else None


@pytest.mark.covers("U1")
def test_what_is_denied_or_not_answered_is_said(
    api: Service, http: httpx.Client, broker: Spawner, writer: Writer, capsys: pytest.CaptureFixture[str]
) -> None:
    broker.answers(denies)
    asked: dict[str, Any] = {"json": {"pipeline_id": "p9"}, "headers": {"Prefer": "wait=20"}}
    for path in ("/api/pipeline/revoke", "/api/observability/revoke", "/api/pipeline/renew"):
        unknown = http.post(path, **asked)
        assert (unknown.status_code, unknown.json()["type"]) == (404, "urn:sluice:problem:pipeline_not_found")
    assert broker.commands == [], "nobody was asked"
    writer.tell(*spawning(Teller("p9")))
    wait_for("the pipeline", lambda: http.get("/runs/p9/status").status_code == 200)
    denied = http.post("/api/pipeline/revoke", **asked)
    assert (denied.status_code, denied.json()["type"]) == (422, "urn:sluice:problem:pipeline_ended")
    assert cli.run(["revoke", "p9", "--url", api.url]) == REFUSED
    assert "pipeline p9 has ended" in capsys.readouterr().err
    assert http.get("/api/pipeline/token?pipeline_id=p9").json()["items"] == [], "no credential was denied"
    broker.answers(lambda command: [])
    assert http.post("/api/pipeline/renew", json={"pipeline_id": "p9"}, headers={"Prefer": "wait=1"}).status_code == 202
    wrong = http.post("/api/pipeline/revoke", json={"pipeline_id": "p9", "agent": "a"})
    assert wrong.status_code == 422
    assert [one["field"] for one in wrong.json()["errors"]] == ["body.agent"], wrong.text
    assert http.post("/api/observability/handoff", json={"pipeline_id": "p8"}).status_code == 404
    assert http.post("/api/observability/diagnostic", json={"pipeline_id": "p8"}).status_code == 404


@pytest.mark.covers("O5", "U1")
def test_a_report_on_demand_leaves_the_pipeline_alone_and_no_diagnostic_reads_it_later(
    http: httpx.Client, spawner: Spawner, writer: Writer
) -> None:
    teller = Teller("p1", start_ms=time.time_ns() // 1_000_000 + 60_000)  # it ends after the report, by their times
    writer.tell(*spawning(teller))
    wait_for("the pipeline", lambda: http.get("/runs/p1/status").status_code == 200)
    asked: dict[str, Any] = {
        "json": {"pipeline_id": "p1", "reason": "shift_change"},
        "headers": {"Prefer": "wait=20", "Idempotency-Key": "k"},
    }
    made = http.post("/api/observability/handoff", **asked)
    assert made.status_code == 200
    again = http.post("/api/observability/handoff", **asked)
    assert (again.status_code, again.json()["report_id"]) == (200, made.json()["report_id"])
    body = http.get(f"/api/artifacts/{made.json()['report']['sha256']}").json()
    jsonschema.validate(body, SCHEMA)
    assert (body["cause"], body["reason"], body["complete"]) == ("demand", "shift_change", True)
    view = http.get("/runs/p1/status").json()
    assert (view["state"], len(view["handoffs"])) == ("RUNNING", 1)
    refused = http.post("/api/observability/diagnostic", json={"pipeline_id": "p1"})
    assert refused.json()["type"] == "urn:sluice:problem:pipeline_not_failed"

    writer.tell(*failing(teller))
    wait_for("the end", lambda: http.get("/runs/p1/status").json()["state"] == "FAILED")
    spawner.answers(lambda command: [])
    assert http.post("/api/observability/diagnostic", json={"pipeline_id": "p1"}).status_code == 202
    wait_for("the diagnostic's command", lambda: spawner.commands)
    [command] = spawner.commands
    assert isinstance(command.data, pipeline.PipelineSpawn)
    assert "agent_timeout" in command.data.plan.objective
    [report, _] = command.data.plan.inputs
    assert report.sha256 != made.json()["report"]["sha256"]
    body = http.get(f"/api/artifacts/{report.sha256}").json()
    assert (body["reason"], body["context"]["state"]) == ("agent_timeout", "FAILED")


@pytest.mark.covers("O6", "U1", "U2")
def test_a_breach_is_diagnosed_and_shown(
    http: httpx.Client, api: Service, spawner: Spawner, writer: Writer, capsys: pytest.CaptureFixture[str]
) -> None:
    teller = Teller("p1")
    writer.tell(*breach(teller))
    wait_for("the report", lambda: _with(http, "p1", "handoffs"))
    writer.tell(*failing(teller))
    wait_for("the end", lambda: http.get("/runs/p1/status").json()["state"] == "FAILED")

    def spawns(command: CloudEvent[Message]) -> list[CloudEvent[Message]]:
        assert isinstance(command.data, pipeline.PipelineSpawn)
        told = Teller(command.subject, command.tenant)
        data = pipeline.PipelineSpawned(
            plan=command.data.plan, parent_pipeline_id=command.data.parent_pipeline_id,
            diagnosed=command.data.diagnosed,
        )  # fmt: skip
        return [told.spawner(data, command.id)]

    spawner.answers(spawns)
    asked = http.post("/api/observability/diagnostic", json={"pipeline_id": "p1"}, headers={"Prefer": "wait=20"})
    assert (asked.status_code, asked.json()["state"]) == (200, "SPAWNED")
    [command] = spawner.commands
    assert isinstance(command.data, pipeline.PipelineSpawn)
    assert command.data.diagnosed is not None
    alert_id = http.get("/runs/p1/status").json()["alerts"][0]["alert_id"]
    assert (command.data.diagnosed.pipeline_id, command.data.diagnosed.alert_id) == ("p1", alert_id)
    assert [one.name for one in command.data.plan.inputs] == ["handoff.json", "handoff.md"]
    assert command.data.plan.model == "scripted:look", "what diagnoses it uses the model that it used"
    diagnostic_id, told = diagnosing("p1")
    writer.tell(*told)

    def diagnosed() -> dict[str, Any] | None:
        view = http.get("/runs/p1/status").json()
        done = [one for one in view["diagnostics"] if one["state"] == "COMPLETED"]
        return view if done else None

    view = wait_for("the diagnosis", diagnosed)
    assert {one["pipeline_id"] for one in view["diagnostics"]} == {asked.json()["pipeline_id"], diagnostic_id}
    about = http.get(f"/runs/{diagnostic_id}/status").json()
    assert about["diagnosed"]["pipeline_id"] == "p1"
    assert {name: about["findings"][name] for name in FINDINGS} == FINDINGS

    def codes(path: str) -> set[str]:
        return {one["code"] for one in http.get(path).json()["items"]}

    wanted = {"provider_unavailable", "error_budget_exceeded", "agent_timeout"}
    wait_for("the log", lambda: codes("/api/pipeline/errors?pipeline_id=p1") == wanted)
    assert codes("/api/observability/errors") == wanted
    [alert] = http.get("/api/observability/alerts?pipeline_id=p1").json()["items"]
    assert (alert["alert_id"], alert["revoked_at_ms"] is not None) == (alert_id, True)

    shown = run_cli(capsys, api, "status", "p1")
    assert "breach at" in shown
    assert "handed off: error_budget_exceeded: 6 errors" in shown
    assert f"diagnostic {diagnostic_id}: COMPLETED" in shown
    assert "cause: The provider was away." in shown
    assert "revoked" in run_cli(capsys, api, "tokens", "p1")
    assert "root.p1" in run_cli(capsys, api, "tokens", "p1", "--json")
    assert "error_budget_exceeded" in run_cli(capsys, api, "alerts")
    assert run_cli(capsys, api, "handoff", "p1").startswith("# Handoff of pipeline p1")
    jsonschema.validate(json.loads(run_cli(capsys, api, "handoff", "p1", "--json")), SCHEMA)
    events = run_cli(capsys, api, "events", "p1")
    assert "2 of the pipeline in 11 ms: error_budget_exceeded, 6 errors within 60 s" in events
    assert "credentials of the pipeline revoked" in run_cli(capsys, api, "logs", "p1")


@pytest.mark.covers("O6")
def test_the_past_knows_its_breach_report_and_diagnostic(start: StartService, store: Service, writer: Writer) -> None:
    teller = Teller("p1")
    diagnostic_id, told = diagnosing("p1")
    writer.tell(*breach(teller), *failing(teller), *told, *spawning(Teller("p2")), *finishing(Teller("p2")))
    wait_for("the log", lambda: store.count("SELECT count() FROM log WHERE type = 'pipeline.completed'") == 2)
    api = start("api", SLUICE_SQL_URL=store.url)
    api.ready()
    with httpx.Client(base_url=api.url, timeout=60) as http:
        view = http.get("/runs/p1/status").json()
        assert view["state"] == "FAILED"
        assert [one["pipeline_id"] for one in view["diagnostics"]] == [diagnostic_id]
        assert [one["state"] for one in view["tokens"].values()] == ["revoked", "revoked"]
        assert sum(one["count"] for one in view["errors"].values()) == 7
        assert SEALED not in json.dumps(view)
