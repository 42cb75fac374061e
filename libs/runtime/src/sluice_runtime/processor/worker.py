"""The asyncio driver of one partition: takes it over, decides batch after batch, publishes, checkpoints.

One batch is in flight to the journal at a time; meanwhile inputs gather, so that load makes batches larger and not
latency longer. Outputs are published behind the next batch's back. Every fault ends the worker: what is durable is in
the log, and the next worker begins there.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sluice_contracts.envelope import OutgoingRecord, Record
from sluice_runtime.broker import Broker, BrokerUnavailable, TopicPartition, Transaction
from sluice_runtime.clock import Clock
from sluice_runtime.deciding import Entity
from sluice_runtime.metrics import COMMIT_DURATION, RECORDS_REFUSED, RESTORE_DURATION, Metrics
from sluice_runtime.processor import journal
from sluice_runtime.processor.partition import Draft, Injected, JournalTooLarge, Partition
from sluice_runtime.processor.publishing import missing

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ProcessorPolicy:
    """Limits of a deciding processor."""

    batch_max_inputs: int = 500
    """Inputs in one batch: bounds the time in which a batch is decided to some ten milliseconds."""

    queued_inputs_max: int = 5_000
    queued_bytes_max: int = 32 * 1024 * 1024
    """Records waiting per partition; beyond it the partition is held: memory stays bounded whatever the backlog."""

    unpublished_batches_max: int = 64
    """Batches whose outputs are under way; beyond it deciding waits: a crash republishes at most these."""

    checkpoint_journal_bytes: int = 8 * 1024 * 1024
    """Journal growth after which the state is checkpointed: bounds what a restart has to replay."""

    checkpoint_chunk_entities: int = 500
    """Entities encoded at a stretch, so that a checkpoint never holds deciding up for more than some milliseconds."""

    journal_record_max_bytes: int = 8 * 1024 * 1024
    """Below the journal topic's `max.message.bytes` (`limits.STORE_RECORD_MAX_BYTES`)."""

    lag_interval_s: float = 5.0
    """How often the group, and the metric, are told how far this instance is."""

    lag_timeout_s: float = 5.0
    """After it that is given up until the next time: aiokafka would try for ever while the coordinator is away."""


class Worker:
    """Owns one partition from its takeover to its end.

    Args:
        partition: A new, empty one.
        input_topics: The co-partitioned topics that it folds.
        journal_topic: Where decisions become durable.
        state_topic: Where checkpoints go.
        transactional_id: Of the checkpoints; one per partition.
    """

    def __init__(
        self,
        partition: Partition,
        *,
        broker: Broker,
        clock: Clock,
        metrics: Metrics,
        policy: ProcessorPolicy,
        owner: str,
        input_topics: Sequence[str],
        journal_topic: str,
        state_topic: str,
        transactional_id: str,
    ) -> None:
        self.partition = partition
        self._broker = broker
        self._clock = clock
        self._commit_duration = metrics.histogram(COMMIT_DURATION)
        self._restore_duration = metrics.histogram(RESTORE_DURATION)
        self._metrics = metrics
        self._policy = policy
        self._owner = owner
        self._inputs = [TopicPartition(topic, partition.number) for topic in input_topics]
        self._journal = TopicPartition(journal_topic, partition.number)
        self._state = TopicPartition(state_topic, partition.number)
        self._transactional_id = transactional_id
        self._transaction: Transaction | None = None
        self._queue: deque[tuple[Record | Injected, int]] = deque()  # each with its bytes
        self._queued_bytes = 0
        self._sensed: deque[Injected] = deque()
        self._wake = asyncio.Event()
        self._stopping = False
        self._publishing: deque[tuple[int, asyncio.Task[None]]] = deque()
        self._fed_through: dict[str, int] = {}  # by topic
        self.waits_for_log = False
        self._checkpointing: asyncio.Task[None] | None = None

    # Taking over

    async def take_over(self) -> dict[TopicPartition, int]:
        """Fences the last owner, restores the state, publishes what he left; returns where to read on.

        The transactional id is opened before the claim: an owner that lost the partition can from then on neither
        checkpoint nor decide.
        """
        with self._restore_duration.time():
            return await self._take_over()

    async def _take_over(self) -> dict[TopicPartition, int]:
        self._transaction = await self._broker.open_transaction(self._transactional_id)
        claim = journal.Claim(owner=self._owner, now_ms=self._clock.now_ms())
        record = OutgoingRecord(self._journal.topic, b"%d" % self.partition.number, journal.encode(claim))
        offset = await self._broker.append(record, self.partition.number)
        bounds = await self._broker.bounds([self._state, self._journal])
        state = bounds[self._state]
        await self._broker.read(self._state, state.first, state.end, self.partition.restore_checkpoint)
        start = self.partition.journal_start
        if bounds[self._journal].first > start:
            raise RuntimeError(
                f"{self._journal.topic}[{self._journal.partition}] begins at {bounds[self._journal].first}, but the "
                f"checkpoint ends at {start - 1}: decisions are missing. Restore the topic from a backup."
            )
        await self._broker.read(self._journal, start, offset + 1, self.partition.restore_journal)
        self.partition.claimed(offset)
        await self._compare_with_inputs()
        unpublished = self.partition.unpublished()
        left = await missing(self._broker, unpublished, self.partition.unpublished_since_ms)
        if left:
            await self._broker.append_all(left)
        self.partition.published(offset)
        log.info(
            "took over partition %d at epoch %d: %d entities, %d outputs published again",
            self.partition.number, offset, len(self.partition.state), len(left),
        )  # fmt: skip
        self._fed_through = {at.topic: self.partition.positions.get(at.topic, 0) for at in self._inputs}
        return {at: self._fed_through[at.topic] for at in self._inputs}

    async def _compare_with_inputs(self) -> None:
        """An input topic must hold the place up to which it was decided."""
        bounds = await self._broker.bounds(self._inputs)
        for at in self._inputs:
            position = self.partition.positions.get(at.topic, 0)
            if position > bounds[at].end:
                raise RuntimeError(
                    f"{at.topic}[{at.partition}] was decided up to {position}, but ends at {bounds[at].end}: it was "
                    "deleted and made anew, or lost its end, and what is new in it would be taken for old. Restore the "
                    "topic from a backup, or begin a new installation under another topic prefix."
                )
            if position < bounds[at].first and position > 0:
                log.error(
                    "%s[%d]: records %d to %d were deleted before they were decided; lengthen the topic's retention",
                    at.topic, at.partition, position, bounds[at].first - 1,
                )  # fmt: skip

    # Inputs

    def feed(self, records: Iterable[Record], read_through: Mapping[TopicPartition, int]) -> bool:
        """Gives records of the input topics, in order; returns whether the partition should be held.

        Args:
            records: May be empty.
            read_through: While `waits_for_log`: per input, the offset after the last one read, whether or not a
                record stood there (transaction markers leave holes).
        """
        for record in records:
            size_bytes = record.size_bytes
            self._queue.append((record, size_bytes))
            self._queued_bytes += size_bytes
            self._fed_through[record.topic] = record.offset + 1
        self._fed_through.update((at.topic, offset) for at, offset in read_through.items())
        self._wake.set()
        policy = self._policy
        return len(self._queue) >= policy.queued_inputs_max or self._queued_bytes >= policy.queued_bytes_max

    def inject(self, inputs: Iterable[Injected]) -> None:
        """Gives inputs that a sensor made. They are decided after all that is in the log by now."""
        self._sensed.extend(inputs)
        self._wake.set()

    def answer(self, inputs: Iterable[Injected]) -> None:
        """Gives inputs that may come at any moment, whatever is in the log: they are decided as soon as a record is."""
        self._queue.extend((one, 0) for one in inputs)
        self._wake.set()

    @property
    def hungry(self) -> bool:
        """Whether a held partition may be released."""
        policy = self._policy
        return len(self._queue) < policy.queued_inputs_max // 2 and self._queued_bytes < policy.queued_bytes_max // 2

    def stop(self) -> None:
        """Asks the worker to end after the batch in flight; what is queued is read again by the next owner."""
        self._stopping = True
        self._wake.set()

    # Deciding

    async def run(self) -> None:
        """Decides until stopped.

        Raises:
            Fenced: Somebody else took the partition over.
            BrokerUnavailable: Take over anew once it is back.
            Exception: A defect; stop the process.
        """
        try:
            while not self._stopping:
                await self._wait_for_inputs()
                await self._decide_waiting()
            await self._hand_over()
        finally:
            await self.close()

    async def _hand_over(self) -> None:
        """Leaves nothing behind that the next owner would have to publish again."""
        last_offset = 0
        while self._publishing:
            last_offset, publishing = self._publishing.popleft()
            await publishing
            self.partition.published(last_offset)
        if self._checkpointing is not None:
            await self._checkpointing
        if self.partition.published_unnoted:
            await self._append(self.partition.decide((), self._clock.now_ms()))

    async def close(self) -> None:
        """Ends what was opened, also by a takeover that was cut off. What is durable stays as it is."""
        behind = [publishing for _, publishing in self._publishing]
        behind += [] if self._checkpointing is None else [self._checkpointing]
        for task in behind:
            task.cancel()
        transaction, self._transaction = self._transaction, None
        if transaction is not None:
            await transaction.close()
        await asyncio.gather(*behind, return_exceptions=True)  # a checkpoint that is cut off ends with its transaction

    async def _wait_for_inputs(self) -> None:
        while not (self._queue or self._stopping):
            self._wake.clear()
            await self._settle()  # what was published behind our back, and whether that failed
            wait_s = self._due_in_s()
            if self._sensed or wait_s == 0.0:
                break
            try:
                async with asyncio.timeout(wait_s):
                    await self._wake.wait()
            except TimeoutError:
                continue
        if not self._stopping and (self._sensed or self._due_in_s() == 0.0):
            await self._queue_timers_and_sensed()

    def _due_in_s(self) -> float | None:
        due_at_ms = self.partition.next_due_ms
        return None if due_at_ms is None else max(0.0, (due_at_ms - self._clock.now_ms()) / 1_000)

    async def _queue_timers_and_sensed(self) -> None:
        """Queues what is due behind all that is in the log now: a timer never overtakes what came before it."""
        now_ms = self._clock.now_ms()
        sensed = [self._sensed.popleft() for _ in range(len(self._sensed))]
        bounds = await self._broker.bounds(self._inputs)
        self.waits_for_log = True
        while not self._stopping and any(self._fed_through[at.topic] < bounds[at].end for at in self._inputs):
            if self._queue:
                await self._decide_waiting()
            else:
                self._wake.clear()
                await self._wake.wait()
        self.waits_for_log = False
        await self._decide_waiting()  # what is decided may disarm what is due
        # Before what came since: under load something always waits, and what is due would wait for ever.
        due = [*self.partition.due(now_ms, self._policy.batch_max_inputs), *sensed]
        self._queue.extendleft((one, 0) for one in reversed(due))

    async def _decide_waiting(self) -> None:
        """Decides what waits now; what comes meanwhile is left for the next time."""
        left = len(self._queue)
        while left > 0 and not self._stopping:
            await self._settle()
            left -= await self._decide_batch(min(left, self._policy.batch_max_inputs))

    async def _decide_batch(self, max_inputs: int) -> int:
        inputs = [self._queue.popleft() for _ in range(max_inputs)]
        draft = self.partition.decide([one for one, _ in inputs], self._clock.now_ms())
        self._queue.extendleft(reversed(inputs[draft.inputs :]))
        self._queued_bytes -= sum(size_bytes for _, size_bytes in inputs[: draft.inputs])
        for topic, reason in draft.refused:
            log.warning("%s[%d]: a record is refused: %s", topic, self.partition.number, reason)
            self._metrics.counter(RECORDS_REFUSED, topic=topic, reason=reason).inc()
        outputs = await self._append(draft)
        if outputs:
            publishing = self._behind(self._broker.append_all(outputs))
            self._publishing.append((self.partition.last_offset, publishing))
        if self._checkpointing is None and self.partition.journal_bytes >= self._policy.checkpoint_journal_bytes:
            self._checkpointing = self._behind(self._checkpoint(*self.partition.take_dirty()))
        return draft.inputs

    def _behind(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Does something behind the next batch's back; a worker that waits for inputs looks at how it ended."""
        task = asyncio.ensure_future(work)
        task.add_done_callback(lambda _: self._wake.set())
        return task

    async def _append(self, draft: Draft) -> list[OutgoingRecord]:
        if len(draft.value) > self._policy.journal_record_max_bytes:
            raise JournalTooLarge(f"a batch of {draft.inputs} inputs has {len(draft.value)} bytes")
        record = OutgoingRecord(self._journal.topic, b"%d" % self.partition.number, draft.value)
        with self._commit_duration.time():
            offset = await self._broker.append(record, self.partition.number)
        expected = self.partition.last_offset + 1
        if offset < expected:
            raise BrokerUnavailable(f"{self._journal.topic}: the broker does not say where the batch stands ({offset})")
        between: list[Record] = []
        if offset > expected:
            await self._broker.read(self._journal, expected, offset, between.extend)
        return self.partition.appended(draft, offset, between)

    async def _settle(self) -> None:
        """Takes note of what is published and of faults behind our back; waits if too much is under way."""
        while self._publishing:
            offset, publishing = self._publishing[0]
            if not publishing.done() and len(self._publishing) < self._policy.unpublished_batches_max:
                break
            await publishing
            self._publishing.popleft()
            self.partition.published(offset)
        if self._checkpointing is not None and self._checkpointing.done():
            await self._checkpointing
            self._checkpointing = None

    async def _checkpoint(self, changed: Mapping[str, Entity | None], checkpoint: journal.Checkpoint) -> None:
        number = self.partition.number
        records: list[tuple[OutgoingRecord, int]] = []
        for index, (key, entity) in enumerate(changed.items(), start=1):
            value = None if entity is None else self.partition.encode_entity(entity)
            records.append((OutgoingRecord(self._state.topic, key.encode(), value), number))
            if index % self._policy.checkpoint_chunk_entities == 0:
                await asyncio.sleep(0)
        last = OutgoingRecord(self._state.topic, journal.CHECKPOINT_KEY, journal.encode(checkpoint))
        assert self._transaction is not None
        await self._transaction.write([*records, (last, number)])
        await self._broker.trim(self._journal, checkpoint.journal_offset + 1)
        log.info("checkpoint of partition %d: %d entities, journal trimmed to %d",
                 number, len(changed), checkpoint.journal_offset + 1)  # fmt: skip
