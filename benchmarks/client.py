"""Another system that starts pipelines and watches the topics, as cheaply as it can: it shares the cores."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable
from types import TracebackType
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from benchmarks.installation import PREFIX, Installation
from sluice_contracts import codec, ids
from sluice_contracts.envelope import CloudEvent
from sluice_contracts.messages.pipeline import PipelineSpawn
from sluice_contracts.messages.plan import Limits, Plan, TaskSpec

ENDED = frozenset({b"pipeline.completed", b"pipeline.failed", b"pipeline.cancelled", b"pipeline.refused"})
RUN_TIMEOUT_S = 120
"""A pipeline of the measures takes milliseconds to seconds; one that takes this long is lost, and that is a defect."""

Watch = Callable[[Any, dict[str, bytes]], None]


def headers_of(message: Any) -> dict[str, bytes]:
    """A record's headers by name."""
    return dict(message.headers)


def spawn_plan(model: str | None, role: str, *, unattended: bool = False) -> Plan:
    """One task without limits that could end it."""
    return Plan(
        objective="measure",
        tasks=(TaskSpec(id="t0", objective="work", role=role, timeout_s=86_400),),
        model=model,
        limits=Limits(max_iterations=10_000),
        unattended=unattended,
    )


class Client:
    """Spawns pipelines and hears how they end.

    Args:
        topics: What is watched besides `pipeline.events`, without prefix.
        watch: Is told of every record of those topics, with its headers.
    """

    def __init__(self, installation: Installation, topics: tuple[str, ...] = (), watch: Watch | None = None) -> None:
        self._arguments = installation.connection("admin").aiokafka()
        self._topics = [PREFIX + topic for topic in ("pipeline.events", *topics)]
        self._watch = watch
        self._waiting: dict[str, asyncio.Future[bytes]] = {}

    async def __aenter__(self) -> Client:
        self._producer = AIOKafkaProducer(**self._arguments, enable_idempotence=True, acks="all")
        await self._producer.start()
        self._consumer = await follow(self._arguments, self._topics)
        self._reading = asyncio.create_task(self._read())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)
        await self._consumer.stop()
        await self._producer.stop()

    async def spawn(self, plan: Plan) -> tuple[str, asyncio.Future[bytes]]:
        """Sends the command. Returns the pipeline's id, and a future of its terminal event's type."""
        key = str(uuid.uuid4())
        pipeline_id = ids.pipeline_id("bench", key)
        now_ms = time.time_ns() // 1_000_000
        event = CloudEvent(key, "bench", "bench", pipeline_id, now_ms, PipelineSpawn(plan=plan, dedupe_key=key))
        record = codec.encode(event, topic="pipeline.commands", key=pipeline_id)
        ended: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting[pipeline_id] = ended
        await self._producer.send(
            PREFIX + record.topic, value=record.value, key=record.key, headers=list(record.headers)
        )
        return pipeline_id, ended

    async def run(self, plan: Plan) -> str:
        """Spawns a pipeline and waits for its end.

        Raises:
            RuntimeError: It did not complete: what follows would measure something else.
        """
        pipeline_id, ended = await self.spawn(plan)
        async with asyncio.timeout(RUN_TIMEOUT_S):
            kind = await ended
        if kind != b"pipeline.completed":
            raise RuntimeError(f"pipeline {pipeline_id} ended as {kind.decode()}; a measure's pipelines complete")
        return pipeline_id

    async def run_many(self, plan: Plan, *, at_once: int, each: int) -> float:
        """Keeps so many pipelines running, each place `each` times. Returns the seconds that all of it took."""

        async def place() -> None:
            for _ in range(each):
                await self.run(plan)

        begun = time.perf_counter()
        async with asyncio.TaskGroup() as places:
            for _ in range(at_once):
                places.create_task(place())
        return time.perf_counter() - begun

    async def _read(self) -> None:
        events = self._topics[0]
        while True:
            for messages in (await self._consumer.getmany(timeout_ms=500)).values():
                for message in messages:
                    headers = headers_of(message)
                    if message.topic != events:
                        assert self._watch is not None
                        self._watch(message, headers)
                    elif headers["ce_type"] in ENDED:
                        ended = self._waiting.pop(message.key.decode(), None)
                        if ended is not None and not ended.done():
                            ended.set_result(headers["ce_type"])


async def follow(arguments: dict[str, Any], topics: list[str]) -> AIOKafkaConsumer:
    """A consumer of all partitions of topics, from their ends now."""
    consumer = AIOKafkaConsumer(**arguments, group_id=None, enable_auto_commit=False, auto_offset_reset="latest")
    await consumer.start()
    partitions = [
        TopicPartition(topic, number) for topic in topics for number in sorted(await partitions_of(consumer, topic))
    ]
    consumer.assign(partitions)
    await consumer.seek_to_end(*partitions)
    return consumer


async def partitions_of(consumer: AIOKafkaConsumer, topic: str) -> set[int]:
    """The topic's partition numbers, once the client knows them."""
    while not (found := consumer.partitions_for_topic(topic)):
        await consumer._client.force_metadata_update()
        consumer._client.add_topic(topic)
        await asyncio.sleep(0.05)
    return set(found)
