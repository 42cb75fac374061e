"""The limits that records of topic `budgets` set: read whole by every monitor, and then followed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence

from sluice_contracts import codec
from sluice_contracts.envelope import Record
from sluice_contracts.errors import InvalidRecord
from sluice_contracts.messages.alert import BudgetSet
from sluice_contracts.topics import BUDGETS
from sluice_observability.domain.budget_limits import Budgets
from sluice_observability.domain.retrying import Backoff
from sluice_observability.handlers.refusals import DeadLetterOffice, Refused
from sluice_runtime.broker import Broker, BrokerUnavailable, TopicPartition

logger = logging.getLogger(__name__)

POLL_MS = 500


class BudgetRecords:
    """Keeps the limits as the topic has them.

    Args:
        budgets: What is kept.
        broker: Where the topic is.
        letters: For invalid records; each once, however often the topic is read.
        changed: Is called after limits changed, with the keys of their records.
    """

    def __init__(
        self, budgets: Budgets, broker: Broker, letters: DeadLetterOffice, changed: Callable[[Collection[str]], None]
    ) -> None:
        self.loaded = asyncio.Event()
        self._budgets = budgets
        self._broker = broker
        self._letters = letters
        self._changed = changed

    async def follow(self, stop: asyncio.Event) -> None:
        """Reads the topic to its end, sets `loaded`, and goes on, again and again while Kafka is away."""
        backoff, failures = Backoff(), 0
        while not stop.is_set():
            try:
                subscription = await self._broker.follow([BUDGETS.name])
                try:
                    await self._load()
                    self.loaded.set()
                    failures = 0
                    while not stop.is_set():
                        for records in (await subscription.poll(POLL_MS)).values():
                            await self._take(records)
                finally:
                    await subscription.close()
            except BrokerUnavailable as error:
                failures += 1
                logger.warning("budgets can't be read, trying again in %.1f s: %s", backoff.wait_s(failures), error)
                await asyncio.sleep(backoff.wait_s(failures))

    async def _load(self) -> None:
        at = TopicPartition(BUDGETS.name, 0)
        bounds = (await self._broker.bounds([at]))[at]
        found: list[Record] = []
        self._letters.look_again()
        await self._broker.read(at, bounds.first, bounds.end, found.extend)
        await self._take(found)

    async def _take(self, records: Sequence[Record]) -> None:
        refused: list[Refused] = []
        changed: set[str] = set()
        for record in records:
            if record.value is None:
                changed |= self._budgets.put((record.key or b"").decode("utf-8", "replace"), None)
                continue
            try:
                event = codec.decode(record)
            except InvalidRecord as fault:
                refused.append((record, fault))
                continue
            assert isinstance(event.data, BudgetSet)
            changed |= self._budgets.put(event.data.key, event.data)
        if refused:
            await self._letters.write(refused)
        if changed:
            self._changed(changed)
