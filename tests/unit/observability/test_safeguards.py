"""The folds of credentials, breaches and reports: any order between topics and any repetition gives the same view."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from sluice_contracts import topics
from sluice_contracts.envelope import CloudEvent
from sluice_contracts.limits import SUMMARY_MAX_CHARACTERS
from sluice_contracts.messages import Message, pipeline, signal, token
from sluice_contracts.messages.base import Problem
from sluice_observability.domain import safeguards
from sluice_observability.domain.read_model import ReadModel
from sluice_observability.domain.token_effects import TokenEffects
from sluice_observability.domain.views import PipelineView
from tests.unit.observability.breaches import (
    FINDINGS,
    Safeguard,
    breach,
    diagnosing,
    handed_off,
    refused_findings,
)
from tests.unit.observability.events import Teller, failing, spawning, whole_life

Event = CloudEvent[Message]


def folded(events: list[Event]) -> PipelineView:
    model = ReadModel(10)
    for event in events:
        model.apply(safeguards.without_grant(event))
    view = model.pipeline("p1")
    assert view is not None
    return view


def whole_breach() -> list[Event]:
    teller = Teller("p1")
    told = breach(teller)
    return [*told, handed_off(teller, told[-1]), *failing(teller)]


@pytest.mark.covers("V7", "O5")
@given(st.data())
def test_repetition_and_order_between_topics_change_nothing(data: st.DataObject) -> None:
    events = whole_breach()
    lanes: dict[str, list[Event]] = {}
    for event in events:
        lanes.setdefault(topics.topic_of(type(event.data)).name, []).append(event)
    interleaved: list[Event] = []
    while any(lanes.values()):
        lane = lanes[data.draw(st.sampled_from(sorted(name for name, left in lanes.items() if left)))]
        interleaved.append(lane.pop(0))
        if data.draw(st.booleans()):
            interleaved.append(data.draw(st.sampled_from(interleaved)))
    assert folded(interleaved) == folded(events)


@pytest.mark.covers("V7")
def test_a_pipelines_credentials_alerts_errors_and_reports() -> None:
    view = folded(whole_breach())
    assert [(one.accessor, one.state, one.renewals, one.reason) for one in view.tokens.values()] == [
        ("root.p1", "revoked", 0, "error_budget_exceeded"), ("child.p1", "revoked", 1, "error_budget_exceeded"),
    ]  # fmt: skip
    assert all(one.requested_at_ms and one.granted_at_ms and one.ended_at_ms for one in view.tokens.values())
    assert {(one.code, one.type, one.count) for one in view.errors.values()} == {
        ("provider_unavailable", "error.reported", 6), ("agent_timeout", "task.failed", 1),
    }  # fmt: skip
    assert [one.condition for one in view.alerts] == ["error_budget_exceeded"]
    assert [one.cause for one in view.handoffs] == ["revocation"]


@pytest.mark.covers("V7")
def test_a_credential_that_is_denied_expires_or_ends_with_one_agent() -> None:
    teller = Teller("p1")
    safeguard = Safeguard(teller)
    problem = Problem(code="pipeline_revoked", detail="its credentials have ended")
    nothing = Problem(code="no_credential", detail="it has none")
    view = folded(
        [
            *spawning(teller),
            *safeguard.granted(),
            safeguard.broker(
                token.TokenRevoked(accessors=(safeguard.child,), agent_id=teller.agent_id, reason="no_progress")
            ),
            safeguard.tell(token.TokenRequest(agent_id=teller.agent_id, attempt=2, queue="default"), "spawner"),
            safeguard.broker(token.TokenDenied(agent_id=teller.agent_id, attempt=2, problem=problem)),
            safeguard.broker(token.TokenExpired(accessor=safeguard.root)),
            safeguard.broker(token.TokenDenied(problem=nothing, command="token.renew")),
            safeguard.broker(token.TokenDenied(agent_id=teller.agent_id, problem=nothing, command="token.revoke")),
        ]
    )
    assert "no_credential" not in {one.code for one in view.errors.values()}, "a person's command, no error"
    told = [(one.accessor, one.attempt, one.state, one.reason) for one in view.tokens.values()]
    assert told == [
        ("root.p1", None, "expired", None), ("child.p1", 1, "revoked", "no_progress"),
        (None, 2, "denied", "pipeline_revoked"),
    ]  # fmt: skip


@pytest.mark.covers("V4")
def test_no_grant_is_kept_or_shown() -> None:
    shown = [safeguards.without_grant(one) for one in whole_breach()]
    assert not any("vault:v1" in one.data.model_dump_json() for one in shown)
    assert sum("vault:v1" in one.data.model_dump_json() for one in whole_breach()) == 1


@pytest.mark.covers("V4", "O5")
def test_what_strangers_say_in_signals_is_kept_without_secrets() -> None:
    key = f"sk-or-v1-{'0123456789abcdef' * 4}"
    teller = Teller("p1")
    safeguard = Safeguard(teller)
    violation = signal.ViolationReported(policy=key, severity="LOW", detail=f"{'x' * 3_980} password=12345678")
    events = [
        *spawning(teller), safeguard.tell(signal.ErrorReported(code=key, detail=f"refused with {key}"), "scanner"),
        safeguard.tell(violation, "scanner"),
    ]  # fmt: skip
    view = folded(events)
    shown = TypeAdapter(PipelineView).dump_json(view).decode()
    assert key not in shown
    assert "12345678" not in shown
    error, broken = view.errors.values()
    assert (error.code, error.detail) == ("[redacted:api-key]", "refused with [redacted:api-key]")
    assert len(broken.detail) == SUMMARY_MAX_CHARACTERS
    assert broken.detail.startswith("LOW: xx")


@pytest.mark.covers("O5")
def test_what_one_pipeline_may_leave_is_bounded() -> None:
    teller = Teller("p1")
    safeguard = Safeguard(teller)
    events: list[Event] = [*spawning(teller)]
    for number in range(safeguards.ERROR_KINDS_MAX_COUNT + 50):
        events.append(safeguard.tell(signal.ErrorReported(code=f"c{number}"), "elsewhere/1"))
    for number in range(safeguards.TOKENS_MAX_COUNT + 50):
        data = token.TokenGranted(accessor=f"a{number}", agent_id=f"g{number}", expires_at_ms=1, ends_at_ms=1)
        events.append(safeguard.broker(data))
    events += [safeguard.alert() for _ in range(safeguards.ALERTS_MAX_COUNT + 5)]
    view = folded(events)
    assert len(view.errors) == safeguards.ERROR_KINDS_MAX_COUNT + 1
    assert view.errors["other"].count == 50
    assert len(view.tokens) == safeguards.TOKENS_MAX_COUNT
    assert len(view.alerts) == safeguards.ALERTS_MAX_COUNT


@pytest.mark.covers("O6")
def test_a_diagnostic_and_what_it_is_about_know_each_other() -> None:
    diagnostic_id, told = diagnosing("p1")
    for order in ([*whole_breach(), *told], [*told, *whole_breach()]):
        model = ReadModel(10)
        for event in order:
            model.apply(event)
        view = model.pipeline("p1")
        assert view is not None
        [one] = view.diagnostics
        assert (one.pipeline_id, one.state) == (diagnostic_id, "COMPLETED")
        assert one.findings is not None
        assert list(one.findings.recommendations) == FINDINGS["recommendations"]
        about = model.pipeline(diagnostic_id)
        assert about is not None
        assert about.diagnosed is not None
        assert about.diagnosed.pipeline_id == "p1"
    model = ReadModel(1)
    for event in [*told, *whole_life("p2"), *whole_life("p3")]:
        model.apply(event)
    assert model.diagnostics("p1", "acme") == []  # forgotten with the pipeline that it was


@pytest.mark.covers("O6")
def test_what_a_refused_attempt_found_is_not_shown() -> None:
    diagnostic_id, told = diagnosing("p1")
    late, refused = refused_findings(diagnostic_id, told)
    [first] = [number for number, one in enumerate(told) if one.type == late.type]
    for order in ([*told, late, refused], [*told, refused, late], [*told[:first], late, *told[first:], refused]):
        model = ReadModel(10)
        for event in order:
            model.apply(event)
        view = model.pipeline(diagnostic_id)
        assert view is not None
        assert view.findings is not None
        assert view.findings.cause == FINDINGS["cause"]
    body = json.loads(TypeAdapter(PipelineView).dump_json(view))
    assert "of a refused attempt" not in json.dumps(body)
    assert "findings_told" not in body


@pytest.mark.covers("O6")
def test_findings_kept_are_bounded_and_those_of_no_diagnostic_are_not_kept() -> None:
    diagnostic_id, told = diagnosing("p1")
    late, refused = refused_findings(diagnostic_id, told)
    assert isinstance(refused.data, pipeline.AgentAttemptRefused)
    model = ReadModel(10)
    for event in told:
        model.apply(event)
    for number in range(1, safeguards.FINDINGS_TOLD_MAX_COUNT + 10):
        data = refused.data.model_copy(update={"refused_id": f"{number}"})
        model.apply(replace(refused, id=f"r{number}", sequence=(refused.sequence or 0) + number, data=data))
    view = model.pipeline(diagnostic_id)
    assert view is not None
    assert view.findings is not None
    assert len(view.findings_told) == safeguards.FINDINGS_TOLD_MAX_COUNT
    view = folded([replace(late, subject="p1"), *whole_breach()])
    assert (view.findings, view.findings_told) == (None, {})


@pytest.mark.covers("O6", "P14")
def test_what_claims_to_diagnose_another_tenants_pipeline_is_not_shown_there() -> None:
    diagnostic_id, told = diagnosing("p1")
    model = ReadModel(10)
    for event in [*whole_breach(), *(replace(event, tenant="another") for event in told)]:
        model.apply(event)
    view = model.pipeline("p1")
    assert view is not None
    assert view.diagnostics == []
    assert model.pipeline(diagnostic_id) is not None


@pytest.mark.parametrize(
    "result",
    [None, "", "no JSON", "[1]", "[" * 10_000, '{"cause": 3, "evidence": "x", "recommendations": [1, null, "a"]}'],
)
@pytest.mark.covers("O6")
def test_findings_of_any_form_are_taken(result: str | None) -> None:
    found = safeguards.findings_of("said", result)
    assert (found.summary, found.cause, found.evidence) == ("said", "", ())


@pytest.mark.covers("O6")
def test_findings_are_bounded() -> None:
    found = safeguards.findings_of("s", json.dumps({"cause": "c" * 99_999, "evidence": ["e" * 99_999] * 99}))
    assert len(found.cause) == safeguards.FINDING_MAX_CHARACTERS
    assert len(found.evidence) == safeguards.FINDINGS_MAX_COUNT


@pytest.mark.covers("U1")
def test_a_renewal_has_taken_effect_when_every_credential_that_lives_is_renewed_or_has_ended() -> None:
    safeguard = Safeguard(Teller("p1"))
    effects, agent_id = TokenEffects(), safeguard.teller.agent_id
    command = safeguard.tell(token.TokenRenew(), "observability/1")
    effects.command_seen((0, 0), command, [safeguard.root, safeguard.child, "third"])
    renewed = token.TokenRenewed(accessor=safeguard.root, expires_at_ms=9)
    for event in (
        safeguard.broker(renewed, command.id),
        safeguard.broker(renewed.model_copy(update={"accessor": "granted since"})),
        safeguard.broker(token.TokenExpired(accessor="third")),
        safeguard.broker(token.TokenRevoked(accessors=("stray",), reason="orphaned")),
    ):
        effects.event_seen(event)
        assert not effects.reached((0, 0))
        assert not effects.answered(command.id)
    ended = token.TokenRevoked(accessors=(safeguard.child,), agent_id=agent_id, reason="agent_ended")
    effects.event_seen(safeguard.broker(ended))
    assert effects.reached((0, 0))
    assert effects.answered(command.id)


@pytest.mark.covers("U1")
def test_a_token_command_has_taken_effect_when_what_it_asked_for_is_told() -> None:
    teller = Teller("p1")
    safeguard = Safeguard(teller)
    effects = TokenEffects()
    of_agent = safeguard.tell(token.TokenRevoke(agent_id=teller.agent_id), "observability/1")
    of_all = safeguard.tell(token.TokenRevoke(), "observability/1")
    renewal = safeguard.tell(token.TokenRenew(), "observability/1")
    for offset, command in enumerate((of_agent, of_all, renewal)):
        effects.command_seen((0, offset), command)
    effects.event_seen(safeguard.broker(token.TokenRevoked(accessors=(), agent_id=teller.agent_id, reason="manual")))
    assert [effects.reached((0, offset)) for offset in range(3)] == [True, False, False]
    effects.event_seen(Safeguard(Teller("p2")).revoked())
    assert not effects.answered(of_all.id)
    effects.event_seen(safeguard.revoked())
    assert [effects.reached((0, offset)) for offset in range(3)] == [True, True, False]
    problem = Problem(code="unknown_pipeline", detail="no credentials")
    effects.event_seen(safeguard.broker(token.TokenDenied(problem=problem), renewal.id))
    assert effects.reached((0, 2))
    assert effects.denial(renewal.id) == problem
    effects.command_seen((0, 3), renewal)  # sent again: its answer was heard before
    assert effects.reached((0, 3))
