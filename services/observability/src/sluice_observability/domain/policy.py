"""Limits and intervals, each a setting."""

from __future__ import annotations

from dataclasses import dataclass, field

from sluice_observability.domain.retrying import Backoff


@dataclass(frozen=True, slots=True)
class SinkPolicy:
    """Limits of the sink."""

    flush_interval_ms: int = 200
    """A record waits at most so long for its batch. An insert has a price of its own, and makes a part to be merged:
    at 4,000 records a second, 100 ms cost 80 µs of processor time for each row, 200 ms 48 µs, 250 ms 46 µs."""

    batch_max_rows: int = 20_000
    """Inserts of 10,000 to 100,000 rows are the engine's best; this one keeps a batch near 20 MB."""

    batch_max_value_bytes: int = 32 * 1024 * 1024
    """Bounds memory where records are large: three batches may exist at once."""

    poll_max_messages: int = 5_000
    """Records taken at a time, after which the limits above are looked at."""

    positions_interval_ms: int = 1_000
    """How old the completeness view may be while records arrive."""

    group_commit_interval_ms: int = 5_000
    """How old the positions for lag tools may be."""

    backoff: Backoff = field(default_factory=Backoff)


@dataclass(frozen=True, slots=True)
class QueryLimits:
    """What one query may take."""

    time_s: int = 30
    """An analyst's patience; a query holds one of few places."""

    result_max_rows: int = 1_000_000
    result_max_bytes: int = 128 * 1024 * 1024
    """The answer is built in memory."""

    memory_max_bytes: int = 1024 * 1024 * 1024
    """The sink shares the process's memory."""

    threads: int = 1
    """More would make a query faster and take the sink's processor; a machine with more cores can give more."""


@dataclass(frozen=True, slots=True)
class StreamLimits:
    """What the live stream may hold.

    An event counts as its data on the topic and a little; parsed it takes a few times that.
    """

    buffer_max_count: int = 10_000
    buffer_max_bytes: int = 64 * 1024 * 1024
    """Kept for clients that come back: minutes of heavy traffic, or 250 events of the largest size."""

    client_max_count: int = 1_000
    client_max_bytes: int = 8 * 1024 * 1024
    """Waiting for one client. What waits for several is there once."""
