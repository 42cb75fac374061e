"""What the deciding processor promises, on every broker."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from typing import Any

import pytest

from sluice_contracts import codec
from sluice_contracts.envelope import CloudEvent, OutgoingRecord, Record
from sluice_contracts.messages import Message
from sluice_contracts.messages.pipeline import PipelineCancel, PipelineRefused, PipelineTick
from sluice_runtime.broker import Broker, TopicPartition
from sluice_runtime.clock import SystemClock
from sluice_runtime.metrics import Metrics
from sluice_runtime.processor.partition import Partition
from sluice_runtime.processor.processor import Processor, ProcessorTopics
from sluice_runtime.processor.worker import ProcessorPolicy
from tests.conformance.conftest import PARTITIONS
from tests.doubles import Count, CountingDecider

Connect = Callable[[], Broker]
TOPICS = ProcessorTopics(inputs=("pipeline.commands",), journal="pipeline.journal", state="pipeline.state")
PIPELINES = [f"pipeline-{n}" for n in range(6)]


class Running:
    """A processor that runs in the background."""

    def __init__(self, connect: Connect, owner: str, policy: ProcessorPolicy | None = None, payload: str = "") -> None:
        self.metrics = Metrics("test", owner)
        self.processor = Processor(
            broker=connect(),
            clock=SystemClock(),
            metrics=self.metrics,
            topics=TOPICS,
            group="spawner",
            owner=owner,
            make_partition=lambda number, partition_of: Partition(
                number, CountingDecider(payload), service="spawner", partition_of=partition_of
            ),
            policy=policy,
        )
        self.stop = asyncio.Event()
        self.task = asyncio.create_task(self.processor.run(self.stop))

    async def end(self) -> None:
        self.stop.set()
        await self.task

    def kill(self) -> None:
        """As kill -9, as far as one process can: nothing more is done, nothing is said."""
        for task in (*self.processor._tasks.values(), self.task):
            task.cancel()

    def counts(self) -> dict[str, Count]:
        return {
            key: entity
            for partition in self.processor.partitions.values()
            for key, entity in partition.state.items()
            if isinstance(entity, Count)
        }


async def command(broker: Broker, pipeline: str, data: Message) -> None:
    event = CloudEvent(str(uuid.uuid4()), "test", "tenant", pipeline, 0, data)
    await broker.append(codec.encode(event, topic="pipeline.commands", key=pipeline))


async def said(broker: Broker, topic: str = "pipeline.events") -> list[Record]:
    found: list[Record] = []
    for number in range(await broker.partitions(topic)):
        at = TopicPartition(topic, number)
        bounds = (await broker.bounds([at]))[at]
        await broker.read(at, bounds.first, bounds.end, found.extend)
    return found


def sequences(records: list[Record]) -> dict[str, list[int]]:
    """Per pipeline, the sequence numbers in the order of the log, without repetitions of the same record."""
    seen: dict[str, list[int]] = {}
    contents: dict[str, bytes | None] = {}
    for record in records:
        event = codec.decode(record)
        assert contents.setdefault(event.id, record.value) == record.value, "one id, two contents"
        assert event.sequence is not None
        numbers = seen.setdefault(event.subject, [])
        if not numbers or event.sequence > numbers[-1]:
            numbers.append(event.sequence)
    return seen


async def until(condition: Callable[[], Any], timeout_s: float = 30) -> None:
    async with asyncio.timeout(timeout_s):
        while True:
            result = condition()
            if asyncio.iscoroutine(result):
                result = await result
            if result:
                return
            await asyncio.sleep(0.02)


def run(installation: Callable[[], Any], test: Callable[[Connect], Any]) -> None:
    async def main() -> None:
        async with installation() as connect:
            await test(connect)

    asyncio.run(main())


@pytest.mark.covers("P12")
def test_every_input_is_decided_once_and_said_in_order_through_restarts(installation: Any) -> None:
    async def test(connect: Connect) -> None:
        broker = connect()
        for round_number in range(1, 4):
            running = Running(connect, f"owner-{round_number}")
            for _ in range(20):
                for pipeline in PIPELINES:
                    await command(broker, pipeline, PipelineTick())
            await until(lambda r=running, n=round_number: [c.ticks for c in r.counts().values()] == [20 * n] * 6)
            await running.end()
        assert sequences(await said(broker)) == {pipeline: list(range(1, 61)) for pipeline in PIPELINES}

    run(installation, test)


@pytest.mark.covers("P12", "W10")
def test_a_killed_processor_is_followed_by_one_that_loses_and_repeats_nothing(installation: Any) -> None:
    async def test(connect: Connect) -> None:
        broker = connect()
        for kill in range(4):
            running = Running(connect, f"owner-{kill}")
            await until(lambda r=running: r.processor.ready)
            for _ in range(10):
                for pipeline in PIPELINES:
                    await command(broker, pipeline, PipelineTick())
            running.kill()
            await asyncio.gather(running.task, return_exceptions=True)
        last = Running(connect, "last")
        await until(lambda: len(last.counts()) == 6 and {c.ticks for c in last.counts().values()} == {40}, 60)
        await last.end()
        assert sequences(await said(broker)) == {pipeline: list(range(1, 41)) for pipeline in PIPELINES}

    run(installation, test)


@pytest.mark.covers("W10")
def test_two_instances_share_the_work_and_one_takes_over_from_the_other(installation: Any) -> None:
    async def test(connect: Connect) -> None:
        broker = connect()
        one = Running(connect, "one")
        await until(lambda: len(one.processor.partitions) == PARTITIONS)
        two = Running(connect, "two")
        await until(lambda: len(one.processor.partitions) == 1 and len(two.processor.partitions) == 1)
        for _ in range(30):
            for pipeline in PIPELINES:
                await command(broker, pipeline, PipelineTick())
        await until(lambda: sum(c.ticks for c in (one.counts() | two.counts()).values()) == 180)
        assert one.counts()
        assert two.counts()
        await one.end()
        await until(lambda: len(two.counts()) == 6 and {c.ticks for c in two.counts().values()} == {30})
        await two.end()
        assert sequences(await said(broker)) == {pipeline: list(range(1, 31)) for pipeline in PIPELINES}

    run(installation, test)


@pytest.mark.covers("W10", "P12")
def test_who_lost_a_partition_without_knowing_changes_nothing(installation: Any) -> None:
    """The new owner claims; the old one's batch lands behind the claim, and never happened."""

    async def test(connect: Connect) -> None:
        from sluice_runtime.processor.worker import Worker

        broker = connect()
        number = broker.partition_for(b"pipeline-0", PARTITIONS)

        def worker(owner: str) -> Worker:
            client = connect()
            return Worker(
                Partition(number, CountingDecider(), service="spawner", partition_of=lambda key: number),
                broker=client, clock=SystemClock(), metrics=Metrics("test", owner), policy=ProcessorPolicy(),
                owner=owner, input_topics=TOPICS.inputs, journal_topic=TOPICS.journal, state_topic=TOPICS.state,
                transactional_id=f"spawner-checkpoint-{number}",
            )  # fmt: skip

        for _ in range(3):
            await command(broker, "pipeline-0", PipelineTick())
        inputs: list[Record] = []
        await broker.read(TopicPartition("pipeline.commands", number), 0, 3, inputs.extend)
        old, new = worker("old"), worker("new")
        await old.take_over()
        await new.take_over()
        old.feed(inputs, {})
        with pytest.raises(Exception, match="claimed at"):
            await old.run()
        assert await said(broker) == []
        running = asyncio.create_task(new.run())
        taken_over_at = new.partition.last_offset
        new.feed(inputs[:1], {})
        await until(lambda: new.partition.last_offset > taken_over_at)
        new.stop()
        await running
        third = worker("third")
        await third.take_over()
        counts = [entity for entity in third.partition.state.values() if isinstance(entity, Count)]
        assert [one.ticks for one in counts] == [1], "the zombie's batch must not count, the owner's behind it must"
        assert third.partition.positions == {"pipeline.commands": 1}
        await third.close()

    run(installation, test)


@pytest.mark.covers("C2")
def test_rubbish_is_one_dead_letter_and_its_neighbours_go_on(installation: Any) -> None:
    async def test(connect: Connect) -> None:
        broker = connect()
        running = Running(connect, "owner")
        rubbish = OutgoingRecord("pipeline.commands", b"pipeline-0", b"\xffnot json", (("ce_id", b"1"),))
        await command(broker, "pipeline-0", PipelineTick())
        await broker.append(rubbish)
        await command(broker, "pipeline-0", PipelineTick())
        await until(lambda: [c.ticks for c in running.counts().values()] == [2])
        await running.end()
        letters = await said(broker, "dlq.pipeline.commands")
        assert [(one.value, dict(one.headers)["dlq_reason"]) for one in letters] == [(b"\xffnot json", b"bad_headers")]

    run(installation, test)


@pytest.mark.covers("P12", "P13")
def test_timers_fire_once_also_after_a_restart(installation: Any) -> None:
    async def test(connect: Connect) -> None:
        broker = connect()
        first = Running(connect, "first")
        await command(broker, "pipeline-0", PipelineCancel(reason="in 200"))
        await command(broker, "pipeline-1", PipelineCancel(reason="in 1500"))
        await until(lambda: [c.fired for c in first.counts().values()] == [1])
        await first.end()
        second = Running(connect, "second")
        await until(lambda: [c.fired for c in second.counts().values()] == [1, 1])
        await second.end()
        fired = [codec.decode(one).data for one in await said(broker)]
        assert [one.problem.detail for one in fired if isinstance(one, PipelineRefused)] == ["fired 1 after 0"] * 2

    run(installation, test)


@pytest.mark.covers("P12")
def test_checkpoints_trim_the_journal_and_hold_the_whole_state(installation: Any) -> None:
    async def test(connect: Connect) -> None:
        broker = connect()
        policy = ProcessorPolicy(checkpoint_journal_bytes=4_000, checkpoint_chunk_entities=2)
        ticks = 0
        for round_number in range(2):
            running = Running(connect, f"owner-{round_number}", policy, payload="x" * 300)
            for _ in range(10):
                for pipeline in PIPELINES:
                    await command(broker, pipeline, PipelineTick())
                ticks += 1
                await until(lambda r=running, n=ticks: [c.ticks for c in r.counts().values()] == [n] * 6)
            await running.end()
        journals = [TopicPartition("pipeline.journal", number) for number in range(PARTITIONS)]
        assert any(bounds.first > 0 for bounds in (await broker.bounds(journals)).values())
        last = Running(connect, "last")
        await until(lambda: [c.ticks for c in last.counts().values()] == [20] * 6)
        await last.end()
        assert sequences(await said(broker)) == {pipeline: list(range(1, 21)) for pipeline in PIPELINES}

    run(installation, test)
