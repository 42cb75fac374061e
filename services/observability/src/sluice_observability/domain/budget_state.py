"""What of a pipeline's signals can still matter to its budgets, and for how long."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from sluice_contracts.envelope import SYSTEM_TENANT, CloudEvent
from sluice_contracts.messages import Message
from sluice_observability.domain.budget_limits import Limits

WINDOW_MS = 60_000
"""The minute of V5's limits, half-open: two signals 60.000 s apart are in no window together."""

LATENESS_MS = 300_000
"""Producers give a record up after two minutes; a runner whose broker was away says things again after some more."""

HORIZON_MS = LATENESS_MS + WINDOW_MS
"""What happened longer before the newest append can be in no window with a signal that still counts."""

FORGET_MS = 180 * 3_600_000
"""A pipeline of which something was told is forgotten so long after its last signal: longer than topic `signals` keeps
one (7 days), and half a day less than its id is taken (8 days or more), since signals may come after its end."""

HEARD_STEP_MS = 3_600_000
"""How coarsely it is noted that a pipeline whose alerts are all told still sends signals."""

AGENTS_MAX_COUNT = 2_000
"""Of one pipeline: a plan has at most 1,000 tasks. Further ones are not watched."""


@dataclass(frozen=True, slots=True)
class Signal:
    """A signal and when Kafka appended it."""

    event: CloudEvent[Message]
    appended_ms: int

    @property
    def time_ms(self) -> int:
        """When it happened: what claims to come from the future happened when it was appended."""
        return min(self.event.time_ms, self.appended_ms)


class Attempt(msgspec.Struct, frozen=True, omit_defaults=True):
    """The latest attempt of an agent that was heard of.

    Attributes:
        watched: Whether progress is expected: what the latest `watch.changed` said.
        changed: Of that one: event time, sequence, and 1 if it ended the watch: the greatest is the latest.
        since_ms: When it was appended.
        progress_ms: When the latest progress was appended, and `progress_id` its id.
        told: Whether missing progress was told: once for an attempt.
    """

    number: int
    watched: bool = False
    changed: tuple[int, int, int] = (-1, -1, 0)
    since_ms: int = -1
    since_id: str = ""
    progress_ms: int = -1
    progress_id: str = ""
    turn: int = 0
    told: bool = False

    def deadline_ms(self, limits: Limits) -> int | None:
        """The first moment at which too much time has gone by; None where no progress is expected."""
        if not self.watched or self.told:
            return None
        return max(self.since_ms, self.progress_ms) + limits.progress_timeout_ms + 1


class Pipeline(msgspec.Struct, frozen=True, omit_defaults=True):
    """What of a pipeline's signals can still matter.

    Attributes:
        tenant: Whose it is, by the spawner's last `watch.changed`; before that by the last signal that names a tenant.
        claimed: Whether the spawner has said whose it is.
        since_ms: When the first of its signals was appended: it tells one life of an id from the next.
        heard_ms: When the newest of its signals was appended.
        errors: Event times of errors, by event id; `calls` event times and numbers of API calls.
        agents: By agent.
        throttled_ms: The event time of the signal that broke the budget of API calls.
        revoked: All its credentials end: nothing more is told of it.
    """

    tenant: str = SYSTEM_TENANT
    claimed: bool = False
    since_ms: int = 0
    heard_ms: int = 0
    errors: dict[str, int] = {}
    calls: dict[str, tuple[int, int]] = {}
    agents: dict[str, Attempt] = {}
    throttled_ms: int | None = None
    revoked: bool = False


def encode(pipeline: Pipeline) -> bytes:
    """The state as a table keeps it."""
    return _ENCODER.encode(pipeline)


def decode(stored: bytes) -> Pipeline:
    """What `encode` wrote; fields that are not known any more are ignored."""
    return _DECODER.decode(stored)


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(Pipeline)
