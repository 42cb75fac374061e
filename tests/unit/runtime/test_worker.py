"""One partition's worker beside a log that fails, a load that never ends, and records that nobody should have sent."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Coroutine, Sequence
from typing import Any

import pytest

from sluice_contracts import codec, topics
from sluice_contracts.envelope import CloudEvent, OutgoingRecord, Record
from sluice_contracts.limits import STORE_RECORD_MAX_BYTES
from sluice_contracts.messages import Message
from sluice_contracts.messages.pipeline import PipelineCancel, PipelineTick
from sluice_runtime.broker import BrokerUnavailable, TopicPartition
from sluice_runtime.clock import SystemClock
from sluice_runtime.memory import MemoryBroker, MemoryGroups, MemoryLog
from sluice_runtime.metrics import Metrics
from sluice_runtime.processor import journal
from sluice_runtime.processor.partition import Partition, TooManyDeadLetters
from sluice_runtime.processor.worker import ProcessorPolicy, Worker
from tests.doubles import CountingDecider

PIPELINE = "pipeline-0"
COMMANDS = TopicPartition("pipeline.commands", 0)
SAID = TopicPartition("pipeline.events", 0)


class Broker(MemoryBroker):
    """A log in memory, of which a write of outputs may fail, and a journal's append may take long."""

    def __init__(self, log: MemoryLog) -> None:
        super().__init__(log, MemoryGroups())
        self.fails = False
        self.append_s = 0.0

    async def append(self, record: OutgoingRecord, partition: int | None = None) -> int:
        await asyncio.sleep(self.append_s)
        return await super().append(record, partition)

    async def append_all(self, records: Sequence[OutgoingRecord]) -> None:
        await asyncio.sleep(0.01)  # longer than the worker needs to wait for inputs again
        if self.fails:
            raise BrokerUnavailable("away")
        await super().append_all(records)


@pytest.fixture
def log() -> MemoryLog:
    names = topics.concrete_topics(queues=["q"], partitions=1)
    return MemoryLog({one.name: one.partitions for one in names}, SystemClock())


def worker(broker: Broker, partition: Partition | None = None) -> Worker:
    return Worker(
        partition or new_partition(), broker=broker, clock=SystemClock(), metrics=Metrics("test", "test"),
        policy=ProcessorPolicy(), owner="test", input_topics=[COMMANDS.topic], journal_topic="pipeline.journal",
        state_topic="pipeline.state", transactional_id="checkpoint-0",
    )  # fmt: skip


def new_partition(**more: Any) -> Partition:
    return Partition(0, CountingDecider(), service="spawner", partition_of=lambda key: 0, **more)


def command(data: Message, subject: str = PIPELINE) -> OutgoingRecord:
    event = CloudEvent(str(uuid.uuid4()), "test", "tenant", subject, 0, data)
    return codec.encode(event, topic=COMMANDS.topic, key=subject)


def arrive(log: MemoryLog, one: Worker, record: OutgoingRecord) -> None:
    offset = log.append(record)
    one.feed(log.read(COMMANDS, offset), {COMMANDS: offset + 1})


def run(test: Coroutine[Any, Any, None]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(30):
            await test

    asyncio.run(limited())


@pytest.mark.covers("P12")
def test_a_worker_without_inputs_notices_that_outputs_were_not_published(log: MemoryLog) -> None:
    """Else they would wait for the next input, which for the last event of a pipeline never comes."""

    async def test() -> None:
        broker = Broker(log)
        first = worker(broker)
        await first.take_over()
        broker.fails = True
        running = asyncio.create_task(first.run())
        arrive(log, first, command(PipelineTick()))
        with pytest.raises(BrokerUnavailable):
            await running
        assert log.read(SAID, 0) == []
        broker.fails = False
        second = worker(broker)
        await second.take_over()
        assert len(log.read(SAID, 0)) == 1

    run(test())


@pytest.mark.covers("P12")
def test_what_stands_on_the_topics_is_not_published_again(log: MemoryLog) -> None:
    """The first owner dies after it has published, before the journal says so."""

    async def test() -> None:
        broker = Broker(log)
        first = worker(broker)
        await first.take_over()
        running = asyncio.create_task(first.run())
        arrive(log, first, command(PipelineTick()))
        while not log.read(SAID, 0):
            await asyncio.sleep(0.001)
        running.cancel()
        second = worker(broker)
        await second.take_over()
        assert len(log.read(SAID, 0)) == 1

    run(test())


@pytest.mark.covers("P13")
def test_a_timer_fires_while_inputs_never_cease(log: MemoryLog) -> None:
    async def test() -> None:
        broker = Broker(log)
        broker.append_s = 0.004
        one = worker(broker)
        await one.take_over()
        running = asyncio.create_task(one.run())
        arrive(log, one, command(PipelineCancel(reason="in 20"), "timed"))
        arrived = 0
        while not any(b"fired 1" in (record.value or b"") for record in log.read(SAID, 0)):
            arrive(log, one, command(PipelineTick()))
            arrived += 1
            assert arrived < 5_000, "the timer was due after some 20 inputs"
            await asyncio.sleep(0.001)
        one.stop()
        await running

    run(test())


def record(
    offset: int, *headers: tuple[str, bytes | None], value: bytes = b"{}", topic: str = COMMANDS.topic
) -> Record:
    return Record(topic, 0, offset, 0, b"k", value, headers)


@pytest.mark.covers("C2")
def test_strangers_can_not_stop_a_processor_and_our_own_services_can(log: MemoryLog) -> None:
    bad = ("ce_source", b"spawner/1"), ("ce_type", b"nope"), ("ce_id", b"1"), ("ce_specversion", b"1.0")
    partition = new_partition()
    draft = partition.decide([record(number, *bad) for number in range(500)], 0)
    assert (draft.inputs, len(draft.batch.outputs), len(draft.refused)) == (500, 500, 500)
    said = "agent.events.q"
    with pytest.raises(TooManyDeadLetters, match=rf"the last at {said}\[0\]@100.*OWN_DEAD_LETTERS_MAX_COUNT"):
        new_partition().decide([record(number, *bad, topic=said) for number in range(500)], 0)
    patient = new_partition(own_dead_letters_max=1_000)
    assert patient.decide([record(number, *bad, topic=said) for number in range(500)], 0).inputs == 500


@pytest.mark.covers("C2", "P12")
def test_a_header_without_a_value_is_kept_in_the_journal() -> None:
    draft = new_partition().decide([record(0, ("x", None))], 0)
    read = journal.decode(draft.value)
    assert isinstance(read, journal.Batch)
    assert ("dlq_original_x", None) in read.outputs[0].headers


@pytest.mark.covers("C2")
@pytest.mark.parametrize(("service", "letters"), [("vault-broker", 1), ("spawner", 0)])
def test_of_several_who_read_a_topic_one_refuses(service: str, letters: int) -> None:
    """The others pass over what is invalid; Kafka would let them write no dead letter either."""
    partition = Partition(0, CountingDecider(), service=service, partition_of=lambda key: 0)
    draft = partition.decide([Record("alerts", 0, 7, 0, b"p", b"<xml/>", ())], 0)
    assert (draft.inputs, len(draft.batch.outputs)) == (1, letters)
    assert partition.positions == {"alerts": 8}


@pytest.mark.covers("C2")
def test_a_batch_of_large_records_fits_into_the_journal() -> None:
    partition = new_partition()
    large = [record(number, ("h", b"y" * 900_000), value=b"x" * 1_000_000) for number in range(50)]
    taken = 0
    while taken < len(large):
        draft = partition.decide(large[taken:], 0)
        assert 0 < draft.inputs < 3
        assert len(draft.value) < STORE_RECORD_MAX_BYTES // 2
        taken += draft.inputs


@pytest.mark.covers("C2")
def test_a_record_with_any_number_of_headers_fits_into_the_journal() -> None:
    partition = new_partition()
    draft = partition.decide([record(number, *(("x", None),) * 500_000) for number in range(2)], 0)
    assert draft.inputs == 2
    assert len(draft.value) < 64 * 1024


@pytest.mark.covers("C2", "P13")
def test_headers_count_where_what_waits_in_memory_is_bounded(log: MemoryLog) -> None:
    """Half a million of them are 1 MB in Kafka, and 80 in memory."""
    one = worker(Broker(log))
    assert not one.feed([record(0, value=b"x" * 2**20)], {})
    assert one.feed([record(1, *(("x", None),) * 500_000)], {})


@pytest.mark.covers("P12")
def test_an_input_topic_that_was_made_anew_stops_the_takeover(log: MemoryLog) -> None:
    async def test() -> None:
        broker = Broker(log)
        first = worker(broker)
        await first.take_over()
        running = asyncio.create_task(first.run())
        arrive(log, first, command(PipelineTick()))
        while not log.read(SAID, 0):
            await asyncio.sleep(0.001)
        first.stop()
        await running
        log._partitions[COMMANDS].records.clear()
        with pytest.raises(RuntimeError, match=r"pipeline.commands\[0\] was decided up to 1, but ends at 0"):
            await worker(broker).take_over()

    run(test())
