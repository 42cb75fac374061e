"""The machine's time."""

from __future__ import annotations

import asyncio
import time

from sluice_runtime.clock import SystemClock


class SystemTime(SystemClock):
    """The machine's clock and asyncio's timers."""

    def monotonic_ms(self) -> int:
        """Milliseconds since the machine started."""
        return time.monotonic_ns() // 1_000_000

    async def sleep(self, seconds: float) -> None:
        """Waits."""
        await asyncio.sleep(seconds)
