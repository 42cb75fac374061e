"""The simulation's owner of a partition does, step by step, what the worker of the real processor does."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

import pytest
from msgspec.structs import replace

from sluice_contracts import codec, topics
from sluice_contracts.envelope import CloudEvent, OutgoingRecord, Record
from sluice_contracts.messages import Message
from sluice_contracts.messages.pipeline import PipelineCancel, PipelineTick
from sluice_runtime.broker import BrokerUnavailable, TopicPartition
from sluice_runtime.memory import MemoryBroker, MemoryGroups
from sluice_runtime.metrics import Metrics
from sluice_runtime.processor import journal
from sluice_runtime.processor.journal import Batch, Claim
from sluice_runtime.processor.partition import Partition
from sluice_runtime.processor.worker import ProcessorPolicy, Worker
from tests.doubles import CountingDecider, ManualClock
from tests.simulation.owners import Owner
from tests.simulation.slots import RememberingLog
from tests.simulation.spawners import JOURNAL, STATE, SpawnerInstance

COMMANDS = TopicPartition("pipeline.commands", 0)
STEP_MS = 100


class Steady(random.Random):
    """Always the same choice: takes all that waits, sends at once, never checkpoints by itself."""

    def random(self) -> float:
        return 0.5

    def randint(self, a: int, b: int) -> int:
        return b


class FailingBroker(MemoryBroker):
    """Outputs are not published while it fails."""

    fails = False

    async def append_all(self, records: Sequence[OutgoingRecord]) -> None:
        if self.fails:
            raise BrokerUnavailable("away")
        await super().append_all(records)


def command(number: int, data: Message) -> OutgoingRecord:
    event = CloudEvent(f"c{number}", "test", "tenant", f"pipeline-{number % 3}", 0, data)
    return codec.encode(event, topic=COMMANDS.topic, key=event.subject)


COURSE = [command(number, PipelineCancel(reason="in 250") if number == 1 else PipelineTick()) for number in range(8)]
"""A timer falls due in the middle, a checkpoint follows the fourth, and the outputs of the last are not published."""


def new_log() -> tuple[RememberingLog, ManualClock]:
    clock = ManualClock()
    names = {one.name: 1 for one in topics.concrete_topics(queues=["q"], partitions=1)}
    return RememberingLog(names, clock), clock


def written(log: RememberingLog) -> tuple[list[Claim | Batch], list[Record], list[Record], int]:
    """All of the journal, what was published, the checkpoint, and where the journal was trimmed.

    How much is known to be published when a batch is decided is a matter of moments, also between two workers.
    """
    entries = [journal.decode(value) for _, _, value in log.journal]
    entries = [replace(one, published_through=0) if isinstance(one, Batch) else one for one in entries]
    said, state = (log.read(TopicPartition(name, 0), 0) for name in ("pipeline.events", STATE))
    return entries, said, state, log.bounds(TopicPartition(JOURNAL, 0)).first


def simulated() -> RememberingLog:
    log, clock = new_log()
    instance = SpawnerInstance("owner", log, clock, Steady(), CountingDecider(), [COMMANDS.topic])

    def taken_over() -> Owner:
        instance.give_up(0)
        instance.take(0)
        return instance.owners[0]

    def rest(owner: Owner) -> None:
        while not owner.idle(clock.now_ms()):
            owner.step()

    owner = taken_over()
    rest(owner)
    for number, record in enumerate(COURSE):
        clock.advance(STEP_MS)
        log.append(record)
        if number == len(COURSE) - 1:
            while not owner._unsent:
                owner.step()
            break
        rest(owner)
        if number == 3:
            owner._checkpoint()
            owner.step()  # trims
    rest(taken_over())
    return log


async def worked() -> RememberingLog:
    log, clock = new_log()
    broker = FailingBroker(log, MemoryGroups())

    def new_worker() -> Worker:
        return Worker(
            Partition(0, CountingDecider(), service="spawner", partition_of=lambda _: 0),
            broker=broker, clock=clock, metrics=Metrics("test", "test"), policy=ProcessorPolicy(), owner="owner",
            input_topics=[COMMANDS.topic], journal_topic=JOURNAL, state_topic=STATE, transactional_id="checkpoint-0",
        )  # fmt: skip

    worker = new_worker()
    await worker.take_over()
    running = asyncio.create_task(worker.run())
    for number, record in enumerate(COURSE):
        clock.advance(STEP_MS)
        broker.fails = number == len(COURSE) - 1
        offset = log.append(record)
        worker.feed(log.read(COMMANDS, offset), {COMMANDS: offset + 1})
        if broker.fails:
            break
        due_ms = worker.partition.next_due_ms
        while (
            worker.partition.positions.get(COMMANDS.topic) != offset + 1
            or worker._publishing
            or (due_ms is not None and due_ms <= clock.now_ms() and worker.partition.next_due_ms == due_ms)
        ):
            await asyncio.sleep(0)
        if number == 3:
            await worker._checkpoint(*worker.partition.take_dirty())
    with pytest.raises(BrokerUnavailable):
        await running
    broker.fails = False
    await new_worker().take_over()
    return log


@pytest.mark.covers("P12")
def test_both_write_the_same_records() -> None:
    async def limited() -> RememberingLog:
        async with asyncio.timeout(30):
            return await worked()

    theirs = written(asyncio.run(limited()))
    assert written(simulated()) == theirs
    entries, said, state, first = theirs
    assert len(entries) == 1 + len(COURSE) + 1 + 1, "a claim, a batch for each command and the timer, a claim"
    assert len(said) == len(COURSE), "one is said of each but the command that sets the timer, and one of the timer"
    assert state
    assert first > 0
