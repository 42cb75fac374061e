"""Server-sent events, parsed as they arrive (WHATWG HTML §9.2.6), without I/O."""

from __future__ import annotations


class SseParser:
    """Takes bytes in any pieces, gives the data of the events that are complete."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._data: list[bytes] = []

    def feed(self, piece: bytes) -> list[bytes]:
        """Takes a piece; returns the data of every event that it completed. Comments and other fields are skipped."""
        self._buffer += piece
        events: list[bytes] = []
        begin = 0
        while True:
            end = self._buffer.find(b"\n", begin)
            if end < 0:
                break
            self._line(bytes(self._buffer[begin:end]).removesuffix(b"\r"), events)
            begin = end + 1
        del self._buffer[:begin]
        return events

    def _line(self, line: bytes, events: list[bytes]) -> None:
        if not line:
            if self._data:
                events.append(b"\n".join(self._data))
                self._data = []
        elif line.startswith(b"data:"):
            self._data.append(line[5:].removeprefix(b" "))
