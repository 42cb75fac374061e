"""Protocol B: one journal record holds the deltas, the outputs and the next input offset of a batch.

The offset of an owner's claim is its epoch. A decision record counts only if its epoch is the offset of the last
claim before it. An acknowledged append one past the owner's last record therefore proves that the record counts.
After any other offset the owner reads what lies between: stale decisions of a zombie change nothing, a claim ends the
ownership. Who lost it joins the group anew and claims only what the group then assigns.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Iterable

import msgspec
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import KafkaError

from .instance import (
    HEARTBEAT_INTERVAL_MS,
    SESSION_TIMEOUT_MS,
    FaultPoint,
    Progress,
    Topics,
    emit,
    parse_arguments,
)
from .model import KeyState, decide, encode_json

MAX_BATCH_RECORDS = 500  # 500 x (400 B delta + 400 B output) stays under the 1 MiB record limit of the broker
MAX_QUEUED_RECORDS = 4_000
MAX_PUBLISH_BATCH_BYTES = 1 << 19
APPEND_TIMEOUT_SECONDS = 30.0


class Claim(msgspec.Struct, tag="claim", array_like=True):
    owner: str


class Decision(msgspec.Struct, tag="decision", array_like=True):
    epoch: int
    next_offset: int
    published_through: int
    deltas: list[tuple[bytes, KeyState]]
    outputs: list[tuple[bytes, bytes]]


encode_record = msgspec.msgpack.encode
decode_record = msgspec.msgpack.Decoder(Claim | Decision).decode


class Fold:
    """The meaning of a journal partition: feed it every record in order."""

    def __init__(self) -> None:
        self.epoch = -1
        self.next_offset = 0
        self.state: dict[bytes, KeyState] = {}
        self.unpublished: dict[int, list[tuple[bytes, bytes]]] = {}
        self.stale_records = 0

    def add(self, offset: int, value: bytes) -> None:
        record = decode_record(value)
        if isinstance(record, Claim):
            self.epoch = offset
            return
        if record.epoch != self.epoch:
            self.stale_records += 1
            return
        self.next_offset = record.next_offset
        self.state.update(record.deltas)
        self.unpublished[offset] = record.outputs
        for published in [known for known in self.unpublished if known <= record.published_through]:
            del self.unpublished[published]


class Fenced(Exception):
    """Someone else claimed the journal partition: stop without publishing and join the group anew."""


class PartitionOwner:
    """Decides for one partition, one journal append in flight."""

    def __init__(self, processor: JournalProcessor, partition: int, fold: Fold, claim: int) -> None:
        self._processor = processor
        self._partition = partition
        self._claim = claim
        self._last_own_offset = claim
        self._state = fold.state
        self._published_through = claim
        self._unpublished: deque[tuple[int, list[tuple[bytes, bytes]]]] = deque()
        self.next_offset = fold.next_offset
        self.inputs: deque = deque()
        self.input_arrived = asyncio.Event()
        self._output_waits = asyncio.Event()
        self._tasks: list[asyncio.Task] = []

    def start(self) -> None:
        self._tasks = [asyncio.create_task(self._decide_forever()), asyncio.create_task(self._publish_forever())]
        for task in self._tasks:
            task.add_done_callback(self._ended)

    def stop(self) -> None:
        for task in self._tasks:
            task.cancel()

    def _ended(self, task: asyncio.Task) -> None:
        if not task.cancelled() and task.exception():
            self.stop()
            self._processor.lost(self._partition, task.exception())

    async def _decide_forever(self) -> None:
        while True:
            if not self.inputs:
                self.input_arrived.clear()
                await self.input_arrived.wait()
            batch = [self.inputs.popleft() for _ in range(min(len(self.inputs), MAX_BATCH_RECORDS))]
            changed: dict[bytes, KeyState] = {}
            outputs = []
            for message in batch:
                before = changed.get(message.key) or self._state.get(message.key) or KeyState()
                changed[message.key], output = decide(before, message.value)
                outputs.append((message.key, encode_json(output)))
            next_offset = batch[-1].offset + 1
            record = Decision(self._claim, next_offset, self._published_through, list(changed.items()), outputs)
            self._processor.fault.pass_by("decided")
            await self._append(record)
            self._state.update(changed)
            self._unpublished.append((self._last_own_offset, outputs))
            self._output_waits.set()

    async def _append(self, record: Decision) -> None:
        acked = await self._processor.journal_producer.send(
            self._processor.topics.journal, encode_record(record), partition=self._partition
        )
        await asyncio.sleep(0)
        self._processor.fault.pass_by("sent")
        metadata = await asyncio.wait_for(acked, APPEND_TIMEOUT_SECONDS)
        self._processor.fault.pass_by("acked")
        expected = self._last_own_offset + 1
        if metadata.offset != expected:
            facts = f"appended at {metadata.offset}, expected {expected}"
            if metadata.offset < expected:  # -1 answers a duplicate whose offset the broker no longer knows
                raise Fenced(facts)
            if await self._processor.claimed_between(self._partition, expected, metadata.offset):
                raise Fenced(facts)
            emit("stale_records_ignored", partition=self._partition, facts=facts)
        self._last_own_offset = metadata.offset

    async def _publish_forever(self) -> None:
        while True:
            if not self._unpublished:
                self._output_waits.clear()
                await self._output_waits.wait()
            taken = list(self._unpublished)
            self._unpublished.clear()
            outputs = [output for _, outputs in taken for output in outputs]
            await self._processor.publish(self._partition, outputs)
            self._processor.fault.pass_by("published")
            self._published_through = taken[-1][0]
            if self._processor.progress.add(len(outputs)):
                self._processor.finished.set()


class JournalProcessor(ConsumerRebalanceListener):
    def __init__(self, arguments) -> None:
        self.topics = Topics(arguments.run)
        self.fault = FaultPoint(arguments.fault)
        self.progress = Progress(arguments.stop_after)
        self.finished = asyncio.Event()
        self._arguments = arguments
        self._inputs = arguments.inputs or self.topics.inputs
        self._owners: dict[int, PartitionOwner] = {}
        self._assignment_number = 0
        self._rejoin = asyncio.Event()
        self._failure: BaseException | None = None
        self._consumer: AIOKafkaConsumer
        common = {"bootstrap_servers": arguments.bootstrap}
        # Two producers, because aiokafka keeps one produce request in flight per broker connection: on one producer
        # every append would wait for the publishing in progress.
        self.journal_producer = AIOKafkaProducer(
            **common, enable_idempotence=True, acks="all", max_request_size=1 << 20
        )
        self._output_producer = AIOKafkaProducer(
            **common, enable_idempotence=True, acks="all", max_batch_size=MAX_PUBLISH_BATCH_BYTES
        )

    def _new_consumer(self) -> AIOKafkaConsumer:
        return AIOKafkaConsumer(
            bootstrap_servers=self._arguments.bootstrap,
            group_id=f"{self._arguments.run}.group",
            group_instance_id=self._arguments.instance,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            session_timeout_ms=SESSION_TIMEOUT_MS,
            heartbeat_interval_ms=HEARTBEAT_INTERVAL_MS,
            max_partition_fetch_bytes=1 << 19,
        )

    async def run(self) -> None:
        await self.journal_producer.start()
        await self._output_producer.start()
        while not self.finished.is_set():
            await self._run_one_membership()
        await self.journal_producer.stop()
        await self._output_producer.stop()
        if self._failure:
            raise self._failure

    async def _run_one_membership(self) -> None:
        self._rejoin.clear()
        self._consumer = self._new_consumer()
        self._consumer.subscribe([self._inputs], listener=self)
        await self._consumer.start()
        emit("ready")
        tasks = [
            asyncio.create_task(wait) for wait in (self._read_forever(), self.finished.wait(), self._rejoin.wait())
        ]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        await self.on_partitions_revoked(())
        await self._consumer.stop()

    async def _read_forever(self) -> None:
        while True:
            fetched = await self._consumer.getmany(timeout_ms=200, max_records=4_000)
            for tp, messages in fetched.items():
                owner = self._owners.get(tp.partition)
                if owner is None or messages[0].offset < owner.next_offset:
                    continue  # fetched before the position was set from the journal
                self.progress.start()
                owner.inputs.extend(messages)
                owner.input_arrived.set()
            self._hold_back()
            await asyncio.sleep(0)

    def _hold_back(self) -> None:
        paused = self._consumer.paused()
        for partition, owner in self._owners.items():
            tp = TopicPartition(self._inputs, partition)
            if len(owner.inputs) > MAX_QUEUED_RECORDS and tp not in paused:
                self._consumer.pause(tp)
            elif len(owner.inputs) < MAX_QUEUED_RECORDS // 2 and tp in paused:
                self._consumer.resume(tp)

    async def publish(self, partition: int, outputs: Iterable[tuple[bytes, bytes]]) -> None:
        """Publish outputs in order and return when all are acknowledged."""
        acks = []
        batch = self._output_producer.create_batch()
        for key, value in outputs:
            if batch.append(key=key, value=value, timestamp=None) is None:
                acks.append(await self._output_producer.send_batch(batch, self.topics.outputs, partition=partition))
                batch = self._output_producer.create_batch()
                batch.append(key=key, value=value, timestamp=None)
        acks.append(await self._output_producer.send_batch(batch, self.topics.outputs, partition=partition))
        self.fault.pass_by("publishing")
        await asyncio.gather(*acks)

    async def on_partitions_revoked(self, revoked) -> None:
        self._assignment_number += 1
        for owner in self._owners.values():
            owner.stop()
        self._owners = {}

    async def on_partitions_assigned(self, assigned) -> None:
        try:
            await self._take_over([tp.partition for tp in assigned])
        except KafkaError as error:  # aiokafka would log it and go on, with partitions that nobody works on
            emit("take_over_failed", error=repr(error))
            self._rejoin.set()

    def lost(self, partition: int, error: BaseException) -> None:
        """Forget a partition whose owner ended, and join the group anew.

        Claiming again at once would be safe but not live: a zombie that has not yet heard from the group would take
        the partition from its rightful owner, and the two would go on so in turns.
        """
        self._owners.pop(partition, None)
        emit("fenced", partition=partition, error=f"{type(error).__name__}: {error}")
        if isinstance(error, (Fenced, KafkaError, asyncio.TimeoutError)):
            self._rejoin.set()
        else:
            self._failure = error
            self.finished.set()

    async def _take_over(self, partitions: list[int]) -> None:
        """Claim, read the journal up to the claim, publish what may be unpublished, then decide."""
        if not partitions:
            return
        started = time.perf_counter()
        number = self._assignment_number
        claims = dict(zip(partitions, await asyncio.gather(*map(self._claim, partitions)), strict=True))
        folds, records = await self._restore(claims)
        republished = 0
        for partition, fold in folds.items():
            for offset in sorted(fold.unpublished):
                await self.publish(partition, fold.unpublished[offset])
                republished += len(fold.unpublished[offset])
        if number != self._assignment_number:
            return
        for partition, fold in folds.items():
            self._consumer.seek(TopicPartition(self._inputs, partition), fold.next_offset)
            owner = PartitionOwner(self, partition, fold, claims[partition])
            self._owners[partition] = owner
            owner.start()
        emit(
            "restored",
            partitions=len(partitions),
            records=records,
            republished=republished,
            stale=sum(fold.stale_records for fold in folds.values()),
            seconds=time.perf_counter() - started,
        )

    async def _claim(self, partition: int) -> int:
        record = encode_record(Claim(self._arguments.instance))
        metadata = await self.journal_producer.send_and_wait(self.topics.journal, record, partition=partition)
        return metadata.offset

    async def _restore(self, claims: dict[int, int]) -> tuple[dict[int, Fold], int]:
        folds = {partition: Fold() for partition in claims}
        records = 0
        async for message in self._read_journal(dict.fromkeys(claims, 0), claims):
            folds[message.partition].add(message.offset, message.value)
            records += 1
        return folds, records

    async def claimed_between(self, partition: int, first: int, last: int) -> bool:
        """Tell whether a claim stands at one of these offsets."""
        claimed = False
        async for message in self._read_journal({partition: first}, {partition: last}):
            claimed = claimed or isinstance(decode_record(message.value), Claim)
        return claimed

    async def _read_journal(self, first: dict[int, int], last: dict[int, int]) -> AsyncIterator:
        """Yield the records of journal partitions from the first to the last offset, both included."""
        reader = AIOKafkaConsumer(
            bootstrap_servers=self._arguments.bootstrap, enable_auto_commit=False, max_partition_fetch_bytes=1 << 20
        )
        await reader.start()
        try:
            tps = {TopicPartition(self.topics.journal, partition) for partition in first}
            reader.assign(list(tps))
            for tp in tps:
                reader.seek(tp, first[tp.partition])
            while tps:
                for tp, messages in (await reader.getmany(*tps, timeout_ms=200)).items():
                    for message in messages:
                        if message.offset <= last[tp.partition]:
                            yield message
                    if messages[-1].offset >= last[tp.partition]:
                        tps.discard(tp)
        finally:
            await reader.stop()


if __name__ == "__main__":

    async def start() -> None:
        await JournalProcessor(parse_arguments()).run()

    asyncio.run(start())
