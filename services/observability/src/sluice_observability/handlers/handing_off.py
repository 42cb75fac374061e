"""Hands pipelines off: each revocation of all their credentials is answered with one report, whatever dies."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from sluice_contracts import codec
from sluice_contracts.envelope import CloudEvent, Record
from sluice_contracts.errors import InvalidRecord
from sluice_contracts.messages.token import TokenRevoked
from sluice_observability.domain.retrying import Backoff
from sluice_observability.handlers.reports import Made, Reports, is_due
from sluice_observability.ports import Outbox
from sluice_runtime.artifacts import ArtifactStoreUnavailable
from sluice_runtime.broker import BrokerUnavailable, Fenced

logger = logging.getLogger(__name__)

POLL_S = 0.2

REPORTS_AT_ONCE_MAX_COUNT = 32
"""Each may wait some 15 s for SQL, the read model and the log: all that is polled at once (500) is answered before the
group takes who polls nothing for dead (300 s), and pipelines that are revoked together do not wait for one another."""

_Due = CloudEvent[TokenRevoked]


class HandingOff:
    """Runs until it is stopped. Each revocation has one report.

    1. The report's bodies are stored before its event is written; bodies that no event names harm nobody.
    2. The event and the group's position after the revocation are one transaction. Who is killed before its commit has
       written nothing, and the next owner reads the revocation again.
    3. Who was frozen, or has lost the partition otherwise, has an old generation: Kafka refuses his transaction.
    4. Where the group's positions were lost or reset, what has its report already is passed over.
    5. Reports are made side by side, and written in the order of their revocations: a position is told to the group
       when all before it is done. Of one pipeline one is made after the other was written.

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
                    for some in _apart(await asyncio.to_thread(outbox.poll, POLL_S)):
                        await self._answer(outbox, some, stop)
                    failures = 0
            except (BrokerUnavailable, Fenced, _Stopped) as error:
                failures += 1
                logger.warning("reports: %s: %s; joining the group anew", type(error).__name__, error)
                await _sleep(stop, self._backoff.wait_s(failures))
            finally:
                if outbox is not None:
                    await asyncio.to_thread(outbox.close)

    async def _answer(self, outbox: Outbox, records: Sequence[tuple[Record, _Due | None]], stop: asyncio.Event) -> None:
        places = asyncio.Semaphore(REPORTS_AT_ONCE_MAX_COUNT)
        making = [
            (record, None if event is None else asyncio.create_task(self._made(event, record.partition, places, stop)))
            for record, event in records
        ]
        try:
            for record, task in making:
                made = None if task is None else await task
                if made is None:
                    outbox.passed(record)
                    continue
                if stop.is_set():  # then the read model is not kept up to date any more
                    raise _Stopped("whoever comes next makes the report")
                await asyncio.to_thread(outbox.answer, record, made.record)
                logger.info("pipeline %s is handed off: %s", made.event.subject, made.event.data.summary)
        finally:
            tasks = [task for _, task in making if task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _made(self, event: _Due, partition: int, places: asyncio.Semaphore, stop: asyncio.Event) -> Made | None:
        """The report on a revocation; None where it has its own already."""
        async with places:
            if await self._reports.already_reported(event):
                return None
            return await self._stored(event, partition, stop)

    async def _stored(self, event: _Due, partition: int, stop: asyncio.Event) -> Made:
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


def _apart(records: Sequence[Record]) -> Iterator[list[tuple[Record, _Due | None]]]:
    """Records with what is due, in their order, cut wherever a pipeline is to be handed off a second time."""
    some: list[tuple[Record, _Due | None]] = []
    seen = set[str]()
    for record in records:
        event = _due(record)
        if event is not None:
            if event.subject in seen:
                yield some
                some, seen = [], set()
            seen.add(event.subject)
        some.append((record, event))
    yield some


def _due(record: Record) -> _Due | None:
    try:
        event: CloudEvent[Any] = codec.decode(record)
    except InvalidRecord:
        return None  # the topic's other reader makes it a dead letter
    return event if is_due(event) else None


class _Stopped(Exception):
    """The process is to end before the report is written."""


async def _sleep(stop: asyncio.Event, wait_s: float) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), wait_s)
