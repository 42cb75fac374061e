"""Counting breaches of error budgets (V5): pure functions from a pipeline's state and a signal to state and alerts.

Every statement is about a set of signals, so neither their order nor how often they come matters to whether it holds:

- *errors*: some window [s, s + 60 s) has more `error.reported`, by different ids, than the limit;
- *API calls*: in some such window the signals' `api_calls` add up to more than the limit: throttle. If they do so again
  in a window that begins `THROTTLE_GRACE_MS` after the throttling signal or later: revoke;
- *progress*: an attempt is watched, and for longer than the limit nothing came on;
- *violation*: one that is CRITICAL.

Two times: a signal's event time, never later than when Kafka appended it, counts in windows. When Kafka appended it
tells how far the partition was heard, from when on an attempt is watched, and when it came on: what is compared with
what was heard must be of one clock, and a runner's may be minutes behind. Both stand in the log, so a monitor that was
deaf or down for an hour decides as if it had been awake.

Whose a pipeline is, the spawner says with `watch.changed`: from then on signals of another tenant are as if nobody had
told them, but those of the installation itself. Before that the last signal's tenant counts.

Bounds: an error or a call that Kafka appended more than `LATENESS_MS` after its event time counts in no window, so that
what can still matter is finite. Only signals in a window with the new one are looked at: a limit that is lowered counts
from the pipeline's next signal on. Where there is no limit (`Limits.errors` is None) nothing is kept to count by.

An alert is made of signals, never of a clock: made again, it is the same to the byte. So is forgetting: a signal that
comes long enough after the one before begins another life of the pipeline's id, whether or not `settle` was asked.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple

from msgspec.structs import replace

from sluice_contracts.envelope import SYSTEM_TENANT, CloudEvent
from sluice_contracts.messages.alert import AlertCondition, AlertRaised
from sluice_contracts.messages.signal import ErrorReported, ProgressReported, ViolationReported, WatchChanged
from sluice_contracts.topics import Principal
from sluice_observability.domain.budget_alerts import Breach, breach_alert, stuck_alert, violation_alert
from sluice_observability.domain.budget_limits import Limits
from sluice_observability.domain.budget_state import (
    AGENTS_MAX_COUNT,
    FORGET_MS,
    HEARD_STEP_MS,
    HORIZON_MS,
    LATENESS_MS,
    WINDOW_MS,
    Attempt,
    Pipeline,
    Signal,
)

THROTTLE_GRACE_MS = 10_000
"""From the throttling signal until the agents can have heard of it: alert, spawner, inbox, and the call under way."""

ARRIVAL_MS = 1_000
"""Progress may be appended so long after its deadline and still be heard: producers wait, brokers' clocks differ."""


Unheeded = Literal["late", "too_many_agents", "other_tenant"]
"""Why a signal counts for nothing."""


class Outcome(NamedTuple):
    """A pipeline's new state, the alerts to publish in their order, and whether the signal counted for nothing.

    `pipeline` is the very same object where nothing changed.
    """

    pipeline: Pipeline
    alerts: tuple[CloudEvent[AlertRaised], ...] = ()
    unheeded: Unheeded | None = None


def observe(pipeline: Pipeline, signal: Signal, limits: Limits) -> Outcome:
    """Folds one signal into its pipeline's state.

    Guarantees: a record that is read again changes nothing and tells nothing. An event that was appended again does so
    too, but for progress, which then was told once more. Missing progress that the partition was heard beyond is
    told before the signal is looked at, so it does not matter how often `due` was asked meanwhile.
    """
    if is_foreign(pipeline, signal):
        return Outcome(pipeline, unheeded="other_tenant")
    pipeline = _living(pipeline, signal)
    heard_ms = max(pipeline.heard_ms, signal.appended_ms)
    if pipeline.revoked:
        noted = heard_ms - pipeline.heard_ms >= HEARD_STEP_MS
        return Outcome(replace(pipeline, heard_ms=heard_ms) if noted else pipeline)
    subject = signal.event.subject
    told = due(pipeline, subject, heard_ms, limits)
    claimed = pipeline.claimed or _claims(signal)
    heard = replace(told.pipeline, tenant=tenant_of(pipeline, signal), claimed=claimed, heard_ms=heard_ms)
    match signal.event.data:
        case ErrorReported() as error:
            found = _error(heard, signal, limits)
            if not found.pipeline.revoked:
                found = _then(found, _calls(found.pipeline, signal, error.api_calls, limits))
        case ProgressReported() as progress:
            found = _progress(heard, signal, progress)
            found = _then(found, _calls(found.pipeline, signal, progress.api_calls, limits))
        case WatchChanged() as change:
            found = _watch(heard, signal, change)
        case ViolationReported(severity="CRITICAL") as violation:
            found = Outcome(_ended(heard), (violation_alert(heard, signal, violation),))
        case _:
            found = Outcome(heard)
    after, alerts = found.pipeline, (*told.alerts, *found.alerts)
    return Outcome(pipeline if after == pipeline else after, alerts, found.unheeded)


def tenant_of(pipeline: Pipeline, signal: Signal) -> str:
    """Whose a pipeline is once it has this signal: what is nobody's own says nothing of it, unless the spawner does."""
    if _claims(signal):
        return signal.event.tenant
    known = _living(pipeline, signal)
    return known.tenant if known.claimed or signal.event.tenant == SYSTEM_TENANT else signal.event.tenant


def is_foreign(pipeline: Pipeline, signal: Signal) -> bool:
    """Whether a signal is of another tenant than the one whose the pipeline is known to be."""
    known = _living(pipeline, signal)
    return known.claimed and signal.event.tenant not in (known.tenant, SYSTEM_TENANT) and not _claims(signal)


def _claims(signal: Signal) -> bool:
    """Whether the spawner says whose the pipeline is, in that it watches one of its agents."""
    is_watch = isinstance(signal.event.data, WatchChanged)
    return is_watch and signal.event.source.partition("/")[0] == Principal.SPAWNER


def _living(pipeline: Pipeline, signal: Signal) -> Pipeline:
    """What a signal finds: what is known, or a new life of the id where nothing is, or what is known is forgotten."""
    begins = pipeline.heard_ms == 0 or settle(pipeline, signal.appended_ms) is None
    return Pipeline(since_ms=signal.appended_ms) if begins else pipeline


def due(pipeline: Pipeline, subject: str, heard_ms: int, limits: Limits) -> Outcome:
    """Tells the progress that is missing, once the pipeline's partition was heard beyond the deadline.

    Args:
        pipeline: Its state.
        subject: Its id.
        heard_ms: All that Kafka appended to the partition before this moment was observed.
        limits: Those in force.
    """
    late = []
    if not pipeline.revoked:
        for agent_id, attempt in pipeline.agents.items():
            deadline_ms = attempt.deadline_ms(limits)
            if deadline_ms is not None and deadline_ms + ARRIVAL_MS <= heard_ms:
                late.append((deadline_ms, agent_id, attempt))
    if not late:
        return Outcome(pipeline)
    late.sort(key=lambda one: one[:2])
    told = {agent_id: replace(attempt, told=True) for _, agent_id, attempt in late}
    alerts = tuple(
        stuck_alert(pipeline, subject, agent_id, attempt, deadline_ms, limits)
        for deadline_ms, agent_id, attempt in late
    )
    return Outcome(replace(pipeline, agents={**pipeline.agents, **told}), alerts)


def settle(pipeline: Pipeline, heard_ms: int) -> Pipeline | None:
    """Drops what can't matter any more; None where all of it can be forgotten."""
    if pipeline.heard_ms + HORIZON_MS > heard_ms:
        return pipeline
    if pipeline.heard_ms + FORGET_MS <= heard_ms or not _outlasts_windows(pipeline):
        return None
    return replace(pipeline, errors={}, calls={}) if pipeline.errors or pipeline.calls else pipeline


def next_look_ms(pipeline: Pipeline, limits: Limits) -> int:
    """Until when, in heard time, neither `due` nor `settle` has anything to do."""
    looks = [pipeline.heard_ms + FORGET_MS]
    if not pipeline.revoked:
        deadlines = (attempt.deadline_ms(limits) for attempt in pipeline.agents.values())
        looks += [deadline_ms + ARRIVAL_MS for deadline_ms in deadlines if deadline_ms is not None]
    if pipeline.errors or pipeline.calls or not _outlasts_windows(pipeline):
        looks.append(pipeline.heard_ms + HORIZON_MS)
    return min(looks)


def _outlasts_windows(pipeline: Pipeline) -> bool:
    """Whether something was told, or progress is expected: what else is known matters in windows only."""
    agents = pipeline.agents.values()
    return pipeline.revoked or pipeline.throttled_ms is not None or any(one.watched or one.told for one in agents)


def _then(first: Outcome, second: Outcome) -> Outcome:
    return Outcome(second.pipeline, (*first.alerts, *second.alerts), first.unheeded or second.unheeded)


# Windows

Fact = tuple[int, str, int]
"""Event time, event id, what it weighs."""


def _error(pipeline: Pipeline, signal: Signal, limits: Limits) -> Outcome:
    time_ms, identity, limit = signal.time_ms, signal.event.id, limits.errors
    if limit is None or identity in pipeline.errors:
        return Outcome(pipeline)
    if pipeline.heard_ms - time_ms > LATENESS_MS:
        return Outcome(pipeline, unheeded="late")
    first_ms = pipeline.heard_ms - HORIZON_MS
    errors = {key: at for key, at in pipeline.errors.items() if at >= first_ms}
    errors[identity] = time_ms
    count, window = _fullest(((at, key, 1) for key, at in errors.items()), time_ms)
    if count <= limit:
        return Outcome(replace(pipeline, errors=errors))
    return _revoked(
        pipeline, signal, Breach("error_budget_exceeded", "revoke_pipeline", (), "errors", count, limit, window)
    )


def _calls(pipeline: Pipeline, signal: Signal, number: int, limits: Limits) -> Outcome:
    time_ms, identity, limit = signal.time_ms, signal.event.id, limits.api_calls
    if number == 0 or limit is None or identity in pipeline.calls:
        return Outcome(pipeline)
    if pipeline.heard_ms - time_ms > LATENESS_MS:
        return Outcome(pipeline, unheeded="late")
    first_ms = pipeline.heard_ms - HORIZON_MS
    calls = {key: fact for key, fact in pipeline.calls.items() if fact[0] >= first_ms}
    calls[identity] = (time_ms, number)
    counts_from_ms = -1 if pipeline.throttled_ms is None else pipeline.throttled_ms + THROTTLE_GRACE_MS
    counted = ((at, key, each) for key, (at, each) in calls.items() if at >= counts_from_ms)
    count, window = _fullest(counted, time_ms) if time_ms >= counts_from_ms else (0, [])
    heard = replace(pipeline, calls=calls)
    if count <= limit:
        return Outcome(heard)
    condition: AlertCondition = "api_call_budget_exceeded"
    unit = "API calls"
    if pipeline.throttled_ms is not None:
        breach = Breach(condition, "revoke_pipeline", ("revoke",), unit, count, limit, window)
        return _revoked(pipeline, signal, breach)
    breach = Breach(condition, "throttle", ("throttle",), unit, count, limit, window)
    return Outcome(replace(heard, throttled_ms=time_ms), (breach_alert(pipeline, signal, breach),))


def _revoked(pipeline: Pipeline, signal: Signal, breach: Breach) -> Outcome:
    return Outcome(_ended(pipeline), (breach_alert(pipeline, signal, breach),))


def _ended(pipeline: Pipeline) -> Pipeline:
    tenant, claimed, since_ms = pipeline.tenant, pipeline.claimed, pipeline.since_ms
    return Pipeline(tenant=tenant, claimed=claimed, since_ms=since_ms, heard_ms=pipeline.heard_ms, revoked=True)


def _fullest(facts: Iterable[Fact], time_ms: int) -> tuple[int, list[str]]:
    """Of the windows that have the fact at `time_ms` in them, the heaviest, of several the earliest: weight and ids."""
    near = sorted(fact for fact in facts if abs(fact[0] - time_ms) < WINDOW_MS)
    best, best_first, best_end = 0, 0, 0
    weight = end = 0
    for first, (start_ms, _, own) in enumerate(near):
        if start_ms > time_ms:
            break
        while end < len(near) and near[end][0] < start_ms + WINDOW_MS:
            weight += near[end][2]
            end += 1
        if weight > best:
            best, best_first, best_end = weight, first, end
        weight -= own
    return best, [identity for _, identity, _ in near[best_first:best_end]]


# Agents


def _progress(pipeline: Pipeline, signal: Signal, progress: ProgressReported) -> Outcome:
    attempt = _attempt(pipeline, progress.agent_id, progress.attempt)
    if attempt is None:
        return Outcome(pipeline, unheeded=_unheeded(pipeline, progress.agent_id))
    if (signal.appended_ms, signal.event.id) <= (attempt.progress_ms, attempt.progress_id):
        return Outcome(pipeline)
    came_on = replace(attempt, progress_ms=signal.appended_ms, progress_id=signal.event.id, turn=progress.turn)
    return Outcome(replace(pipeline, agents={**pipeline.agents, progress.agent_id: came_on}))


def _watch(pipeline: Pipeline, signal: Signal, change: WatchChanged) -> Outcome:
    attempt = _attempt(pipeline, change.agent_id, change.attempt)
    if attempt is None:
        return Outcome(pipeline, unheeded=_unheeded(pipeline, change.agent_id))
    sequence = -1 if signal.event.sequence is None else signal.event.sequence
    changed = (signal.time_ms, sequence, int(not change.watched))
    if changed <= attempt.changed:
        return Outcome(pipeline)
    now = replace(
        attempt, watched=change.watched, changed=changed, since_ms=signal.appended_ms, since_id=signal.event.id
    )
    return Outcome(replace(pipeline, agents={**pipeline.agents, change.agent_id: now}))


def _attempt(pipeline: Pipeline, agent_id: str, number: int) -> Attempt | None:
    """The attempt that a signal is about; None where a later one is known, or there are too many agents."""
    known = pipeline.agents.get(agent_id)
    if known is None:
        return Attempt(number) if len(pipeline.agents) < AGENTS_MAX_COUNT else None
    if number > known.number:
        return Attempt(number)
    return known if number == known.number else None


def _unheeded(pipeline: Pipeline, agent_id: str) -> Unheeded | None:
    return None if agent_id in pipeline.agents else "too_many_agents"
