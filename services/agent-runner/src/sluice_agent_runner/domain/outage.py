"""When a service that is away is asked again: by one of those who wait, ever less often."""

from __future__ import annotations

BACKOFF_MIN_MS = 100
BACKOFF_MAX_MS = 5_000
"""As everywhere in the house: back off up to 5 s, for as long as it takes."""


class Outage:
    """A pure state machine; the time is passed in, in milliseconds that never jump."""

    def __init__(self) -> None:
        self._failures = 0
        self._next_ms = 0

    @property
    def away(self) -> bool:
        """Whether the last call failed."""
        return self._failures > 0

    def wait_ms(self, now_ms: int) -> int:
        """How long to wait; 0: try now. While it is away one may at a time, and the others wait for its outcome."""
        if not self._failures:
            return 0
        if now_ms < self._next_ms:
            return self._next_ms - now_ms
        self._next_ms = now_ms + self._backoff_ms()
        return 0

    def worked(self) -> None:
        """It answered."""
        self._failures = 0

    def failed(self, now_ms: int) -> None:
        """It did not, or said that it can't now."""
        self._failures += 1
        self._next_ms = now_ms + self._backoff_ms()

    def _backoff_ms(self) -> int:
        return min(BACKOFF_MAX_MS, BACKOFF_MIN_MS << min(self._failures, 10))
