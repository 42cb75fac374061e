"""One suite, two brokers: the log in memory, and real Kafka."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager

import pytest

from sluice_contracts import topics
from sluice_runtime.broker import Broker
from sluice_runtime.clock import SystemClock
from sluice_runtime.kafka.broker import KafkaBroker
from sluice_runtime.kafka.clients import KafkaTimeouts
from sluice_runtime.memory import MemoryBroker, MemoryGroups, MemoryLog
from tests.kafka import TestKafka

PARTITIONS = 2


class Installation:
    """One log, and as many clients of it as a test wants."""

    def __init__(self, connect: Callable[[], Broker], close: Callable[[], Awaitable[None]]) -> None:
        self.connect = connect
        self.close = close


@asynccontextmanager
async def memory_installation() -> AsyncIterator[Callable[[], Broker]]:
    names = {topic.name: topic.partitions for topic in topics.concrete_topics(queues=["q"], partitions=PARTITIONS)}
    log, groups = MemoryLog(names, SystemClock()), MemoryGroups()
    yield lambda: MemoryBroker(log, groups)


@asynccontextmanager
async def kafka_installation(
    kafka: TestKafka, timeouts: KafkaTimeouts = KafkaTimeouts()
) -> AsyncIterator[Callable[[], Broker]]:
    prefix = f"t{uuid.uuid4().hex[:8]}."
    await asyncio.to_thread(kafka.create_topics, prefix, ["q"], PARTITIONS)
    made: list[KafkaBroker] = []

    def connect() -> Broker:
        made.append(
            KafkaBroker(
                kafka.connection, prefix=prefix, client_id="conformance", session_timeout_ms=3_000, timeouts=timeouts
            )
        )
        return made[-1]

    try:
        yield connect
    finally:
        for broker in made:
            await broker.close()


@pytest.fixture(params=["memory", "kafka"])
def installation(request: pytest.FixtureRequest) -> Iterator[Callable[[], object]]:
    """A context manager that gives a function which connects a new client to one installation."""
    if request.param == "memory":
        yield memory_installation
    else:
        kafka = request.getfixturevalue("kafka")
        yield lambda: kafka_installation(kafka)
