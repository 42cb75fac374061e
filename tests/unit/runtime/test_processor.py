"""A processor beside a group coordinator that is away."""

from __future__ import annotations

import asyncio

import pytest

from sluice_contracts import topics
from sluice_contracts.messages.pipeline import PipelineTick
from sluice_runtime.clock import SystemClock
from sluice_runtime.memory import MemoryBroker, MemoryGroups, MemoryLog, MemorySubscription
from sluice_runtime.processor.worker import ProcessorPolicy
from tests.conformance.test_processor import Running, command, said, until


@pytest.mark.covers("P12")
def test_a_group_that_can_not_be_told_holds_up_no_decision(monkeypatch: pytest.MonkeyPatch) -> None:
    told = 0

    async def commit(*_: object) -> None:
        nonlocal told
        told += 1
        await asyncio.Event().wait()

    monkeypatch.setattr(MemorySubscription, "commit", commit)

    async def test() -> None:
        names = topics.concrete_topics(queues=["q"], partitions=2)
        log = MemoryLog({one.name: one.partitions for one in names}, SystemClock())
        broker = MemoryBroker(log, MemoryGroups())
        running = Running(lambda: broker, "one", ProcessorPolicy(lag_interval_s=0.01, lag_timeout_s=0.01))
        await command(broker, "pipeline-0", PipelineTick())
        await until(lambda: told >= 2)  # given up once, and tried again
        await command(broker, "pipeline-0", PipelineTick())

        async def decided() -> bool:
            return len(await said(broker)) == 2

        await until(decided)
        assert told >= 2
        await running.end()

    asyncio.run(test())
