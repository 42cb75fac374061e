"""Dead letters (C2): a refused record, whole, with the reason; and the way back to the original (C3)."""

from __future__ import annotations

from sluice_contracts import limits
from sluice_contracts.codec import format_time
from sluice_contracts.envelope import Headers, OutgoingRecord, Record
from sluice_contracts.errors import Refusal
from sluice_contracts.ids import record_id
from sluice_contracts.topics import dead_letter_topic

RECORD_REFUSED = "record.refused"
"""The CloudEvents type of a dead letter. Its data are the refused bytes, so no schema describes them."""

HEADERS_DROPPED = "dlq_headers_dropped"
"""How many of the record's headers its letter lacks; only in a letter that lacks some."""

_ORIGINAL = "dlq_original_"


class LetterIncomplete(ValueError):
    """The letter lacks headers of its record: leave it alone, it can't be written again as it was."""


def dead_letter(record: Record, reason: Refusal, detail: str, refused_by: str, now_ms: int) -> OutgoingRecord:
    """The dead letter of a record: original key and bytes; original headers under `dlq_original_`.

    Its id derives from the record's place, so that refusing a record again after a crash makes the same dead letter.
    It has the first `limits.HEADERS_MAX_COUNT` headers, and in `dlq_headers_dropped` how many it lacks: so it is larger
    than the record by a few KiB at most, and fits wherever the record did.
    """
    kept = record.headers[: limits.HEADERS_MAX_COUNT]
    dropped = len(record.headers) - len(kept)
    headers: Headers = (
        ("ce_specversion", b"1.0"),
        ("ce_id", record_id(record.topic, record.partition, record.offset).encode()),
        ("ce_source", refused_by.encode()),
        ("ce_type", RECORD_REFUSED.encode()),
        ("ce_time", format_time(now_ms).encode()),
        ("dlq_reason", reason.value.encode()),
        ("dlq_detail", detail.encode("utf-8", "replace")),
        ("dlq_topic", record.topic.encode()),
        ("dlq_partition", b"%d" % record.partition),
        ("dlq_offset", b"%d" % record.offset),
        ("dlq_timestamp_ms", b"%d" % record.timestamp_ms),
        ("dlq_refused_by", refused_by.encode()),
        *([(HEADERS_DROPPED, b"%d" % dropped)] if dropped else ()),
        *((_ORIGINAL + name, value) for name, value in kept),
    )
    return OutgoingRecord(dead_letter_topic(record.topic), record.key, record.value, headers)


def original_record(letter: Record) -> OutgoingRecord:
    """The record that was refused, as it was written, for writing it again to its topic.

    Raises:
        LetterIncomplete: It lacks headers that the record had.
        ValueError: The record is no dead letter.
    """
    headers = dict(letter.headers)
    topic = headers.get("dlq_topic")
    if topic is None:
        raise ValueError(f"{letter.topic}[{letter.partition}]@{letter.offset} has no header dlq_topic: no dead letter")
    dropped = headers.get(HEADERS_DROPPED)
    if dropped is not None:
        place = f"{letter.topic}[{letter.partition}]@{letter.offset}"
        raise LetterIncomplete(f"{place} lacks {dropped.decode()} of its record's headers")
    original = tuple(
        (name.removeprefix(_ORIGINAL), value) for name, value in letter.headers if name.startswith(_ORIGINAL)
    )
    return OutgoingRecord(topic.decode(), letter.key, letter.value, original)
