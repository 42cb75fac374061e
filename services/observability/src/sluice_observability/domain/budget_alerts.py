"""The alerts of broken budgets: made of signals alone, so that made again they are the same to the byte.

An id is made of pipeline, its life, condition and what is broken, so that a breach is told once, however often it is
found, and once more in another life of the pipeline's id.
"""

from __future__ import annotations

from dataclasses import dataclass

from sluice_contracts.envelope import CloudEvent
from sluice_contracts.ids import derived_id
from sluice_contracts.limits import SUMMARY_MAX_CHARACTERS
from sluice_contracts.messages.alert import AlertAction, AlertCondition, AlertRaised
from sluice_contracts.messages.signal import ViolationReported
from sluice_observability.domain.budget_limits import Limits
from sluice_observability.domain.budget_state import WINDOW_MS, Attempt, Pipeline, Signal
from sluice_runtime.redaction import redact
from sluice_runtime.tracing import child_of

SOURCE = "monitor"
"""Without an instance: whichever tells an alert tells the same one."""

EVIDENCE_MAX_COUNT = 16


@dataclass(frozen=True, slots=True)
class Breach:
    """A budget of counts that is broken.

    Attributes:
        level: A part of the id where one condition is told at several levels.
        unit: What is counted, for people.
        window: The ids of the signals in the window, in the order of their event times.
    """

    condition: AlertCondition
    action: AlertAction
    level: tuple[str, ...]
    unit: str
    observed: int
    limit: int
    window: list[str]


def breach_alert(pipeline: Pipeline, signal: Signal, breach: Breach) -> CloudEvent[AlertRaised]:
    """Too many errors or API calls, by the signal that was one too many."""
    data = AlertRaised(
        condition=breach.condition,
        action=breach.action,
        observed=breach.observed,
        limit=breach.limit,
        window_ms=WINDOW_MS,
        evidence=tuple(breach.window[-EVIDENCE_MAX_COUNT:]),
        breached_at_ms=signal.time_ms,
        detail=f"{breach.observed} {breach.unit} within {WINDOW_MS // 1_000} s; {breach.limit} are allowed",
    )
    return _alert(pipeline, signal.event.subject, data, breach.level, signal.event.id, signal.event.traceparent)


def violation_alert(pipeline: Pipeline, signal: Signal, violation: ViolationReported) -> CloudEvent[AlertRaised]:
    """A CRITICAL violation. Whoever reports it may have written a secret: all services read what is told here."""
    detail = f"CRITICAL violation of {violation.policy}" + (f": {violation.detail}" if violation.detail else "")
    data = AlertRaised(
        condition="policy_violation",
        action="revoke_pipeline",
        observed=1,
        limit=0,
        window_ms=0,
        evidence=(signal.event.id,),
        breached_at_ms=signal.time_ms,
        detail=redact(detail)[:SUMMARY_MAX_CHARACTERS],
    )
    return _alert(pipeline, signal.event.subject, data, (), signal.event.id, signal.event.traceparent)


def stuck_alert(
    pipeline: Pipeline, subject: str, agent_id: str, attempt: Attempt, deadline_ms: int, limits: Limits
) -> CloudEvent[AlertRaised]:
    """An attempt that did not come on until its deadline."""
    limit_ms = limits.progress_timeout_ms
    came_on = attempt.progress_ms >= attempt.since_ms
    last = f"its last was turn {attempt.turn}" if attempt.progress_ms >= 0 else "there was none yet"
    cause = attempt.progress_id if came_on else attempt.since_id
    data = AlertRaised(
        condition="no_progress",
        action="revoke_agent",
        agent_id=agent_id,
        attempt=attempt.number,
        observed=limit_ms + 1,
        limit=limit_ms,
        window_ms=limit_ms,
        evidence=(cause,),
        breached_at_ms=deadline_ms,
        detail=f"no progress for {limit_ms / 1_000:g} s; {last}",
    )
    return _alert(pipeline, subject, data, (agent_id, str(attempt.number)), cause, None)


def _alert(
    pipeline: Pipeline, subject: str, data: AlertRaised, part: tuple[str, ...], cause: str, traceparent: str | None
) -> CloudEvent[AlertRaised]:
    identity = derived_id("alert", subject, pipeline.since_ms, data.condition, *part)
    trace = child_of(traceparent, identity)
    return CloudEvent(
        identity, SOURCE, pipeline.tenant, subject, data.breached_at_ms, data, causation_id=cause, traceparent=trace
    )
