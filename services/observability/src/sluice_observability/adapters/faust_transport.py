"""Faust's Kafka transport, with what our topics need of it. Faust and mode have no types: nothing of them goes further.

Three things differ from Faust's own (faust-streaming 0.15.3):

- a record with a header whose name is not UTF-8 can't be read by aiokafka and would stop Faust's reader for good; here
  it is read past, as `sluice_runtime.kafka.subscription` does, and is an invalid record;
- only committed records are read;
- a fetch waits 250 ms, not 1.5 s: of each broker there is one at a time, and quiet partitions would delay others.
"""

from __future__ import annotations

import asyncio
import logging
from types import SimpleNamespace
from typing import Any

from aiokafka import TopicPartition as KafkaPartition
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread, Consumer, Transport

from sluice_contracts.envelope import Record
from sluice_runtime.connection import KafkaConnection
from sluice_runtime.kafka.names import KafkaNames
from sluice_runtime.kafka.unreadable import read_past

LOGGER = logging.getLogger("faust.sluice")
"""With Faust's own: it tells each of its steps there."""

FETCH_WAIT_MS = 250
PAST_MAX_RECORDS = 1_000


class SluiceThread(AIOKafkaConsumerThread):  # type: ignore[misc]
    """The thread that reads."""

    logger = LOGGER

    connection: KafkaConnection
    names: KafkaNames

    def on_crash(self, msg: str, *fmt: Any, **_: Any) -> None:
        """Called by Faust when the thread ends by an error; its own would print the trace as it is."""
        LOGGER.error(msg.format(*fmt), exc_info=True)

    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        consumer._isolation_level = "read_committed"
        consumer._fetch_max_wait_ms = FETCH_WAIT_MS
        return consumer

    async def _fetch_records(self, consumer: Any, active_partitions: Any, **options: Any) -> Any:
        before = {at: _position(consumer, at) for at in active_partitions}
        try:
            return await super()._fetch_records(consumer, active_partitions, **options)
        except UnicodeDecodeError:
            return await self._read_past_unreadable(consumer, before)

    async def _read_past_unreadable(self, consumer: Any, before: dict[Any, int | None]) -> dict[Any, list[Any]]:
        """Puts back what the failed fetch took out of aiokafka's hands, and reads beyond the record it failed at."""
        failed = []
        for at, start in before.items():
            if start is not None and _position(consumer, at) != start:
                consumer.seek(at, start)
            elif start is not None and (consumer.highwater(at) or 0) > start:
                failed.append((at, start))
        for at, start in failed:
            ours = self.names.ours(at)
            past = await asyncio.to_thread(read_past, self.connection, self.names, ours, start, PAST_MAX_RECORDS)
            if past.unreadable and at in consumer.assignment() and _position(consumer, at) == start:
                consumer.seek(at, past.records[-1].offset + 1)
                return {at: [_as_fetched(at, record) for record in past.records]}
        return {}


class SluiceTransport(Transport):  # type: ignore[misc]
    """Makes the consumers of an app.

    Args:
        url: As Faust wants it.
        app: The app.
        connection: For the records that aiokafka can't read.
        names: Our names and Kafka's.
    """

    def __init__(self, url: Any, app: Any, connection: KafkaConnection, names: KafkaNames, **options: Any) -> None:
        super().__init__(url, app, **options)

        class OurThread(SluiceThread):
            logger = LOGGER

        OurThread.connection, OurThread.names = connection, names

        class OurConsumer(Consumer):  # type: ignore[misc]
            logger = LOGGER

            def _new_consumer_thread(self) -> Any:
                return OurThread(self, loop=self.loop, beacon=self.beacon)

        self.Consumer = OurConsumer


def _position(consumer: Any, at: Any) -> int | None:
    subscription = consumer._subscription.subscription
    if subscription is None or subscription.assignment is None or at not in subscription.assignment.tps:
        return None
    state = subscription.assignment.state_value(at)
    return int(state.position) if state is not None and state.has_valid_position else None


def _as_fetched(at: KafkaPartition, record: Record) -> Any:
    return SimpleNamespace(
        topic=at.topic, partition=at.partition, offset=record.offset, timestamp=record.timestamp_ms, timestamp_type=0,
        headers=record.headers, key=record.key, value=record.value, checksum=None,
        serialized_key_size=len(record.key or b""), serialized_value_size=len(record.value or b""),
    )  # fmt: skip
