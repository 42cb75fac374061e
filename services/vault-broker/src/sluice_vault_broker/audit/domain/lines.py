"""Cuts a file's bytes into lines. Pure: however the bytes come in pieces, the lines are the same."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

LINE_MAX_BYTES = 16 * 1024 * 1024
"""A longer line is told of and passed over. Vault's largest is a listing, at 90 bytes for each name, unless the device
elides them, as ours does."""


@dataclass(frozen=True, slots=True)
class Position:
    """How far the audit file has been read.

    Attributes:
        file: Which file: SHA-256 of its beginning, by which it is known after it was renamed or copied.
        begun_ns: When it began, by its first entry, in nanoseconds since the Unix epoch: later files come after it.
        offset: Of the first byte that was not taken.
        in_line: The bytes up to the next end of a line belong to one that was told as too large.
    """

    file: str
    begun_ns: int
    offset: int = 0
    in_line: bool = False


@dataclass(frozen=True, slots=True)
class Line:
    """A line that was taken.

    Attributes:
        fault: Why it is not whole: it has more bytes than we take, or its file was closed in the middle of it.
    """

    file: str
    offset: int
    body: bytes
    fault: Literal["too_large", "incomplete"] | None = None


def take(position: Position, data: bytes, line_max_bytes: int = LINE_MAX_BYTES) -> tuple[list[Line], Position]:
    """Takes all that is complete.

    Args:
        position: Where the data begin.
        data: What stands there; whatever is left of it after the last complete line is to be given again.
        line_max_bytes: Of a longer line the first so many bytes are taken.

    Returns:
        The lines in their order, and the position after them.
    """
    lines: list[Line] = []
    start = 0
    in_line = position.in_line
    while start < len(data):
        end = data.find(b"\n", start)
        if in_line:
            start = end + 1 if end >= 0 else len(data)
            in_line = end < 0
        elif (len(data) if end < 0 else end) - start > line_max_bytes:
            body = data[start : start + line_max_bytes]
            lines.append(Line(position.file, position.offset + start, body, "too_large"))
            start, in_line = start + line_max_bytes, True
        elif end >= 0:
            lines.append(Line(position.file, position.offset + start, data[start:end]))
            start = end + 1
        else:
            break
    return lines, replace(position, offset=position.offset + start, in_line=in_line)
