"""The envelope of a message: CloudEvents 1.0 attributes, and the record that carries it on a topic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from sluice_contracts.messages.base import Message

Headers = tuple[tuple[str, bytes | None], ...]
"""In their order; Kafka lets a value be null, and a name come more than once."""

HEADER_OVERHEAD_BYTES = 100
"""What a header takes in memory beside its name and value, about: a record may have some hundred thousand of them."""

M_co = TypeVar("M_co", bound=Message, covariant=True)

SYSTEM_TENANT = "system"
"""The tenant of what belongs to the installation and to no tenant, such as a runner's heartbeat."""


@dataclass(frozen=True, slots=True)
class Record:
    """A Kafka record as it was read. `topic` is the name without the installation's prefix."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()

    @property
    def size_bytes(self) -> int:
        """What it takes in memory, about; for limits of what is held there."""
        headers = sum(len(name) + len(value or b"") + HEADER_OVERHEAD_BYTES for name, value in self.headers)
        return len(self.key or b"") + len(self.value or b"") + headers


@dataclass(frozen=True, slots=True)
class OutgoingRecord:
    """A Kafka record to be written; the partition follows from the key (murmur2, Kafka's default partitioner)."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers = ()


@dataclass(frozen=True, slots=True)
class CloudEvent(Generic[M_co]):
    """One message with its context (CloudEvents 1.0 §3, and its `sequence` extension).

    Attributes:
        id: Unique per source; derived from the cause where a service decided it, so that a duplicate can be seen.
        source: `<service>/<instance>`; other producers choose their own.
        tenant: Extension attribute `tenant`.
        subject: The pipeline's id (a runner's, for heartbeats).
        time_ms: When it was decided, in milliseconds since the Unix epoch.
        data: The message.
        causation_id: The id of the message that caused this one (extension `causationid`).
        sequence: Grows with every message about one subject from one service; a consumer that drops what is not
            greater than the last one it saw has each message once (extension `sequence`).
        traceparent: W3C Trace Context.
    """

    id: str
    source: str
    tenant: str
    subject: str
    time_ms: int
    data: M_co
    causation_id: str | None = None
    sequence: int | None = None
    traceparent: str | None = None

    @property
    def type(self) -> str:
        """The CloudEvents type of the data, such as `pipeline.spawned`."""
        return self.data.type
