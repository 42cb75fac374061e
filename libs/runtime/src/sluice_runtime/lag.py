"""How far a process is behind its topics, as a metric."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping

from sluice_runtime.broker import Broker, BrokerUnavailable, TopicPartition
from sluice_runtime.metrics import CONSUMER_LAG, Metrics

log = logging.getLogger(__name__)

LAG_INTERVAL_S = 5.0
LAG_TIMEOUT_S = 5.0
"""A broker that is away is asked again after the interval; until then the last figures stand."""

Positions = Callable[[], Awaitable[Mapping[TopicPartition, int]]]


class Lag:
    """Tells for each partition that a process reads how many records it has not read.

    Args:
        broker: Is asked where the partitions end.
        interval_s: Between two times.
        timeout_s: For one time.
    """

    def __init__(
        self, broker: Broker, metrics: Metrics, interval_s: float = LAG_INTERVAL_S, timeout_s: float = LAG_TIMEOUT_S
    ) -> None:
        self._broker = broker
        self._metrics = metrics
        self._interval_s = interval_s
        self._timeout_s = timeout_s

    async def keep_told(self, positions: Positions) -> None:
        """Tells again and again, until it is cancelled. Partitions that are read no more are told no more.

        Args:
            positions: Where reading goes on in each partition; may raise BrokerUnavailable.
        """
        try:
            while True:
                try:
                    async with asyncio.timeout(self._timeout_s):
                        await self._tell(await positions())
                except (BrokerUnavailable, TimeoutError) as fault:
                    log.debug("how far the topics are is not known: %s", fault or type(fault).__name__)
                await asyncio.sleep(self._interval_s)
        finally:
            self._metrics.series(CONSUMER_LAG, {})

    async def _tell(self, positions: Mapping[TopicPartition, int]) -> None:
        bounds = await self._broker.bounds(list(positions)) if positions else {}
        lag: dict[tuple[str, ...], float] = {
            (at.topic, str(at.partition)): max(0, one.end - positions[at]) for at, one in bounds.items()
        }
        self._metrics.series(CONSUMER_LAG, lag)
