"""What a record's headers and body say about it, without checking them: the log takes whatever arrives."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec

EPOCH_MAX_MS = 4_102_444_800_000
"""2100-01-01. A time beyond is a producer's mistake, and beyond 2299 ClickHouse would refuse the whole insert."""

SEQUENCE_MAX_DIGITS = 18
"""What the contract reads; fits into 64 bits."""

_VERSION = re.compile(rb":v([0-9]{1,4})\Z")
_STRUCTURED_ATTRIBUTES = (
    "id", "source", "type", "dataschema", "time", "subject", "tenant", "causationid", "sequence", "traceparent",
)  # fmt: skip


class _Structured(msgspec.Struct):
    """Attributes of any JSON type: one that is no text is as good as absent, as in the codec."""

    data: msgspec.Raw = msgspec.Raw(b"")
    id: Any = None
    source: Any = None
    type: Any = None
    dataschema: Any = None
    time: Any = None
    subject: Any = None
    tenant: Any = None
    causationid: Any = None
    sequence: Any = None
    traceparent: Any = None


_DECODER = msgspec.json.Decoder(_Structured)


def structured(value: bytes) -> tuple[Mapping[str, bytes], bytes] | None:
    """Reads a structured CloudEvent.

    Returns:
        Its attributes under the names of their binary-mode headers, and its data as JSON, or the whole where it has
        none; None if it can't be read.
    """
    try:
        event = _DECODER.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    found = {}
    for name in _STRUCTURED_ATTRIBUTES:
        text = getattr(event, name)
        if name == "sequence" and isinstance(text, int) and not isinstance(text, bool):
            text = str(text)  # CloudEvents' sequence is a String; many write a number, and the codec takes it
        if isinstance(text, str):
            found["traceparent" if name == "traceparent" else f"ce_{name}"] = text.encode()
    return found, bytes(event.data) or value


def schema_version(dataschema: bytes | None) -> int:
    """The version that a `ce_dataschema` names; 1 where it names none."""
    match = None if dataschema is None else _VERSION.search(dataschema)
    return 1 if match is None else int(match[1])


def sequence_number(text: bytes) -> int | None:
    """The number in a `ce_sequence`; None where it holds none."""
    return int(text) if text.isdigit() and len(text) <= SEQUENCE_MAX_DIGITS else None


def event_time_ms(text: str) -> int | None:
    """The moment that a `ce_time` names, in milliseconds since the Unix epoch; None where it names none."""
    try:
        moment = datetime.fromisoformat(text)
        return None if moment.tzinfo is None else int(moment.timestamp() * 1_000)
    except (ValueError, OverflowError):
        return None
