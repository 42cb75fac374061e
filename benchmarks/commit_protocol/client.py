"""The other side, in a process of its own: topics, load, latency, and the check of exactly-once."""

from __future__ import annotations

import asyncio
import time
from collections import Counter

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from . import journal
from .instance import Topics
from .model import (
    PARTITIONS,
    Input,
    KeyState,
    decode_output,
    decode_state,
    encode_json,
    key_name,
    key_partition,
    next_chain,
)

KEYS = 64


async def create_topics(bootstrap: str, topics: Topics) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    compacted = {"cleanup.policy": "compact"}
    wanted = [
        NewTopic(topics.inputs, PARTITIONS, 1),
        NewTopic(topics.outputs, PARTITIONS, 1),
        NewTopic(topics.journal, PARTITIONS, 1),
        NewTopic(topics.state, PARTITIONS, 1, topic_configs=compacted),
    ]
    answer = await admin.create_topics(wanted)
    failed = [error for error in answer.topic_errors if error[1]]
    await admin.close()
    if failed:
        raise RuntimeError(f"topics were not created: {failed}")
    await asyncio.sleep(1)  # leaders are elected a moment after the answer


async def delete_topics(bootstrap: str, topics: Topics) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    await admin.delete_topics([topics.inputs, topics.outputs, topics.journal, topics.state])
    await admin.close()


class Client:
    """Produces inputs and sees outputs, first sight per id."""

    def __init__(self, bootstrap: str, topics: Topics, isolation_level: str) -> None:
        self._topics = topics
        self._producer = AIOKafkaProducer(bootstrap_servers=bootstrap, enable_idempotence=True, acks="all")
        self._consumer = AIOKafkaConsumer(
            bootstrap_servers=bootstrap,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level=isolation_level,
        )
        self._sent_at: dict[str, float] = {}
        self.on_output = lambda identifier, latency: None
        self.sent = Counter()
        self._number = 0
        self._reading: asyncio.Task | None = None

    async def start(self) -> None:
        await self._producer.start()
        await self._consumer.start()
        self._consumer.assign([TopicPartition(self._topics.outputs, number) for number in range(PARTITIONS)])
        self._reading = asyncio.create_task(self._read())

    async def stop(self) -> None:
        self._reading.cancel()
        await self._producer.stop()
        await self._consumer.stop()

    async def send(self) -> str:
        key_number = self._number % KEYS
        self._number += 1
        identifier = f"{key_number}-{self.sent[key_number]}"
        self.sent[key_number] += 1
        self._sent_at[identifier] = time.perf_counter()
        await self._producer.send(
            self._topics.inputs,
            encode_json(Input(identifier)),
            key_name(key_number),
            partition=key_partition(key_number),
        )
        return identifier

    @property
    def outstanding(self) -> int:
        return len(self._sent_at)

    async def _read(self) -> None:
        while True:
            fetched = await self._consumer.getmany(timeout_ms=1_000)
            now = time.perf_counter()
            for messages in fetched.values():
                for message in messages:
                    identifier = decode_output(message.value).id
                    sent_at = self._sent_at.pop(identifier, None)
                    if sent_at is not None:
                        self.on_output(identifier, now - sent_at)

    async def drain(self, timeout_seconds: float) -> int:
        """Wait until every input has its output; return how many have none."""
        deadline = time.monotonic() + timeout_seconds
        while self._sent_at and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        return len(self._sent_at)

    async def warm_up(self) -> None:
        """Touch every partition until outputs come back."""
        for _ in range(KEYS):
            await self.send()
        if await self.drain(60):
            raise RuntimeError("the processor does not answer")

    async def open_loop(self, rate_per_second: float, seconds: float, on_output=None) -> list[float]:
        latencies: list[float] = []
        self.on_output = on_output or (lambda _, latency: latencies.append(latency))
        start, sent = time.perf_counter(), 0
        while (elapsed := time.perf_counter() - start) < seconds:
            while sent < elapsed * rate_per_second:
                await self.send()
                sent += 1
            await asyncio.sleep(0.001)
        await self.drain(30)
        return latencies

    async def closed_loop(self, in_flight: int, seconds: float) -> tuple[list[float], float]:
        """Return latencies and round trips per second with a fixed number in flight."""
        latencies: list[float] = []
        loop = asyncio.get_running_loop()
        end = time.perf_counter() + seconds
        sends: set[asyncio.Task] = set()

        def again(_: str, latency: float) -> None:
            if time.perf_counter() < end:
                latencies.append(latency)
                task = loop.create_task(self.send())
                sends.add(task)
                task.add_done_callback(sends.discard)

        self.on_output = again
        for _ in range(in_flight):
            await self.send()
        await asyncio.sleep(seconds)
        await self.drain(30)
        return latencies, len(latencies) / seconds


async def read_all(bootstrap: str, topic: str, isolation_level: str) -> list:
    """Read a topic from its beginning to its present end."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap,
        enable_auto_commit=False,
        isolation_level=isolation_level,
        auto_offset_reset="earliest",
    )
    await consumer.start()
    tps = [TopicPartition(topic, number) for number in range(PARTITIONS)]
    consumer.assign(tps)
    ends = await consumer.end_offsets(tps)
    records = []
    waiting = {tp for tp in tps if ends[tp]}
    quiet_since = time.monotonic()
    while waiting and time.monotonic() - quiet_since < 8:
        for messages in (await consumer.getmany(timeout_ms=200)).values():
            records.extend(messages)
            quiet_since = time.monotonic()
        for tp in list(waiting):
            if await consumer.position(tp) >= ends[tp]:
                waiting.discard(tp)
    await consumer.stop()
    if waiting:
        raise RuntimeError(f"{topic} could not be read to its end: {waiting}")
    return records


async def check(bootstrap: str, topics: Topics, protocol: str, sent: Counter) -> dict:
    """Compare inputs, state and outputs. All counts but the duplicates must be zero."""
    isolation_level = "read_committed" if protocol == "transactions" else "read_uncommitted"
    outputs = await read_all(bootstrap, topics.outputs, isolation_level)
    stale = 0
    state: dict[bytes, KeyState] = {}
    if protocol == "transactions":
        for record in await read_all(bootstrap, topics.state, isolation_level):
            state[record.key] = decode_state(record.value)
    else:
        folds = [journal.Fold() for _ in range(PARTITIONS)]
        for record in await read_all(bootstrap, topics.journal, isolation_level):
            folds[record.partition].add(record.offset, record.value)
        for fold in folds:
            state.update(fold.state)
            stale += fold.stale_records
    seen: dict[bytes, KeyState] = {}
    counts = Counter(duplicates=0, gaps=0, phantoms=0)
    first_nonce: dict[str, int] = {}
    order = Counter()
    for record in outputs:
        output = decode_output(record.value)
        last = seen.get(record.key) or KeyState()
        if output.sequence <= last.sequence:
            counts["duplicates"] += 1
            counts["phantoms"] += first_nonce.get(output.id) != output.nonce
            continue
        counts["gaps"] += output.sequence != last.sequence + 1
        first_nonce[output.id] = output.nonce
        order["wrong_order"] += output.id.split("-")[1] != str(output.sequence - 1)
        seen[record.key] = KeyState(output.sequence, next_chain(last.chain, output.id, output.nonce))
    wrong_state = lost = 0
    for number, count in sent.items():
        key = key_name(number)
        known, shown = state.get(key) or KeyState(), seen.get(key) or KeyState()
        lost += max(0, count - shown.sequence)
        wrong_state += known.sequence != count
        counts["phantoms"] += (known.sequence, known.chain) != (shown.sequence, shown.chain)
    return {
        "inputs": sum(sent.values()),
        "outputs": len(outputs),
        "duplicate_outputs": counts["duplicates"],
        "lost_outputs": lost,
        "gaps": counts["gaps"],
        "wrong_order": order["wrong_order"],
        "keys_with_wrong_state": wrong_state,
        "keys_with_phantoms": counts["phantoms"],
        "stale_journal_records": stale,
    }
