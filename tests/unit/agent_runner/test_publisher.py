"""The way into the log while the broker is away: nothing is given up, and what is said again is said as before."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from sluice_agent_runner.adapters.events import AWAY_WAIT_S, BrokerEventPublisher
from sluice_contracts.envelope import CloudEvent, OutgoingRecord
from sluice_contracts.messages.agent import AgentAttemptStarted
from sluice_contracts.messages.base import Message
from sluice_runtime.broker import BrokerUnavailable, TopicPartition
from sluice_runtime.memory import MemoryBroker, MemoryGroups, MemoryLog
from tests.doubles import ManualClock
from tests.unit.agent_runner.builders import NOW_MS, TestTime, until

TOPIC = "agent.events.q"
AT = TopicPartition(TOPIC, 0)


class Broker(MemoryBroker):
    """Its next writes fail; of a `lost_answers` one the record is in the log all the same."""

    failures = 0
    lost_answers = False

    async def append(self, record: OutgoingRecord, partition: int | None = None) -> int:
        if self.failures and not self.lost_answers:
            await self._fail()
        offset = await super().append(record, partition)
        await self._fail()
        return offset

    async def append_all(self, records: Sequence[OutgoingRecord]) -> None:
        if self.failures and not self.lost_answers:
            await self._fail()
        await super().append_all(records)
        await self._fail()

    async def _fail(self) -> None:
        if self.failures:
            self.failures -= 1
            raise BrokerUnavailable("away")


def event(number: int) -> CloudEvent[Message]:
    data = AgentAttemptStarted(agent_id="a", attempt=number, runner_id="r")
    return CloudEvent(f"event-{number}", "agent-runner/r", "acme", "p", NOW_MS + number, data)


class World:
    def __init__(self) -> None:
        self.log = MemoryLog({TOPIC: 1}, ManualClock(NOW_MS))
        self.broker = Broker(self.log, MemoryGroups())
        self.time = TestTime()
        self.publisher = BrokerEventPublisher(self.broker, self.time)

    def written(self) -> list[tuple[str, bytes | None]]:
        records = self.log.read(AT, 0)
        return [(dict(one.headers)["ce_id"].decode(), one.value) for one in records]  # type: ignore[union-attr]


@pytest.mark.covers("P12", "W10")
@pytest.mark.parametrize("together", [False, True], ids=["one", "all"])
@pytest.mark.parametrize("lost_answers", [False, True])
def test_what_may_not_be_in_the_log_is_written_again_as_it_was(together: bool, lost_answers: bool) -> None:
    async def run() -> World:
        world = World()
        world.broker.failures, world.broker.lost_answers = 40, lost_answers
        if together:
            await world.publisher.publish_all([(event(1), TOPIC), (event(2), TOPIC)], key="p")
        else:
            await world.publisher.publish(event(1), topic=TOPIC, key="p")
            await world.publisher.publish(event(2), topic=TOPIC, key="p")
        return world

    world = asyncio.run(run())
    assert world.time.slept_s == [AWAY_WAIT_S] * 40
    written = world.written()
    assert list(dict(written)) == ["event-1", "event-2"], "none is missing, and each first time in order"
    assert len(set(written)) == 2, "however often one is said, it is the same"
    assert len(written) == 2 if not lost_answers else len(written) > 2


def test_who_is_cancelled_meanwhile_says_nothing_more() -> None:
    async def run() -> World:
        world = World()
        world.broker.failures = 1_000_000
        saying = asyncio.create_task(world.publisher.publish(event(1), topic=TOPIC, key="p"))
        await until(lambda: len(world.time.slept_s) > 3)
        saying.cancel()
        with pytest.raises(asyncio.CancelledError):
            await saying
        world.broker.failures = 0
        await world.publisher.publish(event(2), topic=TOPIC, key="p")
        return world

    assert [id_ for id_, _ in asyncio.run(run()).written()] == ["event-2"]
