"""The monitor's stream by Faust, without Kafka: its own methods, called as Faust calls them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from sluice_contracts.topics import Principal
from sluice_observability.adapters.faust_signals import WAITING_MAX_RECORDS, FaustSignals
from sluice_observability.domain.budget_limits import Budgets, Limits
from sluice_observability.handlers.budget_watch import BudgetWatch
from sluice_observability.handlers.refusals import DeadLetterOffice
from sluice_runtime.connection import KafkaConnection
from sluice_runtime.memory import MemoryBroker, MemoryGroups, MemoryLog
from tests.doubles import ManualClock

PARTITIONS = 2
DEADLINE_S = 5


def signals() -> FaustSignals:
    clock = ManualClock()
    topics = {"signals": PARTITIONS, "alerts": PARTITIONS, "dlq.signals": 1}
    broker = MemoryBroker(MemoryLog(topics, clock), MemoryGroups())
    letters = DeadLetterOffice(broker, clock, window_records=100, refused_by=Principal.MONITOR)
    watch = BudgetWatch(Budgets(Limits()), broker, letters, clock, PARTITIONS)
    return FaustSignals(
        KafkaConnection("127.0.0.1:9"), prefix="", partitions=PARTITIONS, instance="m1", session_timeout_ms=10_000,
        watch=watch,
    )  # fmt: skip


class Stream:
    """What Faust hands out: one message after the other, as long as somebody takes them."""

    def __init__(self, count: int) -> None:
        self.taken = 0
        self._count = count

    def noack(self) -> Stream:
        return self

    async def events(self) -> AsyncIterator[Any]:
        for number in range(self._count):
            self.taken += 1
            yield SimpleNamespace(message=SimpleNamespace(partition=number % PARTITIONS, offset=number))


@pytest.mark.covers("O4")
@pytest.mark.parametrize("change", ["_on_revoked", "_on_assigned"])
def test_a_rebalance_while_much_waits_does_not_stop_the_reader(change: str) -> None:
    async def scenario() -> None:
        life, stream = signals(), Stream(WAITING_MAX_RECORDS + 10)
        reading = asyncio.create_task(life._read(stream))
        async with asyncio.timeout(DEADLINE_S):
            while stream.taken < WAITING_MAX_RECORDS:
                await asyncio.sleep(0)
        await asyncio.wait([reading], timeout=0.05)
        assert stream.taken == WAITING_MAX_RECORDS, "so much is read ahead, no more"
        await getattr(life, change)(life._app, set())
        async with asyncio.timeout(DEADLINE_S):
            await reading
        assert stream.taken == WAITING_MAX_RECORDS + 10

    asyncio.run(scenario())
