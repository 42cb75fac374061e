"""The follower on the log in memory: killed at each write, fenced, without Kafka, without a file."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from sluice_contracts import codec
from sluice_contracts.envelope import OutgoingRecord
from sluice_contracts.messages.audit import VaultUsed
from sluice_contracts.topics import AUDIT_POSITION, VAULT_AUDIT
from sluice_runtime.broker import BrokerUnavailable, TopicPartition, Transaction
from sluice_runtime.http import Readiness
from sluice_runtime.memory import MemoryBroker, MemoryGroups, MemoryLog
from sluice_runtime.metrics import Metrics
from sluice_vault_broker.audit.adapters.topic import PositionsKept
from sluice_vault_broker.audit.follower import FILE, KAFKA, Follower, FollowerPolicy
from tests.doubles import ManualClock
from tests.unit.vault_broker.audit_entries import line

PARTITIONS = 4
WAIT_S = 30.0


class Killed(BaseException):
    """The process ends here."""


class DoomedTransaction:
    """Dies, or fails, before or after it has written, as often as it is told."""

    def __init__(self, inner: Transaction, world: World) -> None:
        self._inner, self._world = inner, world

    async def write(self, records: Iterable[tuple[OutgoingRecord, int]]) -> None:
        before, after = self._world.fate()
        if before is not None:
            raise before
        await self._inner.write(list(records))
        if after is not None:
            raise after

    async def close(self) -> None:
        await self._inner.close()


class DoomedBroker(MemoryBroker):
    world: World

    async def open_transaction(self, transactional_id: str) -> Transaction:  # type: ignore[override]
        return DoomedTransaction(await super().open_transaction(transactional_id), self.world)


class World:
    """A file, a log, and followers."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "audit.log"
        self.clock = ManualClock()
        self.log = MemoryLog({VAULT_AUDIT.name: PARTITIONS, AUDIT_POSITION.name: 1}, self.clock)
        self.broker = DoomedBroker(self.log, MemoryGroups())
        self.broker.world = self
        self.readiness = Readiness(KAFKA, FILE)
        self.fate: Callable[[], tuple[BaseException | None, BaseException | None]] = lambda: (None, None)
        self.number = 0
        self.policy = FollowerPolicy(poll_s=0.001, backoff_s=0.001, fenced_wait_s=0.001)

    def write(self, count: int) -> None:
        with self.path.open("ab") as file:
            for _ in range(count):
                self.number += 1
                file.write(line(self.number) + b"\n")

    def told(self) -> list[str | None]:
        """The requests' ids, as they stand on the topic, partition by partition."""
        found = []
        for number in range(PARTITIONS):
            for record in self.log.read(TopicPartition(VAULT_AUDIT.name, number), 0):
                event = codec.decode(record)
                codec.check_partition(record, self.broker.partition_for(record.key or b"", PARTITIONS))
                assert isinstance(event.data, VaultUsed)
                found.append(event.data.request_id)
        return found

    def follower(self) -> Follower:
        metrics = Metrics("vault-audit", "test")
        return Follower(
            self.path, self.broker, self.clock, metrics, self.readiness, installation="sluice.", policy=self.policy
        )

    async def until(self, what: Callable[[], bool]) -> None:
        async with asyncio.timeout(WAIT_S):
            while not what():
                await asyncio.sleep(0.001)

    async def running(self, test: Callable[[], Awaitable[None]]) -> None:
        stop = asyncio.Event()
        task = asyncio.ensure_future(self.follower().run(stop))
        try:
            await test()
        finally:
            stop.set()
            await task


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def requests(count: int) -> list[str]:
    return [f"request-{number}" for number in range(1, count + 1)]


@pytest.mark.covers("V7")
@pytest.mark.parametrize("seed", range(10))
def test_killed_and_failing_at_any_write_each_line_is_told_once(world: World, seed: int) -> None:
    dice = random.Random(seed)

    def fate() -> tuple[BaseException | None, BaseException | None]:
        fault = dice.choice([None, None, Killed(), BrokerUnavailable("away")])
        return (fault, None) if dice.random() < 0.5 else (None, fault)

    async def life() -> None:
        stop = asyncio.Event()
        world.write(dice.randrange(5))
        task = asyncio.ensure_future(world.follower().run(stop))
        while not task.done() and len(world.told()) < world.number:
            await asyncio.sleep(0.001)
        stop.set()
        await task

    world.fate = fate
    for _ in range(20):
        try:
            asyncio.run(life())
        except Killed:
            continue
    world.fate = lambda: (None, None)
    world.write(1)
    asyncio.run(world.running(lambda: world.until(lambda: len(world.told()) >= world.number)))
    assert world.told() == requests(world.number)


@pytest.mark.covers("V7")
def test_of_two_at_once_none_tells_anything_twice(world: World) -> None:
    async def test() -> None:
        stop = asyncio.Event()
        both = [asyncio.ensure_future(world.follower().run(stop)) for _ in range(2)]
        for _ in range(50):
            world.write(2)
            await asyncio.sleep(0.002)
        await world.until(lambda: len(world.told()) >= world.number)
        stop.set()
        await asyncio.gather(*both)

    asyncio.run(test())
    assert world.told() == requests(world.number)


@pytest.mark.covers("V7")
def test_it_waits_for_its_file_and_says_so(world: World) -> None:
    async def test() -> None:
        await world.until(lambda: "not there" in str(world.readiness.reasons))
        world.path.touch()
        await world.until(lambda: not world.readiness.reasons)
        world.write(3)
        await world.until(lambda: len(world.told()) == 3)

    asyncio.run(world.running(test))


@pytest.mark.covers("V7")
def test_positions_are_trimmed_and_found_behind_what_was_given_up(world: World) -> None:
    world.policy = replace(world.policy, positions=PositionsKept(trim_interval_count=5, offsets_count=4))

    async def test() -> None:
        for _ in range(12):
            world.write(1)
            await world.until(lambda: len(world.told()) == world.number)

    asyncio.run(world.running(test))
    at = TopicPartition(AUDIT_POSITION.name, 0)
    assert world.log.bounds(at).first > 0
    world.log._log(at).records.extend([None] * 45)  # as markers of transactions that wrote nothing
    world.write(1)
    asyncio.run(world.running(lambda: world.until(lambda: len(world.told()) == world.number)))
    assert world.told() == requests(world.number)


@pytest.mark.covers("V7", "C2")
def test_a_position_that_is_none_stops_it(world: World) -> None:
    world.write(1)
    world.log.append(OutgoingRecord(AUDIT_POSITION.name, b"0", b"{}"), 0)
    with pytest.raises(ValueError, match="no position"):
        asyncio.run(world.follower().run(asyncio.Event()))
    assert world.told() == []
