"""Which file is read, and when the next one begins: through renaming, copying and truncating, and any restart.

A file is known by its beginning and not by its name: Vault writes the time to the nanosecond into its first entry. So
`audit.log` that became `audit.log.1` is the same file, a copy of it too, and what is written into it after it was
truncated is another one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from sluice_vault_broker.audit.domain.lines import LINE_MAX_BYTES, Line, Position, take

CHUNK_BYTES = 1024 * 1024
"""Read and told at once: about 400 uses in one transaction."""

LOST_AFTER_S = 10.0
"""A file that is not there may be on its way to another name; after this long it is lost."""


@dataclass(frozen=True, slots=True)
class Found:
    """A file that is there, and has its first line.

    Attributes:
        live: Whether it has the name into which Vault writes.
    """

    file: str
    begun_ns: int
    size: int
    live: bool


@dataclass(frozen=True, slots=True)
class Lost:
    """Of this file nothing behind the offset will be read."""

    file: str
    offset: int


@dataclass(frozen=True, slots=True)
class Taken:
    """What is to be told, and the position that becomes durable with it."""

    position: Position
    lines: Sequence[Line] = ()
    lost: Lost | None = None


class Files(Protocol):
    """The audit file, and the older ones beside it."""

    def look(self) -> Sequence[Found]:
        """What is there now.

        Raises:
            OSError: The folder or a file can't be read.
        """
        ...

    def read(self, file: str, offset: int, size: int) -> bytes | None:
        """What stands at an offset of a file that was found, up to so many bytes; None if it is another file by now.

        Raises:
            OSError: It can't be read.
        """
        ...


class Reading:
    """Takes what is next. What it keeps besides the position may be lost: after a crash it is found again.

    Args:
        position: The durable one; None: nothing was ever read, and the oldest file that is there comes first.

    Attributes:
        position: The same; whoever has made another one durable sets it.
        behind_bytes: How much was there to be read at the last look.
    """

    def __init__(self, position: Position | None, *, line_max_bytes: int = LINE_MAX_BYTES) -> None:
        self.position = position
        self._line_max_bytes = line_max_bytes
        self.behind_bytes = 0
        self._seen: frozenset[str] = frozenset()
        self._missing_since_s: float | None = None

    def next(self, files: Files, now_s: float) -> Taken | None:
        """What is to be told next; None: nothing has come. The same again, until `position` is set to what was taken.

        Raises:
            OSError: A file can't be read.
        """
        found = files.look()
        if not found:
            return None
        if self.position is None:
            return Taken(_start(min(found, key=lambda one: one.begun_ns)))
        if self.position.file not in {one.file for one in found}:
            return self._missing(self.position, found, now_s)
        self._missing_since_s = None
        self.behind_bytes = _behind(self.position, found)
        return self._read(self.position, files, found)

    def _read(self, position: Position, files: Files, found: Sequence[Found]) -> Taken | None:
        data = files.read(position.file, position.offset, CHUNK_BYTES)
        if data is None:
            return None
        lines, after = take(position, data, self._line_max_bytes)
        if after == position and len(data) == CHUNK_BYTES:
            data = files.read(position.file, position.offset, self._line_max_bytes + 1)
            if data is None:
                return None
            lines, after = take(position, data, self._line_max_bytes)
        if after != position:
            return Taken(after, lines)
        # At its end. Another file was there before that end was read: Vault has closed this one, and begun that one.
        seen, self._seen = self._seen, frozenset(one.file for one in found)
        following = _following(position, found)
        if following is None or seen != self._seen:  # two looks agree: none of them fell into a renaming
            return None
        cut = [Line(position.file, position.offset, data, "incomplete")] if data else []
        return Taken(_start(following), cut)

    def _missing(self, position: Position, found: Sequence[Found], now_s: float) -> Taken | None:
        if self._missing_since_s is None:
            self._missing_since_s = now_s
        following = _following(position, found)
        if following is None or now_s - self._missing_since_s < LOST_AFTER_S:
            return None
        return Taken(_start(following), lost=Lost(position.file, position.offset))


def _behind(position: Position, found: Sequence[Found]) -> int:
    here = max(one.size for one in found if one.file == position.file) - position.offset
    return max(0, here) + sum(one.size for one in found if one.begun_ns > position.begun_ns)


def _start(found: Found) -> Position:
    return Position(found.file, found.begun_ns)


def _following(position: Position, found: Sequence[Found]) -> Found | None:
    """The file after this one; the live one where the clock was set back, and none seems later."""
    others = [one for one in found if one.file != position.file]
    if any(one.live and one.file == position.file for one in found):
        return None
    later = [one for one in others if one.begun_ns > position.begun_ns]
    live = [one for one in others if one.live]
    return min(later or live, key=lambda one: one.begun_ns, default=None)
