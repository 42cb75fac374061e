"""One way from Kafka into embedded ClickHouse, in a process of its own; prints one JSON line with the seconds.

    python -m benchmarks.sink_process ours|naive|insert CREDENTIALS_FILE PREFIX DIRECTORY RECORDS

`ours` is the store's sink as it is wired in the service; `naive` is the loop that one writes first, which loses or
repeats records at a crash; `insert` is only the insert of so many rows into the store's table, for a median.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import clickhouse_connect
import msgspec
import pyarrow as pa
from confluent_kafka import Consumer, TopicPartition

from sluice_observability.adapters.clickhouse import ClickHouse
from sluice_observability.adapters.columns import LogColumns
from sluice_observability.adapters.migrations import migrate, shipped
from sluice_observability.bootstrap.store import open_store
from sluice_observability.settings import StoreSettings
from sluice_runtime.connection import KafkaConnection
from sluice_runtime.kafka.broker import KafkaBroker

NAIVE_BATCH = 10_000
INSERTS = 30
LOOK_S = 0.01


async def ours(credentials: Path, prefix: str, directory: Path, records: int) -> float:
    """The store's sink, from its first look at Kafka until the last record is in the table."""
    settings = StoreSettings(kafka_credentials_file=credentials, topic_prefix=prefix, clickhouse_directory=directory)
    async with (
        KafkaBroker(settings.kafka(), prefix=prefix, client_id="bench-sink") as broker,
        open_store(settings, broker) as store,
    ):
        stop = asyncio.Event()
        begun = time.perf_counter()
        running = asyncio.create_task(store.sink.run(stop))
        while store.sink.figures.rows < records and not running.done():
            await asyncio.sleep(LOOK_S)
        seconds = time.perf_counter() - begun
        stop.set()
        await running
        if store.sink.figures.rows != records:
            raise RuntimeError(f"{store.sink.figures.rows} rows of {records} records")
    return seconds


class Body(msgspec.Struct):
    """What a naive sink takes out of the values."""

    agent_id: str = ""
    task_id: str = ""
    attempt: int = 0
    turn: int = 0


def naive(credentials: Path, prefix: str, directory: Path, records: int) -> float:
    """Confluent's batches, msgspec, columns, chdb: no offsets kept, no check of anything."""
    client = clickhouse_connect.get_client(interface="chdb", path=str(directory))
    client.command(
        "CREATE TABLE log (tenant LowCardinality(String), pipeline_id String, event_time DateTime64(3, 'UTC'),"
        " type LowCardinality(String), event_id String, source LowCardinality(String), causation_id String,"
        " agent_id String, task_id String, attempt UInt32, turn UInt32, payload String CODEC(ZSTD(1)),"
        " topic LowCardinality(String), partition UInt32, offset UInt64)"
        " ENGINE = MergeTree ORDER BY (tenant, pipeline_id, event_time)"
    )
    connection = KafkaConnection.from_file(credentials).confluent()
    consumer = Consumer({**connection, "group.id": "bench-naive", "enable.auto.commit": False})
    begun = time.perf_counter()
    listed = consumer.list_topics(timeout=30).topics
    consumer.assign([
        TopicPartition(name, number, 0)
        for name, topic in listed.items() if name.startswith(prefix)
        for number in topic.partitions
    ])  # fmt: skip
    decode = msgspec.json.Decoder(Body).decode
    done = 0
    while done < records:
        messages = consumer.consume(NAIVE_BATCH, 0.1)
        if not messages:
            continue
        client.raw_insert("log", **_arrow(_columns(messages, decode)))
        done += len(messages)
    seconds = time.perf_counter() - begun
    consumer.close()
    return seconds


def _columns(messages: Sequence[Any], decode: Any) -> Any:
    columns: dict[str, list[Any]] = {name: [] for name in (
        "tenant", "pipeline_id", "event_time", "type", "event_id", "source", "causation_id",
        "agent_id", "task_id", "attempt", "turn", "payload", "topic", "partition", "offset",
    )}  # fmt: skip
    for message in messages:
        headers = dict(message.headers())
        body = decode(message.value())
        columns["tenant"].append(headers["ce_tenant"])
        columns["pipeline_id"].append(headers["ce_subject"])
        columns["event_time"].append(headers["ce_time"])
        columns["type"].append(headers["ce_type"])
        columns["event_id"].append(headers["ce_id"])
        columns["source"].append(headers["ce_source"])
        columns["causation_id"].append(headers.get("ce_causationid", b""))
        columns["agent_id"].append(body.agent_id)
        columns["task_id"].append(body.task_id)
        columns["attempt"].append(body.attempt)
        columns["turn"].append(body.turn)
        columns["payload"].append(message.value())
        columns["topic"].append(message.topic())
        columns["partition"].append(message.partition())
        columns["offset"].append(message.offset())
    made: dict[str, Any] = {name: pa.array(values) for name, values in columns.items()}
    made["event_time"] = made["event_time"].cast(pa.string()).cast(pa.timestamp("ms", tz="UTC"))
    return pa.table(made)


def _arrow(rows: Any) -> dict[str, Any]:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows)
    return {"column_names": rows.column_names, "insert_block": sink.getvalue().to_pybytes(), "fmt": "ArrowStream"}


def insert(credentials: Path, prefix: str, directory: Path, records: int) -> float:
    """The median seconds of inserting `records` rows into the store's table, which nothing else uses."""
    database = ClickHouse.embedded(directory)
    migrate(database, shipped())
    connection = KafkaConnection.from_file(credentials).confluent()
    consumer = Consumer({**connection, "group.id": "bench-insert", "enable.auto.commit": False})
    topic = f"{prefix}agent.events.default"
    numbers = consumer.list_topics(topic).topics[topic].partitions
    consumer.assign([TopicPartition(topic, number, 0) for number in numbers])
    messages: list[Any] = []
    while len(messages) < records:
        messages += consumer.consume(records - len(messages), 1.0)
    consumer.close()
    columns = LogColumns()
    taken = []
    for number in range(INSERTS):
        columns.add(messages, {topic: ("agent.events.default", "bench")})
        rows = columns.take()
        moment = pa.repeat(pa.scalar(1_700_000_000_000 + number, pa.timestamp("ms", tz="UTC")), rows.num_rows)
        rows = rows.append_column("ingest_time", moment)
        begun = time.perf_counter()
        database.insert("log", rows)
        taken.append(time.perf_counter() - begun)
    database.close()
    return statistics.median(taken)


def main(way: str, credentials: str, prefix: str, directory: str, records: str) -> None:
    """Runs one way."""
    arguments = (Path(credentials), prefix, Path(directory), int(records))
    taken = asyncio.run(ours(*arguments)) if way == "ours" else {"naive": naive, "insert": insert}[way](*arguments)
    print(json.dumps({"seconds": taken}))


if __name__ == "__main__":
    main(*sys.argv[1:])
