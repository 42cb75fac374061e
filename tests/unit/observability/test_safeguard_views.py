"""Credentials, breaches, reports and diagnoses in SQL, and that no view shows a token's sealed form."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest

from sluice_contracts import codec, topics
from sluice_contracts.messages.agent import AgentFailed, AgentGrantRefused
from sluice_contracts.messages.alert import AlertRaised
from sluice_contracts.messages.base import Problem
from sluice_contracts.messages.token import (
    DeniedCommand,
    TokenDenied,
    TokenExpired,
    TokenGranted,
    TokenRenew,
    TokenRenewed,
    TokenRevoke,
    TokenRevoked,
)
from sluice_observability.adapters.clickhouse import ClickHouse
from sluice_observability.domain.read_model import ReadModel
from sluice_observability.domain.reporting import Occasion, report_on
from sluice_observability.domain.secrets import by_strangers, clean_bytes
from tests.unit.observability.breaches import (
    FINDINGS,
    Safeguard,
    breach,
    diagnosing,
    handed_off,
    refused_findings,
)
from tests.unit.observability.doubles import Message
from tests.unit.observability.events import TRANSCRIPT, Teller, failing, refusing, spawning, turn
from tests.unit.observability.test_views import VIEWS, messages_of, stored

SEALED = "c2VhbGVkLXNlY3JldA=="


@pytest.fixture
def broken(engine: ClickHouse) -> tuple[ClickHouse, Teller]:
    """A log with a pipeline that broke its budget, was handed off, failed, and was diagnosed."""
    teller = Teller("p1")
    told = breach(teller)
    _, diagnosed = diagnosing("p1")
    stored(engine, [*told, handed_off(teller, told[-1]), *failing(teller), *diagnosed])
    return engine, teller


@pytest.mark.covers("V7", "O2")
def test_a_credentials_life_is_a_row(broken: tuple[ClickHouse, Teller]) -> None:
    engine, teller = broken
    columns = (
        "accessor, agent_id, attempt, parent_accessor, state, requested_at < granted_at, renewals, reason,"
        " alert_id != '', grant_ms, revoke_ms, revoked_at > granted_at, expired_at, toUnixTimestamp64Milli(expires_at)"
    )
    assert engine.rows(f"SELECT {columns} FROM token_lives ORDER BY accessor") == [
        (
            "child.p1", teller.agent_id, 1, "root.p1", "revoked", True, 1, "error_budget_exceeded", True, 7, 11, True,
            None, 7_200_000,
        ),
        ("root.p1", "", 0, "", "revoked", True, 0, "error_budget_exceeded", True, 5, 11, True, None, 3_600_000),
    ]  # fmt: skip
    rows = engine.rows("SELECT type, length(accessors), reason FROM credentials ORDER BY at, type")
    assert rows == [
        ("token.request", 0, ""), ("token.granted", 1, "requested"), ("token.request", 0, ""),
        ("token.granted", 1, "requested"), ("token.renewed", 1, "due"), ("token.revoked", 2, "error_budget_exceeded"),
    ]  # fmt: skip


@pytest.mark.covers("V7", "O2")
def test_why_it_was_granted_and_renewed(engine: ClickHouse) -> None:
    teller = Teller("p1")
    safeguard = Safeguard(teller)
    granted = safeguard.broker(TokenGranted(accessor="root", reason="implied", expires_at_ms=1, ends_at_ms=2))
    asked = safeguard.tell(TokenRenew(), "operator")
    events = [
        granted,
        asked,
        safeguard.broker(TokenRenewed(accessor="root", reason="manual", expires_at_ms=2), asked.id),
        safeguard.tell(TokenRevoke(), "operator"),
    ]
    stored(engine, [*spawning(teller), *events])
    rows = engine.rows(f"SELECT type, reason, causation_id = '{asked.id}' FROM credentials ORDER BY at")
    assert rows == [
        ("token.granted", "implied", False), ("token.renew", "", False), ("token.renewed", "manual", True),
        ("token.revoke", "manual", False),
    ]  # fmt: skip
    story = engine.rows("SELECT what FROM pipeline_story WHERE actor = 'vault-broker' ORDER BY position")
    assert [what for (what,) in story] == [
        "credential root granted to the pipeline in 0 ms, for one below it",
        "credential root of the pipeline renewed by hand",
    ]


@pytest.mark.covers("V7", "O2", "O5")
def test_a_grant_that_a_runner_could_not_open_is_a_use_and_one_error(engine: ClickHouse) -> None:
    teller = Teller("p1")
    safeguard = Safeguard(teller)
    problem = Problem(code="grant_refused", detail="cipher: message authentication failed")
    who = {"agent_id": teller.agent_id, "attempt": 1, "runner_id": "r1", "problem": problem}
    refused = teller.runner(AgentGrantRefused(**who, accessor=safeguard.child, latency_ms=8))
    events = [
        *spawning(teller), *safeguard.granted(), refused, teller.runner(AgentFailed(**who, retryable=False))
    ]  # fmt: skip
    stored(engine, events)
    columns = "agent_id, attempt, accessors, reason, detail, latency_ms, service"
    assert engine.rows(f"SELECT {columns} FROM credentials WHERE type = 'agent.grant_refused'") == [
        (teller.agent_id, 1, [safeguard.child], "grant_refused", problem.detail, 8, "agent-runner")
    ]
    query = f"SELECT state, opened_at FROM token_lives WHERE accessor = '{safeguard.child}'"
    assert engine.rows(query) == [("renewed", None)]
    what = f"agent {teller.agent_id[:8]} could not open its credential {safeguard.child}: {problem.detail}"
    assert engine.rows("SELECT what FROM pipeline_story WHERE type = 'agent.grant_refused'") == [(what,)]
    model = ReadModel(1)
    for event in events:
        model.apply(event)
    view = model.pipeline("p1")
    assert view is not None
    told = [(one.type, one.code, one.count) for one in view.errors.values()]
    assert engine.rows("SELECT type, code, count() FROM errors GROUP BY type, code") == told
    assert told == [("agent.failed", "grant_refused", 1)]


@pytest.mark.covers("V7")
def test_what_is_revoked_by_scope_or_ends_by_itself(engine: ClickHouse) -> None:
    teller = Teller("p1")
    safeguard = Safeguard(teller)
    expired = TokenExpired(agent_id=teller.agent_id, attempt=1, accessor=safeguard.child)
    unnamed = TokenRevoked(accessors=(), reason="pipeline_ended")
    living = Safeguard(Teller("p2"))
    events = [*safeguard.granted(), safeguard.broker(expired), safeguard.broker(unnamed), *living.granted()]
    stored(engine, events)
    query = "SELECT accessor, state, lived_ms IS NULL FROM token_lives ORDER BY accessor"
    assert engine.rows(query) == [
        ("child.p1", "expired", False), ("child.p2", "renewed", True), ("root.p1", "revoked", False),
        ("root.p2", "granted", True),
    ]  # fmt: skip


@pytest.mark.covers("O2", "O5")
def test_a_breach_its_report_and_what_was_found_are_rows(broken: tuple[ClickHouse, Teller]) -> None:
    engine, teller = broken
    columns = "pipeline_id, condition, action, observed, allowed, window_ms, evidence, revoked_at > breached_at"
    assert engine.rows(f"SELECT {columns} FROM alerts") == [
        ("p1", "error_budget_exceeded", "revoke_pipeline", 6, 5, 60_000, ["e1", "e2"], True)
    ]
    columns = (
        "pipeline_id, cause, reason, complete, errors, agents_affected, accessors, tasks, tasks_succeeded,"
        " revoked_at < reported_at, last_turn_at IS NOT NULL, last_transcript_sha256, report_sha256"
    )
    assert engine.rows(f"SELECT {columns} FROM handoff_reports") == [
        (
            "p1", "revocation", "error_budget_exceeded", True, 6, [teller.agent_id], ["root.p1", "child.p1"], 1, 0,
            True, True, "a" * 64, "f" * 64,
        )
    ]  # fmt: skip
    columns = "pipeline_id, depth, state, cause, evidence, recommendations, cost_usd"
    assert engine.rows(f"SELECT {columns} FROM diagnoses") == [
        ("p1", 1, "COMPLETED", FINDINGS["cause"], FINDINGS["evidence"], FINDINGS["recommendations"], 0.25)
    ]
    query = "SELECT code, count() FROM errors WHERE pipeline_id = 'p1' GROUP BY code ORDER BY code"
    assert engine.rows(query) == [("agent_timeout", 2), ("error_budget_exceeded", 1), ("provider_unavailable", 6)]
    query = "SELECT type, code, api_calls, count() FROM signals GROUP BY ALL"
    assert engine.rows(query) == [("error.reported", "provider_unavailable", 1, 6)]


@pytest.mark.covers("O2", "O5")
def test_the_last_checkpoint_in_rows_and_in_the_read_model_is_the_last_turn_that_counts(engine: ClickHouse) -> None:
    """A revoked agent may still finish a turn: the spawner refuses it."""
    teller = Teller("p1")
    *told, revoked = breach(teller)
    late = turn(teller, 2, transcript=TRANSCRIPT.model_copy(update={"sha256": "c" * 64}))
    events = [*told, revoked, late, refusing(teller, late), handed_off(teller, revoked)]
    stored(engine, events)
    model = ReadModel(1)
    for event in events:
        model.apply(event)
    view = model.pipeline("p1")
    assert view is not None
    found = report_on(view, Occasion("demand", "c", "on_demand", revoked.time_ms)).summary.last_checkpoint
    assert found is not None
    assert found.transcript is not None
    query = "SELECT toUnixTimestamp64Milli(last_turn_at), last_transcript_sha256 FROM handoff_reports"
    assert engine.rows(query) == [(found.finished_at_ms, found.transcript.sha256)]
    assert (found.turn, found.transcript) == (1, TRANSCRIPT)


@pytest.mark.covers("O2", "V5")
def test_an_alert_that_bears_another_tenant_has_its_revocation_all_the_same(engine: ClickHouse) -> None:
    *told, revoked = breach(Teller("p1"))
    other = [replace(one, tenant="other") if isinstance(one.data, AlertRaised) else one for one in told]
    stored(engine, [*other, revoked])
    [(tenant, revoked_ms)] = engine.rows("SELECT tenant, toUnixTimestamp64Milli(revoked_at) FROM alerts")
    assert (tenant, revoked_ms) == ("other", revoked.time_ms)


@pytest.mark.covers("O2", "O6")
def test_findings_in_rows_and_in_the_read_model_are_those_of_the_attempt_that_counts(engine: ClickHouse) -> None:
    diagnostic_id, told = diagnosing("p1")
    events = [*told, *refused_findings(diagnostic_id, told)]
    stored(engine, events)
    model = ReadModel(1)
    for event in events:
        model.apply(event)
    view = model.pipeline(diagnostic_id)
    assert view is not None
    assert view.findings is not None
    columns = "summary, cause, evidence, recommendations"
    [(summary, cause, *lists)] = engine.rows(f"SELECT {columns} FROM diagnoses")
    assert (summary, cause) == (view.findings.summary, view.findings.cause) == (FINDINGS["cause"], FINDINGS["cause"])
    assert [tuple(one) for one in lists] == [view.findings.evidence, view.findings.recommendations]


@pytest.mark.covers("O2", "O4")
def test_the_time_from_a_breach_to_its_alert_can_be_asked_for(engine: ClickHouse) -> None:
    """An alert's own time is its breach's; when it was raised is when Kafka had it."""
    raised = Safeguard(Teller("p1")).alert()
    [message] = messages_of([raised])
    headers, value = message.headers(), message.value()
    stored(engine, [], Message("alerts", 0, 0, value, headers or (), b"p1", raised.time_ms + 321))
    query = "SELECT toUnixTimestamp64Milli(raised_at) - toUnixTimestamp64Milli(breached_at) FROM alerts"
    [(after_ms,)] = engine.rows(query)
    assert after_ms == raised.time_ms + 321 - raised.data.breached_at_ms  # type: ignore[attr-defined]


@pytest.mark.covers("O2")
def test_the_story_of_a_breach(broken: tuple[ClickHouse, Teller]) -> None:
    engine, teller = broken
    agent = teller.agent_id[:8]
    rows = engine.rows("SELECT actor, what FROM pipeline_story WHERE pipeline_id = 'p1' ORDER BY position")
    story = [f"{actor}: {what}" for actor, what in rows]
    for line in (
        "vault-broker: credential root.p1 granted to the pipeline in 5 ms",
        f"vault-broker: credential child.p1 granted to agent {agent}, attempt 1 in 7 ms",
        f"agent-runner: error provider_unavailable of agent {agent}, attempt 1: no answer, try 1",
        "monitor: budget broken by the pipeline, error_budget_exceeded: 6 errors within 60 s; 5 are allowed",
        "vault-broker: credentials of the pipeline revoked (2 named): error_budget_exceeded, 6 errors within 60 s",
        "observability: handed off: error_budget_exceeded: 6 errors (provider_unavailable 6); 0 of 1 tasks succeeded",
    ):
        assert line in story, story


@pytest.mark.covers("O2")
def test_a_command_that_changed_nothing_is_told_and_no_error(engine: ClickHouse) -> None:
    teller = Teller("p1")
    problem = Problem(code="nothing_to_revoke", detail="it has no credentials")
    broker = Safeguard(teller).broker
    denied = [broker(TokenDenied(problem=problem, command=command)) for command in get_args(DeniedCommand)]
    stored(engine, [*spawning(teller), *denied])
    story = engine.rows("SELECT what FROM pipeline_story WHERE actor = 'vault-broker' ORDER BY position")
    whose = "the pipeline: it has no credentials"
    assert sorted(what for (what,) in story) == [
        f"no credential for {whose}", f"renewal refused for {whose}", f"revocation refused for {whose}",
    ]  # fmt: skip
    assert engine.rows("SELECT type, code FROM errors") == [("token.denied", "nothing_to_revoke")], "the request's"


@pytest.mark.covers("V7")
def test_the_log_keeps_a_sealed_token_and_no_view_shows_it(engine: ClickHouse) -> None:
    told = breach(Teller("p1"))
    granted = next(one for one in told if one.id == Safeguard(Teller("p1")).granted()[3].id)
    record = codec.encode(granted, topic=topics.TOKEN_EVENTS.name, key="p1")
    assert SEALED.encode() in (record.value or b"")
    assert not by_strangers(topics.TOKEN_EVENTS.name)
    assert clean_bytes(record.value or b"") == record.value
    letter = Message("dlq.token.events", 0, 0, record.value, (("ce_type", b"record.refused"), ("dlq_topic", b"x")))
    stored(engine, [*spawning(Teller("p2")), *told], letter)
    raw = f"SELECT count() FROM log WHERE position(payload, '{SEALED}') > 0 AND topic = 'token.events'"
    assert engine.rows(raw) == [(1,)]
    for view in VIEWS:
        if view not in ("log", "positions", "gaps", "pipeline_marks"):
            shown = engine.rows(f"SELECT * FROM {view} WHERE 1")
            assert SEALED not in repr(shown), view
