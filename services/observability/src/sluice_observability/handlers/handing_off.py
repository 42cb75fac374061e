"""Hands pipelines off: each revocation of all their credentials is answered with one report, whatever dies."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Any

from sluice_contracts import codec
from sluice_contracts.envelope import CloudEvent, Record
from sluice_contracts.errors import InvalidRecord
from sluice_observability.domain.retrying import Backoff
from sluice_observability.handlers.reports import Made, Reports, is_due
from sluice_observability.ports import Outbox
from sluice_runtime.artifacts import ArtifactStoreUnavailable
from sluice_runtime.broker import BrokerUnavailable, Fenced

logger = logging.getLogger(__name__)

POLL_S = 0.2


class HandingOff:
    """Runs until it is stopped. Each revocation has one report.

    1. The report's bodies are stored before its event is written; bodies that no event names harm nobody.
    2. The event and the group's position after the revocation are one transaction. Who is killed before its commit has
       written nothing, and the next owner reads the revocation again.
    3. Who was frozen, or has lost the partition otherwise, has an old generation: Kafka refuses his transaction.
    4. Where the group's positions were lost or reset, what has its report already is passed over.

    Args:
        open_outbox: Joins the group anew.
    """

    def __init__(self, open_outbox: Callable[[], Outbox], reports: Reports, backoff: Backoff = Backoff()) -> None:
        self._open_outbox = open_outbox
        self._reports = reports
        self._backoff = backoff

    async def run(self, stop: asyncio.Event) -> None:
        """Runs until `stop` is set. A broker or an artifact store that is away is waited for.

        Raises:
            Exception: A defect, or a fatal error of the client.
        """
        failures = 0
        while not stop.is_set():
            outbox: Outbox | None = None
            try:
                outbox = await asyncio.to_thread(self._open_outbox)
                while not stop.is_set():
                    for record in await asyncio.to_thread(outbox.poll, POLL_S):
                        await self._handle(outbox, record, stop)
                    failures = 0
            except (BrokerUnavailable, Fenced, _Stopped) as error:
                failures += 1
                logger.warning("reports: %s: %s; joining the group anew", type(error).__name__, error)
                await _sleep(stop, self._backoff.wait_s(failures))
            finally:
                if outbox is not None:
                    await asyncio.to_thread(outbox.close)

    async def _handle(self, outbox: Outbox, record: Record, stop: asyncio.Event) -> None:
        try:
            event: CloudEvent[Any] = codec.decode(record)
        except InvalidRecord:
            outbox.passed(record)  # the topic's other reader makes it a dead letter
            return
        if not is_due(event) or await self._reports.already_reported(event):
            outbox.passed(record)
            return
        made = await self._made(event, record.partition, stop)
        if stop.is_set():  # then the read model is not kept up to date any more
            raise _Stopped("whoever comes next makes the report")
        await asyncio.to_thread(outbox.answer, record, made.record)
        logger.info("pipeline %s is handed off: %s", event.subject, made.event.data.summary)

    async def _made(self, event: CloudEvent[Any], partition: int, stop: asyncio.Event) -> Made:
        failures = 0
        while True:
            try:
                return await self._reports.on_revocation(event, partition)
            except ArtifactStoreUnavailable as error:
                failures += 1
                logger.warning("the artifact store is away, trying again: %s", error)
                await _sleep(stop, self._backoff.wait_s(failures))
                if stop.is_set():
                    raise _Stopped("whoever comes next makes the report") from error


class _Stopped(Exception):
    """The process is to end before the report is written."""


async def _sleep(stop: asyncio.Event, wait_s: float) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), wait_s)
