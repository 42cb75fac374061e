"""The steps of a start, on a terminal or in a log: what, how much, how long."""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING, TextIO

from sluice_client.cli import output

if TYPE_CHECKING:
    from sluice_localstack import Progress

MEBIBYTE = 1024 * 1024


class StepLines:
    """One line for each step, rewritten in place on a terminal, written once when it is done elsewhere.

    May be told by several threads.

    Args:
        stream: Where to; default: standard error, so that standard output has the result alone.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._in_place = bool(self._stream.isatty())
        self._lock = threading.Lock()
        self._finished: set[str] = set()

    def __call__(self, progress: Progress) -> None:
        """Shows a report."""
        done = progress.done >= progress.total
        with self._lock:
            if not done:
                self._finished.discard(progress.what)
            elif progress.what in self._finished:
                return
            else:
                self._finished.add(progress.what)
            text = _line(progress, done)
            if self._in_place:
                self._write(f"\r\x1b[2K{text}" + ("\n" if done else ""))
            elif done:
                self._write(f"{text}\n")

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


def _line(progress: Progress, done: bool) -> str:
    parts = [f"{'✓' if done else '…'} {progress.what}"]
    if progress.total > 1:
        parts.append(f"{progress.done}/{progress.total}")
    if progress.bytes_done:
        parts.append(f"{progress.bytes_done / MEBIBYTE:.1f} MiB")
    if done or progress.seconds >= 1:
        parts.append(f"{progress.seconds:.1f} s")
    return output.clean("  ".join(parts))
