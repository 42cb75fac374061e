"""The sink: from Kafka into table `log`, each record once, whatever dies in between.

A thread reads and builds batches, another makes them durable, so that the next batch is built while the engine, which
does not hold the interpreter's lock, inserts the last one. Why nothing is lost and nothing comes twice:

1. Each partition is read in order from the offset after the last one in the table (`positions_in`), and batches are
   inserted in the order in which they were read. So what the table has of a partition is contiguous.
2. A batch is one insert, one block, one part: a kill -9 leaves all of it or nothing (`clickhouse.INSERT_SETTINGS`).
3. Where an insert's outcome is unknown, the table is asked for the batch's ingest time, which no other batch has. On a
   server it may still be under way when we give up waiting: it is sent again with its token, and one of both counts.
4. Before a batch is inserted, Kafka is asked whether its topics still are the incarnations as which they were read.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
import uuid
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from sluice_observability.domain import arrow
from sluice_observability.domain.places import Gap, Place, Progress
from sluice_observability.domain.policy import SinkPolicy
from sluice_observability.handlers.marks import mark_rows
from sluice_observability.handlers.positions import GrowingClock, gap_rows, position_rows, with_ingest_time
from sluice_observability.handlers.refusals import Checker, DeadLetterOffice, Refused
from sluice_observability.ports import Database, LogSource, StoreUnavailable
from sluice_runtime.broker import BrokerUnavailable, TopicPartition

logger = logging.getLogger(__name__)
R = TypeVar("R")


class Columns(Protocol):
    """Builds the rows of a batch; `adapters.columns.LogColumns`."""

    rows: int
    value_bytes: int

    def add(self, messages: Any, names: Any) -> None:
        """Adds records."""
        ...

    def take(self) -> Any:
        """Returns the rows as a `pyarrow.Table` and begins anew."""
        ...


@dataclass(frozen=True, slots=True)
class Batch:
    """What was read and is to be made durable."""

    rows: Any
    refused: Sequence[Refused]
    progress: Sequence[Progress]
    gaps: Sequence[Gap]


@dataclass(slots=True)
class SinkFigures:
    """What the sink did, for metrics and readiness. Written by one thread each, read by any."""

    rows: int = 0
    batches: int = 0
    dead_letters: int = 0
    gaps: int = 0
    failures: int = 0
    waiting_for: str | None = None
    through: Mapping[TopicPartition, int] = field(default_factory=dict)
    """How far each partition is in the database, when that was written down last."""


class Sink:
    """Reads and writes until it is stopped.

    Args:
        source: Where records come from; begins where the table ends.
        columns: Builds rows.
        database: Where they go.
        checker: Finds what is invalid.
        letters: Writes dead letters.
        clock: Strictly growing, beyond everything in the table.
        loop: Runs the coroutines of the broker's port.
    """

    def __init__(
        self,
        source: LogSource,
        columns: Columns,
        database: Database,
        checker: Checker,
        letters: DeadLetterOffice,
        clock: GrowingClock,
        loop: asyncio.AbstractEventLoop,
        policy: SinkPolicy = SinkPolicy(),
    ) -> None:
        self.figures = SinkFigures()
        self._source = source
        self._columns = columns
        self._database = database
        self._letters = letters
        self._clock = clock
        self._loop = loop
        self._policy = policy
        self._checker = checker
        self._batches: queue.Queue[Batch | None] = queue.Queue(maxsize=1)
        self._stopping = threading.Event()
        self._writer_ended = threading.Event()
        self._recorded: dict[Place, Progress] = {}
        self._committed: dict[Place, int] = {}
        self._record_at = self._commit_at = 0.0

    async def run(self, stop: asyncio.Event) -> None:
        """Runs until `stop` is set, then makes durable what was read.

        Raises:
            Exception: What is neither a broker nor a database that is away: a defect, or a fatal client error. The
                process must end; the next one goes on from the table.
        """
        reading = asyncio.create_task(asyncio.to_thread(self._read))
        writing = asyncio.create_task(asyncio.to_thread(self._write_all))
        stopped = asyncio.create_task(stop.wait())
        await asyncio.wait({reading, writing, stopped}, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        self._stopping.set()
        await asyncio.gather(reading, writing)

    # Reading

    def _read(self) -> None:
        try:
            while not self._stopping.is_set():
                batch = self._next_batch()
                if batch is not None:
                    self._hand_over(batch)
        finally:
            self._stopping.set()
            self._hand_over(None)
            self._writer_ended.wait()  # the writer asks the source about topics, and tells it positions
            self._source.close()

    def _next_batch(self) -> Batch | None:
        policy, columns = self._policy, self._columns
        interval_s = policy.flush_interval_ms / 1_000
        refused: list[Refused] = []
        begun = time.monotonic()
        while True:
            messages = self._source.poll(policy.poll_max_messages, interval_s)
            if messages:
                columns.add(messages, self._source.names)
                refused += self._checker.invalid(messages)
            full = columns.rows >= policy.batch_max_rows or columns.value_bytes >= policy.batch_max_value_bytes
            if full or len(messages) < policy.poll_max_messages or time.monotonic() - begun >= interval_s:
                break
        due = time.monotonic() >= self._record_at
        gaps = self._source.take_gaps()
        if not (columns.rows or due or gaps):
            return None
        progress = self._source.progress() if due else ()
        if due:
            self._record_at = time.monotonic() + policy.positions_interval_ms / 1_000
        return Batch(columns.take() if columns.rows else None, refused, progress, gaps)

    def _hand_over(self, batch: Batch | None) -> None:
        """Waits for the writer: while the database is away nothing more is read, and Kafka keeps the rest."""
        while True:
            try:
                self._batches.put(batch, timeout=0.2)
                return
            except queue.Full:
                if self._writer_ended.is_set():
                    return  # what is dropped here is not in the table, so it will be read again

    # Writing

    def _write_all(self) -> None:
        try:
            while (batch := self._batches.get()) is not None:
                self._write(batch)
        except _Stopped:
            logger.warning("stopped while the last batch could not be written; it will be read again")
        finally:
            self._writer_ended.set()
            self._stopping.set()

    def _write(self, batch: Batch) -> None:
        rows, gaps = batch.rows, list(batch.gaps)
        if rows is not None:
            rows, dropped = self._of_living_topics(rows)
            gaps += dropped
            self._refuse(batch.refused)
        if rows is not None and rows.num_rows:
            self._mark(rows)
            self._insert(rows)
        if gaps:
            found = gap_rows(gaps, self._clock.now_ms())
            self._until_done("ClickHouse", lambda: self._database.insert("gaps", found))
            self.figures.gaps += len(gaps)
        changed = [one for one in batch.progress if self._recorded.get(one.place) != one]
        if changed:
            recorded = position_rows(changed, self._clock.now_ms())
            self._until_done("ClickHouse", lambda: self._database.insert("positions", recorded))
            self._recorded.update((one.place, one) for one in changed)
            self.figures.through = {
                TopicPartition(one.place.topic, one.place.partition): one.consumed_through for one in batch.progress
            }
            self._publish()

    def _of_living_topics(self, rows: Any) -> tuple[Any, list[Gap]]:
        """Leaves out the rows of topics that were deleted and made anew: of which incarnation they are is not known."""
        read_as = rows.select(["topic", "incarnation"]).group_by(["topic", "incarnation"]).aggregate([]).to_pylist()
        incarnations = {one["topic"]: one["incarnation"] for one in read_as}
        stale = self._until_done("Kafka", lambda: self._source.stale_topics(incarnations))
        if not stale:
            return rows, []
        logger.error("topics %s were deleted and made anew; reading them from their beginning", sorted(stale))
        self._source.reread(stale)
        names = rows["topic"].cast(pa.string())
        is_stale = pc.is_in(names, arrow.strings(sorted(stale)))
        return rows.filter(pc.invert(is_stale)), _gaps_of(rows.filter(is_stale))

    def _refuse(self, refused: Sequence[Refused]) -> None:
        if refused:
            written = self._until_done("Kafka", lambda: self._await(self._letters.write(refused)))
            self.figures.dead_letters += written
            logger.warning("%d invalid records; %d new dead letters", len(refused), written)

    def _mark(self, rows: Any) -> None:
        """Before the rows, so that what the log has is marked whatever dies in between; twice is as good as once."""
        marks = mark_rows(rows)
        if marks.num_rows:
            self._until_done("ClickHouse", lambda: self._database.insert("pipeline_marks", marks))

    def _insert(self, rows: Any) -> None:
        ingest_ms = self._clock.now_ms()
        rows = with_ingest_time(rows, ingest_ms)
        token = str(uuid.uuid4())  # never that of another batch, whose rows it would drop
        tried = False

        def insert_once() -> None:
            nonlocal tried
            if tried and self._is_there(ingest_ms):
                return
            tried = True
            self._database.insert("log", rows, token=token)

        self._until_done("ClickHouse", insert_once)
        self.figures.rows += rows.num_rows
        self.figures.batches += 1

    def _is_there(self, ingest_ms: int) -> bool:
        query = "SELECT 1 FROM log WHERE ingest_time = fromUnixTimestamp64Milli({at:Int64}, 'UTC') LIMIT 1"
        return bool(self._database.rows(query, {"at": ingest_ms}))

    def _publish(self) -> None:
        now = time.monotonic()
        if now >= self._commit_at:
            self._commit_at = now + self._policy.group_commit_interval_ms / 1_000
            through = {place: one.consumed_through for place, one in self._recorded.items()}
            self._source.publish_position(
                {place: offset for place, offset in through.items() if self._committed.get(place) != offset}
            )
            self._committed = through

    def _await(self, work: Coroutine[Any, Any, R]) -> R:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _until_done(self, what: str, work: Callable[[], R]) -> R:
        """Tries until it works or the sink is stopped: a component that is away is never poison."""
        failures = 0
        while True:
            try:
                result = work()
                if failures:
                    self.figures.waiting_for = None
                    logger.warning("%s is back after %d failures", what, failures)
                return result
            except (StoreUnavailable, BrokerUnavailable) as error:
                failures += 1
                self.figures.failures += 1
                self.figures.waiting_for = f"{what}: {error}"
                wait_s = self._policy.backoff.wait_s(failures)
                logger.warning("%s is away, trying again in %.1f s: %s", what, wait_s, error)
                if self._stopping.wait(wait_s):
                    raise _Stopped from error


def _gaps_of(rows: Any) -> list[Gap]:
    """What the log lacks without these rows."""
    detail = "read while the topic was deleted and made anew: of which of both they were is not known"
    by_place = rows.group_by(["topic", "incarnation", "partition"])
    found = by_place.aggregate([("offset", "min"), ("offset", "max")]).to_pylist()
    return [
        Gap(
            Place(one["topic"], one["incarnation"], one["partition"]), one["offset_min"], one["offset_max"] + 1,
            "recreated", detail,
        )
        for one in found
    ]  # fmt: skip


class _Stopped(Exception):
    """The sink is to end while it waits for a component."""
