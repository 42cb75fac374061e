"""What every broker promises."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka import KafkaError, Producer

from sluice_contracts.envelope import OutgoingRecord, Record
from sluice_runtime.broker import Broker, Fenced, TopicPartition
from sluice_runtime.kafka.broker import KafkaBroker
from tests.conformance.conftest import kafka_installation, memory_installation
from tests.kafka import TestKafka

Connect = Callable[[], Broker]
JOURNAL, STATE, COMMANDS = "pipeline.journal", "pipeline.state", "pipeline.commands"
DEAD_LETTERS = "dlq.pipeline.commands"


def record(topic: str, text: str, key: str = "k") -> OutgoingRecord:
    return OutgoingRecord(topic, key.encode(), text.encode(), (("h", b"\xff\x00"),))


async def values(broker: Broker, at: TopicPartition) -> list[bytes | None]:
    bounds = (await broker.bounds([at]))[at]
    found: list[Record] = []
    await broker.read(at, bounds.first, bounds.end, found.extend)
    return [one.value for one in found]


def run(installation: Callable[[], Any], test: Callable[[Connect], Any]) -> None:
    async def main() -> None:
        async with installation() as connect:
            await test(connect)

    asyncio.run(main())


def test_appended_offsets_follow_each_other_and_bytes_come_back(installation: Any) -> None:
    async def test(connect: Connect) -> None:
        broker = connect()
        offsets = [await broker.append(record(JOURNAL, f"v{n}"), 1) for n in range(5)]
        assert offsets == list(range(5))
        at = TopicPartition(JOURNAL, 1)
        found: list[Record] = []
        await broker.read(at, 1, 4, found.extend)
        assert [(one.offset, one.value, one.key, one.headers) for one in found] == [
            (n, f"v{n}".encode(), b"k", (("h", b"\xff\x00"),)) for n in range(1, 4)
        ]
        assert await values(broker, TopicPartition(JOURNAL, 0)) == []

    run(installation, test)


def test_two_clients_appends_share_one_order(installation: Any) -> None:
    async def test(connect: Connect) -> None:
        one, other = connect(), connect()
        assert await one.append(record(JOURNAL, "a"), 0) == 0
        assert await other.append(record(JOURNAL, "b"), 0) == 1
        assert await one.append(record(JOURNAL, "c"), 0) == 2

    run(installation, test)


def test_records_of_one_key_keep_their_order_and_partition(installation: Any) -> None:
    async def test(connect: Connect) -> None:
        broker = connect()
        sent = [record(COMMANDS, f"{key}{n}", key) for n in range(50) for key in "abc"]
        await broker.append_all(sent)
        for key in "abc":
            at = TopicPartition(COMMANDS, broker.partition_for(key.encode(), await broker.partitions(COMMANDS)))
            mine = [value for value in await values(broker, at) if value and value.startswith(key.encode())]
            assert mine == [f"{key}{n}".encode() for n in range(50)]

    run(installation, test)


def test_a_record_of_nothing_but_headers_is_written(installation: Any) -> None:
    """The dead letter of a record with neither key nor value."""

    async def test(connect: Connect) -> None:
        broker, bare = connect(), OutgoingRecord(DEAD_LETTERS, None, None, (("h", b"x"), ("null", None)))
        await broker.append_all([record(DEAD_LETTERS, "before"), bare, record(DEAD_LETTERS, "after")])
        assert await broker.append(bare) == 3
        found: list[Record] = []
        await broker.read(TopicPartition(DEAD_LETTERS, 0), 0, 4, found.extend)
        assert [(one.key, one.value) for one in found] == [
            (b"k", b"before"), (None, None), (b"k", b"after"), (None, None),
        ]  # fmt: skip
        assert found[1].headers == bare.headers

    run(installation, test)


def test_calls_that_overlap_keep_their_order(installation: Any) -> None:
    """Also the first ones of a client, which still has to connect and to learn where the topic is."""

    async def test(connect: Connect) -> None:
        broker = connect()
        calls = [asyncio.ensure_future(broker.append_all([record(COMMANDS, f"v{n}")] * 3)) for n in range(40)]
        await asyncio.gather(*calls)
        at = TopicPartition(COMMANDS, broker.partition_for(b"k", await broker.partitions(COMMANDS)))
        assert await values(broker, at) == [f"v{n}".encode() for n in range(40) for _ in range(3)]

    run(installation, test)


def test_trimmed_records_are_gone_and_offsets_stay(installation: Any) -> None:
    async def test(connect: Connect) -> None:
        broker, at = connect(), TopicPartition(JOURNAL, 0)
        for n in range(5):
            await broker.append(record(JOURNAL, f"v{n}"), 0)
        await broker.trim(at, 3)
        assert (await broker.bounds([at]))[at].first == 3
        assert await values(broker, at) == [b"v3", b"v4"]
        assert await broker.append(record(JOURNAL, "v5"), 0) == 5

    run(installation, test)


def test_a_transaction_shows_whole_and_a_later_owner_fences_it(installation: Any) -> None:
    async def test(connect: Connect) -> None:
        broker, at = connect(), TopicPartition(STATE, 0)
        old = await broker.open_transaction("spawner-checkpoint-0")
        await old.write([(record(STATE, "a", "x"), 0), (record(STATE, "b", "y"), 0)])
        new = await connect().open_transaction("spawner-checkpoint-0")
        assert await values(broker, at) == [b"a", b"b"]
        with pytest.raises(Fenced):
            await old.write([(record(STATE, "stale", "x"), 0)])
        await new.write([(record(STATE, "c", "x"), 0)])
        last = await connect().open_transaction("spawner-checkpoint-0")
        assert await values(broker, at) == [b"a", b"b", b"c"]
        for one in (old, new, last):
            await one.close()

    run(installation, test)


def test_partitions_move_to_a_second_member_and_back(installation: Any) -> None:
    async def test(connect: Connect) -> None:
        owned: dict[str, set[int]] = {"one": set(), "two": set()}

        def listener(name: str) -> dict[str, Any]:
            async def assigned(numbers: frozenset[int]) -> None:
                owned[name] |= numbers

            async def revoked(numbers: frozenset[int]) -> None:
                owned[name] -= numbers

            return {"assigned": assigned, "revoked": revoked}

        async def until(expected: Callable[[], bool], *members: Any) -> None:
            async with asyncio.timeout(30):
                while not expected():
                    for member in members:
                        await member.poll(50)

        one = await connect().subscribe([COMMANDS], "spawner-g", **listener("one"))
        await until(lambda: owned["one"] == {0, 1}, one)
        two = await connect().subscribe([COMMANDS], "spawner-g", **listener("two"))
        await until(lambda: len(owned["one"]) == 1 and owned["one"] | owned["two"] == {0, 1}, one, two)
        assert not owned["one"] & owned["two"]
        await two.close()
        await until(lambda: owned["one"] == {0, 1}, one)
        await one.close()

    run(installation, test)


def test_held_partitions_are_silent_and_seek_goes_anywhere(installation: Any) -> None:
    async def test(connect: Connect) -> None:
        broker = connect()
        for n in range(4):
            await broker.append(record(COMMANDS, f"v{n}"), 0)
        at = TopicPartition(COMMANDS, 0)

        async def ignore(numbers: frozenset[int]) -> None:
            pass

        member = await broker.subscribe([COMMANDS], "spawner-h", assigned=ignore, revoked=ignore)
        assert await member.poll(300) == {}
        member.seek({at: 2})
        member.release([at])

        async def take(count: int) -> list[bytes | None]:
            taken: list[bytes | None] = []
            async with asyncio.timeout(30):
                while len(taken) < count:
                    taken += [one.value for one in (await member.poll(200)).get(at, ())]
            return taken

        assert await take(2) == [b"v2", b"v3"]
        assert await member.position(at) == 4
        member.seek({at: 0})
        assert await take(4) == [b"v0", b"v1", b"v2", b"v3"]
        await member.close()

    run(installation, test)


def test_a_follower_hears_what_comes_after_it_and_nothing_before(installation: Any) -> None:
    async def test(connect: Connect) -> None:
        broker = connect()
        await broker.append(record(COMMANDS, "before"), 0)
        follower = await broker.follow([COMMANDS])
        for number in range(2):
            await broker.append(record(COMMANDS, f"after{number}"), number)
        heard: set[bytes | None] = set()
        async with asyncio.timeout(30):
            while len(heard) < 2:
                heard |= {one.value for records in (await follower.poll(200)).values() for one in records}
        assert heard == {b"after0", b"after1"}
        await follower.close()

    run(installation, test)


@pytest.mark.covers("W10")
def test_a_follower_knows_until_when_it_has_heard_all(installation: Any) -> None:
    """With every answer of the broker, whether or not anybody writes."""

    async def test(connect: Connect) -> None:
        broker = connect()
        follower = await broker.follow([COMMANDS])
        times: set[int] = set()
        async with asyncio.timeout(30):
            while len(times) < 3:
                assert await follower.poll(200) == {}
                times.add(await follower.heard_through_ms() or 0)
        await broker.append(record(COMMANDS, "said"), 0)
        at = TopicPartition(COMMANDS, 0)
        written: list[Record] = []
        await broker.read(at, 0, 1, written.extend)
        async with asyncio.timeout(30):
            while not await follower.poll(200):
                pass
            while (await follower.heard_through_ms() or 0) < written[0].timestamp_ms:
                await follower.poll(200)
        await follower.close()

    run(installation, test)


def test_what_waits_to_be_polled_is_not_heard() -> None:
    async def test(connect: Connect) -> None:
        broker = connect()
        follower = await broker.follow([COMMANDS])
        await broker.append(record(COMMANDS, "said"), 0)
        assert await follower.heard_through_ms() is None
        await follower.poll(200)
        assert await follower.heard_through_ms() is not None

    run(memory_installation, test)


def test_offsets_are_found_by_time(installation: Any) -> None:
    async def test(connect: Connect) -> None:
        broker = connect()
        at = TopicPartition("pipeline.commands", 0)
        assert await broker.offset_at(at, 0) == 0
        for text in ("a", "b"):
            await broker.append(record("pipeline.commands", text), 0)
        read: list[Record] = []
        await broker.read(at, 0, 2, read.extend)
        assert await broker.offset_at(at, read[0].timestamp_ms) == 0
        assert await broker.offset_at(at, read[1].timestamp_ms + 1) == 2
        assert await broker.offset_at(at, -5) == 0

    run(installation, test)


@pytest.mark.covers("C2")
@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
def test_every_compression_is_read_and_none_hides_a_large_record(kafka: TestKafka, codec: str) -> None:
    """The broker undoes it: a reader needs no codec, and 30 KB never become 30 MB in its memory."""
    told: list[KafkaError | None] = []

    async def main() -> None:
        async with kafka_installation(kafka) as connect:
            broker = connect()
            assert isinstance(broker, KafkaBroker)
            topic = broker._names.full("pipeline.commands")
            settings = {"compression.type": codec, "message.max.bytes": 100_000_000}
            producer = Producer({**kafka.connection.confluent(), **settings})
            for value in (b"y" * 1_000_000, b"x" * 30_000_000):
                producer.produce(topic, value, partition=0, on_delivery=lambda error, _: told.append(error))
                await asyncio.to_thread(producer.flush, 60)
            at = TopicPartition("pipeline.commands", 0)
            read: list[Record] = []
            await broker.read(at, 0, (await broker.bounds([at]))[at].end, read.extend)
            assert [one.value for one in read] == [b"y" * 1_000_000]

    asyncio.run(main())
    assert told[0] is None
    assert told[1] is not None
    assert told[1].code() == KafkaError.MSG_SIZE_TOO_LARGE
