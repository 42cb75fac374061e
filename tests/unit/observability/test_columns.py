"""Whatever stands on a topic is a row: the log never refuses, and one record never spoils its neighbours."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice_contracts import codec
from sluice_observability.adapters.clickhouse import ClickHouse
from sluice_observability.adapters.columns import LogColumns
from sluice_observability.domain.records import UNREADABLE_HEADERS
from sluice_observability.handlers.positions import with_ingest_time
from tests.unit.observability.doubles import PREFIX, Message
from tests.unit.observability.events import whole_life

TOPIC = "agent.events.default"
NAMES = {PREFIX + TOPIC: (TOPIC, "i1")}
STRUCTURED = ("content-type", codec.STRUCTURED_CONTENT_TYPE)


def table_of(*messages: Message) -> list[dict[str, Any]]:
    columns = LogColumns()
    columns.add(messages, NAMES)
    rows: list[dict[str, Any]] = columns.take().to_pylist()
    return rows


def ordinary() -> Message:
    record = codec.encode(whole_life("p1")[6], topic=TOPIC, key="p1")
    return Message(TOPIC, 0, 0, record.value, record.headers)


@pytest.mark.covers("O1", "O7")
def test_headers_become_columns() -> None:
    [row] = table_of(ordinary())
    event = whole_life("p1")[6]
    assert row["event_id"] == event.id
    assert (row["type"], row["type_version"], row["source"]) == ("agent.turn_finished", 1, "agent-runner/r1")
    assert (row["tenant"], row["pipeline_id"], row["incarnation"]) == ("acme", "p1", "i1")
    assert int(row["event_time"].timestamp() * 1_000) == event.time_ms
    assert (row["trace_id"], row["span_id"]) == ("c" * 32, "d" * 16)
    assert json.loads(row["payload"])["turn"] == 1
    assert (row["raw"], row["has_value"], row["headers"]) == (b"", True, [])


@pytest.mark.covers("C1", "O1")
def test_a_structured_event_is_a_row_like_any_other() -> None:
    document = {
        "specversion": "1.0", "id": "e1", "source": "other/1", "type": "pipeline.tick", "tenant": "acme",
        "subject": "p9", "time": "2026-01-01T00:00:00Z", "data": {"x": [1, 2]},
    }  # fmt: skip
    kind = ("content-type", codec.STRUCTURED_CONTENT_TYPE + b"; charset=utf-8")
    [row] = table_of(Message(TOPIC, 0, 0, json.dumps(document).encode(), [kind]))
    assert (row["event_id"], row["type"], row["pipeline_id"], row["tenant"]) == ("e1", "pipeline.tick", "p9", "acme")
    assert json.loads(row["payload"]) == {"x": [1, 2]}
    assert row["event_time"].year == 2026


@pytest.mark.covers("C1", "O1")
@pytest.mark.parametrize(
    ("given", "sequence"),
    [
        (7, 7),
        ("7", 7),
        (None, None),
        (True, None),
        (7.0, None),
        (-1, None),
        ([1], None),
        (10**18, None),
        (10**4_299, None),
    ],
)
def test_a_structured_events_sequence_is_a_number_or_a_text(given: Any, sequence: int | None) -> None:
    document = {"id": "e1", "type": "pipeline.tick", "sequence": given, "data": {}}
    [row] = table_of(Message(TOPIC, 0, 0, json.dumps(document).encode(), [STRUCTURED]))
    assert (row["event_id"], row["type"], row["sequence"]) == ("e1", "pipeline.tick", sequence)


@pytest.mark.covers("C1", "O1")
def test_a_structured_events_attribute_that_is_no_text_is_as_good_as_absent() -> None:
    document = {"id": "e1", "type": "pipeline.tick", "tenant": 5, "time": {"x": [None]}, "subject": None, "data": {}}
    record = Message(TOPIC, 0, 0, json.dumps(document).encode(), [STRUCTURED])
    [row] = table_of(record)
    assert (row["event_id"], row["tenant"], row["pipeline_id"]) == ("e1", "system", "p1")
    assert row["event_time"] == row["append_time"]


@pytest.mark.covers("C2", "O1")
def test_a_structured_event_without_data_is_kept_whole() -> None:
    body = b'{"id":"e1","type":"pipeline.tick","data_base64":"eA=="}'
    [row] = table_of(Message(TOPIC, 0, 0, body, [STRUCTURED]))
    assert (row["event_id"], row["payload"]) == ("e1", body.decode())


@pytest.mark.covers("C2", "O1")
@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (Message(TOPIC, 0, 7, None), {"has_value": False, "payload": "", "value_bytes": 0, "event_id": "i1/0/7"}),
        (Message(TOPIC, 0, 7, b"\xff\xfe"), {"payload": "", "raw": b"\xff\xfe", "value_bytes": 2}),
        (Message(TOPIC, 0, 7, b"{"), {"payload": "{", "raw": b""}),
        (Message(TOPIC, 0, 7, pairs=[("ce_id", b"")]), {"event_id": "i1/0/7"}),
        (Message(TOPIC, 0, 7, pairs=[("ce_type", b"\xff")]), {"type": "\\xff"}),
        (Message(TOPIC, 0, 7, pairs=[("ce_type", None)]), {"type": ""}),
        (Message(TOPIC, 0, 7, pairs=[("ce_sequence", b"-1")]), {"sequence": None}),
        (Message(TOPIC, 0, 7, pairs=[("ce_sequence", b"9" * 40)]), {"sequence": None}),
        (Message(TOPIC, 0, 7, pairs=[("ce_sequence", "٣".encode())]), {"sequence": None}),
        (Message(TOPIC, 0, 7, pairs=[("ce_sequence", b"12")]), {"sequence": 12}),
        (Message(TOPIC, 0, 7, pairs=[("ce_dataschema", b"urn:sluice:x:v12")]), {"type_version": 12}),
        (Message(TOPIC, 0, 7, pairs=[("ce_dataschema", b"urn:sluice:x:v99999")]), {"type_version": 1}),
        (Message(TOPIC, 0, 7, identity=None), {"pipeline_id": "", "key": ""}),
        (Message(TOPIC, 0, 7, pairs=[("traceparent", b"x")]), {"trace_id": "", "span_id": ""}),
        (Message(TOPIC, 0, 7, pairs=[("a", b"1"), ("b", b"\xff")]), {"headers": [("a", "1"), ("b", "\\xff")]}),
        (Message(TOPIC, 0, 7, pairs=[("a", b""), ("b", None)]), {"headers": [("a", ""), ("b", "\\N")]}),
        (Message(TOPIC, 0, 7, pairs=UNREADABLE_HEADERS), {"headers": [], "type": "", "event_id": "i1/0/7"}),
        (
            Message(TOPIC, 0, 7, b"no json", [("content-type", codec.STRUCTURED_CONTENT_TYPE)]),
            {"payload": "no json", "event_id": "i1/0/7"},
        ),
    ],
)
def test_a_strange_record_is_a_row(message: Message, expected: dict[str, Any]) -> None:
    row, neighbour = table_of(message, ordinary())
    assert {name: row[name] for name in expected} == expected
    assert neighbour == table_of(ordinary())[0]


@pytest.mark.parametrize("text", [b"yesterday", b"", b"2026-01-01T00:00:00", b"\xff", b"2026-13-01T00:00:00Z"])
def test_an_unreadable_time_is_kafkas(text: bytes) -> None:
    row, neighbour = table_of(Message(TOPIC, 0, 0, pairs=[("ce_time", text)]), ordinary())
    assert row["event_time"] == row["append_time"]
    assert neighbour["event_time"] == table_of(ordinary())[0]["event_time"]


headers = st.lists(
    st.tuples(
        st.sampled_from(["ce_id", "ce_time", "ce_sequence", "ce_type", "ce_subject", "content-type", "x"])
        | st.text(min_size=1, max_size=5),
        st.none() | st.binary(max_size=30) | st.sampled_from([codec.STRUCTURED_CONTENT_TYPE, b"9999-12-31T23:59:59Z"]),
    ),
    max_size=8,
)
records = st.builds(
    lambda body, pairs, key, time_ms: Message(TOPIC, 0, 0, body, pairs, key, time_ms),
    st.none() | st.binary(max_size=60) | st.sampled_from([b"{}", b'{"data":1}', b"[" * 10_000]),
    headers,
    st.none() | st.binary(max_size=10),
    st.integers(-1, 2**63 - 1),
)


@pytest.mark.covers("C2")
@given(st.lists(records, min_size=1, max_size=5))
def test_any_bytes_are_rows(messages: list[Message]) -> None:
    rows = table_of(*messages)
    assert len(rows) == len(messages)
    assert [row["value_bytes"] == 0 or row["has_value"] for row in rows] == [True] * len(rows)


@pytest.mark.covers("C2", "O1")
def test_the_engine_takes_any_bytes(engine: ClickHouse) -> None:
    drawn: list[Message] = []

    @given(st.lists(records, min_size=5, max_size=20))
    def draw(messages: list[Message]) -> None:
        drawn.extend(messages)

    draw()
    columns = LogColumns()
    columns.add(drawn, NAMES)
    engine.insert("log", with_ingest_time(columns.take(), 1))
    assert engine.rows("SELECT count(), uniqExact(_part) FROM log") == [(len(drawn), 1)]


def test_pandas_is_not_loaded() -> None:
    """It would take two seconds of every start and 60 MB."""
    program = (
        "import sys\n"
        "from tests.unit.observability.test_columns import table_of, ordinary, NAMES, LogColumns\n"
        "from sluice_observability.handlers.positions import gap_rows, position_rows, with_ingest_time\n"
        "columns = LogColumns(); columns.add([ordinary()], NAMES); with_ingest_time(columns.take(), 1)\n"
        "position_rows([], 1); gap_rows([], 1)\n"
        "sys.exit('pandas' in sys.modules)\n"
    )
    assert (
        subprocess.run([sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": ":".join(sys.path)}).returncode
        == 0
    )
