"""What a long start says about itself, so that a command line can show it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Progress:
    """One report. The last report of a step has `done == total`.

    Attributes:
        what: The step, in words for people ("download Kafka").
        done: How many of `total` parts of the step are finished.
        total: At least 1.
        bytes_done: Bytes downloaded so far in this step; 0 where nothing is downloaded.
        seconds: Since the step began.
    """

    what: str
    done: int
    total: int
    bytes_done: int
    seconds: float


OnProgress = Callable[[Progress], None]
"""Receives reports, in the step's order, in whichever thread works. Keep it short; what it raises ends the start."""


def silent(progress: Progress) -> None:
    """Show nothing."""


class Step:
    """One step that reports its beginning and its end: `with Step(...) as step`.

    Entering reports 0 of `total`; leaving without an error reports `total` of `total`.
    """

    def __init__(self, what: str, on_progress: OnProgress, *, total: int = 1) -> None:
        self.what = what
        self.total = max(1, total)
        self._on_progress = on_progress
        self._began = time.monotonic()
        self._bytes = 0
        self._done = 0

    def __enter__(self) -> Step:
        self._report()
        return self

    def advance(self, parts: int = 1, *, bytes_done: int = 0) -> None:
        """Count finished parts and bytes, and report. Call it from one thread at a time."""
        self._done = min(self.total, self._done + parts)
        self._bytes += bytes_done
        self._report()

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if kind is None and self._done < self.total:
            self._done = self.total
            self._report()

    def _report(self) -> None:
        seconds = time.monotonic() - self._began
        self._on_progress(Progress(self.what, self._done, self.total, self._bytes, seconds))
