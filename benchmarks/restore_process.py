"""Restores a partition's state beside a bare read of the same bytes; prints one JSON line.

    python -m benchmarks.restore_process CREDENTIALS_FILE PREFIX PIPELINES ROUNDS

The state is that of running pipelines, written by the spawner's own processor: journal, then a real checkpoint.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import uvloop
from aiokafka import AIOKafkaConsumer
from aiokafka import TopicPartition as KafkaPartition

from sluice_contracts import codec
from sluice_contracts.envelope import CloudEvent, OutgoingRecord, Record
from sluice_contracts.messages.admission import AdmissionGranted, AdmissionRequested
from sluice_contracts.messages.agent import AgentAttemptStarted, AgentRun, AgentTurnFinished
from sluice_contracts.messages.base import ArtifactRef, Body, Message, Usage
from sluice_contracts.messages.pipeline import PipelineSpawn
from sluice_contracts.messages.plan import Plan, TaskSpec
from sluice_runtime.broker import TopicPartition
from sluice_runtime.clock import SystemClock
from sluice_runtime.connection import KafkaConnection
from sluice_runtime.deciding import Entity
from sluice_runtime.kafka.broker import KafkaBroker
from sluice_runtime.metrics import Metrics
from sluice_runtime.processor import journal
from sluice_runtime.processor.partition import Partition
from sluice_runtime.processor.worker import ProcessorPolicy, Worker
from sluice_spawner.domain.policy import RoleCatalogue, SpawnerPolicy
from sluice_spawner.handlers import SpawnerDecider

INPUT, JOURNAL, STATE = "pipeline.commands", "pipeline.journal", "pipeline.state"
PIPELINES_PER_BATCH = 500
LOOK_S = 0.05
_DECIDER = SpawnerDecider(SpawnerPolicy(), RoleCatalogue({"researcher": "default"}, frozenset({"default"})))
_CODEC = journal.EntityCodec(_DECIDER.entity_type)


def template() -> tuple[str, str, dict[str, bytes]]:
    """A pipeline in its first task, after one turn, as the spawner decides it: pipeline id, agent id, state."""
    now_ms = time.time_ns() // 1_000_000
    pipeline_id = str(uuid.uuid4())
    state: dict[str, Entity] = {}

    def decide(data: Message) -> Any:
        event = CloudEvent(str(uuid.uuid4()), "bench", "bench", pipeline_id, now_ms, data)
        decision = _DECIDER.decide(state, event, now_ms)
        for key, entity in decision.deltas.items():
            if entity is None:
                state.pop(key, None)
            else:
                state[key] = entity
        return decision

    task = TaskSpec(id="t0", objective="Find what changed before the first error.", role="researcher", timeout_s=86_400)
    spawned = decide(PipelineSpawn(plan=Plan(objective="Find the cause.", tasks=(task,))))
    asked = next(one.event.data for one in spawned.outputs if isinstance(one.event.data, AdmissionRequested))
    started = decide(AdmissionGranted(slots=asked.slots, number=asked.number))
    agent_id = next(one.event.data.agent_id for one in started.outputs if isinstance(one.event.data, AgentRun))
    attempt: dict[str, Any] = {"agent_id": agent_id, "attempt": 1, "runner_id": "runner-0"}
    decide(AgentAttemptStarted(**attempt))
    decide(AgentTurnFinished(
        **attempt, turn=1, transcript=ArtifactRef(sha256="0" * 64, size_bytes=900), provider="scripted", model="m",
        finish_reason="stop", usage=Usage(input_tokens=1_200, output_tokens=40, cost_usd=0.004), model_ms=1_000,
        prompt=Body(text="[]"), response=Body(text="I look."),
    ))  # fmt: skip
    return pipeline_id, agent_id, {key: _CODEC.encode(entity) for key, entity in state.items()}


def batches(pipelines: int) -> Iterator[dict[str, bytes]]:
    """The template's state under the names of as many pipelines. Ids have one length, so bytes can be exchanged."""
    pipeline_id, agent_id, state = template()
    for first in range(0, pipelines, PIPELINES_PER_BATCH):
        deltas = {}
        for _ in range(first, min(first + PIPELINES_PER_BATCH, pipelines)):
            names = {pipeline_id: str(uuid.uuid4()), agent_id: str(uuid.uuid4())[: len(agent_id)]}
            for key, value in state.items():
                for old, new in names.items():
                    key, value = key.replace(old, new), value.replace(old.encode(), new.encode())
                deltas[key] = value
        yield deltas


def worker(broker: KafkaBroker, policy: ProcessorPolicy) -> Worker:
    """A new owner of the partition."""
    partition = Partition(0, _DECIDER, service="spawner", partition_of=lambda key: 0)
    return Worker(
        partition, broker=broker, clock=SystemClock(), metrics=Metrics("bench", "bench"), policy=policy,
        owner="bench", input_topics=[INPUT], journal_topic=JOURNAL, state_topic=STATE, transactional_id="bench-0",
    )  # fmt: skip


async def write_state(broker: KafkaBroker, pipelines: int) -> None:
    """Writes the journal, has a processor take it over, decide once, and checkpoint."""
    claim = journal.encode(journal.Claim(owner="bench", now_ms=0))
    epoch = await broker.append(OutgoingRecord(JOURNAL, b"0", claim), 0)
    now_ms = time.time_ns() // 1_000_000
    for deltas in batches(pipelines):
        batch = journal.Batch(epoch, now_ms, {}, dict(deltas), [], epoch)
        await broker.append(OutgoingRecord(JOURNAL, b"0", journal.encode(batch)), 0)
    writer = worker(broker, ProcessorPolicy(checkpoint_journal_bytes=1))
    await writer.take_over()
    running = asyncio.create_task(writer.run())
    refused = CloudEvent(str(uuid.uuid4()), "bench", "bench", str(uuid.uuid4()), now_ms, PipelineSpawn(
        plan=Plan(objective="o", tasks=(TaskSpec(id="t0", objective="o", role="none"),))))  # fmt: skip
    record = codec.encode(refused, topic=INPUT, key=refused.subject)
    offset = await broker.append(record, 0)
    writer.feed([_incoming(record, offset)], {})
    at = TopicPartition(JOURNAL, 0)
    while (await broker.bounds([at]))[at].first == 0 and not running.done():
        await asyncio.sleep(LOOK_S)  # the journal is trimmed when the checkpoint is durable
    writer.stop()
    await running


def _incoming(record: OutgoingRecord, offset: int) -> Record:
    return Record(record.topic, 0, offset, 0, record.key, record.value, record.headers)


async def take_over_s(broker: KafkaBroker, entities: int) -> float:
    """A new owner's takeover."""
    owner = worker(broker, ProcessorPolicy())
    begun = time.perf_counter()
    await owner.take_over()
    seconds = time.perf_counter() - begun
    if len(owner.partition.state) < entities:
        raise RuntimeError(f"{len(owner.partition.state)} entities of {entities} were restored")
    owner.stop()
    await owner.run()
    return seconds


async def bare_s(connection: KafkaConnection, topic: str, entities: int) -> float:
    """Reads the state topic with getmany and decodes every value into a dictionary."""
    consumer = AIOKafkaConsumer(
        **connection.aiokafka(), group_id=None, enable_auto_commit=False, isolation_level="read_committed",
        max_partition_fetch_bytes=4 * 1024 * 1024,
    )  # fmt: skip
    await consumer.start()
    at = KafkaPartition(topic, 0)
    first, end = (await consumer.beginning_offsets([at]))[at], (await consumer.end_offsets([at]))[at]
    begun = time.perf_counter()
    consumer.assign([at])
    consumer.seek(at, first)  # at once: a fetch that waits at the topic's end would be waited for
    state: dict[bytes, Entity] = {}
    while await consumer.position(at) < end:
        for messages in (await consumer.getmany(timeout_ms=500, max_records=10_000)).values():
            for message in messages:
                if message.value is not None and message.key != journal.CHECKPOINT_KEY:
                    state[message.key] = _CODEC.decode(message.value)
    seconds = time.perf_counter() - begun
    await consumer.stop()
    if len(state) < entities:
        raise RuntimeError(f"{len(state)} entities of {entities} were read")
    return seconds


async def main(credentials: Path, prefix: str, pipelines: int, rounds: int) -> None:
    """Writes the state once and restores it in turns, both ways."""
    connection = KafkaConnection.from_file(credentials)
    found: dict[str, list[float]] = {"ours": [], "bare": []}
    async with KafkaBroker(connection, prefix=prefix, client_id="bench-restore") as broker:
        entities = pipelines * len(template()[2])
        await write_state(broker, pipelines)
        for _ in range(rounds):
            gc.collect()
            found["bare"].append(await bare_s(connection, prefix + STATE, entities))
            gc.collect()
            found["ours"].append(await take_over_s(broker, entities))
    print(json.dumps({**found, "entities": entities}))


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
