"""One partition's deciding, without I/O: what the asyncio worker and the simulation both drive.

The order of calls is the protocol: `restore_*`, `claimed`, then again and again `decide`, (append the batch),
`appended`, (publish its outputs), `published`. Whoever drives it may crash between any two calls; a new object that is
restored from the log goes on, and nothing is lost, decided twice or said differently.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from sluice_contracts import codec, topics
from sluice_contracts.dead_letters import dead_letter
from sluice_contracts.envelope import CloudEvent, OutgoingRecord, Record
from sluice_contracts.errors import InvalidRecord, Refusal
from sluice_contracts.ids import derived_id
from sluice_contracts.messages.base import Message
from sluice_runtime.broker import Fenced
from sluice_runtime.deciding import Decider, Entity, Timer, TimerDue
from sluice_runtime.processor import journal
from sluice_runtime.processor.journal import Batch, Claim, EntityCodec, StoredOutput


class TooManyDeadLetters(Exception):
    """Our own services' records are refused one after the other: a bad deployment. Stop, and have a person look."""


class JournalTooLarge(Exception):
    """One input's decision does not fit into a journal record: a limit of the contract is missing. Stop."""


OWN_DEAD_LETTERS_MAX_COUNT = 100
"""Refused records of our own services in a row, without a valid one between. What stands on a topic that others may
write, too, does not count: nobody may stop the processor by sending rubbish."""

BATCH_MAX_BYTES = 1024 * 1024
"""A batch is closed once it has this many bytes. With the largest decision after it, which is of a record of 2 MiB, it
stays well below the journal topic's `max.message.bytes`."""

OUTPUT_OVERHEAD_BYTES = 512
"""Key, topic and headers of an output; those of a dead letter, which may be long, are counted."""

DeltaObserver = Callable[[str, Entity | None], None]


@dataclass(slots=True)
class Draft:
    """A batch as decided, to be appended to the journal."""

    batch: Batch
    value: bytes
    inputs: int
    refused: tuple[tuple[str, Refusal], ...] = ()  # topic and reason of each invalid record


@dataclass(frozen=True, slots=True)
class Injected:
    """An input that comes from no topic: a timer or a sensor. It is decided like any other."""

    event: CloudEvent[Message]


@dataclass(slots=True)
class _Restored:
    epoch: int = -1
    since_ms: int = 0  # when the oldest batch that may be unpublished was appended
    last_offset: int = -1
    unpublished: deque[tuple[int, list[StoredOutput]]] = field(default_factory=deque)


class Partition:
    """The state of one partition and its protocol.

    Args:
        number: The partition.
        decider: The service's decisions.
        service: The name that dead letters give as their source.
        partition_of: Maps a key to the partition that it belongs to.
        observe: Told of every change of an entity, also while restoring; for indexes such as the leases.
        durable: Told when all that was observed so far is durable, and ours; for those who act on it in the world.
        own_dead_letters_max: See `OWN_DEAD_LETTERS_MAX_COUNT`.
    """

    def __init__(
        self,
        number: int,
        decider: Decider,
        *,
        service: str,
        partition_of: Callable[[bytes], int],
        observe: DeltaObserver = lambda key, entity: None,
        durable: Callable[[], None] = lambda: None,
        own_dead_letters_max: int = OWN_DEAD_LETTERS_MAX_COUNT,
    ) -> None:
        self.number = number
        self.state: dict[str, Entity] = {}
        self.positions: dict[str, int] = {}
        self.now_ms = 0
        self.dirty: dict[str, Entity | None] = {}
        self.journal_bytes = 0
        self.published_unnoted = False  # whether the journal does not yet say that all outputs are published
        self._decider = decider
        self._entities = EntityCodec(decider.entity_type)
        self._service = service
        self._partition_of = partition_of
        self._observe = observe
        self._durable = durable
        self._heap: list[tuple[int, str, int]] = []
        self._restored = _Restored()
        self._own_dead_letters = 0
        self._own_dead_letters_max = own_dead_letters_max

    # Restoring

    def restore_checkpoint(self, records: Iterable[Record]) -> None:
        """Takes records of the state topic, in order, from its first to its last."""
        for record in records:
            assert record.key is not None
            if record.key == journal.CHECKPOINT_KEY:
                assert record.value is not None
                checkpoint = journal.decode_checkpoint(record.value)
                self._restored.last_offset = checkpoint.journal_offset
                self._restored.epoch = checkpoint.epoch
                self.positions = dict(checkpoint.positions)
                self.now_ms = checkpoint.now_ms
            else:
                entity = None if record.value is None else self._entities.decode(record.value)
                self._apply(record.key.decode(), entity)

    @property
    def journal_start(self) -> int:
        """The first journal offset that the checkpoint does not hold."""
        return self._restored.last_offset + 1

    def restore_journal(self, records: Iterable[Record]) -> None:
        """Takes journal records, in order, from `journal_start` up to and including our own claim.

        A batch whose epoch is not that of the last claim before it was written by somebody who had lost the partition;
        it never happened.
        """
        restored = self._restored
        for record in records:
            assert record.value is not None
            entry = journal.decode(record.value)
            self.journal_bytes += len(record.value)
            restored.last_offset = record.offset
            if isinstance(entry, Claim):
                restored.epoch = record.offset
                continue
            if entry.epoch != restored.epoch:
                continue
            for key, raw in entry.deltas.items():
                entity = None if raw is None else self._entities.decode(raw)
                self._apply(key, entity)
                self.dirty[key] = entity
            self.positions = entry.positions
            self.now_ms = max(self.now_ms, entry.now_ms)
            while restored.unpublished and restored.unpublished[0][0] <= entry.published_through:
                restored.unpublished.popleft()
            if entry.outputs:
                if not restored.unpublished:
                    restored.since_ms = record.timestamp_ms
                restored.unpublished.append((record.offset, entry.outputs))

    def claimed(self, offset: int) -> None:
        """Our claim stands at this offset, and all before it was restored.

        Raises:
            Fenced: The journal's last claim is not ours.
        """
        if self._restored.epoch != offset or self._restored.last_offset != offset:
            raise Fenced(f"partition {self.number}: the last claim is at {self._restored.epoch}, ours at {offset}")
        self._durable()

    def unpublished(self) -> list[OutgoingRecord]:
        """Outputs of durable batches that may not have been published: publish what lacks, then call `published`."""
        return [output.record() for _, outputs in self._restored.unpublished for output in outputs]

    @property
    def unpublished_since_ms(self) -> int:
        """When the first of them was decided, by the clock of who decided it. None can have been published before."""
        return self._restored.since_ms

    # Deciding

    def decide(self, inputs: Sequence[Record | Injected], now_ms: int) -> Draft:
        """Decides inputs in order, and gives the batch to append; takes fewer than given when the batch is full.

        A record below the position was decided before and is passed over. Time never runs backwards.

        Raises:
            TooManyDeadLetters: See there.
            Exception: What the decider raises: a defect; stop.
        """
        self.now_ms = now_ms = max(self.now_ms, now_ms)
        making = _Making(now_ms, self._entities)
        taken = 0
        for item in inputs:
            if making.size_bytes >= BATCH_MAX_BYTES:
                break
            taken += 1
            if isinstance(item, Injected):
                self._decide_event(item.event, making)
            elif item.offset >= self.positions.get(item.topic, 0):
                self._decide_record(item, making)
                self.positions[item.topic] = item.offset + 1
        batch = Batch(
            epoch=self._restored.epoch,
            now_ms=now_ms,
            positions=dict(self.positions),
            deltas=making.deltas,
            outputs=making.outputs,
            published_through=self._published_through,
        )
        return Draft(batch, journal.encode(batch), taken, tuple(making.refused))

    @property
    def _published_through(self) -> int:
        waiting = self._restored.unpublished
        return waiting[0][0] - 1 if waiting else self._restored.last_offset

    def _decide_record(self, record: Record, making: _Making) -> None:
        try:
            event = codec.decode(record)
            assert record.key is not None
            if topics.find(record.topic).partitioning == "pipeline":  # type: ignore[union-attr]
                codec.check_partition(record, self._partition_of(record.key))
        except InvalidRecord as fault:
            self._count_dead_letter(record, fault)
            row = topics.find(record.topic)
            if row is None or row.refused_by == self._service:  # of several readers one refuses; others pass it over
                making.refuse(record, fault, self._service)
            return
        self._own_dead_letters = 0
        self._decide_event(event, making)

    def _decide_event(self, event: CloudEvent[Message], making: _Making) -> None:
        decision = self._decider.decide(self.state, event, making.now_ms)
        for key, entity in decision.deltas.items():
            self._apply(key, entity)
            making.change(key, entity)
            self.dirty[key] = entity
        for output in decision.outputs:
            making.publish(codec.encode(output.event, topic=output.topic, key=output.key))

    def _count_dead_letter(self, record: Record, fault: InvalidRecord) -> None:
        row = topics.find(record.topic)
        if row is None or not all(writer in topics.SERVICES for writer in row.writers):
            return
        self._own_dead_letters += 1
        if self._own_dead_letters > self._own_dead_letters_max:
            writers = ", ".join(row.writers)
            raise TooManyDeadLetters(
                f"{self._own_dead_letters} records of {writers} in a row were refused, the last at {record.topic}"
                f"[{record.partition}]@{record.offset}: {fault}. Compare the releases of {writers} and {self._service}."
                " To let them all become dead letters, start once with SLUICE_OWN_DEAD_LETTERS_MAX_COUNT raised."
            )

    # Durability

    def appended(self, draft: Draft, offset: int, between: Sequence[Record] = ()) -> list[OutgoingRecord]:
        """The batch stands in the journal at this offset; returns what may now be published.

        Args:
            draft: The batch, as `decide` gave it.
            offset: Where the broker says that it stands.
            between: What stands between our last record and this one, where `offset` is not the next: a late batch of
                somebody who has lost the partition changes nothing, a claim means that we have lost it. So does a
                record that is not there any more: nobody but the owner trims.

        Raises:
            Fenced: Somebody else claimed the partition since our last record. Whether our batch counts, the journal
                says: publish nothing, join the group anew, and take over what is then given to us.
        """
        restored = self._restored
        missing = offset - restored.last_offset - 1 - len(between)
        if missing:
            raise Fenced(f"partition {self.number}: {missing} records before {offset} were trimmed, and not by us")
        for record in between:
            assert record.value is not None
            if isinstance(journal.decode(record.value), Claim):
                raise Fenced(f"partition {self.number}: claimed at {record.offset}; our batch is behind, at {offset}")
        restored.last_offset = offset
        self.journal_bytes += len(draft.value)
        self.published_unnoted = bool(draft.batch.outputs) or draft.batch.published_through < offset - 1
        if draft.batch.outputs:
            restored.unpublished.append((offset, draft.batch.outputs))
        self._durable()
        return [output.record() for output in draft.batch.outputs]

    def published(self, through: int) -> None:
        """The outputs of all batches up to this journal offset are published."""
        waiting = self._restored.unpublished
        while waiting and waiting[0][0] <= through:
            waiting.popleft()

    @property
    def last_offset(self) -> int:
        """The journal offset of our last record."""
        return self._restored.last_offset

    # Timers

    @property
    def next_due_ms(self) -> int | None:
        """When the next timer is due, or None."""
        while self._heap:
            due_at_ms, key, generation = self._heap[0]
            timer = self.state.get(key)
            if isinstance(timer, Timer) and timer.due_at_ms == due_at_ms and timer.generation == generation:
                return due_at_ms
            heapq.heappop(self._heap)  # deleted or replaced since
        return None

    def due(self, now_ms: int, max_count: int) -> list[Injected]:
        """Takes the timers that are due. Give them to `decide`, once everything in the log by then is decided."""
        fired: list[Injected] = []
        while len(fired) < max_count:
            due_at_ms = self.next_due_ms
            if due_at_ms is None or due_at_ms > now_ms:
                break
            _, key, generation = heapq.heappop(self._heap)
            timer = self.state[key]
            assert isinstance(timer, Timer)
            event = CloudEvent(
                id=derived_id("timer", timer.pipeline_id, timer.name, generation),
                source=self._service,
                tenant=timer.tenant,
                subject=timer.pipeline_id,
                time_ms=now_ms,
                data=TimerDue(name=timer.name, generation=generation),
            )
            fired.append(Injected(event))
        return fired

    # Checkpoints

    def take_dirty(self) -> tuple[Mapping[str, Entity | None], journal.Checkpoint]:
        """What changed since the last checkpoint, and the record that ends the next one.

        Only lawful between `appended` and the next `decide`: then the state is what the journal says.
        """
        changed, self.dirty = self.dirty, {}
        self.journal_bytes = 0
        through, epoch = self._published_through, self._restored.epoch
        assert through >= epoch, "what the last owner left unpublished is published before the first decision"
        return changed, journal.Checkpoint(
            journal_offset=through, epoch=epoch, now_ms=self.now_ms, positions=dict(self.positions)
        )

    def encode_entity(self, entity: Entity) -> bytes:
        """An entity's bytes on the state topic."""
        return self._entities.encode(entity)

    def _apply(self, key: str, entity: Entity | None) -> None:
        if entity is None:
            self.state.pop(key, None)
        else:
            self.state[key] = entity
            if isinstance(entity, Timer):
                heapq.heappush(self._heap, (entity.due_at_ms, key, entity.generation))
        self._observe(key, entity)


class _Making:
    """A batch in the making."""

    def __init__(self, now_ms: int, entities: EntityCodec) -> None:
        self.now_ms = now_ms
        self.deltas: dict[str, bytes | None] = {}
        self.outputs: list[StoredOutput] = []
        self.refused: list[tuple[str, Refusal]] = []
        self.size_bytes = 0
        self._entities = entities

    def change(self, key: str, entity: Entity | None) -> None:
        raw = None if entity is None else self._entities.encode(entity)
        self.deltas[key] = raw
        self.size_bytes += len(key) + len(raw or b"")

    def publish(self, record: OutgoingRecord) -> None:
        self.outputs.append(StoredOutput(record.topic, record.key, record.value, record.headers))
        self.size_bytes += len(record.value or b"") + OUTPUT_OVERHEAD_BYTES

    def refuse(self, record: Record, fault: InvalidRecord, service: str) -> None:
        letter = dead_letter(record, fault.reason, fault.detail, service, self.now_ms)
        self.publish(letter)
        self.size_bytes += sum(len(name) + len(value or b"") for name, value in letter.headers)
        self.refused.append((record.topic, fault.reason))
