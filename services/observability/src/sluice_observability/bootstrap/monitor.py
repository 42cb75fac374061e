"""Wires the monitor: settings to adapters, adapters to handlers. Tests call it with doubles."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from dataclasses import dataclass

from sluice_contracts.topics import SIGNALS, Principal
from sluice_observability.adapters.faust_signals import FaustSignals
from sluice_observability.domain.budget_limits import Budgets
from sluice_observability.domain.retrying import Backoff
from sluice_observability.handlers.budget_records import BudgetRecords
from sluice_observability.handlers.budget_watch import BudgetWatch, Figures
from sluice_observability.handlers.refusals import DeadLetterOffice
from sluice_observability.settings import MonitorSettings
from sluice_runtime.broker import Broker, BrokerUnavailable
from sluice_runtime.clock import Clock, SystemClock

logger = logging.getLogger(__name__)

LETTERS_LOOKED_AT = 20_000
"""The last dead letters of a topic that are looked at before the first is written."""


@dataclass(slots=True)
class Monitor:
    """A wired monitor. `watch` is that of the present life, None between two."""

    settings: MonitorSettings
    broker: Broker
    records: BudgetRecords
    budgets: Budgets
    letters: DeadLetterOffice
    clock: Clock
    watch: BudgetWatch | None = None

    @classmethod
    def wired(cls, settings: MonitorSettings, broker: Broker, clock: Clock | None = None) -> Monitor:
        """A monitor of the settings' installation.

        Args:
            settings: The monitor's.
            broker: For alerts, dead letters and limits.
            clock: Instead of the machine's.
        """
        clock = clock or SystemClock()
        budgets = Budgets(settings.limits())
        letters = DeadLetterOffice(broker, clock, window_records=LETTERS_LOOKED_AT, refused_by=Principal.MONITOR)
        made: Monitor

        def replan(changed: Collection[str]) -> None:
            if made.watch is not None:
                made.watch.replan(changed)

        records = BudgetRecords(budgets, broker, letters, replan)
        made = cls(settings, broker, records, budgets, letters, clock)
        return made

    def take_figures(self) -> Figures:
        """What was done since this was asked last."""
        if self.watch is None:
            return Figures()
        figures, self.watch.figures = self.watch.figures, Figures()
        return figures

    async def run(self, stop: asyncio.Event) -> None:
        """Watches until `stop` is set, again and again while Kafka is away."""
        following = asyncio.create_task(self.records.follow(stop))
        watching = asyncio.create_task(self._watch(stop))
        try:
            await asyncio.wait([following, watching], return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopped = stop.is_set()
            for task in (following, watching):
                if not stopped:
                    task.cancel()
        await asyncio.gather(following, watching)

    async def _watch(self, stop: asyncio.Event) -> None:
        stopping = asyncio.create_task(stop.wait())
        loaded = asyncio.create_task(self.records.loaded.wait())
        await asyncio.wait([stopping, loaded], return_when=asyncio.FIRST_COMPLETED)
        loaded.cancel()
        backoff, failures = Backoff(), 0
        loop = asyncio.get_running_loop()
        while not stop.is_set():
            began_s = loop.time()
            try:
                partitions = await self.broker.partitions(SIGNALS.name)
                self.letters.look_again()
                self.watch = BudgetWatch(self.budgets, self.broker, self.letters, self.clock, partitions)
                settings = self.settings
                life = FaustSignals(
                    settings.kafka(),
                    prefix=settings.topic_prefix,
                    partitions=partitions,
                    instance=settings.instance_id,
                    session_timeout_ms=settings.session_timeout_ms,
                    watch=self.watch,
                )
                await life.run(stop)
            except BrokerUnavailable as error:
                failures = failures + 1 if loop.time() - began_s < 60 else 1
                wait_s = backoff.wait_s(failures)
                logger.warning("watching anew in %.1f s: %s", wait_s, error)
                await asyncio.wait([stopping], timeout=wait_s)
        stopping.cancel()
