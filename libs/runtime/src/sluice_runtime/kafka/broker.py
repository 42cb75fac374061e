"""Kafka, by aiokafka: the real `broker.Broker`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.partitioner import murmur2

from sluice_contracts.envelope import OutgoingRecord, Record
from sluice_runtime.broker import Bounds, PartitionsChanged, TopicPartition
from sluice_runtime.connection import KafkaConnection
from sluice_runtime.kafka.clients import KafkaTimeouts, kill, started, stop
from sluice_runtime.kafka.errors import TRANSLATED, Translated
from sluice_runtime.kafka.names import KafkaNames
from sluice_runtime.kafka.subscription import KafkaSubscription
from sluice_runtime.kafka.unreadable import read_past

REQUEST_TIMEOUT_MS = 15_000
"""After this long without an answer a write's outcome is unknown, and whoever waits starts again from the log."""

REQUEST_MAX_BYTES = 16 * 1024 * 1024
"""Above the journal's largest record."""

BATCH_MAX_BYTES = 256 * 1024
"""aiokafka's default of 16 KiB cuts a busy partition's records into many small batches."""

FETCH_PARTITION_MAX_BYTES = 4 * 1024 * 1024
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
        timeouts: How long a broker that is away is waited for.
    """

    def __init__(
        self,
        connection: KafkaConnection,
        *,
        prefix: str,
        client_id: str,
        session_timeout_ms: int = 10_000,
        timeouts: KafkaTimeouts = KafkaTimeouts(),
    ) -> None:
        self.connection = connection
        self.timeouts = timeouts
        self._arguments: dict[str, Any] = {**connection.aiokafka(), "client_id": client_id}
        self._names = KafkaNames(prefix)
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
        """Ends all connections, in seconds; flushes first what was appended without waiting, if the broker answers."""
        producers, self._producers = self._producers, {}
        reader, self._reader = self._reader, None
        admin, self._admin = self._admin, None
        for producer in producers.values():
            await stop(producer, self.timeouts)
        if reader is not None:
            await stop(reader, self.timeouts)
        if admin is not None:
            await admin.close()

    # Writing

    async def append(self, record: OutgoingRecord, partition: int | None = None) -> int:
        """See `broker.Broker.append`."""
        with self._writing:
            async with asyncio.timeout(self.timeouts.write_s):
                sent = await self._send(await self._started_producer("single"), record, partition)
                metadata = await sent
        return int(metadata.offset)

    async def append_all(self, records: Sequence[OutgoingRecord]) -> None:
        """See `broker.Broker.append_all`."""
        with self._writing:
            async with asyncio.timeout(self.timeouts.write_s):
                async with self._ordering:  # a send may wait for metadata, and a later call must not overtake it
                    producer = await self._started_producer("bulk")
                    sent = [await self._send(producer, record, None) for record in records]
                for one in sent:
                    await one

    async def _send(self, producer: AIOKafkaProducer, record: OutgoingRecord, partition: int | None) -> Any:
        topic = self._names.full(record.topic)
        if partition is None:  # aiokafka would hash the key anew for each record, in Python: a tenth of a send
            partition = self.partition_for(record.key or b"", len(await producer.partitions_for(topic)))
        if record.key is None and record.value is None:  # a dead letter may be so; aiokafka takes it as a batch only
            batch = producer.create_batch()
            batch.append(key=None, value=None, timestamp=None, headers=list(record.headers))
            return await producer.send_batch(batch, topic, partition=partition)
        return await producer.send(
            topic,
            value=record.value,
            key=record.key,
            partition=partition,
            headers=list(record.headers),
        )

    async def _started_producer(self, purpose: Literal["single", "bulk"]) -> AIOKafkaProducer:
        # Two: aiokafka keeps one request in flight per broker, and a journal's append must not wait behind outputs.
        if (producer := self._producers.get(purpose)) is not None:
            return producer
        async with self._starting:
            if purpose not in self._producers:
                self._producers[purpose] = await started(AIOKafkaProducer(**self._arguments, **_WRITING), self.timeouts)
        return self._producers[purpose]

    async def open_transaction(self, transactional_id: str) -> KafkaTransaction:
        """See `broker.Broker.open_transaction`."""
        with TRANSLATED:
            producer = AIOKafkaProducer(
                **self._arguments, **_WRITING, transactional_id=self._names.full(transactional_id)
            )
            await started(producer, self.timeouts)
        return KafkaTransaction(self, producer)

    async def trim(self, at: TopicPartition, before: int) -> None:
        """See `broker.Broker.trim`."""
        with TRANSLATED:
            async with self._starting:
                if self._admin is None:
                    admin = AIOKafkaAdminClient(**self._arguments)
                    await admin.start()
                    self._admin = admin
            await self._admin.delete_records({self._names.kafka(at): RecordsToDelete(before_offset=before)})

    # Reading

    async def read(self, at: TopicPartition, start: int, end: int, handle: Callable[[Sequence[Record]], None]) -> None:
        """See `broker.Broker.read`."""
        if start >= end:
            return
        kafka = self._names.kafka(at)
        with self._looking:
            async with self._reading:
                reader = await self._started_reader()
                reader.assign([kafka])
                reader.seek(kafka, start)
                async with asyncio.timeout(self.timeouts.read_stalled_s) as stalled:
                    while (position := await reader.position(kafka)) < end:
                        records = [one for one in await self._read_on(reader, at, position) if one.offset < end]
                        if records:
                            handle(records)
                            stalled.reschedule(asyncio.get_running_loop().time() + self.timeouts.read_stalled_s)
                reader.unsubscribe()

    async def _read_on(self, reader: AIOKafkaConsumer, at: TopicPartition, position: int) -> Sequence[Record]:
        try:
            found = await reader.getmany(timeout_ms=POLL_WAIT_MS, max_records=READ_RECORDS_MAX)
        except UnicodeDecodeError:
            past = await asyncio.to_thread(read_past, self.connection, self._names, at, position, READ_RECORDS_MAX)
            if past.records:
                reader.seek(self._names.kafka(at), past.records[-1].offset + 1)
            return past.records
        return [self._names.record(message) for message in found.get(self._names.kafka(at), ())]

    async def bounds(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, Bounds]:
        """See `broker.Broker.bounds`."""
        wanted = [self._names.kafka(at) for at in partitions]
        with self._looking:
            reader = await self._started_reader()
            first, end = await asyncio.gather(reader.beginning_offsets(wanted), reader.end_offsets(wanted))
        return {at: Bounds(first[kafka], end[kafka]) for at, kafka in zip(partitions, wanted, strict=True)}

    async def offset_at(self, at: TopicPartition, timestamp_ms: int) -> int:
        """See `broker.Broker.offset_at`."""
        kafka = self._names.kafka(at)
        with self._looking:
            reader = await self._started_reader()
            found = (await reader.offsets_for_times({kafka: max(0, timestamp_ms)})).get(kafka)
            return int(found.offset) if found is not None else int((await reader.end_offsets([kafka]))[kafka])

    async def partitions(self, topic: str) -> int:
        """See `broker.Broker.partitions`."""
        with self._looking:
            producer = await self._started_producer("single")
            return len(await producer.partitions_for(self._names.full(topic)))

    async def _started_reader(self) -> AIOKafkaConsumer:
        async with self._starting:
            if self._reader is None:
                self._reader = await started(
                    AIOKafkaConsumer(**self._arguments, **_READING, group_id=None), self.timeouts
                )
        return self._reader

    async def subscribe(
        self, topics: Sequence[str], group: str, *, assigned: PartitionsChanged, revoked: PartitionsChanged
    ) -> KafkaSubscription:
        """See `broker.Broker.subscribe`."""
        consumer = AIOKafkaConsumer(
            **self._arguments,
            **_READING,
            group_id=self._names.full(group),
            partition_assignment_strategy=(RangePartitionAssignor,),
            session_timeout_ms=self._session_timeout_ms,
            heartbeat_interval_ms=max(300, self._session_timeout_ms // 5),
            rebalance_timeout_ms=30_000,
        )
        subscription = KafkaSubscription(self.connection, self._names, consumer, self.timeouts)
        listener = subscription.listener(assigned, revoked)
        consumer.subscribe([self._names.full(topic) for topic in topics], listener=listener)
        with TRANSLATED:
            await started(consumer, self.timeouts)
        return subscription

    async def follow(self, topics: Sequence[str]) -> KafkaSubscription:
        """See `broker.Broker.follow`."""
        counts = {topic: await self.partitions(topic) for topic in topics}
        partitions = [TopicPartition(topic, number) for topic, count in counts.items() for number in range(count)]
        bounds = await self.bounds(partitions)
        consumer = AIOKafkaConsumer(**self._arguments, **_READING, group_id=None)
        with TRANSLATED:
            await started(consumer, self.timeouts)
            consumer.assign([self._names.kafka(at) for at in partitions])
        subscription = KafkaSubscription(self.connection, self._names, consumer, self.timeouts)
        subscription.seek({at: bounds[at].end for at in partitions})
        return subscription

    def partition_for(self, key: bytes, count: int) -> int:
        """See `broker.Broker.partition_for`."""
        return _hash(key) % count

    def _abandon_producers(self) -> None:
        """Drops producers of whose last write nothing is known: an idempotent one would go on from its own number."""
        for producer in self._producers.values():
            kill(producer)
        self._producers = {}

    def _abandon_reader(self) -> None:
        if self._reader is not None:
            kill(self._reader)
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
            await stop(self._producer, self._broker.timeouts)
