"""The one door to the time."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Where the time comes from; tests and the simulation bring their own."""

    def now_ms(self) -> int:
        """Milliseconds since the Unix epoch. May jump."""
        ...


class SystemClock:
    """The machine's clock."""

    def now_ms(self) -> int:
        """Milliseconds since the Unix epoch."""
        return time.time_ns() // 1_000_000
