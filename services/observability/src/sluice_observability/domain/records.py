"""A record as the Kafka client hands it out, as the contract's codec reads it."""

from __future__ import annotations

from typing import Any

from sluice_contracts.envelope import Record
from sluice_contracts.errors import InvalidRecord, Refusal

UNREADABLE_HEADERS: list[tuple[str, bytes | None]] = []
"""In place of headers of which one has a name that is not UTF-8: the client can't hand them out. Known by identity: a
record without headers is another thing."""


def record_of(message: Any, topic: str) -> Record:
    """The record of a client's message. Null header values stay null, whatever the contract's types say.

    Args:
        message: A `ports.FetchedMessage`.
        topic: Its topic without the prefix.
    """
    timestamp_ms = message.timestamp()[1]
    headers = tuple(message.headers() or ())
    return Record(topic, message.partition(), message.offset(), timestamp_ms, message.key(), message.value(), headers)


def check_headers(message: Any) -> None:
    """Checks that a message's headers could be read.

    Raises:
        InvalidRecord: They could not, so that nothing is known of them.
    """
    if message.headers() is UNREADABLE_HEADERS:
        raise InvalidRecord(Refusal.BAD_HEADERS, "the name of a header is not UTF-8; none of its headers can be read")
