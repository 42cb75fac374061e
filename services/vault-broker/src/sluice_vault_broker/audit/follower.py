"""Follows the audit file for as long as the process runs.

Guarantee: every complete line that is still there when it is read becomes exactly one record, or, being a request or
another installation's, none; through kill -9 at any moment, because the position is durable with the records, and
beside another instance, because only the last one to open the transactional id can write.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass, field
from pathlib import Path

from sluice_runtime.broker import Broker, BrokerUnavailable, Fenced
from sluice_runtime.clock import Clock
from sluice_runtime.http import Readiness
from sluice_runtime.metrics import AUDIT_BEHIND, AUDIT_LINES, Metrics
from sluice_vault_broker.audit.adapters.files import AuditFiles
from sluice_vault_broker.audit.adapters.topic import AuditTopic, PositionsKept
from sluice_vault_broker.audit.domain.rotation import Reading
from sluice_vault_broker.audit.domain.telling import Teller

log = logging.getLogger(__name__)

KAFKA, FILE = "kafka", "audit file"


@dataclass(frozen=True, slots=True)
class FollowerPolicy:
    """How long the follower waits, and what it keeps."""

    poll_s: float = 0.2
    """How long a use may stand in the file before it is taken. It also bounds the transactions in a second."""

    backoff_s: float = 1.0
    """After Kafka was away, or a file could not be read."""

    fenced_wait_s: float = 30.0
    """Another instance has taken over. If it lives, it does the work; this one takes over in turn, in case it does
    not."""

    positions: PositionsKept = field(default_factory=PositionsKept)


class Follower:
    """Reads lines, and makes them durable with the position after them.

    Args:
        path: Vault's audit file.
        installation: The topic prefix.
    """

    def __init__(
        self,
        path: Path,
        broker: Broker,
        clock: Clock,
        metrics: Metrics,
        readiness: Readiness,
        *,
        installation: str,
        policy: FollowerPolicy = FollowerPolicy(),
    ) -> None:
        self._path = path
        self._broker, self._clock = broker, clock
        self._metrics, self._readiness = metrics, readiness
        self._teller = Teller(installation)
        self._policy = policy
        self._said: dict[str, str] = {}

    async def run(self, stop: asyncio.Event) -> None:
        """Works until stopped; what stands in the way is waited for, and told by the readiness and the log."""
        while not stop.is_set():
            wait_s = self._policy.backoff_s
            try:
                await self._follow(stop)
            except Fenced as error:
                wait_s = self._policy.fenced_wait_s
                self._missing(KAFKA, f"another instance follows the audit file; again in {wait_s:.0f} s: {error}")
            except BrokerUnavailable as error:
                self._missing(KAFKA, f"starting again in {wait_s:.0f} s: {type(error).__name__}: {error}")
            await _wait(stop, wait_s)

    async def _follow(self, stop: asyncio.Event) -> None:
        topic = await AuditTopic.opened(self._broker, self._policy.positions)
        files = AuditFiles(self._path)
        try:
            self._met(KAFKA)
            log.info("following %s from %s", self._path, topic.position)
            reading = Reading(topic.position)
            while not stop.is_set():
                await _wait(stop, await self._step(reading, files, topic))
        finally:
            files.close()
            with contextlib.suppress(BrokerUnavailable, Fenced):
                await topic.close()

    async def _step(self, reading: Reading, files: AuditFiles, topic: AuditTopic) -> float:
        """Takes what is next, if there is something; returns how long to wait before the next step."""
        try:
            taken = await asyncio.to_thread(reading.next, files, asyncio.get_running_loop().time())
        except OSError as error:
            self._missing(FILE, f"{error.filename or self._path}: {error.strerror}; see docs/operations.md, Vault")
            return self._policy.backoff_s
        self._met(FILE)
        self._metrics.gauge(AUDIT_BEHIND).set(reading.behind_bytes)
        if taken is None:
            return self._policy.poll_s
        told = self._teller.tell(taken, self._clock.now_ms())
        if taken.lost is not None:
            log.error("the audit file %s… is gone, read up to %d: lines may be lost", taken.lost.file[:12],
                      taken.lost.offset)  # fmt: skip
        await topic.write(told.records, taken.position)
        reading.position = taken.position
        for outcome, count in told.lines.items():
            self._metrics.counter(AUDIT_LINES, outcome=outcome).inc(count)
        return 0.0 if reading.behind_bytes else self._policy.poll_s

    def _missing(self, condition: str, why: str) -> None:
        if self._said.get(condition) != why:
            log.warning("%s", why)
        self._said[condition] = why
        self._readiness.missing(condition, why)

    def _met(self, condition: str) -> None:
        self._said.pop(condition, None)
        self._readiness.met(condition)


async def _wait(stop: asyncio.Event, wait_s: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(wait_s):
            await stop.wait()
