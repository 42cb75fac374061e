"""Bad input (C2): every fault has its reason, and nothing but `InvalidRecord` ever comes out."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sluice_contracts import codec, limits, topics
from sluice_contracts.dead_letters import LetterIncomplete, dead_letter, original_record
from sluice_contracts.envelope import SYSTEM_TENANT, CloudEvent, Headers, Record
from sluice_contracts.errors import InvalidRecord, Refusal
from sluice_contracts.messages.pipeline import PipelineCancel, PipelineTick
from tests.contracts.examples import EXAMPLES

PIPELINE = "0e0b5f1c-3f43-5a60-9d6e-5c0a8b1f2d3c"
CANCEL = Record(
    "pipeline.commands", 3, 17, 1_795_252_000_123, PIPELINE.encode(), b'{"reason": "enough"}',
    (
        ("ce_specversion", b"1.0"), ("ce_id", b"1"), ("ce_source", b"operator/cli"), ("ce_type", b"pipeline.cancel"),
        ("ce_subject", PIPELINE.encode()), ("ce_tenant", b"acme"),
    ),
)  # fmt: skip
STRUCTURED: dict[str, Any] = {
    "specversion": "1.0", "id": "1", "source": "operator/cli", "type": "pipeline.cancel", "subject": PIPELINE,
    "tenant": "acme", "data": {"reason": "enough"},
}  # fmt: skip


def headers(**changed: bytes | None) -> Headers:
    """The lawful headers, some of them with another value; None leaves one out."""
    merged: dict[str, bytes | None] = {**dict(CANCEL.headers), **changed}
    return tuple((name, value) for name, value in merged.items() if value is not None)


def value(content: bytes | None) -> Record:
    return replace(CANCEL, value=content)


def structured(content: bytes) -> Record:
    return replace(CANCEL, value=content, headers=(("content-type", b"application/cloudevents+json; charset=UTF-8"),))


def structured_with(**changed: Any) -> Record:
    return structured(json.dumps({**STRUCTURED, **changed}).encode())


def structured_without(name: str) -> Record:
    return structured(json.dumps({key: each for key, each in STRUCTURED.items() if key != name}).encode())


DEEP = b'{"reason": ' + b"[" * 40 + b"]" * 40 + b"}"
REFUSED: dict[str, tuple[Refusal, Record]] = {
    "tombstone": (Refusal.NO_VALUE, value(None)),
    "too large": (Refusal.TOO_LARGE, value(b'{"reason": "%s"}' % (b"x" * limits.MESSAGE_VALUE_MAX_BYTES))),
    "too large, structured": (Refusal.TOO_LARGE, structured(b" " * (limits.MESSAGE_VALUE_MAX_BYTES + 1))),
    "too deep": (Refusal.TOO_DEEP, value(DEEP)),
    "too deep, never closed": (Refusal.TOO_DEEP, value(b"[" * 200_000)),
    "too deep, structured": (Refusal.TOO_DEEP, structured(b'{"data":' * 30_000)),
    "too deep behind an escaped quote": (Refusal.TOO_DEEP, value(b'{"reason": "\\"", "x": ' + b"[" * 40 + b"]" * 40)),
    "not UTF-8": (Refusal.NOT_UTF8, value(b'{"reason": "\xff"}')),
    "UTF-8 cut off": (Refusal.NOT_UTF8, value(b'{"reason": "\xc3')),
    "UTF-8 surrogate": (Refusal.NOT_UTF8, value(b'{"reason": "\xed\xa0\x80"}')),
    "UTF-16": (Refusal.NOT_UTF8, value('{"reason": "x"}'.encode("utf-16"))),
    "not UTF-8, structured": (Refusal.NOT_UTF8, structured(b'{"id": "\xff", "data": {}}')),
    "UTF-16, structured": (Refusal.NOT_UTF8, structured(json.dumps(STRUCTURED).encode("utf-16"))),
    "empty": (Refusal.NOT_JSON, value(b"")),
    "not JSON": (Refusal.NOT_JSON, value(b"reason: enough")),
    "truncated": (Refusal.NOT_JSON, value(b'{"reason": "eno')),
    "two documents": (Refusal.NOT_JSON, value(b"{} {}")),
    "zeros": (Refusal.NOT_JSON, value(b"\0" * 100)),
    "lone surrogate escape": (Refusal.NOT_JSON, value(b'{"reason": "\\ud800"}')),
    "not JSON, structured": (Refusal.NOT_JSON, structured(b"{")),
    "byte order mark, structured": (Refusal.NOT_JSON, structured(b"\xef\xbb\xbf{}")),
    "a number of 5,000 digits, structured": (Refusal.NOT_JSON, structured(b'{"data": %s}' % (b"9" * 5_000))),
    "no headers": (Refusal.BAD_HEADERS, replace(CANCEL, headers=())),
    "no id": (Refusal.BAD_HEADERS, replace(CANCEL, headers=headers(ce_id=None))),
    "empty id": (Refusal.BAD_HEADERS, replace(CANCEL, headers=headers(ce_id=b""))),
    "no source": (Refusal.BAD_HEADERS, replace(CANCEL, headers=headers(ce_source=None))),
    "no type": (Refusal.BAD_HEADERS, replace(CANCEL, headers=headers(ce_type=None))),
    "no specversion": (Refusal.BAD_HEADERS, replace(CANCEL, headers=headers(ce_specversion=None))),
    "other specversion": (Refusal.BAD_HEADERS, replace(CANCEL, headers=headers(ce_specversion=b"0.3"))),
    "null header": (Refusal.BAD_HEADERS, replace(CANCEL, headers=(*CANCEL.headers[1:], ("ce_specversion", None)))),  # type: ignore[arg-type]
    "header not UTF-8": (Refusal.BAD_HEADERS, replace(CANCEL, headers=headers(ce_id=b"\xff"))),
    "control character": (Refusal.BAD_HEADERS, replace(CANCEL, headers=headers(ce_id=b"a\x1fb"))),
    "line end": (Refusal.BAD_HEADERS, replace(CANCEL, headers=headers(ce_source=b"operator\nforged"))),
    "attribute too long": (Refusal.BAD_HEADERS, replace(CANCEL, headers=headers(ce_id=b"x" * 2_000))),
    "tenant no name": (Refusal.BAD_HEADERS, replace(CANCEL, headers=headers(ce_tenant=b"../acme"))),
    "time no time": (Refusal.BAD_HEADERS, replace(CANCEL, headers=headers(ce_time=b"yesterday"))),
    "time without zone": (Refusal.BAD_HEADERS, replace(CANCEL, headers=headers(ce_time=b"2026-11-21T09:26:00"))),
    "time before 1970": (Refusal.BAD_HEADERS, replace(CANCEL, headers=headers(ce_time=b"0001-01-01T00:00:00Z"))),
    "time after 9999": (Refusal.BAD_HEADERS, replace(CANCEL, headers=headers(ce_time=b"9999-12-31T23:59:59-01:00"))),
    "sequence no number": (Refusal.BAD_HEADERS, replace(CANCEL, headers=headers(ce_sequence=b"-1"))),
    "sequence of other digits": (Refusal.BAD_HEADERS, replace(CANCEL, headers=headers(ce_sequence="٣".encode()))),
    "foreign dataschema": (Refusal.BAD_HEADERS, replace(CANCEL, headers=headers(ce_dataschema=b"urn:other:x:v1"))),
    "dataschema of another type": (
        Refusal.BAD_HEADERS, replace(CANCEL, headers=headers(ce_dataschema=b"urn:sluice:pipeline.spawn:v1")),
    ),
    "too many headers": (
        Refusal.BAD_HEADERS, replace(CANCEL, headers=CANCEL.headers * (limits.HEADERS_MAX_COUNT // 6 + 1)),
    ),
    "batch": (Refusal.BAD_HEADERS, replace(CANCEL, headers=(("content-type", b"application/cloudevents-batch+json"),))),
    "no object, structured": (Refusal.BAD_HEADERS, structured(b"[]")),
    "no data, structured": (Refusal.BAD_HEADERS, structured_without("data")),
    "no source, structured": (Refusal.BAD_HEADERS, structured_without("source")),
    "id no text, structured": (Refusal.BAD_HEADERS, structured_with(id=17)),
    "surrogate, structured": (Refusal.BAD_HEADERS, structured_with(id="a\ud800b")),
    "unknown type": (Refusal.UNKNOWN_TYPE, replace(CANCEL, headers=headers(ce_type=b"pipeline.explode"))),
    "unknown version": (
        Refusal.UNKNOWN_VERSION, replace(CANCEL, headers=headers(ce_dataschema=b"urn:sluice:pipeline.cancel:v999")),
    ),
    "unknown version, structured": (
        Refusal.UNKNOWN_VERSION, structured_with(dataschema="urn:sluice:pipeline.cancel:v0"),
    ),
    "an event among commands": (Refusal.UNLAWFUL_TYPE, replace(CANCEL, headers=headers(ce_type=b"pipeline.spawned"))),
    "unknown topic": (Refusal.UNLAWFUL_TYPE, replace(CANCEL, topic="pipeline.unknown")),
    "a service's own store": (Refusal.UNLAWFUL_TYPE, replace(CANCEL, topic="pipeline.journal")),
    "forged source": (Refusal.FORGED_SOURCE, replace(CANCEL, headers=headers(ce_source=b"vault-broker/0"))),
    "forged source, structured": (Refusal.FORGED_SOURCE, structured_with(source="agent-runner/7")),
    "no key": (Refusal.BAD_KEY, replace(CANCEL, key=None)),
    "empty key": (Refusal.BAD_KEY, replace(CANCEL, key=b"")),
    "another pipeline's key": (Refusal.BAD_KEY, replace(CANCEL, key=b"another")),
    "key not UTF-8": (Refusal.BAD_KEY, replace(CANCEL, key=b"\xff\xfe")),
    "wrong kind": (Refusal.INVALID_BODY, value(b'{"reason": 17}')),
    "no object": (Refusal.INVALID_BODY, value(b"[]")),
    "null": (Refusal.INVALID_BODY, value(b"null")),
    "too long": (Refusal.INVALID_BODY, value(b'{"reason": "%s"}' % (b"x" * (limits.SUMMARY_MAX_CHARACTERS + 1)))),
    "null, structured": (Refusal.INVALID_BODY, structured_with(data=None)),
    "wrong kind, structured": (Refusal.INVALID_BODY, structured_with(data={"reason": []})),
}  # fmt: skip


@pytest.mark.covers("C2")
@pytest.mark.parametrize("name", REFUSED)
def test_a_fault_has_its_reason(name: str) -> None:
    reason, record = REFUSED[name]
    with pytest.raises(InvalidRecord) as caught:
        codec.decode(record)
    assert caught.value.reason is reason
    assert 0 < len(caught.value.detail) <= 1_000
    caught.value.detail.encode()  # it goes into a header


@pytest.mark.covers("C2")
def test_every_reason_is_tried() -> None:
    # WRONG_PARTITION is the processor's: only it knows how many partitions there are.
    assert {reason for reason, _ in REFUSED.values()} == set(Refusal) - {Refusal.WRONG_PARTITION}


@pytest.mark.covers("C2")
@pytest.mark.parametrize("name", [name for name in REFUSED if name != "too many headers"])
def test_a_refused_record_comes_back_from_its_dead_letter_byte_for_byte(name: str) -> None:
    reason, record = REFUSED[name]
    letter = dead_letter(record, reason, "why", "spawner", now_ms=1_800_000_000_000)
    assert dict(letter.headers)["dlq_reason"] == reason.encode()
    read = Record(letter.topic, 0, 5, 1, letter.key, letter.value, letter.headers)
    back = original_record(read)
    assert (back.topic, back.key, back.value, back.headers) == (record.topic, record.key, record.value, record.headers)


@pytest.mark.covers("C2", "C3")
def test_a_letter_of_any_number_of_headers_fits_and_says_how_many_it_lacks() -> None:
    """300,000 headers with a name of one byte are a record of 0.9 MB; with their prefix they were 4.8 MB."""
    record = replace(CANCEL, headers=(*CANCEL.headers, *(("x", None),) * 300_000))
    letter = dead_letter(record, Refusal.BAD_HEADERS, "why", "spawner", now_ms=1_800_000_000_000)
    kept = [(name, value) for name, value in letter.headers if name.startswith("dlq_original_")]
    assert kept == [(f"dlq_original_{name}", value) for name, value in record.headers[: limits.HEADERS_MAX_COUNT]]
    assert dict(letter.headers)["dlq_headers_dropped"] == b"%d" % (len(record.headers) - limits.HEADERS_MAX_COUNT)
    assert sum(len(name) + len(value or b"") for name, value in letter.headers) < 8 * 1024
    with pytest.raises(LetterIncomplete, match="299942"):
        original_record(Record(letter.topic, 0, 5, 1, letter.key, letter.value, letter.headers))


@pytest.mark.covers("C1", "C2")
@pytest.mark.parametrize(
    "record",
    [
        CANCEL,
        structured_with(),
        replace(CANCEL, headers=(*CANCEL.headers, ("content-type", b"application/json; charset=utf-8"))),
        replace(CANCEL, headers=(*CANCEL.headers, ("content-type", None), ("traceparent", None))),  # type: ignore[arg-type]
        replace(CANCEL, headers=(*CANCEL.headers, ("ce_other", b"\xff"), ("other", b"\xff"))),
        value(b'{"reason": "enough", "later": {"added": [1, 2]}}'),
        value(b' {"reason":"\\u0065nough"} '),
        replace(CANCEL, headers=headers(ce_subject=None)),
        replace(CANCEL, headers=headers(ce_dataschema=b"urn:sluice:pipeline.cancel:v1")),
    ],
)
def test_lawful_variants_are_read_alike(record: Record) -> None:
    expected = CloudEvent("1", "operator/cli", "acme", PIPELINE, CANCEL.timestamp_ms, PipelineCancel(reason="enough"))
    assert codec.decode(record) == expected


def test_what_is_not_given_has_its_default() -> None:
    event = codec.decode(replace(CANCEL, headers=headers(ce_tenant=None), value=b"{}"))
    assert event.tenant == SYSTEM_TENANT
    assert event.data == PipelineCancel()


@pytest.mark.parametrize("sequence", [7, "7"])
def test_a_structured_sequence_may_be_a_number(sequence: int | str) -> None:
    assert codec.decode(structured_with(sequence=sequence)).sequence == 7


def test_brackets_in_strings_are_not_depth() -> None:
    event = codec.decode(value(json.dumps({"reason": '[{"\\' * 100}).encode()))
    assert event.data == PipelineCancel(reason='[{"\\' * 100)


def test_a_writer_that_forgot_an_artifact_is_told() -> None:
    # Each field is within its own limit: only the whole is too large.
    fields = {"text": "x" * (limits.MESSAGE_VALUE_MAX_BYTES + 1)}
    turn = next(one for one in EXAMPLES if one.name == "agent.turn_finished")
    event = codec.decode(turn.structured())
    data = event.data.model_validate({**turn.document["data"], "response": fields})
    with pytest.raises(ValueError, match=r"agent\.turn_finished has 26\d+ bytes"):
        codec.encode(replace(event, data=data), topic=turn.topic, key=turn.key.decode())


@given(time_ms=st.integers(min_value=0, max_value=253_402_300_799_999))
def test_times_survive_to_the_millisecond(time_ms: int) -> None:
    event = CloudEvent("1", "operator/cli", "acme", PIPELINE, time_ms, PipelineTick())
    written = codec.encode(event, topic="pipeline.commands", key=PIPELINE)
    assert codec.decode(Record(written.topic, 0, 0, 1, written.key, written.value, written.headers)) == event


TOPICS = st.sampled_from([row.for_queue("default") for row in topics.TOPICS] + ["", "x", "dlq.pipeline.commands"])
HEADER_NAMES = st.sampled_from(
    [*(f"ce_{name}" for name in ("id", "source", "type", "specversion", "time", "subject", "tenant", "sequence")),
     "ce_dataschema", "ce_causationid", "ce_traceparent", "content-type", "traceparent", "ce_", "x"]
)  # fmt: skip
HEADER_VALUES = st.one_of(
    st.binary(max_size=40),
    st.text(max_size=20).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.sampled_from(
        [b"1.0", b"pipeline.cancel", b"pipeline.spawn", b"operator/cli", b"spawner", PIPELINE.encode(), b"1", b"acme",
         b"application/cloudevents+json", b"application/json", b"2026-11-21T09:26:00Z", b"urn:sluice:pipeline.spawn:v1"]
    ),
)  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@st.composite
def damaged(draw: st.DrawFn) -> Record:
    """An example in one of the modes, with some bytes of its value or one header exchanged."""
    example = draw(st.sampled_from(EXAMPLES))
    record = example.structured() if draw(st.booleans()) else example.binary()
    content = bytearray(record.value or b"")
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(content)))
        content[at : at + draw(st.integers(0, 4))] = draw(st.binary(max_size=4))
    kept = list(record.headers)
    if draw(st.booleans()):
        kept[draw(st.integers(0, len(kept) - 1))] = (draw(HEADER_NAMES), draw(HEADER_VALUES))
    return replace(record, value=bytes(content[: draw(st.integers(0, len(content)))] or content), headers=tuple(kept))


@st.composite
def exchanged(draw: st.DrawFn) -> Record:
    """An example in one of the modes, with one member of its data exchanged for any JSON."""
    example = draw(st.sampled_from([one for one in EXAMPLES if one.document["data"]]))
    data = dict(example.document["data"])
    data[draw(st.sampled_from(sorted(data)))] = draw(JSON)
    document = {**example.document, "data": data}
    if draw(st.booleans()):
        return replace(example.structured(), value=json.dumps(document).encode())
    return replace(example.binary(), value=json.dumps(data).encode())


ARBITRARY = st.builds(
    Record,
    topic=TOPICS,
    partition=st.just(0),
    offset=st.just(0),
    timestamp_ms=st.just(1),
    key=st.none() | st.binary(max_size=40) | st.just(PIPELINE.encode()),
    value=st.none() | st.binary(max_size=200) | JSON.map(lambda each: json.dumps(each).encode()),
    headers=st.lists(st.tuples(HEADER_NAMES, HEADER_VALUES), max_size=12).map(tuple),
)


@pytest.mark.covers("C2")
@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.one_of(ARBITRARY, damaged(), exchanged()))
def test_whatever_arrives_is_an_event_or_invalid(record: Record) -> None:
    try:
        event = codec.decode(record)
    except InvalidRecord as refused:
        written = dead_letter(record, refused.reason, refused.detail, "spawner", now_ms=1)
    else:
        # What was read can be written: nothing in it stops a service later.
        written = codec.encode(event, topic=record.topic, key=(record.key or b"").decode())
    assert written.key == record.key
