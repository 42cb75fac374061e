"""Dead letters (C2): a refused record, whole, with the reason; and the way back to the original (C3)."""

from __future__ import annotations

from sluice_contracts.codec import format_time
from sluice_contracts.envelope import Headers, OutgoingRecord, Record
from sluice_contracts.errors import Refusal
from sluice_contracts.ids import record_id
from sluice_contracts.topics import dead_letter_topic

RECORD_REFUSED = "record.refused"
"""The CloudEvents type of a dead letter. Its data are the refused bytes, so no schema describes them."""

_ORIGINAL = "dlq_original_"


def dead_letter(record: Record, reason: Refusal, detail: str, refused_by: str, now_ms: int) -> OutgoingRecord:
    """The dead letter of a record: original key and bytes; original headers under `dlq_original_`.

    Its id derives from the record's place, so that refusing a record again after a crash makes the same dead letter.
    """
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
        *((_ORIGINAL + name, value) for name, value in record.headers),
    )
    return OutgoingRecord(dead_letter_topic(record.topic), record.key, record.value, headers)


def original_record(letter: Record) -> OutgoingRecord:
    """The record that was refused, as it was written, for writing it again to its topic.

    Raises:
        ValueError: The record is no dead letter.
    """
    headers = dict(letter.headers)
    topic = headers.get("dlq_topic")
    if topic is None:
        raise ValueError(f"{letter.topic}[{letter.partition}]@{letter.offset} has no header dlq_topic: no dead letter")
    original = tuple(
        (name.removeprefix(_ORIGINAL), value) for name, value in letter.headers if name.startswith(_ORIGINAL)
    )
    return OutgoingRecord(topic.decode(), letter.key, letter.value, original)
