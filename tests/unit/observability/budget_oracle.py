"""What must be told of a pipeline, by brute force: every prefix of the stream, every window, from scratch each time.

It shares no code with the monitor but the contract, and keeps everything, so that it can't forget what matters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sluice_contracts.envelope import CloudEvent
from sluice_contracts.ids import derived_id
from sluice_contracts.messages import Message
from sluice_contracts.messages.signal import ErrorReported, ProgressReported, ViolationReported, WatchChanged

MINUTE, LATE, GRACE, ARRIVAL = 60_000, 300_000, 10_000, 1_000
UNLIMITED = 5_000


@dataclass(frozen=True)
class Heard:
    """A record of the stream: the event, when Kafka appended it, and the limits when it is read."""

    event: CloudEvent[Message]
    appended_ms: int
    errors: int = 5
    calls: int = 100
    progress_ms: int = 60_000

    @property
    def at(self) -> int:
        return min(self.event.time_ms, self.appended_ms)


Told = dict[str, Any]
"""An alert: its id, when it broke, and its fields."""


def expected(stream: Sequence[Heard], heard_ms: int, progress_ms: int = 60_000) -> list[Told]:
    """The alerts of one pipeline's stream, in their order, once it was heard until `heard_ms`."""
    told: list[Told] = []
    kept: list[Heard] = []
    for number, one in enumerate(stream):
        quiet_ms = one.appended_ms - max((other.appended_ms for other in kept), default=0)
        if kept and quiet_ms >= LATE + MINUTE and not told and not _watched(kept):
            return expected(stream[number:], heard_ms, progress_ms)  # another life of the id
        if _is_foreign(kept, one):
            continue
        kept.append(one)
        now = max(other.appended_ms for other in kept)
        told += _stuck(kept[:-1], now, one.progress_ms, told)
        told += _broken(kept, told)
        if told and told[-1]["action"] == "revoke_pipeline":
            return told
    return told + _stuck(kept, heard_ms, progress_ms, told)


def _claims(stream: Sequence[Heard]) -> list[str]:
    """What the spawner says, in its order, of whose the pipeline is."""
    watches = [one.event for one in stream if isinstance(one.event.data, WatchChanged)]
    return [one.tenant for one in watches if one.source.startswith("spawner")]


def _is_foreign(gone: Sequence[Heard], one: Heard) -> bool:
    claimed = _claims(gone)
    return bool(claimed) and not _claims([one]) and one.event.tenant not in (claimed[-1], "system")


def _tenant(stream: Sequence[Heard]) -> str:
    """By the spawner; of a pipeline of which it said nothing, by the last signal that names a tenant."""
    named = [one.event.tenant for one in stream if one.event.tenant != "system"]
    return [*["system"], *named, *_claims(stream)][-1]


def _broken(stream: Sequence[Heard], told: Sequence[Told]) -> list[Told]:
    last, found = stream[-1], []
    data = last.event.data
    if isinstance(data, ViolationReported) and data.severity == "CRITICAL":
        return [_alert(stream, "policy_violation", "revoke_pipeline", 1, 0, 0, [last.event.id])]
    if isinstance(data, ErrorReported):
        window = _window(stream, errors=True, begin=-1)
        if window is not None and len(window) > last.errors:
            ids = [one.event.id for one in window]
            return [
                _alert(
                    stream,
                    "error_budget_exceeded",
                    "revoke_pipeline",
                    len(window),
                    last.errors,
                    MINUTE,
                    ids[-16:],
                )
            ]
    if isinstance(data, ErrorReported | ProgressReported):
        throttled = next((one["breached_at_ms"] for one in told if one["action"] == "throttle"), None)
        window = _window(stream, errors=False, begin=-1 if throttled is None else throttled + GRACE)
        count = sum(_calls(one) for one in window or ())
        if window is not None and count > last.calls:
            ids, action = [one.event.id for one in window], "throttle" if throttled is None else "revoke_pipeline"
            found = [_alert(stream, "api_call_budget_exceeded", action, count, last.calls, MINUTE, ids[-16:])]
    return found


def _window(stream: Sequence[Heard], *, errors: bool, begin: int) -> list[Heard] | None:
    """The heaviest window that has the last signal in it; None where that one does not count."""
    counted: dict[str, Heard] = {}
    newest = None
    for end, one in enumerate(stream, 1):
        newest = None
        now = max(other.appended_ms for other in stream[:end])
        countable = isinstance(one.event.data, ErrorReported) if errors else _calls(one) > 0
        limit = one.errors if errors else one.calls
        if countable and limit <= UNLIMITED and one.event.id not in counted and now - one.at <= LATE:
            counted[one.event.id] = newest = one
    if newest is None or newest.at < begin:
        return None
    facts = sorted((one for one in counted.values() if one.at >= begin), key=lambda one: (one.at, one.event.id))
    windows = []
    for start in sorted({one.at for one in facts}):
        window = [one for one in facts if start <= one.at < start + MINUTE]
        if newest in window:
            windows.append(window)
    return max(windows, key=lambda window: sum(1 if errors else _calls(one) for one in window))  # the first of equals


def _calls(one: Heard) -> int:
    return one.event.data.api_calls if isinstance(one.event.data, ErrorReported | ProgressReported) else 0


def _latest(stream: Sequence[Heard]) -> dict[str, int]:
    """The latest attempt that is known of each agent."""
    attempts: dict[str, int] = {}
    for one in stream:
        if isinstance(one.event.data, ProgressReported | WatchChanged):
            agent = one.event.data.agent_id
            attempts[agent] = max(attempts.get(agent, 0), one.event.data.attempt)
    return attempts


def _watched(stream: Sequence[Heard]) -> bool:
    """Whether progress is expected of anybody."""
    for agent, number in _latest(stream).items():
        watches = [one for one in stream if isinstance(one.event.data, WatchChanged)]
        own = [one for one in watches if (one.event.data.agent_id, one.event.data.attempt) == (agent, number)]  # type: ignore[attr-defined]
        if own and max(own, key=_order).event.data.watched:  # type: ignore[attr-defined]
            return True
    return False


def _stuck(stream: Sequence[Heard], now: int, limit: int, told: Sequence[Told]) -> list[Told]:
    found = []
    for agent, number in _latest(stream).items():
        about = [one for one in stream if getattr(one.event.data, "agent_id", None) == agent]
        about = [one for one in about if one.event.data.attempt == number]  # type: ignore[attr-defined]
        watches = [one for one in about if isinstance(one.event.data, WatchChanged)]
        progress = [one for one in about if isinstance(one.event.data, ProgressReported)]
        if not watches:
            continue
        watch = max(watches, key=_order)
        latest = max(progress, key=lambda one: (one.appended_ms, one.event.id), default=None)
        since = watch.appended_ms if latest is None else max(watch.appended_ms, latest.appended_ms)
        cause = watch if latest is None or watch.appended_ms > latest.appended_ms else latest
        deadline = since + limit + 1
        identity = derived_id("alert", watch.event.subject, stream[0].appended_ms, "no_progress", agent, str(number))
        known = any(one["id"] == identity for one in told)
        if watch.event.data.watched and deadline + ARRIVAL <= now and not known:  # type: ignore[attr-defined]
            last = "there was none yet" if latest is None else f"its last was turn {latest.event.data.turn}"  # type: ignore[attr-defined]
            detail = f"no progress for {limit / 1_000:g} s; {last}"
            found.append(
                {
                    "id": identity, "condition": "no_progress", "action": "revoke_agent", "agent_id": agent,
                    "attempt": number, "observed": limit + 1, "limit": limit, "window_ms": limit,
                    "evidence": [cause.event.id], "breached_at_ms": deadline, "detail": detail,
                    "tenant": _tenant(stream), "cause": cause.event.id,
                }
            )  # fmt: skip
    return sorted(found, key=lambda one: (one["breached_at_ms"], one["agent_id"]))


def _order(watch: Heard) -> tuple[int, int, bool]:
    assert isinstance(watch.event.data, WatchChanged)
    return watch.at, -1 if watch.event.sequence is None else watch.event.sequence, not watch.event.data.watched


def _alert(
    stream: Sequence[Heard],
    condition: str,
    action: str,
    observed: int,
    limit: int,
    window_ms: int,
    evidence: list[str],
) -> Told:
    last = stream[-1]
    event = last.event
    part = {"throttle": ["throttle"], "revoke_pipeline": ["revoke"]}[action] if "api" in condition else []
    what = "errors" if condition == "error_budget_exceeded" else "API calls"
    detail = f"{observed} {what} within 60 s; {limit} are allowed"
    if isinstance(event.data, ViolationReported):
        detail = f"CRITICAL violation of {event.data.policy}" + (f": {event.data.detail}" if event.data.detail else "")
    return {
        "id": derived_id("alert", event.subject, stream[0].appended_ms, condition, *part),
        "condition": condition, "action": action,
        "agent_id": None, "attempt": None, "observed": observed, "limit": limit, "window_ms": window_ms,
        "evidence": evidence, "breached_at_ms": last.at, "detail": detail,
        "tenant": _tenant(stream), "cause": event.id,
    }  # fmt: skip


def told(alert: CloudEvent[Any]) -> Told:
    """An alert as the oracle writes it."""
    assert alert.time_ms == alert.data.breached_at_ms
    assert alert.source == "monitor"
    content = alert.data.model_dump(mode="json")
    return {"id": alert.id, **content, "tenant": alert.tenant, "cause": alert.causation_id}
