"""How fast an attempt may call its model (V5: rate-limit first)."""

from __future__ import annotations

MINUTE_MS = 60_000


class Pace:
    """A bucket of one token, which fills at the rate that was set: calls are spaced, none in bursts.

    Until a rate is set every call may go. The time is passed in, in milliseconds that never jump.

    Args:
        calls_per_minute: The rate that holds from the first call; None: none is set.
    """

    def __init__(self, calls_per_minute: int | None = None) -> None:
        self._interval_ms = 0
        self._last_ms: int | None = None
        if calls_per_minute is not None:
            self.limit(calls_per_minute)

    def limit(self, calls_per_minute: int) -> None:
        """From now on at most so many calls a minute; the last one said counts."""
        self._interval_ms = -(-MINUTE_MS // calls_per_minute)

    def wait_ms(self, now_ms: int) -> int:
        """How long the next call has to wait; 0 if it may go. A wait may become shorter by `limit`: ask again."""
        if not self._interval_ms or self._last_ms is None:
            return 0
        return max(0, self._last_ms + self._interval_ms - now_ms)

    def called(self, now_ms: int) -> None:
        """A call goes out."""
        self._last_ms = now_ms
