"""The folds of credentials, breaches, errors, handoff reports and diagnoses. The dispatch table stands at the end.

Between their topics there is no order, and a repetition has its first one's id: the read model lets each in once.
What one pipeline may leave here is bounded: the newest and what still lives is kept, and SQL has all. What strangers
say in signals is redacted at this door: it is shown, and goes into reports, which models read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import msgspec

from sluice_contracts.envelope import CloudEvent
from sluice_contracts.limits import SUMMARY_MAX_CHARACTERS
from sluice_contracts.messages import Message, agent, alert, pipeline, report, signal, token
from sluice_observability.domain.folding import Fold
from sluice_observability.domain.views import AlertView, ErrorsView, FindingsView, HandoffView, PipelineView, TokenView
from sluice_runtime.redaction import redact

TOKENS_MAX_COUNT = 2_000
"""Credentials kept of one pipeline: an attempt has one, and a thousand tasks may run."""

ALERTS_MAX_COUNT = 50
HANDOFFS_MAX_COUNT = 8
ERROR_KINDS_MAX_COUNT = 200
"""Kinds of errors (event, code, agent) counted apart; what is beyond them is one kind, `other`."""

FINDINGS_MAX_COUNT = 32
FINDINGS_TOLD_MAX_COUNT = 32
"""Attempts of a diagnostic whose findings are kept until it is known that they were refused: it has a few at most."""

FINDING_MAX_CHARACTERS = 4_000
"""As many as the schema of a diagnostic's result allows."""

DETAILS_MAX_COUNT = 8
DETAIL_MAX_CHARACTERS = 300
"""Texts of one kind of errors that are counted apart, as far as they are compared: six calls that fail for one file
are another thing than six files."""

OTHER = "other"


def without_grant(event: CloudEvent[Message]) -> CloudEvent[Message]:
    """An event as it may be kept and shown: without the sealed token. Nobody who reads here could open it."""
    if isinstance(event.data, token.TokenGranted) and event.data.grant is not None:
        return replace(event, data=event.data.model_copy(update={"grant": None}))
    return event


def carry_over(former: PipelineView, view: PipelineView) -> None:
    """Takes to a pipeline whose id was used before what was said after that one's end: other topics may be ahead."""
    ended_at_ms = former.finished_at_ms or 0
    begun = {name: one for name, one in former.tokens.items() if _began(one) > ended_at_ms}
    view.tokens = begun
    view.alerts = [one for one in former.alerts if one.breached_at_ms > ended_at_ms]


def _began(view: TokenView) -> int:
    return view.requested_at_ms or view.granted_at_ms or 0


def count_error(view: PipelineView, code: str, detail: str, agent_id: str | None, event: CloudEvent[Message]) -> None:
    """Counts an error of a pipeline."""
    kind, type_ = f"{event.type}/{code}/{agent_id or ''}", event.type
    if kind not in view.errors and len(view.errors) >= ERROR_KINDS_MAX_COUNT:
        kind = code = type_ = OTHER
        agent_id = None
    found = view.errors.get(kind)
    if found is None:
        found = view.errors[kind] = ErrorsView(code, type_, agent_id, 0, event.time_ms, event.time_ms, detail)
    found.count += 1
    said = detail[:DETAIL_MAX_CHARACTERS]
    if said in found.details or len(found.details) < DETAILS_MAX_COUNT:
        found.details[said] = found.details.get(said, 0) + 1
    found.first_at_ms = min(found.first_at_ms, event.time_ms)
    if event.time_ms >= found.last_at_ms:
        found.last_at_ms, found.detail = event.time_ms, detail


def _error(view: PipelineView, data: signal.ErrorReported, event: CloudEvent[Message]) -> None:
    count_error(view, _clean(data.code), _clean(data.detail), data.agent_id, event)


def _violation(view: PipelineView, data: signal.ViolationReported, event: CloudEvent[Message]) -> None:
    count_error(view, _clean(data.policy), _clean(f"{data.severity}: {data.detail}"), data.agent_id, event)


def _clean(text: str) -> str:
    return redact(text)[:SUMMARY_MAX_CHARACTERS]


def _agent_failed(view: PipelineView, data: agent.AgentFailed, event: CloudEvent[Message]) -> None:
    count_error(view, data.problem.code, data.problem.detail, data.agent_id, event)


def _alert(view: PipelineView, data: alert.AlertRaised, event: CloudEvent[Message]) -> None:
    view.alerts.append(
        AlertView(
            event.id, event.subject, event.tenant, data.condition, data.action, data.agent_id, data.attempt,
            data.observed, data.limit, data.window_ms, data.detail, data.breached_at_ms, data.evidence,
        )
    )  # fmt: skip
    del view.alerts[:-ALERTS_MAX_COUNT]


def _handoff(view: PipelineView, data: report.HandoffReported, event: CloudEvent[Message]) -> None:
    view.handoffs.append(
        HandoffView(
            event.id, data.cause, data.cause_id, data.reason, data.summary, data.complete, data.errors, data.report,
            data.markdown, event.time_ms,
        )
    )  # fmt: skip
    del view.handoffs[:-HANDOFFS_MAX_COUNT]


# Credentials


def _asked_as(agent_id: str | None, attempt: int | None) -> str:
    """A credential's name while it has no accessor. No accessor holds a slash."""
    return f"{agent_id or ''}/{attempt or 0}"


def _put(view: PipelineView, name: str, one: TokenView) -> TokenView:
    view.tokens[name] = one
    if len(view.tokens) > TOKENS_MAX_COUNT:
        ended = (name for name, old in view.tokens.items() if old.ended_at_ms is not None)
        del view.tokens[next(ended, next(iter(view.tokens)))]
    return one


def _token(view: PipelineView, accessor: str, agent_id: str | None, attempt: int | None) -> TokenView:
    found = view.tokens.get(accessor)
    if found is None:
        asked = view.tokens.get(name := _asked_as(agent_id, attempt))
        if asked is not None and asked.state == "requested":
            del view.tokens[name]
        else:
            asked = TokenView(accessor, agent_id, attempt, "granted")
        found = _put(view, accessor, asked)
        found.accessor = accessor
    return found


def _requested(view: PipelineView, data: token.TokenRequest, event: CloudEvent[Message]) -> None:
    same = [one for one in view.tokens.values() if (one.agent_id, one.attempt) == (data.agent_id, data.attempt)]
    for one in same:
        if one.requested_at_ms is None and (one.granted_at_ms or one.ended_at_ms or 0) >= event.time_ms:
            one.requested_at_ms = event.time_ms  # the answer was heard first
            return
    if all(one.ended_at_ms is not None for one in same):
        asked = TokenView(None, data.agent_id, data.attempt, "requested", requested_at_ms=event.time_ms)
        _put(view, _asked_as(data.agent_id, data.attempt), asked)


def _granted(view: PipelineView, data: token.TokenGranted, event: CloudEvent[Message]) -> None:
    found = _token(view, data.accessor, data.agent_id, data.attempt)
    found.granted_at_ms, found.latency_ms = event.time_ms, data.latency_ms
    found.parent_accessor, found.ends_at_ms = data.parent_accessor, data.ends_at_ms
    found.expires_at_ms = max(found.expires_at_ms or 0, data.expires_at_ms)
    if found.ended_at_ms is None and found.state == "requested":
        found.state = "granted"


def _denied(view: PipelineView, data: token.TokenDenied, event: CloudEvent[Message]) -> None:
    if data.command != "token.request":
        return  # a person's command that changed nothing: no credential, and no error of the pipeline
    name = _asked_as(data.agent_id, data.attempt)
    found = view.tokens.get(name) or _put(view, name, TokenView(None, data.agent_id, data.attempt, "denied"))
    found.state, found.reason, found.detail = "denied", data.problem.code, data.problem.detail
    found.ended_at_ms = event.time_ms
    count_error(view, data.problem.code, data.problem.detail, data.agent_id, event)


def _renewed(view: PipelineView, data: token.TokenRenewed, event: CloudEvent[Message]) -> None:
    found = _token(view, data.accessor, data.agent_id, data.attempt)
    found.renewals += 1
    found.renewed_at_ms = max(found.renewed_at_ms or 0, event.time_ms)
    found.expires_at_ms = max(found.expires_at_ms or 0, data.expires_at_ms)
    if found.ended_at_ms is None:
        found.state = "renewed"


def _expired(view: PipelineView, data: token.TokenExpired, event: CloudEvent[Message]) -> None:
    found = _token(view, data.accessor, data.agent_id, data.attempt)
    if found.ended_at_ms is None:
        found.state, found.ended_at_ms = "expired", event.time_ms


def _revoked(view: PipelineView, data: token.TokenRevoked, event: CloudEvent[Message]) -> None:
    """Ends what Vault has ended, as view `token_lives` does. A stray, which nobody was granted, is not shown."""
    decided_at_ms, named = event.time_ms - data.latency_ms, frozenset(data.accessors)
    for one in view.tokens.values():
        if one.granted_at_ms is None or one.ended_at_ms is not None:
            continue  # a request that comes to nothing is denied
        # At most a thousand are named. While Vault is away, others may be granted before the end is told.
        if one.accessor in named or (data.is_whole and one.granted_at_ms <= decided_at_ms):
            one.state, one.ended_at_ms = "revoked", event.time_ms
            one.reason, one.detail, one.alert_id = data.reason, data.detail, data.alert_id


# Diagnoses


def _found(view: PipelineView, data: agent.AgentSucceeded, event: CloudEvent[Message]) -> None:
    if event.id not in view.findings_told:
        _tell_findings(view, event.id, (event.time_ms, findings_of(data.summary, data.result.text)))


def refuse_findings(view: PipelineView, data: pipeline.AgentAttemptRefused) -> None:
    """Takes back the findings of an attempt that does not count. The refusal may be heard before them."""
    if data.refused_type == agent.AgentSucceeded.type:
        _tell_findings(view, data.refused_id, None)


def show_findings(view: PipelineView) -> None:
    """Shows the latest findings that were not refused. A pipeline that is known to be no diagnostic has none."""
    if view.spawned and view.diagnosed is None:
        view.findings_told.clear()
    told = [one for one in view.findings_told.values() if one is not None]
    view.findings = max(told, key=lambda one: one[0])[1] if told else None


def _tell_findings(view: PipelineView, event_id: str, told: tuple[int, FindingsView] | None) -> None:
    view.findings_told[event_id] = told
    if len(view.findings_told) > FINDINGS_TOLD_MAX_COUNT:
        refused = (name for name, one in view.findings_told.items() if one is None)
        del view.findings_told[next(refused, next(iter(view.findings_told)))]
    show_findings(view)


def findings_of(summary: str, result: str | None) -> FindingsView:
    """Findings from an agent's result: JSON by the diagnostic's schema, if it is that."""
    try:
        told = msgspec.json.decode(result or "")
    except (msgspec.DecodeError, RecursionError):
        told = None
    if not isinstance(told, dict):
        return FindingsView(summary)
    cause = told.get("cause")
    return FindingsView(
        summary,
        cause[:FINDING_MAX_CHARACTERS] if isinstance(cause, str) else "",
        _texts(told.get("evidence")),
        _texts(told.get("recommendations")),
    )


def _texts(told: Any) -> tuple[str, ...]:
    found = told if isinstance(told, list) else []
    return tuple(one[:FINDING_MAX_CHARACTERS] for one in found if isinstance(one, str))[:FINDINGS_MAX_COUNT]


FOLDS: Mapping[type[Message], Fold] = {
    signal.ErrorReported: _error,
    signal.ViolationReported: _violation,
    agent.AgentFailed: _agent_failed,
    agent.AgentSucceeded: _found,
    alert.AlertRaised: _alert,
    report.HandoffReported: _handoff,
    token.TokenRequest: _requested,
    token.TokenGranted: _granted,
    token.TokenDenied: _denied,
    token.TokenRenewed: _renewed,
    token.TokenRevoked: _revoked,
    token.TokenExpired: _expired,
}

ONCE = frozenset(FOLDS)
"""What has no number of the spawner's, and counts once for each id."""
