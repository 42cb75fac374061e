"""Secrets of strangers are kept out of the log: bodies, headers and attributes pass the redactor on their way in."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from sluice_contracts import topics
from sluice_runtime.redaction import names_secret, redact

_REDACTED = "[redacted:secret]"

_OF_IDS = b"0123456789abcdef-"
"""What UUIDs and trace parents are made of. No rule finds a secret in nothing but these, and to see that is quick."""


@lru_cache(maxsize=4_096)  # asked for every record
def by_strangers(topic: str) -> bool:
    """Whether others than our services write a topic, or what they wrote stands on it: dead letters.

    What our services write they have redacted themselves.
    """
    row = topics.find(topic)
    return row is None or not set(row.writers) <= set(topics.SERVICES)


def clean_bytes(value: bytes) -> bytes:
    """Bytes without secrets; byte for byte the same where they hold none, UTF-8 or not."""
    text = value.decode("utf-8", "surrogateescape")
    clean = redact(text)
    return value if clean == text else clean.encode("utf-8", "surrogateescape")


def clean_headers(pairs: Sequence[tuple[str, str]]) -> Sequence[tuple[str, str]]:
    """Headers without secrets. What a name like `authorization` holds is one, whatever it looks like."""
    if not any(names_secret(name) for name, _ in pairs) and _holds_none([text for pair in pairs for text in pair]):
        return pairs
    return [(redact(name), _clean_value(name, value)) for name, value in pairs]


def clean_texts(values: list[bytes], *, instead: bytes | None = None) -> list[bytes]:
    """Texts of a batch without secrets; the very same list where they hold none, as nearly always.

    Args:
        values: Attributes of many records.
        instead: Takes the place of a text with a secret, rather than what is left of it.
    """
    if not b"".join(values).translate(None, _OF_IDS):
        return values
    distinct = set(values)
    if _holds_none([value.decode("utf-8", "surrogateescape") for value in distinct]):
        return values
    cleaned = {value: clean_bytes(value) for value in distinct}
    if instead is not None:
        cleaned = {value: value if clean == value else instead for value, clean in cleaned.items()}
    return [cleaned[value] for value in values]


def _holds_none(texts: Sequence[str]) -> bool:
    """Looks at all texts at once, which costs little more than at one: no rule's find is lost over a line's end."""
    together = "\n".join(texts)
    return redact(together) == together


def _clean_value(name: str, value: str) -> str:
    return _REDACTED if value and names_secret(name) else redact(value)
