"""When something is to be looked at next, by key: the earliest first."""

from __future__ import annotations

import heapq
from collections.abc import Mapping

STALE_MAX_COUNT = 1_000
"""Timers that count no more and are kept nonetheless, beyond as many as there are keys."""


class Timers:
    """One timer for each key, never later than was said last.

    Args:
        planned: The first ones (Unix time).
    """

    def __init__(self, planned: Mapping[str, int]) -> None:
        self._planned = dict(planned)
        self._heap: list[tuple[int, str]] = []
        self._sweep()

    def __len__(self) -> int:
        """How many are kept, those that count no more among them."""
        return len(self._heap)

    def put(self, key: str, look_ms: int) -> None:
        """Sets a key's timer. An earlier one remains: whoever looks then puts the next."""
        planned_ms = self._planned.get(key)
        if planned_ms is None or look_ms < planned_ms:
            self._planned[key] = look_ms
            heapq.heappush(self._heap, (look_ms, key))
            if len(self._heap) > 2 * len(self._planned) + STALE_MAX_COUNT:
                self._sweep()

    def take(self, until_ms: int, count: int) -> tuple[list[str], int]:
        """Takes the keys whose timers are due; of at most `count` timers, and how many those were."""
        keys, taken = [], 0
        while taken < count and self._heap and self._heap[0][0] <= until_ms:
            look_ms, key = heapq.heappop(self._heap)
            taken += 1
            if self._planned.get(key) == look_ms:
                del self._planned[key]
                keys.append(key)
        return keys, taken

    def _sweep(self) -> None:
        self._heap = [(look_ms, key) for key, look_ms in self._planned.items()]
        heapq.heapify(self._heap)
