"""The event log: how fast records get into ClickHouse, and how soon they are visible."""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
import uuid
from collections import deque
from functools import cache
from typing import Any

import httpx
from aiokafka import AIOKafkaProducer
from aiokafka.partitioner import murmur2
from confluent_kafka import Consumer, Producer, TopicPartition

from benchmarks.client import Client, spawn_plan
from benchmarks.installation import PARTITIONS, PREFIX, Installation
from benchmarks.results import Result, at_least, at_most, listed, result
from sluice_contracts import codec
from sluice_contracts.envelope import CloudEvent
from sluice_contracts.messages.pipeline import TaskStarted
from sluice_observability.domain.policy import SinkPolicy

_TOPICS = ("pipeline.events", "agent.events.default")

EVENTS_PER_S = 2_000
TICK_S = 0.005
LOOK_S = 0.02
VISIBLE_TIMEOUT_S = 60


async def sink_events_per_s(installation: Installation, *, quick: bool) -> list[Result]:
    """Drains a backlog of records of real pipelines, copied until there are enough."""
    rounds, records = (1, 40_000) if quick else (3, 150_000)
    async with Client(installation) as client:
        await client.run_many(spawn_plan(installation.model(10), "researcher"), at_once=32, each=2)
    prefix = await asyncio.to_thread(_fill, installation, records)
    ours: list[float] = []
    floor: list[float] = []
    for _ in range(rounds):
        floor.append(records / await _process(installation, "naive", prefix, records))
        ours.append(records / await _process(installation, "ours", prefix, records))
    return [
        result("sink_events_per_s", statistics.median(ours), "events/s",
               against="naive sink (confluent batch, msgspec, columnar chdb)", against_value=statistics.median(floor),
               goal=at_least(0.6),
               note="exactly once, with dead letters; a backlog of records of 10-turn pipelines with their headers: "
               f"pipeline.events, which the sink also validates, and agent.events; rounds {listed(ours)}, naive "
               f"{listed(floor)}")
    ]  # fmt: skip


def _fill(installation: Installation, records: int) -> str:
    """Copies what stands on the installation's topics, again and again, until there are so many records.

    Returns the prefix of the topics that hold them.
    """
    prefix = f"benchsink-{uuid.uuid4()}."
    installation.create_installation_topics(prefix, PARTITIONS)
    connection = installation.connection("admin").confluent()
    consumer = Consumer({**connection, "group.id": "bench-fill", "enable.auto.commit": False,
                         "enable.partition.eof": True})  # fmt: skip
    listed = consumer.list_topics(timeout=30).topics
    wanted = [
        TopicPartition(PREFIX + name, number, 0) for name in _TOPICS for number in listed[PREFIX + name].partitions
    ]
    consumer.assign(wanted)
    found: list[Any] = []
    ends = 0
    while ends < len(wanted):
        for message in consumer.consume(5_000, 1.0):
            if message.error() is None:
                found.append(message)
            else:
                ends += 1
    consumer.close()
    producer = Producer({**connection, "linger.ms": 50, "partitioner": "murmur2_random",
                         "queue.buffering.max.messages": 1_000_000})  # fmt: skip
    for number in range(records):
        message = found[number % len(found)]
        topic = message.topic().replace(PREFIX, prefix, 1)
        producer.produce(topic, message.value(), message.key(), headers=message.headers())
        producer.poll(0)
    if producer.flush(120):
        raise RuntimeError("Kafka did not take the records within 120 s")
    return prefix


async def _process(installation: Installation, way: str, prefix: str, records: int) -> float:
    directory = installation.directory / f"sink-{uuid.uuid4()}"
    directory.mkdir()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.sink_process", way, str(installation.credentials("admin")), prefix,
        str(directory), str(records), stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, _ = await process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"sink_process {way} ended with {process.returncode}")
    return float(json.loads(output)["seconds"])


async def visible_ms(installation: Installation, *, quick: bool) -> list[Result]:
    """From producing an event to the first SQL query that sees it, at a steady rate."""
    seconds = 4 if quick else 20
    sent: dict[int, float] = {}
    seen: dict[int, float] = {}
    async with Client(installation) as client:
        await client.run_many(spawn_plan(installation.model(10), "researcher"), at_once=4, each=1)
    prefix = await asyncio.to_thread(_fill, installation, 5_000)
    looking = asyncio.create_task(_look(installation, seen, EVENTS_PER_S * seconds))
    await _produce(installation, sent, EVENTS_PER_S * seconds)
    await looking
    taken = sorted((seen[number] - sent[number]) * 1_000 for number in sent)
    flush_ms = SinkPolicy().flush_interval_ms
    insert_ms = await _process(installation, "insert", prefix, EVENTS_PER_S * flush_ms // 1_000) * 1_000
    return [
        result("visible_ms_p99", taken[int(len(taken) * 0.99)], "ms",
               against=f"flush interval {flush_ms} ms + median insert", against_value=flush_ms + insert_ms,
               goal=at_most(3),
               note=f"{EVENTS_PER_S} events/s for {seconds} s, seen by a query over HTTP every {LOOK_S * 1_000:.0f} ms"
               f"; p50 {statistics.median(taken):.0f} ms; median insert {insert_ms:.1f} ms")
    ]  # fmt: skip


async def _produce(installation: Installation, sent: dict[int, float], count: int) -> None:
    arguments = installation.connection("spawner").aiokafka()
    producer = AIOKafkaProducer(**arguments, enable_idempotence=True, acks="all")
    await producer.start()
    begun = time.perf_counter()
    for number in range(count):
        late_s = begun + number / EVENTS_PER_S - time.perf_counter()
        if late_s > 0:
            await asyncio.sleep(max(late_s, TICK_S))
        pipeline = _key(number)
        data = TaskStarted(task_id="t0", agent_id="a0", attempt=1, runner_id="r0")
        moment = time.time_ns() // 1_000_000
        event = CloudEvent(str(uuid.uuid4()), "spawner", "visible", pipeline, moment, data, sequence=number)
        record = codec.encode(event, topic="pipeline.events", key=pipeline)
        sent[number] = time.perf_counter()
        await producer.send(PREFIX + record.topic, value=record.value, key=record.key, headers=list(record.headers))
    await producer.stop()


async def _look(installation: Installation, seen: dict[int, float], count: int) -> None:
    """Within a partition rows become visible in their order: the highest number seen there says it of all below."""
    url = f"http://127.0.0.1:{installation.stack.port('store')}/"
    query = "SELECT partition, max(sequence) FROM log WHERE tenant = 'visible' GROUP BY partition FORMAT JSONCompact"
    waiting: list[deque[int]] = [deque() for _ in range(PARTITIONS)]
    for number in range(count):
        waiting[_partition(number)].append(number)
    async with httpx.AsyncClient(timeout=VISIBLE_TIMEOUT_S) as http, asyncio.timeout(VISIBLE_TIMEOUT_S):
        while len(seen) < count:
            answer = await http.post(url, content=query)
            answer.raise_for_status()
            now = time.perf_counter()
            for partition, highest in answer.json()["data"]:
                numbers = waiting[int(partition)]
                while numbers and numbers[0] <= int(highest):
                    seen[numbers.popleft()] = now
            await asyncio.sleep(LOOK_S)


def _key(number: int) -> str:
    return f"visible-{number % 200}"


@cache
def _partition_of(key: str) -> int:
    return (int(murmur2(key.encode())) & 0x7FFFFFFF) % PARTITIONS


def _partition(number: int) -> int:
    return _partition_of(_key(number))
