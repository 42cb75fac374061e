"""What the consumer takes, hears and leaves, on a broker in memory that fails and moves partitions when told to."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from sluice_agent_runner.entrypoints.consumer import Consumer
from sluice_agent_runner.entrypoints.youth import NOTE_INTERVAL_MS, Age, Youth
from sluice_agent_runner.measures import Measures
from sluice_contracts import codec
from sluice_contracts.envelope import CloudEvent, Record
from sluice_contracts.messages.agent import AgentAnswer, AgentRun, AgentStop, AgentThrottle, Answer
from sluice_contracts.messages.base import Message
from sluice_runtime.broker import BrokerUnavailable, TopicPartition
from sluice_runtime.lag import Lag
from sluice_runtime.memory import MemoryBroker, MemoryGroups, MemoryLog, MemorySubscription
from sluice_runtime.metrics import Metrics
from tests.doubles import ManualClock
from tests.metrics import lag_of
from tests.unit.agent_runner.builders import NOW_MS, TestTime, agent_run, until

COUNT = 4
TOPICS = ("agent.tasks.q", "agent.inbox.q")


class Broker(MemoryBroker):
    """Fails the next poll of a follower, or does something before a member decodes what it has polled."""

    def __init__(self, log: MemoryLog, groups: MemoryGroups) -> None:
        super().__init__(log, groups)
        self.member: MemorySubscription | None = None
        self.committed: dict[TopicPartition, int] = {}
        self.before_decoding: Callable[[], Awaitable[None]] | None = None
        self.outage: Callable[[], Awaitable[None]] | None = None

    async def partitions(self, topic: str) -> int:
        if topic == TOPICS[0] and self.before_decoding is not None:
            act, self.before_decoding = self.before_decoding, None
            await act()
        return await super().partitions(topic)

    async def subscribe(self, topics: Sequence[str], group: str, **changed: Any) -> MemorySubscription:
        self.member = await super().subscribe(topics, group, **changed)
        self.member.commit = self._commit  # type: ignore[method-assign]
        return self.member

    async def _commit(self, positions: Mapping[TopicPartition, int]) -> None:
        self.committed |= positions

    async def follow(self, topics: Sequence[str]) -> MemorySubscription:
        follower = await super().follow(topics)
        poll = follower.poll

        async def failing(timeout_ms: int) -> Mapping[TopicPartition, Sequence[Record]]:
            if self.outage is not None:
                act, self.outage = self.outage, None
                await act()
                raise BrokerUnavailable("away")
            return await poll(timeout_ms)

        follower.poll = failing  # type: ignore[method-assign]
        return follower


class Heard:
    """Attempts that only notes what it is given."""

    def __init__(self) -> None:
        self.room = 100
        self.tasks: list[str] = []
        self.answers: list[str] = []
        self.throttles: list[tuple[str, int]] = []

    async def on_task(self, event: CloudEvent[AgentRun], queue: str) -> None:
        self.tasks.append(event.data.agent_id)

    async def on_stop(self, stop: AgentStop) -> None: ...

    async def on_answer(self, message: AgentAnswer) -> None:
        self.answers.append(message.agent_id)

    async def on_throttle(self, throttle: AgentThrottle) -> None:
        self.throttles.append((throttle.agent_id, throttle.api_calls_per_minute))


class World:
    """A consumer that runs, and the log that it reads; the log's clock is the spawner's, the time is the runner's."""

    def __init__(self) -> None:
        self.clock = ManualClock(NOW_MS)
        self.log = MemoryLog(dict.fromkeys(TOPICS, COUNT), self.clock)
        self.groups = MemoryGroups()
        self.broker = Broker(self.log, self.groups)
        self.time = TestTime()
        self.heard = Heard()
        self.metrics = Metrics("agent-runner", "test")

    @asynccontextmanager
    async def consumer(self) -> Any:
        measures = Measures(self.metrics)
        consumer = Consumer(
            self.broker, self.heard, ["q"], self.time, measures, Lag(self.broker, self.metrics, interval_s=0.01)
        )
        running = asyncio.create_task(consumer.run())
        try:
            async with asyncio.timeout(30):
                await consumer.ready.wait()
            yield consumer
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    def say(self, data: Message, agent_id: str, topic: str) -> Record:
        event = CloudEvent(f"{agent_id}-id", "spawner", "acme", f"p-{agent_id}", NOW_MS, data)
        outgoing = codec.encode(event, topic=topic, key=agent_id)
        offset = self.log.append(outgoing)
        number = self.broker.partition_for(agent_id.encode(), COUNT)
        return self.log.read(TopicPartition(topic, number), offset)[0]

    def task(self, agent_id: str) -> Record:
        return self.say(agent_run(agent_id=agent_id), agent_id, TOPICS[0])

    def answer(self, agent_id: str) -> Record:
        answer = AgentAnswer(agent_id=agent_id, answer=Answer(request_id="r", answer="this"))
        return self.say(answer, agent_id, TOPICS[1])

    def lag(self) -> dict[tuple[str, str], float]:
        """What the metric says, by topic and partition."""
        return lag_of(self.metrics)

    def elsewhere(self, record: Record) -> str:
        """An agent of another partition."""
        names = (f"agent-{number}" for number in range(2, 99))
        return next(one for one in names if self.broker.partition_for(one.encode(), COUNT) != record.partition)


def in_world(scenario: Callable[[World], Awaitable[None]]) -> None:
    async def run() -> None:
        async with asyncio.timeout(60):
            await scenario(World())

    asyncio.run(run())


@pytest.mark.covers("V5")
def test_a_throttle_is_heard_by_whoever_has_the_agent() -> None:
    async def scenario(world: World) -> None:
        async with world.consumer():
            world.say(AgentThrottle(agent_id="agent-1", api_calls_per_minute=7), "agent-1", TOPICS[1])
            await until(lambda: world.heard.throttles == [("agent-1", 7)])

    in_world(scenario)


@pytest.mark.covers("P10")
def test_an_answer_that_comes_during_an_outage_is_heard_also_as_the_first_of_its_partition() -> None:
    async def scenario(world: World) -> None:
        async with world.consumer():
            heard = world.answer("agent-1")
            await until(lambda: world.heard.answers == ["agent-1"])
            first = world.elsewhere(heard)

            async def meanwhile() -> None:
                world.answer(first)

            world.broker.outage = meanwhile
            await until(lambda: len(world.heard.answers) == 2)
            assert world.heard.answers == ["agent-1", first]

    in_world(scenario)


@pytest.mark.parametrize("comes_back", [False, True])
@pytest.mark.covers("W10", "P12")
def test_a_task_whose_partition_was_revoked_before_its_commit_is_not_started(comes_back: bool) -> None:
    async def scenario(world: World) -> None:
        first = world.task("agent-1")
        other = world.elsewhere(first)
        world.task(other)

        async def meanwhile() -> None:
            member = world.broker.member
            assert member is not None
            await member.lose(frozenset({first.partition}))
            if comes_back:
                await member.gain(frozenset({first.partition}))
                member.numbers.discard(first.partition)  # nothing more is read of it in this test

        world.broker.before_decoding = meanwhile
        async with world.consumer():
            await until(lambda: other in world.heard.tasks)
        assert world.heard.tasks == [other]
        assert first.partition not in {at.partition for at in world.broker.committed}

    in_world(scenario)


@pytest.mark.covers("P12", "W10")
def test_a_runner_whose_clock_is_far_ahead_takes_new_tasks_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(world: World) -> None:
        world.task("rewound")
        world.time.time_ms = NOW_MS + 3_600_000
        async with world.consumer():
            await until(lambda: world.broker.committed)
            world.task("new")
            await until(lambda: world.heard.tasks == ["new"])

    with caplog.at_level(logging.WARNING):
        in_world(scenario)
    assert "1 tasks are older than 60 s and are passed over" in caplog.text
    assert "the clocks of this machine and of the spawner's differ" in caplog.text


@pytest.mark.covers("P12")
def test_old_tasks_leave_the_room_to_young_ones() -> None:
    async def scenario(world: World) -> None:
        for n in range(20):
            world.task(f"old-{n}")
        world.clock.advance(3_600_000)
        world.time.time_ms = world.clock.now_ms()
        world.task("young")
        world.heard.room = 1
        async with world.consumer():
            await until(lambda: world.heard.tasks)
            assert world.heard.tasks == ["young"]

    in_world(scenario)


def test_youth_is_what_the_log_shows_for_as_long_as_it_shows_it() -> None:
    at = TopicPartition("t", 1)
    other = TopicPartition("t", 2)

    def age(youth: Youth, offset: int, monotonic_ms: int, partition: int = 1) -> Age:
        record = Record("t", partition, offset, 1_000, None, None, ())
        return youth.age(record, now_ms=10_000_000, monotonic_ms=monotonic_ms)

    youth = Youth()
    assert youth.due(0)
    assert age(youth, 100, 0) is Age.OLD
    youth.note({at: 5, other: 5}, 0)
    assert not youth.due(NOTE_INTERVAL_MS - 1)
    assert (age(youth, 4, 1), age(youth, 5, 1)) == (Age.OLD, Age.YOUNG_AGAINST_CLOCK)
    youth.note({at: 8, other: 8}, 30_000)
    assert age(youth, 5, 60_000) is Age.YOUNG_AGAINST_CLOCK
    assert (age(youth, 5, 60_001), age(youth, 8, 60_001)) == (Age.OLD, Age.YOUNG_AGAINST_CLOCK)
    youth.forget({1})
    assert (age(youth, 8, 60_001), age(youth, 8, 60_001, 2)) == (Age.OLD, Age.YOUNG_AGAINST_CLOCK)
    record = Record("t", 1, 0, 10_000_000 - 60_000, None, None, ())
    assert youth.age(record, now_ms=10_000_000, monotonic_ms=0) is Age.YOUNG


@pytest.mark.covers("D1", "O7")
def test_tasks_for_which_there_is_no_room_are_told_as_lag() -> None:
    async def scenario(world: World) -> None:
        world.heard.room = 0
        async with world.consumer():
            for number in range(3):
                world.task(f"a{number}")
            await until(lambda: sum(world.lag().values()) == 3)
            assert {topic for topic, _ in world.lag()} == {TOPICS[0]}
            world.heard.room = 100
            await until(lambda: len(world.heard.tasks) == 3 and not any(world.lag().values()))

    in_world(scenario)
