"""The log in memory: the same promises as Kafka, for tests and for the simulation.

`MemoryLog` is the synchronous core, which the simulation drives step by step; `MemoryBroker` is one client of it behind
the `broker.Broker` port. Transactions leave a marker behind, so offsets have holes, as in Kafka.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from aiokafka.partitioner import murmur2

from sluice_contracts.envelope import OutgoingRecord, Record
from sluice_runtime.broker import Bounds, BrokerUnavailable, Fenced, PartitionsChanged, TopicPartition
from sluice_runtime.clock import Clock


def partition_for(key: bytes, count: int) -> int:
    """Kafka's default partitioner."""
    return (int(murmur2(key)) & 0x7FFFFFFF) % count


@dataclass(slots=True)
class _Partition:
    first: int = 0
    records: list[Record | None] = field(default_factory=list)  # None is a transaction's marker

    @property
    def end(self) -> int:
        return self.first + len(self.records)


class MemoryLog:
    """Topics, partitions and transactional ids.

    Args:
        topics: Partition counts by topic name.
    """

    def __init__(self, topics: Mapping[str, int], clock: Clock) -> None:
        self._counts = dict(topics)
        self._clock = clock
        self._partitions = {
            TopicPartition(topic, number): _Partition() for topic, count in topics.items() for number in range(count)
        }
        self._epochs: dict[str, int] = {}
        self.appended = asyncio.Event()

    def now_ms(self) -> int:
        """The log's time."""
        return self._clock.now_ms()

    def partitions(self, topic: str) -> int:
        """The partition count of a topic.

        Raises:
            BrokerUnavailable: The topic does not exist.
        """
        try:
            return self._counts[topic]
        except KeyError:
            raise BrokerUnavailable(f"topic {topic} does not exist; create it first") from None

    def append(self, record: OutgoingRecord, partition: int | None = None) -> int:
        """Appends a record and returns its offset."""
        if partition is None:
            partition = partition_for(record.key or b"", self.partitions(record.topic))
        log = self._log(TopicPartition(record.topic, partition))
        offset = log.end
        log.records.append(
            Record(
                record.topic, partition, offset, self._clock.now_ms(), record.key, record.value, record.headers
            )
        )  # fmt: skip
        self.appended.set()
        return offset

    def read(self, at: TopicPartition, start: int, end: int | None = None) -> list[Record]:
        """The records with start <= offset < end."""
        log = self._log(at)
        low = max(0, start - log.first)
        high = len(log.records) if end is None else max(0, end - log.first)
        return [record for record in log.records[low:high] if record is not None]

    def bounds(self, at: TopicPartition) -> Bounds:
        """The partition's bounds."""
        log = self._log(at)
        return Bounds(log.first, log.end)

    def trim(self, at: TopicPartition, before: int) -> None:
        """Deletes the records below an offset."""
        log = self._log(at)
        count = max(0, min(before, log.end) - log.first)
        del log.records[:count]
        log.first += count

    def open_transactional_id(self, transactional_id: str) -> int:
        """Opens a transactional id and returns the epoch that fences all before."""
        self._epochs[transactional_id] = self._epochs.get(transactional_id, -1) + 1
        return self._epochs[transactional_id]

    def write_transaction(
        self, transactional_id: str, epoch: int, records: Iterable[tuple[OutgoingRecord, int]]
    ) -> None:
        """Appends all records and a marker to each partition touched.

        Raises:
            Fenced: The id was opened again since.
        """
        if self._epochs[transactional_id] != epoch:
            raise Fenced(f"transactional id {transactional_id}: epoch {epoch}, now {self._epochs[transactional_id]}")
        touched = set()
        for record, partition in records:
            self.append(record, partition)
            touched.add(TopicPartition(record.topic, partition))
        for at in touched:
            self._log(at).records.append(None)

    def compact(self, at: TopicPartition) -> None:
        """Keeps only the last record of each key, and drops tombstones, as Kafka's cleaner may at any time."""
        log = self._log(at)
        last = {record.key: record.offset for record in log.records if record is not None}
        for index, record in enumerate(log.records):
            if record is not None and (last[record.key] != record.offset or record.value is None):
                log.records[index] = None

    def _log(self, at: TopicPartition) -> _Partition:
        self.partitions(at.topic)
        return self._partitions[at]


class MemoryGroups:
    """Consumer groups: partition n of all topics goes to one member, round robin in the order of joining."""

    def __init__(self) -> None:
        self._members: dict[str, list[MemorySubscription]] = {}
        self._changing = asyncio.Lock()

    async def join(self, group: str, member: MemorySubscription) -> None:
        """Adds a member; partitions move before this returns."""
        await self._change(group, [*self._members.get(group, []), member])

    async def leave(self, group: str, member: MemorySubscription) -> None:
        """Removes a member that may not be told any more, be it closed or believed dead."""
        await self._change(group, [one for one in self._members.get(group, []) if one is not member])

    async def _change(self, group: str, members: list[MemorySubscription]) -> None:
        async with self._changing:
            self._members[group] = members
            plan: dict[MemorySubscription, set[int]] = {member: set() for member in members}
            if members:
                for number in range(members[0].count):
                    plan[members[number % len(members)]].add(number)
            for member, numbers in plan.items():
                await member.lose(frozenset(member.numbers - numbers))
            for member, numbers in plan.items():
                await member.gain(frozenset(numbers - member.numbers))


class MemorySubscription:
    """Membership in a group of a `MemoryLog`."""

    def __init__(
        self,
        log: MemoryLog,
        groups: MemoryGroups,
        group: str,
        topics: Sequence[str],
        assigned: PartitionsChanged,
        revoked: PartitionsChanged,
    ) -> None:
        self.numbers: set[int] = set()
        self.count = log.partitions(topics[0])
        self._log = log
        self._groups = groups
        self._group = group
        self._topics = topics
        self._assigned = assigned
        self._revoked = revoked
        self._positions: dict[TopicPartition, int] = {}
        self._held: set[TopicPartition] = set()

    async def gain(self, numbers: frozenset[int]) -> None:
        """The group gives these partitions to this member."""
        if numbers:
            self.numbers |= numbers
            for at in (TopicPartition(topic, number) for topic in self._topics for number in numbers):
                self._positions[at] = self._log.bounds(at).first
                self._held.add(at)
            await self._assigned(numbers)

    async def lose(self, numbers: frozenset[int]) -> None:
        """The group takes these partitions away."""
        if numbers:
            await self._revoked(numbers)
            self.numbers -= numbers

    async def poll(self, timeout_ms: int) -> Mapping[TopicPartition, Sequence[Record]]:
        """See `broker.Subscription.poll`."""
        found = self._take()
        if not found:
            self._log.appended.clear()
            try:
                async with asyncio.timeout(timeout_ms / 1_000):
                    await self._log.appended.wait()
            except TimeoutError:
                pass
            found = self._take()
        else:
            await asyncio.sleep(0)
        return found

    def _take(self) -> dict[TopicPartition, list[Record]]:
        found = {}
        for at in self._positions:
            if at.partition in self.numbers and at not in self._held:
                bounds = self._log.bounds(at)
                records = self._log.read(at, self._positions[at], bounds.end)
                self._positions[at] = max(self._positions[at], bounds.end)
                if records:
                    found[at] = records
        return found

    async def position(self, at: TopicPartition) -> int:
        """See `broker.Subscription.position`."""
        return self._positions[at]

    def seek(self, positions: Mapping[TopicPartition, int]) -> None:
        """See `broker.Subscription.seek`."""
        for at, offset in positions.items():
            if at.partition in self.numbers:
                self._positions[at] = max(offset, self._log.bounds(at).first)

    async def heard_through_ms(self) -> int | None:
        """See `broker.Subscription.heard_through_ms`."""
        mine = [at for at in self._positions if at.partition in self.numbers]
        behind = any(self._positions[at] < self._log.bounds(at).end for at in mine)
        return None if behind or not mine else self._log.now_ms()

    def hold(self, partitions: Iterable[TopicPartition]) -> None:
        """See `broker.Subscription.hold`."""
        self._held |= set(partitions)

    def release(self, partitions: Iterable[TopicPartition]) -> None:
        """See `broker.Subscription.release`."""
        self._held -= set(partitions)
        self._log.appended.set()

    async def commit(self, positions: Mapping[TopicPartition, int]) -> None:
        """See `broker.Subscription.commit`."""

    async def close(self) -> None:
        """See `broker.Subscription.close`."""
        await self._groups.leave(self._group, self)


class MemoryTransaction:
    """A transactional id opened on a `MemoryLog`."""

    def __init__(self, log: MemoryLog, transactional_id: str) -> None:
        self._log = log
        self._id = transactional_id
        self._epoch = log.open_transactional_id(transactional_id)

    async def write(self, records: Iterable[tuple[OutgoingRecord, int]]) -> None:
        """See `broker.Transaction.write`."""
        self._log.write_transaction(self._id, self._epoch, records)

    async def close(self) -> None:
        """See `broker.Transaction.close`."""


class MemoryBroker:
    """One client of a `MemoryLog`."""

    def __init__(self, log: MemoryLog, groups: MemoryGroups) -> None:
        self._log = log
        self._groups = groups

    async def append(self, record: OutgoingRecord, partition: int | None = None) -> int:
        """See `broker.Broker.append`."""
        return self._log.append(record, partition)

    async def append_all(self, records: Sequence[OutgoingRecord]) -> None:
        """See `broker.Broker.append_all`."""
        for record in records:
            self._log.append(record)

    async def read(self, at: TopicPartition, start: int, end: int, handle: Callable[[Sequence[Record]], None]) -> None:
        """See `broker.Broker.read`."""
        handle(self._log.read(at, start, end))

    async def bounds(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, Bounds]:
        """See `broker.Broker.bounds`."""
        return {at: self._log.bounds(at) for at in partitions}

    async def offset_at(self, at: TopicPartition, timestamp_ms: int) -> int:
        """See `broker.Broker.offset_at`."""
        bounds = self._log.bounds(at)
        later = (one.offset for one in self._log.read(at, bounds.first) if one.timestamp_ms >= timestamp_ms)
        return next(later, bounds.end)

    async def partitions(self, topic: str) -> int:
        """See `broker.Broker.partitions`."""
        return self._log.partitions(topic)

    async def open_transaction(self, transactional_id: str) -> MemoryTransaction:
        """See `broker.Broker.open_transaction`."""
        return MemoryTransaction(self._log, transactional_id)

    async def trim(self, at: TopicPartition, before: int) -> None:
        """See `broker.Broker.trim`."""
        self._log.trim(at, before)

    async def subscribe(
        self, topics: Sequence[str], group: str, *, assigned: PartitionsChanged, revoked: PartitionsChanged
    ) -> MemorySubscription:
        """See `broker.Broker.subscribe`."""
        member = MemorySubscription(self._log, self._groups, group, topics, assigned, revoked)
        await self._groups.join(group, member)
        return member

    async def follow(self, topics: Sequence[str]) -> MemorySubscription:
        """See `broker.Broker.follow`."""

        async def ignore(numbers: frozenset[int]) -> None:
            pass

        groups = MemoryGroups()
        member = MemorySubscription(self._log, groups, "", topics, ignore, ignore)
        await groups.join("", member)
        partitions = [TopicPartition(topic, n) for topic in topics for n in range(self._log.partitions(topic))]
        member.seek({at: bounds.end for at, bounds in (await self.bounds(partitions)).items()})
        member.release(partitions)
        return member

    def partition_for(self, key: bytes, count: int) -> int:
        """See `broker.Broker.partition_for`."""
        return partition_for(key, count)
