"""A processor beside a group coordinator that is away."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import pytest

from sluice_contracts import topics
from sluice_contracts.messages.pipeline import PipelineTick
from sluice_runtime.broker import PartitionsChanged, TopicPartition
from sluice_runtime.clock import SystemClock
from sluice_runtime.memory import MemoryBroker, MemoryGroups, MemoryLog, MemorySubscription
from sluice_runtime.processor.worker import ProcessorPolicy
from tests.conformance.test_processor import Running, command, said, until


class Deaf(MemorySubscription):
    """A member whose group does not answer."""

    told = 0

    async def commit(self, positions: Mapping[TopicPartition, int]) -> None:
        self.told += 1
        await asyncio.Event().wait()


class DeafBroker(MemoryBroker):
    def __init__(self, log: MemoryLog, groups: MemoryGroups) -> None:
        super().__init__(log, groups)
        self.member: Deaf | None = None

    async def subscribe(
        self, topics: Sequence[str], group: str, *, assigned: PartitionsChanged, revoked: PartitionsChanged
    ) -> MemorySubscription:
        self.member = Deaf(self._log, self._groups, group, topics, assigned, revoked)
        await self._groups.join(group, self.member)
        return self.member

    @property
    def told(self) -> int:
        return 0 if self.member is None else self.member.told


@pytest.mark.covers("P12")
def test_a_group_that_can_not_be_told_holds_up_no_decision() -> None:
    async def test() -> None:
        names = topics.concrete_topics(queues=["q"], partitions=2)
        log = MemoryLog({one.name: one.partitions for one in names}, SystemClock())
        broker = DeafBroker(log, MemoryGroups())
        running = Running(lambda: broker, "one", ProcessorPolicy(lag_interval_s=0.01, lag_timeout_s=0.01))
        await command(broker, "pipeline-0", PipelineTick())
        await until(lambda: broker.told >= 2)  # given up once, and tried again
        await command(broker, "pipeline-0", PipelineTick())

        async def decided() -> bool:
            return len(await said(broker)) == 2

        await until(decided)
        assert broker.told >= 2
        await running.end()

    asyncio.run(test())
