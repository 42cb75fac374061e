"""The monitor's work on the log in memory: killed at any step, from a seed, it tells each breach once."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Collection, Sequence

import pytest

from sluice_contracts import codec
from sluice_contracts.envelope import CloudEvent, OutgoingRecord
from sluice_contracts.messages.alert import BudgetSet
from sluice_contracts.messages.signal import ErrorReported, ProgressReported, WatchChanged
from sluice_contracts.topics import Principal
from sluice_observability.domain.budget_limits import Budgets, Limits
from sluice_observability.domain.budget_state import FORGET_MS, HORIZON_MS
from sluice_observability.domain.budgets import ARRIVAL_MS
from sluice_observability.domain.timers import Timers
from sluice_observability.handlers.budget_records import BudgetRecords
from sluice_observability.handlers.budget_watch import BEHIND_MAX_MS, BudgetWatch, position_key
from sluice_observability.handlers.refusals import DeadLetterOffice
from sluice_observability.ports import Change
from sluice_runtime.broker import BrokerUnavailable, TopicPartition
from sluice_runtime.clock import Clock
from sluice_runtime.memory import MemoryBroker, MemoryGroups, MemoryLog
from tests.doubles import ManualClock
from tests.unit.observability.budget_streams import Signals, raised, wanted

PARTITIONS = 2
PROGRESS_MS = 20_000
SEEDS = 150


class Killed(BrokerUnavailable):
    """The process ended here."""


class Fate:
    """Says at each record that is written whether the process ends there."""

    def __init__(self, draw: random.Random) -> None:
        self.left = -1
        self._draw = draw

    def plan(self) -> None:
        self.left = self._draw.randrange(1, 60)

    def survives(self) -> bool:
        self.left -= 1
        return self.left != 0


class MortalBroker(MemoryBroker):
    """Dies between any two records of what it appends."""

    fate: Fate

    async def append_all(self, records: Sequence[OutgoingRecord]) -> None:
        for record in records:
            if not self.fate.survives():
                raise Killed("while appending")
            await super().append_all([record])
        if not self.fate.survives():
            raise Killed("before the acknowledgement")


class Changelog:
    """What is durable of the table, by partition."""

    def __init__(self, fate: Fate, clock: Clock) -> None:
        self.stored: dict[int, dict[str, bytes]] = {number: {} for number in range(PARTITIONS)}
        self._fate = fate
        self._clock = clock

    async def write(self, changes: Sequence[Change]) -> int:
        for change in changes:
            if not self._fate.survives():
                raise Killed("while the table is written")
            if change.value is None:
                self.stored[change.partition].pop(change.key, None)
            else:
                self.stored[change.partition][change.key] = change.value
        if not self._fate.survives():
            raise Killed("after the table is written")
        return self._clock.now_ms()


class Ahead:
    """A host's clock that is not Kafka's."""

    def __init__(self, clock: Clock, ahead_ms: int) -> None:
        self._clock, self._ahead_ms = clock, ahead_ms

    def now_ms(self) -> int:
        return self._clock.now_ms() + self._ahead_ms


class World:
    """A monitor that lives, dies and lives again."""

    def __init__(self, seed: int, limits: Limits, timers: type[Timers] = Timers, *, ahead_ms: int = 0) -> None:
        self.timers = timers
        self.draw = random.Random(seed)
        self.clock = ManualClock()
        self.own_clock = Ahead(self.clock, ahead_ms)
        topics = {"signals": PARTITIONS, "alerts": PARTITIONS, "budgets": 1, "dlq.signals": 1, "dlq.budgets": 1}
        self.log = MemoryLog(topics, self.clock)
        self.fate = Fate(self.draw)
        self.broker = MortalBroker(self.log, MemoryGroups())
        self.broker.fate = self.fate
        self.table = Changelog(self.fate, self.clock)
        self.budgets = Budgets(limits)
        self.deaths = 0

    def write(self, *events: CloudEvent, key: str | None = None) -> None:  # type: ignore[type-arg]
        for event in events:
            self.log.append(codec.encode(event, topic="signals", key=key or event.subject))

    async def restored(self) -> BudgetWatch:
        letters = DeadLetterOffice(self.broker, self.clock, window_records=100, refused_by=Principal.MONITOR)
        watch = BudgetWatch(self.budgets, self.broker, letters, self.own_clock, PARTITIONS, timers=self.timers)
        for number, stored in self.table.stored.items():
            await watch.restore(number, stored)
        return watch

    async def live(self, *, mortal: bool) -> BudgetWatch:
        """Restores, observes everything, looks at the timers; from the beginning after each death."""
        while True:
            self.fate.left = -1
            watch = await self.restored()
            if mortal:
                self.fate.plan()
            try:
                await self._work(watch)
                return watch
            except Killed:
                self.deaths += 1

    async def _work(self, watch: BudgetWatch) -> None:
        # The group's offset may lie anywhere before the table's: what the table has is handed out again.
        ats = [TopicPartition("signals", number) for number in range(PARTITIONS)]
        start = {at: self.draw.randrange((watch.position(at.partition) or 0) + 1) for at in ats}
        while any(start[at] < self.log.bounds(at).end for at in ats):
            at = self.draw.choice(ats)
            records = self.log.read(at, start[at])[: self.draw.choice([1, 2, 7, 50])]
            if records:
                start[at] = records[-1].offset + 1
                if self.draw.random() < 0.9:  # Faust, after a rebalance, passes records over
                    await watch.observe(records, self.table)
        await watch.ask()
        self.clock.advance(BEHIND_MAX_MS)
        heard = await watch.listen((), self.table)
        assert heard.keys() == {at.partition for at in ats}
        if self.draw.random() < 0.8:
            await watch.look(heard, self.table)

    def alerts(self) -> list[dict[str, object]]:
        return raised(
            [one for number in range(PARTITIONS) for one in self.log.read(TopicPartition("alerts", number), 0)]
        )

    def wanted(self, heard_ms: int) -> list[dict[str, object]]:
        signals = [one for number in range(PARTITIONS) for one in self.log.read(TopicPartition("signals", number), 0)]
        return wanted(signals, heard_ms, progress_ms=PROGRESS_MS)


async def course(seed: int) -> World:
    world = World(seed, Limits(progress_timeout_ms=PROGRESS_MS))
    signals = Signals(seed, pipelines=8, watched=True, clock=world.clock)
    for _ in range(world.draw.randrange(3, 7)):
        for event in signals.some(world.draw.randrange(1, 40)):
            world.write(event)
            world.clock.advance(world.draw.choice([0, 1, 500, 3_000]))
            if world.draw.random() < 0.05:
                world.log.append(OutgoingRecord("signals", b"key", b"no signal"))
        await world.live(mortal=True)
    world.clock.advance(world.draw.choice([0, PROGRESS_MS * 2]))
    watch = await world.live(mortal=False)
    await watch.look(dict.fromkeys(range(PARTITIONS), world.clock.now_ms()), world.table)
    return world


@pytest.mark.covers("V5", "O4")
def test_killed_anywhere_it_tells_each_breach_once() -> None:
    deaths = told = 0
    for seed in range(SEEDS):
        world = asyncio.run(course(seed))
        assert world.alerts() == world.wanted(world.clock.now_ms()), f"seed {seed}"
        letters = [dict(one.headers)["ce_id"] for one in world.log.read(TopicPartition("dlq.signals", 0), 0)]
        assert len(letters) == len(set(letters)), f"seed {seed}"
        deaths += world.deaths
        told += len(world.alerts())
    assert deaths > SEEDS
    assert told > SEEDS


@pytest.mark.covers("V5", "O4")
@pytest.mark.parametrize("handed_out", [True, False])
def test_what_was_not_observed_was_not_heard(handed_out: bool) -> None:
    """A deadline passes while nobody reads, and the progress is in the backlog: handed out in part, or kept back."""

    async def scenario() -> None:
        world = World(1, Limits(progress_timeout_ms=PROGRESS_MS))
        number = world.broker.partition_for(b"p", PARTITIONS)
        at = TopicPartition("signals", number)

        def say(data: WatchChanged | ProgressReported) -> None:
            offset = world.log.bounds(at).end
            world.write(CloudEvent(f"e{offset}", "runner/1", "acme", "p", world.clock.now_ms(), data))

        say(WatchChanged(agent_id="a", attempt=1, watched=True))
        watch = await world.live(mortal=False)
        for turn in range(9):
            world.clock.advance(PROGRESS_MS // 2)
            say(ProgressReported(agent_id="a", attempt=1, turn=turn))
        await watch.ask()
        asked_ms = world.clock.now_ms()
        say(WatchChanged(agent_id="a", attempt=1, watched=False))
        backlog = world.log.read(at, 1)
        if handed_out:
            for record in backlog[:-1]:
                heard = await watch.listen({number}, world.table)
                assert number not in heard
                world.clock.advance(BEHIND_MAX_MS)
                await watch.observe([record], world.table)
        else:
            assert number not in await watch.listen((), world.table)
            world.clock.advance(BEHIND_MAX_MS)
        heard = await watch.listen((), world.table)
        assert heard[number] == asked_ms
        await watch.look(heard, world.table)
        assert number not in await watch.listen((), world.table), "it is asked for anew"
        assert world.alerts() == []
        await watch.observe(backlog, world.table)
        await watch.ask()
        await watch.look(await watch.listen((), world.table), world.table)
        assert world.alerts() == world.wanted(world.clock.now_ms()) == []

    asyncio.run(scenario())


@pytest.mark.covers("V5")
@pytest.mark.parametrize("ahead_ms", [-3_600_000, -5_000, 0, 5_000, 3_600_000])
def test_progress_is_missed_by_kafka_s_clock_whatever_the_monitor_s_own_says(ahead_ms: int) -> None:
    async def scenario() -> None:
        world = World(1, Limits(progress_timeout_ms=PROGRESS_MS), ahead_ms=ahead_ms)
        world.write(
            CloudEvent(
                "w", "spawner", "acme", "p", world.clock.now_ms(),
                WatchChanged(agent_id="a", attempt=1, watched=True),
            )
        )  # fmt: skip
        begun_ms = world.clock.now_ms()
        await world.live(mortal=False)
        watch = await world.restored()  # another one, which has written nothing yet
        assert watch.ahead_ms is None

        async def look() -> int:
            await watch.ask()
            await watch.look(await watch.listen((), world.table), world.table)
            return len(world.alerts())

        world.clock.advance(begun_ms + PROGRESS_MS + ARRIVAL_MS - world.clock.now_ms())
        assert await look() == 0
        world.clock.advance(1)
        assert await look() == 1
        assert watch.ahead_ms == ahead_ms

    asyncio.run(scenario())


def test_what_is_settled_is_forgotten() -> None:
    async def scenario() -> None:
        world = World(1, Limits(errors_per_minute=0))
        world.write(CloudEvent("v1", "test", "acme", "quiet", world.clock.now_ms(), ErrorReported(code="x")))
        quiet, ended = world.broker.partition_for(b"quiet", PARTITIONS), dict[int, int]()
        world.budgets.put("tenant/other", BudgetSet(scope="tenant", name="other", errors_per_minute=5))
        world.write(CloudEvent("v2", "test", "other", "one-error", world.clock.now_ms(), ErrorReported(code="x")))
        watch = await world.live(mortal=False)
        states = {key for stored in world.table.stored.values() for key in stored if "/" not in key}
        assert states == {"quiet", "one-error"}
        ended = dict.fromkeys(range(PARTITIONS), world.clock.now_ms() + HORIZON_MS)
        await watch.look(ended, world.table)
        assert {key for stored in world.table.stored.values() for key in stored if "/" not in key} == {"quiet"}
        await watch.look(dict.fromkeys(ended, world.clock.now_ms() + FORGET_MS), world.table)
        assert list(world.table.stored[quiet]) == [position_key(quiet)]

    asyncio.run(scenario())


def test_a_signal_in_another_partition_than_its_key_s_is_refused() -> None:
    async def scenario() -> None:
        world = World(1, Limits(errors_per_minute=0))
        event = CloudEvent("v1", "test", "acme", "p", world.clock.now_ms(), ErrorReported(code="x"))
        elsewhere = 1 - world.broker.partition_for(b"p", PARTITIONS)
        world.log.append(codec.encode(event, topic="signals", key="p"), elsewhere)
        await world.live(mortal=False)
        assert world.alerts() == []
        [letter] = world.log.read(TopicPartition("dlq.signals", 0), 0)
        assert dict(letter.headers)["dlq_reason"] == b"wrong_partition"
        assert dict(letter.headers)["dlq_refused_by"] == b"monitor"

    asyncio.run(scenario())


@pytest.mark.covers("V5")
def test_limits_are_read_from_the_beginning_and_followed() -> None:
    async def scenario() -> None:
        world = World(1, Limits())
        stop = asyncio.Event()
        replanned: list[Collection[str]] = []
        letters = DeadLetterOffice(world.broker, world.clock, window_records=100, refused_by=Principal.MONITOR)
        records = BudgetRecords(world.budgets, world.broker, letters, replanned.append)

        def put(budget: BudgetSet) -> None:
            event = CloudEvent("b", "test", "acme", budget.name or "installation", 1, budget)
            world.log.append(codec.encode(event, topic="budgets", key=budget.key))

        put(BudgetSet(scope="tenant", name="acme", errors_per_minute=9))
        world.log.append(OutgoingRecord("budgets", b"tenant/acme", b"no budget"))
        following = asyncio.create_task(records.follow(stop))
        await records.loaded.wait()
        assert world.budgets.limits("acme", "p").errors_per_minute == 9
        put(BudgetSet(scope="pipeline", name="p", errors_per_minute=1))
        while world.budgets.limits("acme", "p").errors_per_minute != 1:
            await asyncio.sleep(0.01)
        world.log.append(OutgoingRecord("budgets", b"pipeline/p", None))
        while world.budgets.limits("acme", "p").errors_per_minute != 9:
            await asyncio.sleep(0.01)
        assert replanned == [{"tenant/acme"}, {"pipeline/p"}, {"pipeline/p"}], "each tells whom it is about"
        assert len(world.log.read(TopicPartition("dlq.budgets", 0), 0)) == 1
        stop.set()
        await following

    asyncio.run(scenario())
