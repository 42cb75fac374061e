"""The journal: what a processor appends for every batch of decisions, before anybody hears of them.

A partition of the journal holds claims and batches. Whoever takes the partition over appends a claim; the claim's
offset is his epoch. A batch counts if, and only if, its epoch is the offset of the last claim before it: so the order
of the log itself says which of two writers was the owner, and a processor that wakes up late writes what nobody reads.
See docs/decisions/0002-commit-protocol.md.
"""

from __future__ import annotations

from typing import Any

import msgspec

from sluice_contracts.envelope import OutgoingRecord
from sluice_runtime.deciding import Entity


class Claim(msgspec.Struct, frozen=True, tag="claim", tag_field="kind"):
    """Takes the partition over. `owner` is for people."""

    owner: str
    now_ms: int


class StoredOutput(msgspec.Struct, frozen=True, array_like=True):
    """An output as it will be published: republishing it after a crash gives the same bytes."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]  # a refused record's may be null, and its dead letter keeps them

    def record(self) -> OutgoingRecord:
        """The record to publish."""
        return OutgoingRecord(self.topic, self.key, self.value, self.headers)


class Batch(msgspec.Struct, frozen=True, tag="batch", tag_field="kind"):
    """Decisions that become durable together.

    Attributes:
        epoch: The offset of the claim under which it was decided.
        now_ms: The time that the decisions were given.
        positions: Per input topic, the offset of the next record to read.
        deltas: Entities by key; None deletes.
        outputs: What to publish, in order.
        published_through: The outputs of all batches up to this journal offset are known to be published.
    """

    epoch: int
    now_ms: int
    positions: dict[str, int]
    deltas: dict[str, bytes | None]
    outputs: list[StoredOutput]
    published_through: int


class Checkpoint(msgspec.Struct, frozen=True, tag="checkpoint", tag_field="kind"):
    """The last record of a checkpoint: the state topic holds all that the journal said up to `journal_offset`.

    `epoch` is the claim in force there: the claim itself is trimmed away with the journal.
    """

    journal_offset: int
    epoch: int
    now_ms: int
    positions: dict[str, int]


CHECKPOINT_KEY = b"@checkpoint"
"""The checkpoint's key on the state topic; entity keys begin with a pipeline's id, which has no `@`."""

_encoder = msgspec.msgpack.Encoder()
_record_decoder: msgspec.msgpack.Decoder[Claim | Batch] = msgspec.msgpack.Decoder(Claim | Batch)
_checkpoint_decoder = msgspec.msgpack.Decoder(Checkpoint)


def encode(record: Claim | Batch | Checkpoint) -> bytes:
    """MessagePack: the journal is the processor's own, and outputs are bytes."""
    return _encoder.encode(record)


def decode(value: bytes) -> Claim | Batch:
    """Reads a journal record.

    Raises:
        msgspec.ValidationError: It was not written by a processor; the journal is damaged.
    """
    return _record_decoder.decode(value)


def decode_checkpoint(value: bytes) -> Checkpoint:
    """Reads a checkpoint's last record."""
    return _checkpoint_decoder.decode(value)


class EntityCodec:
    """Entities to bytes and back, for one decider's union of entity classes."""

    def __init__(self, entity_type: Any) -> None:
        self._decoder: msgspec.msgpack.Decoder[Entity] = msgspec.msgpack.Decoder(entity_type)

    def encode(self, entity: Entity) -> bytes:
        """MessagePack with the class's tag; fields at their default are left out."""
        return _encoder.encode(entity)

    def decode(self, value: bytes) -> Entity:
        """Reads an entity; fields that it does not know are ignored, so that a newer release can add."""
        return self._decoder.decode(value)
