"""Deterministic identifiers: whoever repeats a step makes the same ids, so a duplicate can be seen and dropped.

UUIDv5 (RFC 9562 §5.5) in a namespace of ours. A new identifier, of a command that nobody has given a dedupe key,
is made by the producer with `uuid.uuid4()`; this module has no randomness.
"""

from __future__ import annotations

import uuid
from hashlib import sha1

NAMESPACE = uuid.UUID("6f1c5e0a-5a3f-5d0e-9a52-0f4b8f3f6c11")
"""The namespace of all derived identifiers. Changing it would make every stored id foreign; it never changes."""

INSTALLATION_ID = "installation"
"""The subject of what is said to the installation as a whole. A pipeline of that name is another thing: messages and
state of both are told apart by their types."""


def derived_id(*parts: str | int) -> str:
    """Derives an id from its parts.

    The parts are joined with the unit separator (U+001F), which no identifier may contain, so that
    ``("a", "bc")`` and ``("ab", "c")`` differ.

    Args:
        *parts: For an emitted message: the cause's id, the message type and a number of its own.

    Returns:
        A UUIDv5 in its 36-character form.
    """
    name = "\x1f".join([str(part) for part in parts]).encode()
    digest = bytearray(sha1(NAMESPACE.bytes + name, usedforsecurity=False).digest()[:16])
    digest[6] = digest[6] & 0x0F | 0x50
    digest[8] = digest[8] & 0x3F | 0x80
    text = digest.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def pipeline_id(tenant: str, dedupe_key: str) -> str:
    """The id of the pipeline that a tenant's dedupe key names: whoever computes it, a second spawn meets the first."""
    return derived_id("pipeline", tenant, dedupe_key)


def record_id(topic: str, partition: int, offset: int) -> str:
    """The id of a record that carries none of its own, such as one that could not be decoded."""
    return derived_id("record", topic, partition, offset)
