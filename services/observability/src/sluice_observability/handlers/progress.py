"""Waiting until the log, which another process writes, has come as far as the read model."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from sluice_observability.domain.effects import Position
from sluice_observability.domain.places import Place

LOOK_INTERVAL_S = 0.05
"""Between looks: a quarter of the sink's flush interval."""


class LogProgress:
    """How far the log has come, asked once for all who wait, and not at all while nobody does.

    Args:
        positions: Asks the log; `History.positions`.
    """

    def __init__(self, positions: Callable[[], Awaitable[Mapping[Place, int]]]) -> None:
        self._positions = positions
        self._through: dict[tuple[str, int], int] = {}
        self._looking: asyncio.Task[None] | None = None
        self._looked_at = float("-inf")

    async def wait_for(self, position: Position, timeout_s: float) -> bool:
        """Waits until the log has come beyond a position, at most so long; says whether it has.

        Raises:
            StoreUnavailable: The log does not answer.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while not self._has(position):
                    await asyncio.shield(self._look())  # others wait for it too
        except TimeoutError:
            return self._has(position)
        return True

    def _has(self, position: Position) -> bool:
        return self._through.get((position.topic, position.partition), 0) > position.offset

    def _look(self) -> asyncio.Task[None]:
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._ask())
            self._looking.add_done_callback(_heard)
        return self._looking

    async def _ask(self) -> None:
        now_s = asyncio.get_running_loop().time
        await asyncio.sleep(self._looked_at + LOOK_INTERVAL_S - now_s())
        self._looked_at = now_s()
        for place, next_offset in (await self._positions()).items():
            at = place.topic, place.partition
            self._through[at] = max(self._through.get(at, 0), next_offset)


def _heard(look: asyncio.Task[None]) -> None:
    """Takes note of an error that nobody waits for any more."""
    if not look.cancelled():
        look.exception()
