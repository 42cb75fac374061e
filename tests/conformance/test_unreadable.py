"""Records that aiokafka can't read: what stands beside them is neither lost nor held up, on real Kafka."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from sluice_contracts.envelope import OutgoingRecord, Record
from sluice_runtime.broker import Broker, Subscription, TopicPartition
from sluice_runtime.kafka import subscription as kafka_subscription
from sluice_runtime.kafka import unreadable as kafka_unreadable
from sluice_runtime.kafka.broker import KafkaBroker
from tests.conformance.conftest import kafka_installation
from tests.kafka import TestKafka, write_unreadable

TOPIC = "pipeline.commands"
FIRST, SECOND = TopicPartition(TOPIC, 0), TopicPartition(TOPIC, 1)
BACKLOG = [f"v{number}".encode() for number in range(50)]


def run(kafka: TestKafka, test: Callable[[KafkaBroker], Awaitable[None]]) -> None:
    async def main() -> None:
        async with kafka_installation(kafka) as connect:
            broker = connect()
            assert isinstance(broker, KafkaBroker)
            await test(broker)

    asyncio.run(main())


async def write(broker: Broker, at: TopicPartition, values: list[bytes]) -> None:
    for value in values:
        await broker.append(OutgoingRecord(at.topic, b"k", value, (("h", b"x"),)), at.partition)


async def write_bad(kafka: TestKafka, broker: KafkaBroker, at: TopicPartition) -> int:
    return await write_unreadable(kafka.connection, broker._names.full(at.topic), at.partition, b"k", b"bad")


async def ignore(numbers: frozenset[int]) -> None:
    pass


async def take(
    member: Subscription, counts: dict[TopicPartition, int], offsets: dict[TopicPartition, list[int]]
) -> dict[TopicPartition, list[bytes | None]]:
    """Polls until so many records of each partition have come, and notes their offsets."""
    values: dict[TopicPartition, list[bytes | None]] = {at: [] for at in counts}
    async with asyncio.timeout(60):
        while any(len(values[at]) < count for at, count in counts.items()):
            for at, records in (await member.poll(200)).items():
                values[at] += [one.value for one in records]
                offsets.setdefault(at, []).extend(one.offset for one in records)
    return values


async def fetched(member: Any, broker: KafkaBroker) -> None:
    """Returns once the consumer has both partitions' records in its hands, the good ones first."""
    fetcher = member._consumer._fetcher
    async with asyncio.timeout(30):
        while not {broker._names.kafka(FIRST), broker._names.kafka(SECOND)} <= fetcher._records.keys():
            await asyncio.wait([fetcher._create_fetch_waiter()], timeout=0.1)
    fetcher._records.move_to_end(broker._names.kafka(SECOND))


@pytest.mark.covers("C2")
@pytest.mark.parametrize("placed", ["by a seek", "by the group"])
def test_what_was_drained_before_a_poll_failed_comes_again(kafka: TestKafka, placed: str) -> None:
    async def test(broker: KafkaBroker) -> None:
        await write(broker, FIRST, BACKLOG)
        await write(broker, SECOND, [b"before"])
        await write_bad(kafka, broker, SECOND)
        await write(broker, SECOND, [b"after"])
        member = await broker.subscribe([TOPIC], "spawner-g", assigned=ignore, revoked=ignore)
        assert await member.poll(300) == {}
        if placed == "by a seek":
            member.seek({FIRST: 0, SECOND: 0})
        member.release([FIRST, SECOND])
        await member._placed(10_000)
        await fetched(member, broker)
        offsets: dict[TopicPartition, list[int]] = {}
        values = await take(member, {FIRST: len(BACKLOG), SECOND: 3}, offsets)
        assert values == {FIRST: BACKLOG, SECOND: [b"before", b"bad", b"after"]}
        assert offsets == {FIRST: list(range(len(BACKLOG))), SECOND: [0, 1, 2]}
        await member.close()

    run(kafka, test)


@pytest.mark.covers("C2")
def test_a_bad_record_is_found_behind_records_that_were_deleted(kafka: TestKafka) -> None:
    async def test(broker: KafkaBroker) -> None:
        await write(broker, SECOND, [b"deleted"])
        await write_bad(kafka, broker, SECOND)
        await write(broker, SECOND, [b"after"])
        await broker.trim(SECOND, 1)
        member = await broker.subscribe([TOPIC], "spawner-g", assigned=ignore, revoked=ignore)
        assert await member.poll(300) == {}
        member.seek({SECOND: 0})
        member.release([SECOND])
        assert await take(member, {SECOND: 2}, {}) == {SECOND: [b"bad", b"after"]}
        await member.close()

    run(kafka, test)


@pytest.mark.covers("C2")
def test_a_place_taken_meanwhile_is_kept(kafka: TestKafka, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rebalance while the record is read past: who has the partition now reads from where he asked."""

    async def test(broker: KafkaBroker) -> None:
        await write_bad(kafka, broker, SECOND)
        await write(broker, SECOND, [b"after"])
        member = await broker.subscribe([TOPIC], "spawner-g", assigned=ignore, revoked=ignore)
        assert await member.poll(300) == {}
        member.seek({SECOND: 0})
        member.release([SECOND])
        loop = asyncio.get_running_loop()

        def read_past(*given: Any) -> kafka_unreadable.Past:
            monkeypatch.setattr(kafka_subscription, "read_past", kafka_unreadable.read_past)
            past = kafka_unreadable.read_past(*given)

            async def place() -> None:
                member.seek({SECOND: 1})

            asyncio.run_coroutine_threadsafe(place(), loop).result(10)
            return past

        monkeypatch.setattr(kafka_subscription, "read_past", read_past)
        offsets: dict[TopicPartition, list[int]] = {}
        assert await take(member, {SECOND: 1}, offsets) == {SECOND: [b"after"]}
        assert offsets == {SECOND: [1]}
        await member.close()

    run(kafka, test)


@pytest.mark.covers("C2")
def test_what_is_read_at_once_is_bounded(kafka: TestKafka) -> None:
    async def test(broker: KafkaBroker) -> None:
        await write(broker, SECOND, BACKLOG)
        offset = await write_bad(kafka, broker, SECOND)
        names, connection = broker._names, broker.connection

        def read(start: int, max_records: int, **more: int) -> tuple[list[int], bool]:
            past = kafka_unreadable.read_past(connection, names, SECOND, start, max_records, **more)
            assert all(one.topic == TOPIC for one in past.records)
            return [one.offset for one in past.records], past.unreadable

        assert await asyncio.to_thread(read, 10, 5) == ([10, 11, 12, 13, 14], False)
        assert await asyncio.to_thread(read, 48, 5) == ([48, 49, 50], True)
        assert await asyncio.to_thread(read, offset + 1, 5) == ([], False)
        offsets, unreadable = await asyncio.to_thread(read, 0, 2_000, max_bytes=2_000)
        assert offsets == list(range(len(offsets)))
        assert 0 < len(offsets) < offset
        assert not unreadable

    run(kafka, test)


@pytest.mark.covers("C2")
def test_a_range_with_such_a_record_is_read(kafka: TestKafka) -> None:
    """A takeover looks for what its predecessor has published, on topics where others may write."""

    async def test(broker: KafkaBroker) -> None:
        await write(broker, FIRST, [b"before"])
        await write_bad(kafka, broker, FIRST)
        await write(broker, FIRST, [b"after"])
        found: list[Record] = []
        await broker.read(FIRST, 0, 3, found.extend)
        assert [one.value for one in found] == [b"before", b"bad", b"after"]
        assert [len(one.headers) for one in found] == [1, 0, 1]

    run(kafka, test)
