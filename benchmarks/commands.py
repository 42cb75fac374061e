"""Another system that writes onto the gate's topics and waits for what comes of it, as cheaply as it can."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable
from typing import Any

from aiokafka import AIOKafkaProducer

from benchmarks.client import follow
from benchmarks.installation import PREFIX, Installation
from sluice_contracts import codec
from sluice_contracts.envelope import CloudEvent
from sluice_contracts.messages import Message

TENANT = "bench"
SOURCE = "bench"


class Gate:
    """Writes records about pipelines, and tells of every record that is written on other topics.

    Args:
        topics: What is watched, without prefix.
        watch: Is told of every record there: topic without prefix, type, key, and the record.
        prefix: The installation's.
    """

    def __init__(
        self,
        installation: Installation,
        topics: tuple[str, ...],
        watch: Callable[[str, str, str, Any], None],
        prefix: str = PREFIX,
    ) -> None:
        self._arguments = installation.connection("admin").aiokafka()
        self._topics = [prefix + topic for topic in topics]
        self._watch = watch
        self._prefix = prefix

    async def __aenter__(self) -> Gate:
        self._producer = AIOKafkaProducer(**self._arguments, enable_idempotence=True, acks="all")
        await self._producer.start()
        self._consumer = await follow(self._arguments, self._topics)
        self._reading = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *_: object) -> None:
        failed = self._reading if self._reading.done() else None
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)
        await self._consumer.stop()
        await self._producer.stop()
        if failed is not None:
            failed.result()  # what was waited for in vain

    async def say(self, topic: str, pipeline_id: str, data: Message) -> Any:
        """Hands a record over to be sent; what is returned, awaited, ends when Kafka has it."""
        event = CloudEvent(str(uuid.uuid4()), SOURCE, TENANT, pipeline_id, time.time_ns() // 1_000_000, data)
        record = codec.encode(event, topic=topic, key=pipeline_id)
        return await self._producer.send(
            self._prefix + record.topic, value=record.value, key=record.key, headers=list(record.headers)
        )

    async def _read(self) -> None:
        while True:
            for messages in (await self._consumer.getmany(timeout_ms=500)).values():
                for message in messages:
                    kind = next(value for name, value in message.headers if name == "ce_type").decode()
                    self._watch(message.topic.removeprefix(self._prefix), kind, message.key.decode(), message)
