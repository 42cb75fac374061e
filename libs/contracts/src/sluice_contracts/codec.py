"""CloudEvents on Kafka (C1): binary mode out, binary or structured mode in; every fault has a reason (C2).

Source: CloudEvents 1.0.2, Kafka Protocol Binding §3. Attributes travel as headers `ce_<name>`, the data as plain JSON.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from functools import cache, lru_cache
from typing import Any

from pydantic import ValidationError

from sluice_contracts import limits, topics
from sluice_contracts.envelope import SYSTEM_TENANT, CloudEvent, Headers, OutgoingRecord, Record
from sluice_contracts.errors import InvalidRecord, Refusal
from sluice_contracts.messages import Message, registry

JSON_CONTENT_TYPE = b"application/json"
STRUCTURED_CONTENT_TYPE = b"application/cloudevents+json"
_SCHEMA_PREFIX = "urn:sluice:"
SPEC_VERSION = "1.0"
_STANDARD = ("specversion", "id", "source", "type", "dataschema", "time", "subject")
_EXTENSIONS = ("tenant", "causationid", "sequence", "traceparent")
_ATTRIBUTES = {f"ce_{name}": name for name in (*_STANDARD, *_EXTENSIONS)}
"""The attributes that are read, by their header; others are not ours and may hold anything."""

_REQUIRED = ("specversion", "id", "source", "type")
# CloudEvents 1.0.2 §3.1: a String holds no control characters and no surrogates. The latter could not be written again.
_FORBIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MILLISECOND = timedelta(milliseconds=1)
_TIME_END_MS = 253_402_300_800_000
"""The year 10000: a time beyond it can't be written as RFC 3339."""

_IDENTIFIER = re.compile(limits.IDENTIFIER_PATTERN.replace("$", r"\Z"))


def encode(event: CloudEvent[Message], *, topic: str, key: str) -> OutgoingRecord:
    """Writes an event in binary mode.

    Raises:
        ValueError: The encoded value is larger than `MESSAGE_VALUE_MAX_BYTES`: the writer forgot to refer to an
            artifact, which is a defect of the writer.
    """
    data = event.data
    value = data.model_dump_json(exclude_defaults=True).encode()
    if len(value) > limits.MESSAGE_VALUE_MAX_BYTES:
        raise ValueError(f"{data.type} has {len(value)} bytes; at most {limits.MESSAGE_VALUE_MAX_BYTES} may travel")
    headers = [
        *_constant_headers(type(data)),
        ("ce_id", event.id.encode()),
        ("ce_source", event.source.encode()),
        ("ce_time", format_time(event.time_ms).encode()),
        ("ce_subject", event.subject.encode()),
        ("ce_tenant", event.tenant.encode()),
    ]
    if event.causation_id is not None:
        headers.append(("ce_causationid", event.causation_id.encode()))
    if event.sequence is not None:
        headers.append(("ce_sequence", b"%d" % event.sequence))
    if event.traceparent is not None:
        headers.append(("traceparent", event.traceparent.encode()))
    return OutgoingRecord(topic, key.encode(), value, tuple(headers))


def decode(record: Record) -> CloudEvent[Message]:
    """Reads an event and checks all that the contract says about it.

    Raises:
        InvalidRecord: With the reason and what was found; the record belongs on the dead-letter topic.
    """
    if record.value is None:
        raise InvalidRecord(Refusal.NO_VALUE, "the value is null; a tombstone is lawful on compacted topics only")
    if len(record.value) > limits.MESSAGE_VALUE_MAX_BYTES:
        raise InvalidRecord(
            Refusal.TOO_LARGE, f"{len(record.value)} bytes; at most {limits.MESSAGE_VALUE_MAX_BYTES} are read"
        )
    if len(record.headers) > limits.HEADERS_MAX_COUNT:
        raise InvalidRecord(
            Refusal.BAD_HEADERS, f"{len(record.headers)} headers; at most {limits.HEADERS_MAX_COUNT} are read"
        )
    value = record.value
    headers: Mapping[str, bytes | None] = dict(record.headers)
    if (headers.get("content-type") or JSON_CONTENT_TYPE).startswith(STRUCTURED_CONTENT_TYPE):
        attributes, value = _structured(value)
    else:
        attributes = _binary(headers)
    traceparent = headers.get("traceparent")
    if traceparent is not None:
        attributes.setdefault("traceparent", traceparent.decode("utf-8", "replace"))
    _check_attributes(attributes)
    row = topics.find(record.topic)
    cls = _message_class(attributes["type"], attributes.get("dataschema"), record.topic)
    _check_source(attributes["source"], row, record.topic)
    _check_depth(value)
    try:
        data = cls.model_validate_json(value)
    except ValidationError as error:
        raise _invalid_body(cls, value, error) from None
    subject = attributes.get("subject") or (record.key or b"").decode("utf-8", "replace")
    _check_key(record, row, subject, data)
    return CloudEvent(
        id=attributes["id"],
        source=attributes["source"],
        tenant=attributes.get("tenant") or SYSTEM_TENANT,
        subject=subject,
        time_ms=_parse_time(attributes.get("time"), record.timestamp_ms),
        data=data,
        causation_id=attributes.get("causationid"),
        sequence=_parse_sequence(attributes.get("sequence")),
        traceparent=attributes.get("traceparent"),
    )


def check_partition(record: Record, home: int) -> None:
    """Checks that a record stands where its key belongs; for those who fold several topics' partitions together.

    Args:
        record: A valid one.
        home: The partition that Kafka's default partitioner gives its key.

    Raises:
        InvalidRecord: It stands elsewhere, out of the order of its key's other records.
    """
    if home != record.partition:
        detail = f"key {record.key!r:.100} belongs to partition {home}, not {record.partition}; use murmur2"
        raise InvalidRecord(Refusal.WRONG_PARTITION, detail)


def format_time(time_ms: int) -> str:
    """RFC 3339 in UTC with milliseconds."""
    seconds, milliseconds = divmod(time_ms, 1_000)
    return f"{_format_seconds(seconds)}.{milliseconds:03d}Z"


@lru_cache(maxsize=64)  # thousands of messages are decided in one second
def _format_seconds(seconds: int) -> str:
    return (_EPOCH + timedelta(seconds=seconds)).isoformat()[:19]


@cache  # one entry for each class of message
def _constant_headers(message: type[Message]) -> Headers:
    return (
        ("ce_specversion", SPEC_VERSION.encode()),
        ("ce_type", message.type.encode()),
        ("ce_dataschema", schema_id(message).encode()),
        ("content-type", JSON_CONTENT_TYPE),
    )


def schema_id(message: type[Message]) -> str:
    """The URN of a message's JSON Schema: the attribute `dataschema`."""
    return f"{_SCHEMA_PREFIX}{message.type}:v{message.version}"


def _parse_time(text: str | None, fallback_ms: int) -> int:
    if text is None:
        return fallback_ms
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            raise ValueError("no time zone")
        time_ms = (moment - _EPOCH) // _MILLISECOND
        if not 0 <= time_ms < _TIME_END_MS:
            raise ValueError("not between 1970 and 9999")
    except (ValueError, OverflowError) as error:
        raise InvalidRecord(Refusal.BAD_HEADERS, f"time {text[:64]!r} is not RFC 3339: {error}") from None
    return time_ms


def _parse_sequence(text: str | None) -> int | None:
    if text is None:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise InvalidRecord(Refusal.BAD_HEADERS, f"sequence {text[:64]!r} is not a number of at most 18 digits")
    return int(text)


def _binary(headers: Mapping[str, bytes | None]) -> dict[str, str]:
    attributes: dict[str, str] = {}
    try:
        for header, raw in headers.items():
            name = _ATTRIBUTES.get(header)
            # Kafka's header values may be null, whatever the client library's types say.
            if name is not None and raw is not None:
                attributes[name] = raw.decode()
    except UnicodeDecodeError as error:
        raise InvalidRecord(Refusal.BAD_HEADERS, f"header {header}: byte {error.start} is not UTF-8") from None
    return attributes


def _structured(value: bytes) -> tuple[dict[str, str], bytes]:
    _check_depth(value)
    try:
        # As text: json would guess UTF-16 and UTF-32 from bytes.
        document = json.loads(value.decode())
    except UnicodeDecodeError as error:
        raise InvalidRecord(Refusal.NOT_UTF8, f"byte {error.start} of the value is not UTF-8") from None
    except ValueError as error:
        raise InvalidRecord(Refusal.NOT_JSON, f"the structured event is not JSON: {error}") from None
    if not isinstance(document, dict) or "data" not in document:
        raise InvalidRecord(Refusal.BAD_HEADERS, "a structured CloudEvent is an object with a member data")
    data = json.dumps(document.pop("data")).encode()
    known = {name: document.get(name) for name in _ATTRIBUTES.values()}
    attributes = {name: text for name, text in known.items() if isinstance(text, str)}
    sequence = document.get("sequence")
    if isinstance(sequence, int) and not isinstance(sequence, bool):
        attributes["sequence"] = str(sequence)
    return attributes, data


@lru_cache(maxsize=4_096)  # only what is lawful is kept: a refusal is raised anew each time
def _message_class(name: str, schema: str | None, topic: str) -> type[Message]:
    cls = registry().get((name, _version(name, schema)))
    if cls is None:
        versions = sorted(number for known, number in registry() if known == name)
        if versions:
            raise InvalidRecord(Refusal.UNKNOWN_VERSION, f"{schema!r:.200} is unknown; known of {name} are {versions}")
        raise InvalidRecord(Refusal.UNKNOWN_TYPE, f"type {name[:200]!r} is unknown")
    row = topics.find(topic)
    if row is None or cls not in row.messages:
        raise InvalidRecord(Refusal.UNLAWFUL_TYPE, f"{name} may not stand on {topic}")
    return cls


def _version(name: str, schema: str | None) -> int:
    if schema is None:
        return 1
    stem, _, number = schema.rpartition(":v")
    if stem != _SCHEMA_PREFIX + name or not number.isascii() or not number.isdigit() or len(number) > 6:
        raise InvalidRecord(
            Refusal.BAD_HEADERS, f"dataschema {schema[:200]!r} is not {_SCHEMA_PREFIX}{name[:100]}:v<number>"
        )
    return int(number)


def _check_attributes(attributes: dict[str, str]) -> None:
    """What goes on into state, keys and headers of others must be short and clean, and a tenant must be a name."""
    for name in _REQUIRED:
        if not attributes.get(name):
            raise InvalidRecord(Refusal.BAD_HEADERS, f"attribute {name} is missing; CloudEvents 1.0 requires it")
    if attributes["specversion"] != SPEC_VERSION:
        found = attributes["specversion"][:32]
        raise InvalidRecord(Refusal.BAD_HEADERS, f"specversion {found!r}: only CloudEvents {SPEC_VERSION} is read")
    together = "".join(attributes.values())
    if len(together) > limits.ATTRIBUTE_MAX_CHARACTERS or not together.isprintable():  # cheap first
        for name, text in attributes.items():
            _check_attribute(name, text)
    tenant = attributes.get("tenant")
    if tenant and not _IDENTIFIER.match(tenant):
        raise InvalidRecord(Refusal.BAD_HEADERS, f"tenant {tenant[:200]!r} is not an identifier: {_IDENTIFIER.pattern}")


def _check_attribute(name: str, text: str) -> None:
    if len(text) > limits.ATTRIBUTE_MAX_CHARACTERS:
        allowed = limits.ATTRIBUTE_MAX_CHARACTERS
        detail = f"attribute {name[:100]} has {len(text)} characters; at most {allowed} are read"
        raise InvalidRecord(Refusal.BAD_HEADERS, detail)
    forbidden = _FORBIDDEN.search(text)
    if forbidden:
        detail = f"attribute {name[:100]!a} has the character U+{ord(forbidden[0]):04X}, which CloudEvents forbids"
        raise InvalidRecord(Refusal.BAD_HEADERS, detail)


def _check_source(source: str, row: topics.Topic | None, topic: str) -> None:
    service = source.partition("/")[0]
    if row is not None and service in topics.SERVICES and service not in row.writers:
        raise InvalidRecord(Refusal.FORGED_SOURCE, f"source {source[:200]!r}: {service} does not write {topic}")


def _check_key(record: Record, row: topics.Topic | None, subject: str, data: Message) -> None:
    key = None if record.key is None else record.key.decode("utf-8", "replace")
    of, expected = _expected_key(row, subject, data)
    if not key or key != expected:
        raise InvalidRecord(Refusal.BAD_KEY, f"the key is {key!r}; it must be the {of}, {expected!r}")
    if data.only_subject is not None and subject != data.only_subject:
        raise InvalidRecord(
            Refusal.BAD_KEY, f"the subject of {data.type} is {subject[:200]!r}; it must be {data.only_subject!r}"
        )
    if not _IDENTIFIER.match(subject):
        raise InvalidRecord(Refusal.BAD_KEY, f"subject {subject[:200]!r} is not an identifier: {_IDENTIFIER.pattern}")


def _expected_key(row: topics.Topic | None, subject: str, data: Message) -> tuple[str, str]:
    if row is not None and row.key == "agent_id":
        return "agent_id", getattr(data, "agent_id", "")
    if row is not None and row.key == "scope":
        return "scope", getattr(data, "key", "")
    return "subject", subject


def _check_depth(value: bytes) -> None:
    # Cheap first: a text with few brackets can't be deep. Brackets in strings only make the careful count run.
    if value.count(b"{") + value.count(b"[") <= limits.JSON_MAX_DEPTH:
        return
    depth = 0
    in_string = escaped = False
    for byte in value:
        if in_string:
            if escaped:
                escaped = False
            elif byte == 0x5C:
                escaped = True
            elif byte == 0x22:
                in_string = False
        elif byte == 0x22:
            in_string = True
        elif byte in (0x7B, 0x5B):
            depth += 1
            if depth > limits.JSON_MAX_DEPTH:
                raise InvalidRecord(Refusal.TOO_DEEP, f"nested deeper than {limits.JSON_MAX_DEPTH}")
        elif byte in (0x7D, 0x5D):
            depth -= 1


def _invalid_body(cls: type[Message], value: bytes, error: ValidationError) -> InvalidRecord:
    try:
        value.decode()
    except UnicodeDecodeError as fault:
        return InvalidRecord(Refusal.NOT_UTF8, f"byte {fault.start} of the value is not UTF-8")
    first: Any = error.errors(include_url=False, include_context=False, include_input=False)[0]
    if first["type"] == "json_invalid":
        return InvalidRecord(Refusal.NOT_JSON, first["msg"])
    where = ".".join(str(part) for part in first["loc"])
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return InvalidRecord(Refusal.INVALID_BODY, f"{cls.type}: {where}: {first['msg']}{more}")
