"""How fast an attempt may call its model (V5: rate-limit first)."""

from __future__ import annotations

MINUTE_MS = 60_000


class Pace:
    """Spaces an attempt's calls at the rate that was set, none in bursts. Until one is set every call may go.

    Guarantee: under a rate a call goes out no sooner than an interval after the one before it was told, and the first
    no sooner than that after the attempt began. So in attempts that follow one another no minute [s, s + 60 s) has
    more calls than the rate, neither by when they went out nor by when they were told, which is what is counted.

    The time is passed in, in milliseconds that never jump.

    Args:
        begun_ms: When the attempt began to be: whoever was in its place before had called by then.
        calls_per_minute: The rate that holds from the first call; None: none is set.
    """

    def __init__(self, begun_ms: int, calls_per_minute: int | None = None) -> None:
        self._interval_ms = 0
        self._since_ms = begun_ms
        if calls_per_minute is not None:
            self.limit(calls_per_minute)

    def limit(self, calls_per_minute: int) -> None:
        """From now on at most so many calls a minute; the last one said counts."""
        self._interval_ms = -(-MINUTE_MS // calls_per_minute)

    def wait_ms(self, now_ms: int) -> int:
        """How long the next call has to wait; 0 if it may go. A wait may become shorter by `limit`: ask again."""
        return max(0, self._since_ms + self._interval_ms - now_ms) if self._interval_ms else 0

    def called(self, now_ms: int) -> None:
        """A call goes out."""
        self._since_ms = now_ms

    def told(self, now_ms: int) -> None:
        """A signal told of the calls until now. Else a short call after a long one would be told in the same moment."""
        self._since_ms = now_ms
