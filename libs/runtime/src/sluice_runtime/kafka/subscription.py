"""Membership in a Kafka consumer group, by aiokafka."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener
from aiokafka import TopicPartition as KafkaPartition
from aiokafka.errors import IllegalStateError

from sluice_contracts.envelope import Record
from sluice_runtime.broker import PartitionsChanged, TopicPartition
from sluice_runtime.connection import KafkaConnection
from sluice_runtime.kafka.clients import KafkaTimeouts, stop
from sluice_runtime.kafka.errors import TRANSLATED
from sluice_runtime.kafka.names import KafkaNames
from sluice_runtime.kafka.unreadable import read_past

POLL_RECORDS_MAX = 2_000


class KafkaSubscription:
    """The `broker.Subscription` of a consumer.

    aiokafka reads a fetched record only when it is asked for: a record that it can't read fails the whole poll, after
    other partitions' records were taken out of its hands. So it is noted what was handed out, and a poll that failed
    goes back there.
    """

    def __init__(
        self, connection: KafkaConnection, names: KafkaNames, consumer: AIOKafkaConsumer, timeouts: KafkaTimeouts
    ) -> None:
        self._connection = connection
        self._names = names
        self._consumer = consumer
        self._timeouts = timeouts
        self._handed: dict[KafkaPartition, int] = {}  # where the next poll begins, in the present assignment

    def listener(self, assigned: PartitionsChanged, revoked: PartitionsChanged) -> ConsumerRebalanceListener:
        """What the consumer has to tell of its partitions."""
        return _Listener(self._consumer, self._handed, assigned, revoked)

    async def poll(self, timeout_ms: int) -> Mapping[TopicPartition, Sequence[Record]]:
        """See `broker.Subscription.poll`."""
        with TRANSLATED:
            if not await self._placed(timeout_ms):
                return {}
            try:
                found = await self._consumer.getmany(timeout_ms=timeout_ms, max_records=POLL_RECORDS_MAX)
            except UnicodeDecodeError:
                return await self._read_past_unreadable()
        self._handed.update((at, messages[-1].offset + 1) for at, messages in found.items())
        record = self._names.record
        return {self._names.ours(at): [record(message) for message in messages] for at, messages in found.items()}

    async def _placed(self, timeout_ms: int) -> bool:
        """Notes where partitions begin that nobody has placed by `seek`: there the group stands, as Kafka says."""
        unplaced = self._reading() - self._handed.keys()
        if not unplaced:
            return True
        try:
            async with asyncio.timeout(timeout_ms / 1_000):
                for at in unplaced:
                    self._handed[at] = await self._consumer.position(at)
        except (TimeoutError, IllegalStateError):  # Kafka has not said it yet, or the partition was just taken away
            return False
        return True

    def _reading(self) -> set[KafkaPartition]:
        return set(self._consumer.assignment() - self._consumer.paused())

    async def _read_past_unreadable(self) -> Mapping[TopicPartition, Sequence[Record]]:
        consumer, handed = self._consumer, self._handed
        moved = {at for at in self._reading() if await consumer.position(at) != handed.get(at)}
        for at in moved & handed.keys():
            consumer.seek(at, handed[at])
        found: dict[TopicPartition, Sequence[Record]] = {}
        # The partition that failed has records and did not move. Others may look so, too: they were not asked yet.
        for at in sorted(self._reading() & handed.keys(), key=lambda at: (at in moved, at)):
            start = handed[at]
            if (consumer.highwater(at) or 0) <= start:
                continue
            ours = self._names.ours(at)
            past = await asyncio.to_thread(read_past, self._connection, self._names, ours, start, POLL_RECORDS_MAX)
            if handed.get(at) != start:
                continue  # it was given to somebody else meanwhile, or placed elsewhere: what was read is not asked for
            if past.records:
                handed[at] = past.records[-1].offset + 1
                consumer.seek(at, handed[at])
                found[ours] = past.records
            if past.unreadable:
                break
        return found

    async def position(self, at: TopicPartition) -> int:
        """See `broker.Subscription.position`."""
        with TRANSLATED:
            return int(await self._consumer.position(self._names.kafka(at)))

    def seek(self, positions: Mapping[TopicPartition, int]) -> None:
        """See `broker.Subscription.seek`."""
        for at, offset in self._mine(positions).items():
            self._consumer.seek(at, offset)
            self._handed[at] = offset

    async def heard_through_ms(self) -> int | None:
        """See `broker.Subscription.heard_through_ms`."""
        consumer = self._consumer
        heard: list[int] = []
        with TRANSLATED:
            for at in consumer.assignment():
                end = consumer.last_stable_offset(at)  # of the last answer, as is its time
                if end is None or await consumer.position(at) < end:
                    return None
                heard.append(consumer.last_poll_timestamp(at))
        return min(heard, default=None)

    def hold(self, partitions: Iterable[TopicPartition]) -> None:
        """See `broker.Subscription.hold`."""
        self._consumer.pause(*self._mine(dict.fromkeys(partitions, 0)))

    def release(self, partitions: Iterable[TopicPartition]) -> None:
        """See `broker.Subscription.release`."""
        self._consumer.resume(*self._mine(dict.fromkeys(partitions, 0)))

    async def commit(self, positions: Mapping[TopicPartition, int]) -> None:
        """See `broker.Subscription.commit`."""
        with TRANSLATED:
            await self._consumer.commit(self._mine(positions))

    async def close(self) -> None:
        """See `broker.Subscription.close`."""
        with TRANSLATED:
            await stop(self._consumer, self._timeouts)

    def _mine(self, positions: Mapping[TopicPartition, int]) -> dict[KafkaPartition, int]:
        """Without what was revoked in the meantime: that is somebody else's now."""
        owned = self._consumer.assignment()
        wanted = {self._names.kafka(at): offset for at, offset in positions.items()}
        return {at: offset for at, offset in wanted.items() if at in owned}


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]
    def __init__(
        self,
        consumer: AIOKafkaConsumer,
        handed: dict[KafkaPartition, int],
        assigned: PartitionsChanged,
        revoked: PartitionsChanged,
    ) -> None:
        self._consumer = consumer
        self._handed = handed
        self._assigned = assigned
        self._revoked = revoked

    async def on_partitions_revoked(self, revoked: Iterable[KafkaPartition]) -> None:
        await self._revoked(frozenset(at.partition for at in revoked))

    async def on_partitions_assigned(self, assigned: Iterable[KafkaPartition]) -> None:
        self._consumer.pause(*assigned)
        self._handed.clear()  # every assignment begins where the group stands, also for a partition that stays ours
        await self._assigned(frozenset(at.partition for at in assigned))
