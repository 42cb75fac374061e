"""The port to the broker: an ordered, partitioned, append-only log with consumer groups and fenced transactions.

`kafka.KafkaBroker` is the real one; `memory.MemoryBroker` keeps the same promises in memory for tests and simulation.
One suite (tests/conformance/test_broker.py) runs on both. Topic names have no prefix here; the adapter adds it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from sluice_contracts.envelope import OutgoingRecord, Record


class BrokerUnavailable(Exception):
    """The broker did not answer in time, or the outcome of a write is unknown. Start again from what is durable."""


class Fenced(Exception):
    """Somebody else owns this now. Stop, publish nothing more, and take over anew if the partition is still ours."""


@dataclass(frozen=True, slots=True, order=True)
class TopicPartition:
    """A partition of a topic."""

    topic: str
    partition: int


@dataclass(frozen=True, slots=True)
class Bounds:
    """The offsets of a partition: the first that still exists, and the one after the last."""

    first: int
    end: int


class Transaction(Protocol):
    """The right to write transactions under one transactional id. Whoever opens the id later fences this one."""

    async def write(self, records: Iterable[tuple[OutgoingRecord, int]]) -> None:
        """Appends all records, each with its partition, atomically: readers see all of them or none.

        They see them a moment after this returns (Kafka writes its commit markers behind the answer); whoever opens the
        transactional id afterwards sees them at once.

        Raises:
            Fenced: The transactional id was opened by somebody else since; nothing was written.
            BrokerUnavailable: The outcome is unknown.
        """
        ...

    async def close(self) -> None:
        """Gives the right up, in seconds. What was being written is there whole or not at all."""
        ...


PartitionsChanged = Callable[[frozenset[int]], Awaitable[None]]


class Subscription(Protocol):
    """Membership in a consumer group over co-partitioned topics: partition n of every topic goes to one member."""

    async def poll(self, timeout_ms: int) -> Mapping[TopicPartition, Sequence[Record]]:
        """Returns records of the assigned partitions that are not held, in their order; empty after the timeout.

        Raises:
            BrokerUnavailable: The broker is away.
        """
        ...

    def seek(self, positions: Mapping[TopicPartition, int]) -> None:
        """Reads on from these offsets; where an offset no longer exists, from the first that does."""
        ...

    async def position(self, at: TopicPartition) -> int:
        """The offset after the last one that `poll` has handed out or passed over."""
        ...

    async def heard_through_ms(self) -> int | None:
        """Until when (Unix time) `poll` has handed out all that was appended; None while that is not known.

        `poll` gives nothing, and raises nothing, both when nobody writes and when the broker is away: this tells the
        one from the other. It stands still while the broker does not answer, and is None while more is to be polled.

        Raises:
            BrokerUnavailable: The broker is away.
        """
        ...

    def hold(self, partitions: Iterable[TopicPartition]) -> None:
        """Stops handing out these partitions' records until they are released."""
        ...

    def release(self, partitions: Iterable[TopicPartition]) -> None:
        """Hands these partitions' records out again."""
        ...

    async def commit(self, positions: Mapping[TopicPartition, int]) -> None:
        """Tells the group how far its member has come. For deciding processors this only feeds lag tools."""
        ...

    async def close(self) -> None:
        """Leaves the group."""
        ...


class Broker(Protocol):
    """One door to the log."""

    async def append(self, record: OutgoingRecord, partition: int | None = None) -> int:
        """Appends one record, durably (acks=all, idempotent: never twice by a retry), and returns its offset.

        Records that one task appends to one partition, each after the other's return, keep their order.

        Raises:
            BrokerUnavailable: The outcome is unknown.
        """
        ...

    async def append_all(self, records: Sequence[OutgoingRecord]) -> None:
        """Appends records durably; those of one partition in the given order, and in the order of the calls.

        Raises:
            BrokerUnavailable: The outcome is unknown for some.
        """
        ...

    async def read(self, at: TopicPartition, start: int, end: int, handle: Callable[[Sequence[Record]], None]) -> None:
        """Hands all committed records with start <= offset < end to `handle`, in order, in bulk.

        Raises:
            BrokerUnavailable: The broker is away.
        """
        ...

    async def bounds(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, Bounds]:
        """The partitions' bounds at some moment between call and return."""
        ...

    async def offset_at(self, at: TopicPartition, timestamp_ms: int) -> int:
        """The offset of the first record whose timestamp is not below; the partition's end if there is none.

        Raises:
            BrokerUnavailable: The broker is away.
        """
        ...

    async def partitions(self, topic: str) -> int:
        """The partition count of a topic.

        Raises:
            BrokerUnavailable: The broker is away, or the topic does not exist: `sluice topics apply` creates it.
        """
        ...

    async def open_transaction(self, transactional_id: str) -> Transaction:
        """Opens a transactional id, fences whoever had it, and aborts what he had open."""
        ...

    async def trim(self, at: TopicPartition, before: int) -> None:
        """Deletes the records below an offset."""
        ...

    async def subscribe(
        self, topics: Sequence[str], group: str, *, assigned: PartitionsChanged, revoked: PartitionsChanged
    ) -> Subscription:
        """Joins a group. `assigned` and `revoked` are awaited with partition numbers, before the change takes effect.

        Newly assigned partitions are held until `release`. `assigned` may be awaited before this returns.
        """
        ...

    async def follow(self, topics: Sequence[str]) -> Subscription:
        """Reads all partitions of the topics, outside any group, from the offsets at which they end now.

        Raises:
            BrokerUnavailable: The broker is away, or a topic does not exist.
        """
        ...

    def partition_for(self, key: bytes, count: int) -> int:
        """The partition that a key belongs to: murmur2, Kafka's default partitioner."""
        ...
