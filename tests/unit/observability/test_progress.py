"""Who waits for the log asks it once for all."""

from __future__ import annotations

import asyncio

import pytest

from sluice_observability.domain.effects import Position
from sluice_observability.domain.places import Place
from sluice_observability.handlers.progress import LogProgress
from sluice_observability.ports import StoreUnavailable

EVENTS = "pipeline.events"


class Log:
    """A log that grows by one offset in each partition with each look, and notes how many look at once."""

    def __init__(self, error: Exception | None = None) -> None:
        self.looks = self._looking = self.most_at_once = 0
        self._error = error

    async def positions(self) -> dict[Place, int]:
        self._looking += 1
        self.most_at_once = max(self.most_at_once, self._looking)
        await asyncio.sleep(0)
        self._looking -= 1
        self.looks += 1
        if self._error is not None:
            raise self._error
        return {Place(EVENTS, "i1", number): self.looks for number in range(3)}


@pytest.mark.covers("U1")
def test_all_who_wait_share_one_look() -> None:
    log = Log()

    async def run() -> None:
        progress = LogProgress(log.positions)
        waiting = [progress.wait_for(Position(EVENTS, number % 3, 2), 30) for number in range(200)]
        assert await asyncio.gather(*waiting) == [True] * 200
        assert (log.looks, log.most_at_once) == (3, 1)
        assert await progress.wait_for(Position(EVENTS, 0, 1), 30)
        assert log.looks == 3, "what is known is not asked"

    asyncio.run(run())


@pytest.mark.covers("U1")
def test_a_wait_for_the_log_has_an_end_and_disturbs_nobody_else() -> None:
    log = Log()

    async def run() -> None:
        progress = LogProgress(log.positions)
        long = asyncio.create_task(progress.wait_for(Position(EVENTS, 0, 1), 30))
        assert await progress.wait_for(Position(EVENTS, 9, 0), 0.0) is False
        assert await long is True

    asyncio.run(run())


@pytest.mark.covers("U1")
def test_a_log_that_is_away_is_said_to_everybody() -> None:
    async def run() -> list[object]:
        progress = LogProgress(Log(StoreUnavailable("away")).positions)
        waiting = [progress.wait_for(Position(EVENTS, 0, 1), 30) for _ in range(3)]
        return list(await asyncio.gather(*waiting, return_exceptions=True))

    assert [type(one) for one in asyncio.run(run())] == [StoreUnavailable] * 3
