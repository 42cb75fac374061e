"""The store as it runs: on real Kafka, with the real engine, killed in the middle."""

from __future__ import annotations

import asyncio
import random
import signal
import threading
from dataclasses import replace
from typing import Any

import httpx
import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from sluice_contracts import codec, topics
from sluice_contracts.dead_letters import original_record
from sluice_contracts.envelope import OutgoingRecord, Record
from sluice_contracts.limits import HEADERS_MAX_COUNT
from sluice_contracts.messages.pipeline import PipelineSpawn
from sluice_runtime.broker import TopicPartition as BrokerPartition
from sluice_runtime.kafka.broker import KafkaBroker
from tests.integration.observability.conftest import StartService
from tests.integration.observability.support import Service, Writer, names, places, wait_for
from tests.kafka import TestKafka, write_unreadable
from tests.unit.observability.events import Teller, plan, spawning, turn, whole_life

KILLS = 5


def rows_of(store: Service) -> int:
    """Rows in the log; 0 while the store is away."""
    return store.count("SELECT count() FROM log") or 0


def complete(store: Service, expected: int) -> None:
    wait_for(f"{expected} rows", lambda: rows_of(store) >= expected)


@pytest.mark.covers("O1", "O7")
def test_every_topic_is_in_the_log_and_the_story_is_told(store: Service, writer: Writer) -> None:
    teller = Teller("p1")
    command = teller.command(PipelineSpawn(plan=plan()))
    writer.tell(command, *whole_life("p1"))
    complete(store, 12)
    assert sorted(places(store)) == sorted(writer.written)
    rows = store.sql("SELECT what FROM pipeline_story WHERE pipeline_id = 'p1' ORDER BY position")
    story = names(rows, "what")
    assert story[0] == "asks for a pipeline: find the first error"
    assert story[-1] == "COMPLETED after 42 ms: all tasks succeeded"
    assert store.count("SELECT countIf(trace_id = repeat('c', 32)) FROM log") == 12

    def is_complete() -> bool:
        left = store.sql("SELECT topic FROM log_completeness WHERE NOT complete OR repeated_rows > 0")
        return not left and store.count("SELECT sum(rows) FROM log_completeness") == 12

    wait_for("the completeness view", is_complete)


@pytest.mark.covers("O1")
@pytest.mark.parametrize("seed", [1, 2])
def test_killed_again_and_again_it_has_every_record_once(start: StartService, writer: Writer, seed: int) -> None:
    draw = random.Random(seed)
    store = start("store", SLUICE_FLUSH_INTERVAL_MS="20", SLUICE_BATCH_MAX_ROWS="500")
    store.ready()
    done = threading.Event()

    def write() -> None:
        for number in range(400):
            if done.is_set():
                return
            teller = Teller(f"p{number}")
            writer.tell(*spawning(teller), *(turn(teller, one) for one in range(1, 30)))
        done.set()

    writing = threading.Thread(target=write)
    writing.start()
    try:
        for kill in range(KILLS):
            more = rows_of(store) + draw.randrange(1, 800)
            wait_for("more rows", lambda more=more: done.is_set() or rows_of(store) >= more)
            store.kill()
            store.start()
            wait_for(f"the start after kill {kill}", lambda: store.count("SELECT 1"))
    finally:
        done.set()
        writing.join()
    complete(store, len(writer.written))
    found = places(store)
    assert len(found) == len(set(found)), "rows came twice"
    assert set(found) == set(writer.written)
    assert store.count("SELECT count() FROM duplicates") == 0


@pytest.mark.covers("O1", "D1")
def test_a_stop_leaves_nothing_behind_and_a_pause_changes_nothing(store: Service, writer: Writer) -> None:
    writer.tell(*whole_life("p1"))
    store.send(signal.SIGSTOP)
    writer.tell(*whole_life("p2"))
    store.send(signal.SIGCONT)
    complete(store, 22)
    assert store.stop() == 0
    store.start()
    store.ready()
    writer.tell(*whole_life("p3"))
    complete(store, 33)
    assert sorted(places(store)) == sorted(writer.written)


@pytest.mark.covers("O1")
def test_a_second_store_on_the_same_directory_waits_its_turn(store: Service, start: StartService) -> None:
    second = start("store")
    wait_for("its word", lambda: "ClickHouse is away" in second.log())
    assert store.count("SELECT 1") == 1


@pytest.mark.covers("O1", "W2")
def test_a_new_queues_topics_are_found(store: Service, writer: Writer, kafka: TestKafka, prefix: str) -> None:
    kafka_admin = AdminClient(kafka.connection.confluent())
    name = topics.AGENT_EVENTS.for_queue("night")
    for future in kafka_admin.create_topics([NewTopic(prefix + name, 2, 1)]).values():
        future.result()
    writer.tell(turn(Teller("p1"), 1), topic=name)
    complete(store, 1)
    assert places(store) == writer.written


@pytest.mark.covers("O1")
def test_a_topic_made_anew_begins_again(store: Service, writer: Writer, kafka: TestKafka, prefix: str) -> None:
    writer.tell(*whole_life("p1"))
    complete(store, 11)
    kafka_admin = AdminClient(kafka.connection.confluent())
    name = prefix + topics.PIPELINE_EVENTS.name
    [deleting] = kafka_admin.delete_topics([name]).values()
    deleting.result()

    def made() -> bool:
        [making] = kafka_admin.create_topics([NewTopic(name, 2, 1)]).values()
        return making.exception() is None

    wait_for("the topic to be made anew", made)
    writer.tell(*spawning(Teller("p1")))
    writer.tell(*spawning(Teller("p1")))
    wait_for("both lives", lambda: (store.count("SELECT count() FROM log WHERE topic = 'pipeline.events'") or 0) >= 21)
    query = (
        "SELECT count() AS n FROM log WHERE topic = 'pipeline.events' GROUP BY incarnation ORDER BY min(ingest_time)"
    )
    assert names(store.sql(query), "n") == [9, 12]
    assert store.count("SELECT sum(repeated_rows) FROM log_completeness") == 0
    # The same events were written three times; people see them once, and the repetition is counted.
    assert store.count("SELECT count() FROM events WHERE pipeline_id = 'p1'") == 11
    assert store.count("SELECT sum(copies) FROM duplicates") == 12


@pytest.mark.covers("O1")
def test_what_kafka_deleted_unread_is_told(writer: Writer, start: StartService, kafka: TestKafka, prefix: str) -> None:
    store = start("store")
    store.ready()
    for number in range(8):
        writer.tell(*whole_life(f"p{number}"))
    complete(store, 88)
    assert store.stop() == 0
    for number in range(8, 16):
        writer.tell(*whole_life(f"p{number}"))
    lost = {
        (partition, max(at for name, number, at in writer.written if name == "pipeline.events" and number == partition))
        for partition in (0, 1)
    }
    kafka_admin = AdminClient(kafka.connection.confluent())
    deleting = kafka_admin.delete_records(
        [TopicPartition(prefix + "pipeline.events", partition, last) for partition, last in lost]
    )
    for future in deleting.values():
        future.result()
    store.start()
    store.ready()
    wait_for("the gaps", lambda: store.count("SELECT count() FROM gaps") == 2)
    wait_for("what is left", lambda: store.count("SELECT count() FROM log WHERE pipeline_id IN ('p15')"))
    gaps = store.sql("SELECT partition, first_offset, next_offset, reason FROM gaps ORDER BY partition")
    assert {(gap["partition"], gap["next_offset"]) for gap in gaps} == lost
    assert set(names(gaps, "reason")) == {"retention"}
    missing = sum(gap["next_offset"] - gap["first_offset"] for gap in gaps)
    complete(store, len(writer.written) - missing)
    assert "gap in" in store.log()


BAD = [
    (None, {}, "no_value"),
    (b"\xff\xfe\x00", {}, "not_utf8"),
    (b"{" * 10, {}, "not_json"),
    (b"[" * 100_000, {}, "too_deep"),
    (b'"' + b"x" * 300_000 + b'"', {}, "too_large"),
    (b"{}", {"ce_type": None}, "bad_headers"),
    (b"{}", {"ce_type": b"pipeline.exploded", "ce_dataschema": None}, "unknown_type"),
    (b"{}", {"ce_dataschema": b"urn:sluice:pipeline.spawned:v99"}, "unknown_version"),
    (b"{}", {"ce_type": b"agent.run", "ce_dataschema": None}, "unlawful_type"),
    (b"{}", {"ce_source": b"agent-runner/1"}, "forged_source"),
    (b"{}", {}, "invalid_body"),
]


@pytest.mark.covers("C2", "C3", "O1")
def test_each_bad_record_is_a_row_and_one_dead_letter_between_its_neighbours(store: Service, writer: Writer) -> None:
    good = codec.encode(whole_life("p1")[0], topic="pipeline.events", key="p1")
    for body, changed, _ in BAD:
        headers = {**dict(good.headers), **changed}
        lawful = tuple((name, value) for name, value in headers.items() if value is not None)
        writer.write([good, OutgoingRecord("pipeline.events", b"p1", body, lawful), good])
    wait_for("the letters", lambda: store.count("SELECT count() FROM dead_letters") == len(BAD))
    wait_for("the rows", lambda: store.count("SELECT count() FROM log") == 4 * len(BAD))
    letters = store.sql(
        "SELECT reason, refused_by, topic, key, payload, hex(raw) AS raw, value_bytes FROM dead_letters ORDER BY offset"
    )
    assert names(letters, "reason") == [reason for _, _, reason in BAD]
    assert set(names(letters, "refused_by")) == {"observability"}
    assert {(letter["topic"], letter["key"]) for letter in letters} == {("pipeline.events", "p1")}
    for letter, (body, _, reason) in zip(letters, BAD, strict=True):
        kept = bytes.fromhex(letter["raw"]) or letter["payload"].encode()
        assert kept == (body or b""), reason
    assert store.stop() == 0
    store.start()
    store.ready()
    writer.write([good])
    complete(store, 4 * len(BAD) + 1)
    assert store.count("SELECT count() FROM log WHERE startsWith(topic, 'dlq.')") == len(BAD)


@pytest.mark.covers("C2", "O1")
def test_of_a_record_of_nothing_but_headers_the_first_are_kept(store: Service, writer: Writer) -> None:
    good = codec.encode(whole_life("p1")[0], topic="pipeline.events", key="p1")
    many = tuple((f"h{number}", b"") for number in range(30_000))
    writer.write([good, OutgoingRecord("pipeline.events", b"p1", good.value, (*good.headers, *many)), good])
    wait_for("the rows", lambda: store.count("SELECT count() FROM log") == 4)
    [kept] = store.sql(
        "SELECT length(headers) AS n, type FROM log WHERE topic = 'pipeline.events' AND notEmpty(headers)"
    )
    assert (int(kept["n"]), kept["type"]) == (2 * HEADERS_MAX_COUNT - len(good.headers), "pipeline.spawned")
    assert names(store.sql("SELECT reason FROM dead_letters"), "reason") == ["bad_headers"]


@pytest.mark.covers("C2", "O1")
def test_a_header_name_that_is_not_utf8_is_a_row_and_a_dead_letter_and_the_api_passes_over_it(
    store: Service, start: StartService, writer: Writer, kafka: TestKafka, prefix: str
) -> None:
    api = start("api", SLUICE_SQL_URL=store.url)
    api.ready()
    good = codec.encode(whole_life("p1")[0], topic="pipeline.events", key="p1")
    assert good.value is not None
    writer.write([good])
    partition, first = writer.written[0][1:]
    for topic in ("pipeline.events", "pipeline.commands"):  # of the second one, the spawner is who refuses
        asyncio.run(write_unreadable(kafka.connection, prefix + topic, partition, b"p1", good.value))
    writer.write([good])
    complete(store, 5)
    query = "SELECT topic, offset, type, payload, key, headers FROM log WHERE NOT startsWith(topic, 'dlq.')"
    rows = store.sql(f"{query} ORDER BY topic, offset")
    empty = {"type": "", "payload": good.value.decode(), "key": "p1", "headers": {}}
    assert [rows[0], rows[2]] == [
        {"topic": "pipeline.commands", "offset": 0, **empty},
        {"topic": "pipeline.events", "offset": first + 1, **empty},
    ]
    letters = store.sql("SELECT topic, offset, reason, detail, payload, key, value_bytes FROM dead_letters")
    assert letters == [
        {
            "topic": "pipeline.events", "offset": first + 1, "reason": "bad_headers",
            "detail": "the name of a header is not UTF-8; none of its headers can be read",
            "payload": good.value.decode(), "key": "p1", "value_bytes": len(good.value),
        }
    ]  # fmt: skip
    after = {"after": f"pipeline.events/{partition}/{first + 2}"}
    assert httpx.get(f"{api.url}/runs/p1/status", params=after, timeout=60).json()["state"] == "SPAWNED"
    for service in (store, api):
        service.ready()
        assert service.stop() == 0


@pytest.mark.covers("C2", "O1")
def test_a_null_header_value_stays_null_in_the_dead_letter_and_shows_in_the_row(
    store: Service, writer: Writer, kafka: TestKafka, prefix: str
) -> None:
    good = codec.encode(whole_life("p1")[0], topic="pipeline.events", key="p1")
    headers: Any = [*good.headers, ("empty", b""), ("nothing", None), ("ce_time", None)]
    writer.write([replace(good, headers=headers), replace(good, value=b"no json", headers=headers)])
    complete(store, 3)
    [row, *_] = store.sql("SELECT headers FROM log WHERE topic = 'pipeline.events' ORDER BY offset")
    assert row["headers"] == {"empty": "", "nothing": "\\N"}
    [letter] = store.sql("SELECT headers FROM log WHERE startsWith(topic, 'dlq.')")
    assert (letter["headers"]["dlq_reason"], letter["headers"]["dlq_original_nothing"]) == ("not_json", "\\N")

    async def last_letter() -> Record:
        found: list[Record] = []
        async with KafkaBroker(kafka.connection, prefix=prefix, client_id="test") as broker:
            await broker.read(BrokerPartition("dlq.pipeline.events", 0), 0, 1, found.extend)
        return found[0]

    assert original_record(asyncio.run(last_letter())).headers == tuple(headers)
