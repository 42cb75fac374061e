"""How far a process is behind: by the topics' ends, for the partitions that it reads, while the broker says it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import pytest

from sluice_contracts import topics
from sluice_contracts.envelope import OutgoingRecord
from sluice_contracts.messages.pipeline import PipelineTick
from sluice_runtime.broker import Bounds, BrokerUnavailable, TopicPartition
from sluice_runtime.clock import SystemClock
from sluice_runtime.lag import Lag
from sluice_runtime.memory import MemoryBroker, MemoryGroups, MemoryLog
from sluice_runtime.metrics import Metrics
from sluice_runtime.processor.worker import ProcessorPolicy
from tests.conformance.test_processor import Running, command, said, until
from tests.metrics import lag_of

FIRST, SECOND = TopicPartition("t", 0), TopicPartition("t", 1)


class Broker(MemoryBroker):
    """A broker that may be away, or not answer."""

    fault: str = ""

    async def bounds(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, Bounds]:
        if self.fault == "away":
            raise BrokerUnavailable("no broker answers")
        if self.fault == "silent":
            await asyncio.Event().wait()
        return await super().bounds(partitions)


@pytest.mark.covers("D1", "O7")
def test_the_figures_follow_the_ends_and_the_positions() -> None:
    async def test() -> None:
        log = MemoryLog({"t": 2}, SystemClock())
        broker, metrics = Broker(log, MemoryGroups()), Metrics("test", "one")
        positions = {FIRST: 0, SECOND: 0}

        async def read_through() -> Mapping[TopicPartition, int]:
            return dict(positions)

        telling = asyncio.create_task(Lag(broker, metrics, interval_s=0.01, timeout_s=0.05).keep_told(read_through))
        for _ in range(3):
            log.append(OutgoingRecord("t", b"k", b"v"), 0)
        await until(lambda: lag_of(metrics) == {("t", "0"): 3, ("t", "1"): 0})
        positions[FIRST] = 2
        await until(lambda: lag_of(metrics) == {("t", "0"): 1, ("t", "1"): 0})
        for fault in ("away", "silent"):
            broker.fault = fault
            log.append(OutgoingRecord("t", b"k", b"v"), 1)
            before = lag_of(metrics)
            await asyncio.sleep(0.2)
            assert lag_of(metrics) == before, "nobody knows better"
            broker.fault = ""
            await until(lambda before=before: lag_of(metrics)["t", "1"] == before["t", "1"] + 1)  # type: ignore[misc]
        del positions[SECOND]
        await until(lambda: lag_of(metrics) == {("t", "0"): 1})  # it is another's now
        telling.cancel()
        await asyncio.gather(telling, return_exceptions=True)
        assert lag_of(metrics) == {}

    asyncio.run(test())


@pytest.mark.covers("D1", "O7")
def test_a_processor_tells_of_its_partitions_and_no_longer_than_it_has_them() -> None:
    async def test() -> None:
        names = topics.concrete_topics(queues=["q"], partitions=2)
        log = MemoryLog({one.name: one.partitions for one in names}, SystemClock())
        broker = MemoryBroker(log, MemoryGroups())
        running = Running(lambda: broker, "one", ProcessorPolicy(lag_interval_s=0.01))
        await command(broker, "pipeline-0", PipelineTick())
        await until(lambda: bool(lag_of(running.metrics)))

        async def decided() -> bool:
            return len(await said(broker)) == 1

        await until(decided)
        expected = {("pipeline.commands", number): 0.0 for number in "01"}
        await until(lambda: expected.items() <= lag_of(running.metrics).items())
        await running.end()
        assert lag_of(running.metrics) == {}

    asyncio.run(test())
