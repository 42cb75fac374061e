"""A line of what waits for its turn: to find the next one costs as much with ten as with a hundred thousand."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heapify, heappop, heappush

from sluice_vault_broker.adapters.holdings import Place

SPARE_COUNT = 64
"""Places beyond twice as many as were somebody's the last time; then those that are nobody's any more go."""


class Line:
    """Places in their order, each once.

    Args:
        current: Whether a place is still somebody's.
    """

    def __init__(self, current: Callable[[Place], bool]) -> None:
        self._current = current
        self._places: list[Place] = []
        self._numbers: set[int] = set()
        self._trim_at = SPARE_COUNT

    def __len__(self) -> int:
        return len(self._places)

    @property
    def first(self) -> Place:
        """The next one."""
        return self._places[0]

    def put(self, place: Place) -> None:
        """Lines one up where its number says."""
        if place.number in self._numbers:
            return
        if len(self._places) >= self._trim_at:
            self._places = [one for one in self._places if self._current(one)]
            self._numbers = {one.number for one in self._places}
            heapify(self._places)
            self._trim_at = SPARE_COUNT + 2 * len(self._places)
        self._numbers.add(place.number)
        heappush(self._places, place)

    def pop(self) -> Place:
        """Takes the next one out."""
        place = heappop(self._places)
        self._numbers.discard(place.number)
        return place
