"""Kafka, by aiokafka: the real `broker.Broker`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, Literal

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRebalanceListener
from aiokafka import TopicPartition as KafkaPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.partitioner import murmur2

from sluice_contracts.envelope import OutgoingRecord, Record
from sluice_runtime.broker import Bounds, PartitionsChanged, TopicPartition
from sluice_runtime.connection import KafkaConnection
from sluice_runtime.kafka_errors import TRANSLATED, Translated, stop_behind
from sluice_runtime.kafka_unreadable import read_past

REQUEST_TIMEOUT_MS = 15_000
"""After this long without an answer a write's outcome is unknown, and whoever waits starts again from the log."""

WRITE_TIMEOUT_S = 20.0
"""aiokafka retries an idempotent write for ever; after this its outcome counts as unknown."""

REQUEST_MAX_BYTES = 16 * 1024 * 1024
"""Above the journal's largest record."""

BATCH_MAX_BYTES = 256 * 1024
"""aiokafka's default of 16 KiB cuts a busy partition's records into many small batches."""

FETCH_PARTITION_MAX_BYTES = 4 * 1024 * 1024
POLL_RECORDS_MAX = 2_000
READ_RECORDS_MAX = 10_000

POLL_WAIT_MS = 500
_WRITING: dict[str, Any] = {
    "enable_idempotence": True,
    "acks": "all",
    "linger_ms": 0,
    "max_batch_size": BATCH_MAX_BYTES,
    "max_request_size": REQUEST_MAX_BYTES,
    "request_timeout_ms": REQUEST_TIMEOUT_MS,
}
_READING: dict[str, Any] = {
    "enable_auto_commit": False,
    "auto_offset_reset": "earliest",
    "isolation_level": "read_committed",
    "max_partition_fetch_bytes": FETCH_PARTITION_MAX_BYTES,
    "fetch_max_wait_ms": POLL_WAIT_MS,
    "request_timeout_ms": REQUEST_TIMEOUT_MS,
    "max_poll_interval_ms": 300_000,
}


@lru_cache(maxsize=65_536)
def _hash(key: bytes) -> int:
    return int(murmur2(key)) & 0x7FFFFFFF


class KafkaBroker:
    """The log on Kafka. Use it as an async context manager.

    Args:
        connection: Where, and as whom.
        prefix: Before every topic, group and transactional id.
        client_id: Shown in Kafka's logs and metrics.
        session_timeout_ms: After this long without a heartbeat, a member's partitions go to others.
    """

    def __init__(
        self, connection: KafkaConnection, *, prefix: str, client_id: str, session_timeout_ms: int = 10_000
    ) -> None:
        self.connection = connection
        self._arguments: dict[str, Any] = {**connection.aiokafka(), "client_id": client_id}
        self._prefix = prefix
        self._session_timeout_ms = session_timeout_ms
        self._producers: dict[str, AIOKafkaProducer] = {}
        self._reader: AIOKafkaConsumer | None = None
        self._admin: AIOKafkaAdminClient | None = None
        self._starting = asyncio.Lock()
        self._reading = asyncio.Lock()
        self._ordering = asyncio.Lock()
        self._writing = Translated(self._abandon_producers)
        self._looking = Translated(self._abandon_reader)

    async def __aenter__(self) -> KafkaBroker:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends all connections; what was appended without waiting is flushed first."""
        producers, self._producers = self._producers, {}
        reader, self._reader = self._reader, None
        admin, self._admin = self._admin, None
        for producer in producers.values():
            await producer.stop()
        if reader is not None:
            await reader.stop()
        if admin is not None:
            await admin.close()

    # Writing

    async def append(self, record: OutgoingRecord, partition: int | None = None) -> int:
        """See `broker.Broker.append`."""
        with self._writing:
            async with asyncio.timeout(WRITE_TIMEOUT_S):
                sent = await self._send(await self._started_producer("single"), record, partition)
                metadata = await sent
        return int(metadata.offset)

    async def append_all(self, records: Sequence[OutgoingRecord]) -> None:
        """See `broker.Broker.append_all`."""
        with self._writing:
            async with asyncio.timeout(WRITE_TIMEOUT_S):
                async with self._ordering:  # a send may wait for metadata, and a later call must not overtake it
                    producer = await self._started_producer("bulk")
                    sent = [await self._send(producer, record, None) for record in records]
                for one in sent:
                    await one

    async def _send(self, producer: AIOKafkaProducer, record: OutgoingRecord, partition: int | None) -> Any:
        return await producer.send(
            self._prefix + record.topic,
            value=record.value,
            key=record.key,
            partition=partition,
            headers=list(record.headers),
        )

    async def _started_producer(self, purpose: Literal["single", "bulk"]) -> AIOKafkaProducer:
        # Two: aiokafka keeps one request in flight per broker, and a journal's append must not wait behind outputs.
        if (started := self._producers.get(purpose)) is not None:
            return started
        async with self._starting:
            if purpose not in self._producers:
                producer = AIOKafkaProducer(**self._arguments, **_WRITING)
                await _start(producer)
                self._producers[purpose] = producer
        return self._producers[purpose]

    async def open_transaction(self, transactional_id: str) -> KafkaTransaction:
        """See `broker.Broker.open_transaction`."""
        with TRANSLATED:
            producer = AIOKafkaProducer(
                **self._arguments, **_WRITING, transactional_id=f"{self._prefix}{transactional_id}"
            )
            await _start(producer)
        return KafkaTransaction(self, producer)

    async def trim(self, at: TopicPartition, before: int) -> None:
        """See `broker.Broker.trim`."""
        with TRANSLATED:
            async with self._starting:
                if self._admin is None:
                    admin = AIOKafkaAdminClient(**self._arguments)
                    await admin.start()
                    self._admin = admin
            await self._admin.delete_records({self._kafka(at): RecordsToDelete(before_offset=before)})

    # Reading

    async def read(self, at: TopicPartition, start: int, end: int, handle: Callable[[Sequence[Record]], None]) -> None:
        """See `broker.Broker.read`."""
        if start >= end:
            return
        kafka = self._kafka(at)
        with self._looking:
            async with self._reading:
                reader = await self._started_reader()
                reader.assign([kafka])
                reader.seek(kafka, start)
                while await reader.position(kafka) < end:
                    found = await reader.getmany(timeout_ms=POLL_WAIT_MS, max_records=READ_RECORDS_MAX)
                    records = [self._record(message) for message in found.get(kafka, ()) if message.offset < end]
                    if records:
                        handle(records)
                reader.unsubscribe()

    async def bounds(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, Bounds]:
        """See `broker.Broker.bounds`."""
        wanted = [self._kafka(at) for at in partitions]
        with self._looking:
            reader = await self._started_reader()
            first, end = await asyncio.gather(reader.beginning_offsets(wanted), reader.end_offsets(wanted))
        return {at: Bounds(first[kafka], end[kafka]) for at, kafka in zip(partitions, wanted, strict=True)}

    async def offset_at(self, at: TopicPartition, timestamp_ms: int) -> int:
        """See `broker.Broker.offset_at`."""
        kafka = self._kafka(at)
        with self._looking:
            reader = await self._started_reader()
            found = (await reader.offsets_for_times({kafka: max(0, timestamp_ms)})).get(kafka)
            return int(found.offset) if found is not None else int((await reader.end_offsets([kafka]))[kafka])

    async def partitions(self, topic: str) -> int:
        """See `broker.Broker.partitions`."""
        with self._looking:
            producer = await self._started_producer("single")
            return len(await producer.partitions_for(self._prefix + topic))

    async def _started_reader(self) -> AIOKafkaConsumer:
        async with self._starting:
            if self._reader is None:
                reader = AIOKafkaConsumer(**self._arguments, **_READING, group_id=None)
                await _start(reader)
                self._reader = reader
        return self._reader

    async def subscribe(
        self, topics: Sequence[str], group: str, *, assigned: PartitionsChanged, revoked: PartitionsChanged
    ) -> KafkaSubscription:
        """See `broker.Broker.subscribe`."""
        consumer = AIOKafkaConsumer(
            **self._arguments,
            **_READING,
            group_id=f"{self._prefix}{group}",
            partition_assignment_strategy=(RangePartitionAssignor,),
            session_timeout_ms=self._session_timeout_ms,
            heartbeat_interval_ms=max(300, self._session_timeout_ms // 5),
            rebalance_timeout_ms=30_000,
        )
        subscription = KafkaSubscription(self, consumer)
        listener = _Listener(consumer, assigned, revoked)
        consumer.subscribe([self._prefix + topic for topic in topics], listener=listener)
        with TRANSLATED:
            await _start(consumer)
        return subscription

    async def follow(self, topics: Sequence[str]) -> KafkaSubscription:
        """See `broker.Broker.follow`."""
        counts = {topic: await self.partitions(topic) for topic in topics}
        partitions = [TopicPartition(topic, number) for topic, count in counts.items() for number in range(count)]
        bounds = await self.bounds(partitions)
        consumer = AIOKafkaConsumer(**self._arguments, **_READING, group_id=None)
        with TRANSLATED:
            await _start(consumer)
            consumer.assign([self._kafka(at) for at in partitions])
            for at in partitions:
                consumer.seek(self._kafka(at), bounds[at].end)
        return KafkaSubscription(self, consumer)

    def partition_for(self, key: bytes, count: int) -> int:
        """See `broker.Broker.partition_for`."""
        return _hash(key) % count

    # Translation

    def _kafka(self, at: TopicPartition) -> KafkaPartition:
        return KafkaPartition(self._prefix + at.topic, at.partition)

    def _record(self, message: Any) -> Record:
        return Record(
            topic=message.topic.removeprefix(self._prefix),
            partition=message.partition,
            offset=message.offset,
            timestamp_ms=message.timestamp,
            key=message.key,
            value=message.value,
            headers=tuple(message.headers),
        )

    def _abandon_producers(self) -> None:
        """Drops producers of whose last write nothing is known: an idempotent one would go on from its own number."""
        for producer in self._producers.values():
            stop_behind(producer)
        self._producers = {}

    def _abandon_reader(self) -> None:
        if self._reader is not None:
            stop_behind(self._reader)
        self._reader = None


class KafkaTransaction:
    """A transactional producer that is kept open, so that a later one of the same id fences it."""

    def __init__(self, broker: KafkaBroker, producer: AIOKafkaProducer) -> None:
        self._broker = broker
        self._producer = producer

    async def write(self, records: Iterable[tuple[OutgoingRecord, int]]) -> None:
        """See `broker.Transaction.write`."""
        with TRANSLATED:
            async with self._producer.transaction():
                sent = [await self._broker._send(self._producer, record, partition) for record, partition in records]
                for one in sent:
                    await one

    async def close(self) -> None:
        """See `broker.Transaction.close`."""
        with TRANSLATED:
            await self._producer.stop()


class KafkaSubscription:
    """Membership in a Kafka consumer group."""

    def __init__(self, broker: KafkaBroker, consumer: AIOKafkaConsumer) -> None:
        self._broker = broker
        self._consumer = consumer

    async def poll(self, timeout_ms: int) -> Mapping[TopicPartition, Sequence[Record]]:
        """See `broker.Subscription.poll`."""
        try:
            with TRANSLATED:
                found = await self._consumer.getmany(timeout_ms=timeout_ms, max_records=POLL_RECORDS_MAX)
        except UnicodeDecodeError:
            return await self._read_past_unreadable()
        prefix, record = self._broker._prefix, self._broker._record
        return {
            TopicPartition(at.topic.removeprefix(prefix), at.partition): [record(message) for message in messages]
            for at, messages in found.items()
        }

    async def _read_past_unreadable(self) -> Mapping[TopicPartition, Sequence[Record]]:
        broker, consumer = self._broker, self._consumer
        found: dict[TopicPartition, Sequence[Record]] = {}
        with TRANSLATED:
            for at in consumer.assignment() - consumer.paused():
                start = await consumer.position(at)
                records = await asyncio.to_thread(read_past, broker.connection, at.topic, at.partition, start)
                if records:
                    consumer.seek(at, records[-1].offset + 1)
                    name = at.topic.removeprefix(broker._prefix)
                    found[TopicPartition(name, at.partition)] = [replace(one, topic=name) for one in records]
        return found

    async def position(self, at: TopicPartition) -> int:
        """See `broker.Subscription.position`."""
        with TRANSLATED:
            return int(await self._consumer.position(self._broker._kafka(at)))

    def seek(self, positions: Mapping[TopicPartition, int]) -> None:
        """See `broker.Subscription.seek`."""
        for at, offset in self._mine(positions).items():
            self._consumer.seek(at, offset)

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
            await self._consumer.stop()

    def _mine(self, positions: Mapping[TopicPartition, int]) -> dict[KafkaPartition, int]:
        """Without what was revoked in the meantime: that is somebody else's now."""
        owned = self._consumer.assignment()
        wanted = {self._broker._kafka(at): offset for at, offset in positions.items()}
        return {at: offset for at, offset in wanted.items() if at in owned}


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]
    def __init__(self, consumer: AIOKafkaConsumer, assigned: PartitionsChanged, revoked: PartitionsChanged) -> None:
        self._consumer = consumer
        self._assigned = assigned
        self._revoked = revoked

    async def on_partitions_revoked(self, revoked: Iterable[KafkaPartition]) -> None:
        await self._revoked(frozenset(at.partition for at in revoked))

    async def on_partitions_assigned(self, assigned: Iterable[KafkaPartition]) -> None:
        self._consumer.pause(*assigned)
        await self._assigned(frozenset(at.partition for at in assigned))


async def _start(client: Any) -> None:
    try:
        await client.start()
    except BaseException:
        await client.stop()
        raise
