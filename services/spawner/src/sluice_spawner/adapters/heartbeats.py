"""Listens to the runners' heartbeats and tells the processor which attempts are lost."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from sluice_contracts import codec, topics
from sluice_contracts.dead_letters import dead_letter
from sluice_contracts.envelope import Record
from sluice_contracts.errors import InvalidRecord
from sluice_contracts.messages.agent import RunnerHeartbeat
from sluice_runtime.broker import Broker, BrokerUnavailable, Subscription
from sluice_runtime.clock import Clock
from sluice_runtime.processor.processor import Processor
from sluice_spawner.adapters.leases import LeaseWatch

log = logging.getLogger(__name__)

POLL_MS = 250
"""How often leases are looked at: far below `leases.DEAF_MAX_MS`, and below the smallest lease."""

RETRY_S = 0.5
REFUSING_PARTITION = 0
"""Every instance hears every heartbeat; the one that owns this partition refuses the invalid ones."""


class HeartbeatListener:
    """Reads all heartbeats from now on, outside any group; a missed one only delays, as leases begin anew."""

    def __init__(self, broker: Broker, clock: Clock, leases: LeaseWatch, processor: Processor) -> None:
        self._broker = broker
        self._clock = clock
        self._leases = leases
        self._processor = processor

    async def run(self, stop: asyncio.Event) -> None:
        """Listens until stopped; a broker that is away is waited for."""
        while not stop.is_set():
            try:
                subscription = await self._broker.follow([topics.RUNNER_HEARTBEATS.name])
                try:
                    await self._listen(subscription, stop)
                finally:
                    await subscription.close()
            except BrokerUnavailable as fault:
                log.warning("heartbeats are not heard; trying again in %.1f s: %s", RETRY_S, fault)
                await asyncio.sleep(RETRY_S)

    async def _listen(self, subscription: Subscription, stop: asyncio.Event) -> None:
        while not stop.is_set():
            for records in (await subscription.poll(POLL_MS)).values():
                await self._hear(records)
            heard_through_ms = await subscription.heard_through_ms()
            if heard_through_ms is not None:
                for number, inputs in self._leases.expired(heard_through_ms).items():
                    self._processor.inject(number, inputs)

    async def _hear(self, records: Iterable[Record]) -> None:
        for record in records:
            try:
                heartbeat = codec.decode(record).data
            except InvalidRecord as fault:
                if REFUSING_PARTITION in self._processor.partitions:
                    letter = dead_letter(
                        record, fault.reason, fault.detail, topics.Principal.SPAWNER, self._clock.now_ms()
                    )
                    await self._broker.append_all([letter])
                continue
            assert isinstance(heartbeat, RunnerHeartbeat)
            self._leases.heard(heartbeat)
