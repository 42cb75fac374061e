"""Dead letters on a real installation: listed, shown, replayed once (C3)."""

from __future__ import annotations

import uuid

import pytest
from confluent_kafka import Producer

from sluice_contracts import codec, ids
from sluice_contracts.envelope import CloudEvent, OutgoingRecord
from sluice_contracts.messages.pipeline import PipelineSpawn
from sluice_contracts.messages.plan import Plan, TaskSpec
from sluice_runtime.connection import KafkaConnection
from sluice_runtime.kafka.broker import KafkaBroker
from tests.integration.client.sluice import Sluice, until

TOPIC = "pipeline.commands"


def wrongly_placed(sluice: Sluice) -> tuple[str, OutgoingRecord, int]:
    """A lawful command, and a partition to which it does not belong: written again by its key, it is right."""
    key = str(uuid.uuid4())
    pipeline = ids.pipeline_id("default", key)
    plan = Plan(objective="late", tasks=(TaskSpec(id="t", objective="o", role="researcher"),), model="scripted:none")
    event = CloudEvent(str(uuid.uuid4()), "test", "default", pipeline, 1, PipelineSpawn(plan=plan, dedupe_key=key))
    record = codec.encode(event, topic=TOPIC, key=pipeline)
    broker = KafkaBroker(connection(sluice), prefix="sluice.", client_id="test")
    return pipeline, record, (broker.partition_for(pipeline.encode(), 8) + 1) % 8


def connection(sluice: Sluice) -> KafkaConnection:
    return KafkaConnection.from_file(sluice.data / "credentials" / "operator.json")


def write(sluice: Sluice, record: OutgoingRecord, partition: int) -> None:
    producer = Producer({**connection(sluice).confluent(), "message.max.bytes": 100_000_000})
    producer.produce(f"sluice.{TOPIC}", record.value, record.key, partition=partition, headers=list(record.headers))
    assert producer.flush(30) == 0


def letter_of(sluice: Sluice, key: str) -> dict[str, object]:
    def found() -> list[dict[str, object]]:
        return [one for one in sluice.ok("dlq", "list", "--topic", TOPIC, "--json").json if one["key"] == key]

    letters: list[dict[str, object]] = until(found, f"the dead letter of {key}")
    return letters[0]


@pytest.mark.covers("C3", "C2")
def test_a_letter_is_replayed_once(sluice: Sluice) -> None:
    pipeline, record, partition = wrongly_placed(sluice)
    write(sluice, record, partition)
    letter = letter_of(sluice, pipeline)
    identity = str(letter["letter_id"])
    assert (letter["reason"], letter["replayed_at_ms"]) == ("wrong_partition", None)
    assert '"objective":"late"' in sluice.ok("dlq", "show", identity[:10]).out

    assert [
        one["letter_id"] for one in sluice.ok("dlq", "replay", identity, "--dry-run", "--json").json["replayed"]
    ] == [identity]
    assert sluice("status", pipeline).code == 5

    sluice.ok("dlq", "replay", identity)
    until(lambda: sluice("status", pipeline).code == 0, "the replayed pipeline")
    refused = sluice("dlq", "replay", identity, "--json")  # at once: the log is waited for
    assert (refused.code, refused.json["replayed"], len(refused.json["left_alone"])) == (5, [], 1)
    assert letter_of(sluice, pipeline)["replayed_at_ms"] is not None
    assert len(sluice.ok("dlq", "replay", identity, "--again", "--json").json["replayed"]) == 1
    query = "SELECT count() AS n FROM log WHERE topic = 'pipeline.commands' AND headers['dlq_replay_of'] = {id:String}"
    until(
        lambda: sluice.ok("sql", query, "-p", f"id={identity}", "--json").json == [{"n": 2}], "both replays in the log"
    )


@pytest.mark.covers("C3")
def test_what_is_still_wrong_is_a_new_letter_with_the_same_bytes(sluice: Sluice) -> None:
    key = str(uuid.uuid4())
    headers = (("x", b"\xff\x00"), ("twice", b"1"), ("twice", b"2"), ("ce_specversion", b"1.0"))
    write(sluice, OutgoingRecord(TOPIC, key.encode(), b"\xff not text \x00", headers), 0)
    first = letter_of(sluice, key)
    sluice.ok("dlq", "replay", str(first["letter_id"]))

    def letters() -> list[dict[str, object]]:
        found = [one for one in sluice.ok("dlq", "list", "--json").json if one["key"] == key]
        return found if len(found) == 2 else []

    second = until(letters, "the second letter")[1]
    shown = sluice.ok("dlq", "show", str(second["letter_id"]), "--json").json
    assert bytes.fromhex(shown["raw_hex"]) == b"\xff not text \x00"
    assert shown["headers"]["dlq_original_dlq_replay_of"] == first["letter_id"]
    assert second["replayed_at_ms"] is None


@pytest.mark.covers("C3")
def test_filters_and_limits(sluice: Sluice) -> None:
    keys = [str(uuid.uuid4()) for _ in range(3)]
    for key in keys:
        write(sluice, OutgoingRecord(TOPIC, key.encode(), b"{}", (("ce_type", key.encode()),)), 0)
    for key in keys:
        letter_of(sluice, key)
    assert len(sluice.ok("dlq", "list", "--type", keys[0], "--json").json) == 1
    assert sluice.ok("dlq", "list", "--topic", "pipeline.events", "--json").json == []
    chosen = ["--reason", "bad_headers", "--limit", "2"]
    assert len(sluice.ok("dlq", "replay", *chosen, "--dry-run", "--json").json["replayed"]) == 2
    assert sluice("dlq", "replay").code == 2
    assert sluice("dlq", "show", "deadbeef").code == 2
    assert sluice("dlq", "show", "abc").code == 2


@pytest.mark.covers("C3", "C2")
def test_a_letter_that_lacks_headers_is_left_alone(sluice: Sluice) -> None:
    """A record with half a million headers, which are larger in a letter than any topic takes."""
    key = str(uuid.uuid4())
    write(sluice, OutgoingRecord(TOPIC, key.encode(), b"{}", (("x", b""),) * 500_000), 0)
    letter = letter_of(sluice, key)
    assert letter["reason"] == "bad_headers"
    shown = sluice.ok("dlq", "show", str(letter["letter_id"]), "--json").json
    assert shown["headers"]["dlq_headers_dropped"] == "499936"
    refused = sluice("dlq", "replay", str(letter["letter_id"]), "--json")
    assert (refused.code, refused.json["replayed"], len(refused.json["incomplete"])) == (5, [], 1)
