"""What the log itself knows about how far it has come, and when."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from sluice_observability.domain import arrow
from sluice_observability.domain.places import Gap, Place, Progress
from sluice_observability.handlers.questions import POSITIONS_QUERY
from sluice_observability.ports import Database
from sluice_runtime.clock import Clock

_LAST_TIME = """
SELECT max(at) FROM (
    SELECT toUnixTimestamp64Milli(max(recorded_at)) AS at FROM positions
    UNION ALL SELECT toUnixTimestamp64Milli(max(ingest_time)) FROM log
)
"""


def positions_in(database: Database) -> dict[Place, int]:
    """The offset after the last one in the log, by place.

    What was ingested up to a row of `positions` lies below that row, since ingest times only grow and the row is
    written after the batch. So only what came later is looked at, and the start does not slow down as the log grows.

    Raises:
        StoreUnavailable: The database did not answer.
    """
    return {
        Place(topic, incarnation, int(partition)): int(offset)
        for topic, incarnation, partition, offset in database.rows(POSITIONS_QUERY)
    }


class GrowingClock:
    """A clock that strictly grows, over restarts too: it begins after the last time in the log."""

    def __init__(self, clock: Clock, last_ms: int) -> None:
        self._clock = clock
        self._last_ms = last_ms

    @classmethod
    def after(cls, database: Database, clock: Clock) -> GrowingClock:
        """Begins after everything in the log.

        Raises:
            StoreUnavailable: The database did not answer.
        """
        return cls(clock, int(database.rows(_LAST_TIME)[0][0]))

    def now_ms(self) -> int:
        """Milliseconds since the Unix epoch, greater than all before."""
        self._last_ms = max(self._clock.now_ms(), self._last_ms + 1)
        return self._last_ms


def position_rows(progress: Sequence[Progress], recorded_at_ms: int) -> Any:
    """Rows of table `positions`."""
    return _table(
        {
            **_places([one.place for one in progress]),
            "consumed_through": arrow.integers((one.consumed_through for one in progress), pa.uint64()),
            "end_offset": arrow.integers((one.end_offset for one in progress), pa.uint64()),
            "recorded_at": arrow.integers([recorded_at_ms] * len(progress), arrow.TIME),
        }
    )


def gap_rows(gaps: Sequence[Gap], found_at_ms: int) -> Any:
    """Rows of table `gaps`."""
    return _table(
        {
            **_places([gap.place for gap in gaps]),
            "first_offset": arrow.integers((gap.first_offset for gap in gaps), pa.uint64()),
            "next_offset": arrow.integers((gap.next_offset for gap in gaps), pa.uint64()),
            "reason": arrow.strings(gap.reason for gap in gaps),
            "detail": arrow.strings(gap.detail for gap in gaps),
            "found_at": arrow.integers([found_at_ms] * len(gaps), arrow.TIME),
        }
    )


def with_ingest_time(rows: Any, ingest_ms: int) -> Any:
    """Rows of table `log`, complete: one moment for all."""
    return rows.append_column("ingest_time", arrow.integers([ingest_ms] * rows.num_rows, arrow.TIME))


def _places(places: Sequence[Place]) -> dict[str, Any]:
    return {
        "topic": arrow.strings(place.topic for place in places),
        "incarnation": arrow.strings(place.incarnation for place in places),
        "partition": arrow.integers((place.partition for place in places), pa.uint32()),
    }


def _table(columns: dict[str, Any]) -> Any:
    return pa.Table.from_arrays(list(columns.values()), names=list(columns))
