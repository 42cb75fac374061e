"""The sink against what fails: nothing lost, nothing twice, and it waits for whatever is away."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from sluice_contracts import codec, topics
from sluice_contracts.envelope import OutgoingRecord
from sluice_observability.adapters.clickhouse import ClickHouse
from sluice_observability.adapters.columns import LogColumns
from sluice_observability.domain.places import Gap, Place
from sluice_observability.domain.policy import SinkPolicy
from sluice_observability.domain.records import UNREADABLE_HEADERS
from sluice_observability.domain.retrying import Backoff
from sluice_observability.handlers.positions import GrowingClock, positions_in
from sluice_observability.handlers.refusals import Checker, DeadLetterOffice
from sluice_observability.handlers.sink import Sink
from sluice_observability.ports import Database, Header
from sluice_runtime.broker import TopicPartition
from sluice_runtime.memory import MemoryBroker, MemoryGroups, MemoryLog, partition_for
from tests.doubles import ManualClock
from tests.unit.observability.doubles import FaultyDatabase, MemorySource, Message
from tests.unit.observability.events import Teller, spawning, whole_life

TOPIC = "agent.events.default"
DEAD_LETTERS = topics.dead_letter_topic(topics.PIPELINE_EVENTS.name)
FAST = SinkPolicy(flush_interval_ms=5, poll_max_messages=10, batch_max_rows=10, backoff=Backoff(0.001, 0.002))


def records(count: int, partitions: int = 3) -> list[Message]:
    return [
        Message(TOPIC, number % partitions, number // partitions, b'{"agent_id":"a%d"}' % number)
        for number in range(count)
    ]


class Bench:
    """A sink with what it needs."""

    def __init__(self, source: MemorySource, database: Database, log: MemoryLog | None = None) -> None:
        self.clock = ManualClock()
        self.log = log or MemoryLog({DEAD_LETTERS: 1}, self.clock)
        broker = MemoryBroker(self.log, MemoryGroups())
        letters = DeadLetterOffice(broker, self.clock, window_records=100)
        growing = GrowingClock.after(database, self.clock)
        checker = Checker(source, broker.partition_for)
        self.sink = Sink(source, LogColumns(), database, checker, letters, growing, asyncio.get_running_loop(), FAST)

    async def run_until(self, done: Callable[[], bool]) -> None:
        stop = asyncio.Event()
        running = asyncio.create_task(self.sink.run(stop))
        async with asyncio.timeout(60):
            while not await asyncio.to_thread(done) and not running.done():
                await asyncio.sleep(0.01)
        stop.set()
        await running


def rows_in(database: Database) -> int:
    return int(database.rows("SELECT count() FROM log")[0][0])


def places_in(database: Database) -> list[tuple[int, int]]:
    return sorted((number, at) for number, at in database.rows("SELECT partition, offset FROM log"))


async def filled(source: MemorySource, database: Database, expected: int) -> Bench:
    bench = Bench(source, database)
    await bench.run_until(lambda: rows_in(database) >= expected)
    return bench


@pytest.mark.covers("O1")
def test_every_record_is_a_row_once(engine: ClickHouse) -> None:
    source = MemorySource(records(95))
    bench = asyncio.run(filled(source, engine, 95))
    assert places_in(engine) == sorted((one.number, one.at) for one in source.messages)
    assert engine.rows("SELECT uniqExact(agent_id) FROM log") == [(95,)]
    assert bench.sink.figures.rows == 95
    assert source.closed


@pytest.mark.covers("O1")
def test_a_batch_is_one_part_with_one_time(engine: ClickHouse) -> None:
    asyncio.run(filled(MemorySource(records(95)), engine, 95))
    [(batches, rows)] = engine.rows("SELECT uniqExact(ingest_time), count() FROM log")
    assert batches < rows
    # An insert that were cut in two would make more parts than there are batches; merges only make fewer.
    [(parts,)] = engine.rows("SELECT uniqExact(_part) FROM log")
    assert parts <= batches


@pytest.mark.covers("O1")
@pytest.mark.parametrize("fault", ["fail_before", "fail_after", "outlive"])
def test_an_insert_that_fails_goes_on_or_whose_answer_is_lost_loses_and_repeats_nothing(
    engine: ClickHouse, fault: str
) -> None:
    database = FaultyDatabase(engine)
    setattr(database, fault, 5)
    source = MemorySource(records(95))
    bench = asyncio.run(filled(source, database, 95))
    assert places_in(engine) == sorted((one.number, one.at) for one in source.messages)
    assert bench.sink.figures.failures == 5
    assert bench.sink.figures.waiting_for is None


@pytest.mark.covers("O1", "U1")
def test_what_the_log_has_of_a_pipeline_is_marked_whenever_the_store_dies(engine: ClickHouse) -> None:
    database = FaultyDatabase(engine)
    database.fail_before = 1_000_000_000
    ended, lives = whole_life("ended"), Teller("lives")
    messages = [
        Message("pipeline.events", 0, at, record.value, record.headers, event.subject.encode())
        for at, event in enumerate([ended[0], ended[-1], next(spawning(lives))])
        if (record := codec.encode(event, topic="pipeline.events", key=event.subject))
    ]

    async def run(database: Database, done: Callable[[], bool]) -> None:
        await Bench(MemorySource(messages), database).run_until(done)

    asyncio.run(run(database, database.failed.is_set))
    assert rows_in(engine) == 0
    query = "SELECT pipeline_id, tenant, type FROM pipeline_marks FINAL ORDER BY pipeline_id"
    marks = [("ended", "acme", "pipeline.completed"), ("lives", "acme", "pipeline.spawned")]
    assert engine.rows(query) == marks
    asyncio.run(run(engine, lambda: rows_in(engine) == len(messages)))
    assert engine.rows(query) == marks, "read again, marked again: the same"


@pytest.mark.covers("O1")
def test_a_restart_reads_on_where_the_table_ends(engine: ClickHouse) -> None:
    source = MemorySource(records(95))
    asyncio.run(filled(MemorySource(source.messages[:50]), engine, 50))
    positions = positions_in(engine)
    assert positions == {Place(TOPIC, "i1", 0): 17, Place(TOPIC, "i1", 1): 17, Place(TOPIC, "i1", 2): 16}
    asyncio.run(filled(MemorySource(source.messages, positions), engine, 95))
    assert places_in(engine) == sorted((one.number, one.at) for one in source.messages)


@pytest.mark.covers("O1")
def test_positions_are_the_tables_even_where_the_summary_is_behind(engine: ClickHouse) -> None:
    asyncio.run(filled(MemorySource(records(95)), engine, 95))
    whole = positions_in(engine)
    full = {
        Place(topic, incarnation, partition): last + 1
        for topic, incarnation, partition, last in engine.rows(
            "SELECT topic, incarnation, partition, max(offset) FROM log GROUP BY topic, incarnation, partition"
        )
    }
    assert whole == full
    engine.command("TRUNCATE TABLE positions")
    assert positions_in(engine) == full


def test_ingest_times_grow_over_a_restart_with_a_clock_that_went_back(engine: ClickHouse) -> None:
    asyncio.run(filled(MemorySource(records(30)), engine, 30))
    last = int(engine.rows("SELECT toUnixTimestamp64Milli(max(ingest_time)) FROM log")[0][0])
    growing = GrowingClock.after(engine, ManualClock(1_000))
    times = [growing.now_ms() for _ in range(3)]
    assert times == sorted(set(times))
    assert times[0] > last


@pytest.mark.covers("O1")
def test_a_database_that_stays_away_does_not_hold_the_stop(engine: ClickHouse) -> None:
    database = FaultyDatabase(engine)
    database.fail_before = 1_000_000_000

    async def run() -> Bench:
        bench = Bench(MemorySource(records(95)), database)
        await bench.run_until(database.failed.is_set)
        return bench

    bench = asyncio.run(run())
    assert rows_in(engine) == 0
    assert bench.sink.figures.waiting_for is not None
    assert "refused by order" in bench.sink.figures.waiting_for


def test_a_broker_that_does_not_answer_is_waited_for(engine: ClickHouse) -> None:
    bench = asyncio.run(filled(MemorySource(records(9), away=3), engine, 9))
    assert bench.sink.figures.failures == 3


@pytest.mark.covers("O1")
def test_records_of_a_topic_that_was_made_anew_meanwhile_are_not_taken_for_the_old_ones(engine: ClickHouse) -> None:
    source = MemorySource([*records(9), Message("pipeline.commands", 0, 0)])
    source.incarnations[TOPIC] = "i2"

    async def run() -> None:
        await Bench(source, engine).run_until(lambda: bool(source.reread_topics) and rows_in(engine) == 1)

    asyncio.run(run())
    assert engine.rows("SELECT topic FROM log") == [("pipeline.commands",)]
    assert source.reread_topics == [TOPIC]
    query = "SELECT topic, incarnation, first_offset, next_offset, reason FROM gaps ORDER BY partition"
    assert engine.rows(query) == [(TOPIC, "i1", 0, 3, "recreated")] * 3


@pytest.mark.covers("O1")
def test_gaps_are_rows(engine: ClickHouse) -> None:
    gap = Gap(Place(TOPIC, "i1", 0), 3, 9, "retention", "Kafka deleted 3..8 unread")
    asyncio.run(filled(MemorySource(records(9), gaps=[gap]), engine, 9))
    assert engine.rows("SELECT partition, first_offset, next_offset, reason FROM gaps") == [(0, 3, 9, "retention")]
    query = "SELECT partition, gaps, missing_offsets, complete FROM log_completeness ORDER BY partition"
    assert engine.rows(query) == [(0, 1, 6, False), (1, 0, 0, True), (2, 0, 0, True)]


def test_a_defect_ends_the_sink(engine: ClickHouse) -> None:
    def break_down() -> None:
        raise RuntimeError("a defect")

    source = MemorySource(records(1), on_poll=break_down)

    async def run() -> None:
        await Bench(source, engine).run_until(lambda: False)

    with pytest.raises(RuntimeError, match="a defect"):
        asyncio.run(run())
    assert source.closed


def spawned() -> OutgoingRecord:
    return codec.encode(whole_life("p1")[0], topic="pipeline.events", key="p1")


@pytest.mark.covers("C2")
def test_invalid_events_of_the_spawner_are_dead_letters_once_and_rows_too(engine: ClickHouse) -> None:
    good = spawned()
    home, elsewhere = (partition_for(b"p1", 2), 1 - partition_for(b"p1", 2))
    messages = [
        Message("pipeline.events", home, 0, good.value, good.headers),
        Message("pipeline.events", home, 1, b"no json", good.headers),
        Message("pipeline.events", home, 2, good.value, []),
        Message("pipeline.events", elsewhere, 0, good.value, good.headers),
        Message(TOPIC, 0, 0, b"no json", []),  # its reader, the spawner, refuses it
    ]

    async def run() -> list[bytes | None]:
        bench = Bench(MemorySource(messages), engine)
        await bench.run_until(lambda: rows_in(engine) == 5)
        # Killed after the letters and before the rows: all of it comes again.
        engine.command("TRUNCATE TABLE log")
        engine.command("TRUNCATE TABLE positions")
        again = Bench(MemorySource(messages), engine, bench.log)
        await again.run_until(lambda: rows_in(engine) == 5)
        assert again.sink.figures.dead_letters == 0
        found = bench.log.read(TopicPartition(DEAD_LETTERS, 0), 0)
        assert [dict(one.headers)["dlq_reason"] for one in found] == [b"not_json", b"bad_headers", b"wrong_partition"]
        return [one.value for one in found]

    assert asyncio.run(run()) == [b"no json", good.value, good.value]


@pytest.mark.covers("C2")
def test_a_dead_letter_has_null_header_values_as_they_were_and_none_where_none_could_be_read(
    engine: ClickHouse,
) -> None:
    good = spawned()
    home = partition_for(b"p1", 2)
    pairs: list[Header] = [("nothing", None), ("empty", b"")]
    messages = [
        Message("pipeline.events", home, 0, good.value, [*good.headers, ("ce_time", None)]),  # valid: Kafka's time
        Message("pipeline.events", home, 1, b"x", pairs),
        Message("pipeline.events", 1, 9, None, [], None),  # so that there are two partitions
        Message("pipeline.events", home, 2, good.value, UNREADABLE_HEADERS),
    ]

    async def run() -> list[dict[str, Any]]:
        bench = Bench(MemorySource(messages), engine)
        await bench.run_until(lambda: rows_in(engine) == len(messages))
        return [dict(one.headers) for one in bench.log.read(TopicPartition(DEAD_LETTERS, 0), 0)]

    null, _, unreadable = asyncio.run(run())
    assert (null["dlq_original_nothing"], null["dlq_original_empty"]) == (None, b"")
    assert unreadable["dlq_reason"] == b"bad_headers"
    assert b"not UTF-8" in unreadable["dlq_detail"]
    assert not [name for name in unreadable if name.startswith("dlq_original_")]
