"""Wires the api: settings to adapters, adapters to handlers. Tests call it with doubles."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from sluice_contracts.topics import TOKEN_EVENTS
from sluice_observability.adapters.kafka_log import KafkaLog
from sluice_observability.adapters.kafka_outbox import KafkaOutbox
from sluice_observability.adapters.sql_client import SqlClient
from sluice_observability.bootstrap.patience import patiently
from sluice_observability.domain.places import Place
from sluice_observability.domain.read_model import ReadModel
from sluice_observability.handlers.commands import Commands
from sluice_observability.handlers.handing_off import HandingOff
from sluice_observability.handlers.history import History
from sluice_observability.handlers.live import Live
from sluice_observability.handlers.progress import LogProgress
from sluice_observability.handlers.reports import Reports
from sluice_observability.handlers.tail import FETCH_WAIT_MAX_MS, Tail, followed
from sluice_observability.ports import LogSource, Outbox, Sql
from sluice_observability.settings import ApiSettings
from sluice_runtime.artifacts import ArtifactStore
from sluice_runtime.broker import Broker, TopicPartition
from sluice_runtime.clock import Clock, SystemClock

GROUP = "observability-api"
"""The Kafka client asks for one; nobody joins it."""


REPORTS_GROUP = "observability-reports"
"""Of all apis of an installation: each revocation is one's."""


class Following:
    """Who follows the topics, once somebody does."""

    tail: Tail | None = None

    async def through(self) -> Mapping[TopicPartition, int]:
        """See `Tail.through`; nothing while nobody follows."""
        return {} if self.tail is None else await self.tail.through()


@dataclass(frozen=True, slots=True)
class Api:
    """A wired api: `follow` fills the read model, keeps it up to date, and hands off pipelines; `loaded` is set once
    the past is in it.
    """

    settings: ApiSettings
    live: Live
    history: History
    progress: LogProgress
    commands: Commands
    artifacts: ArtifactStore
    reports: Reports
    _sources: Callable[[dict[Place, int]], LogSource]
    _outbox: Callable[[], Outbox] | None
    _following: Following
    loaded: asyncio.Event = field(default_factory=asyncio.Event)

    async def through(self) -> Mapping[TopicPartition, int]:
        """How far each partition is in the read model; nothing while nobody follows."""
        return await self._following.through()

    async def follow(self, stop: asyncio.Event) -> None:
        """Loads what lives from the log, then follows the topics from where the log was, until `stop` is set.

        The position is taken before the events are read, so what is read twice is recognised, and nothing is missed.
        A database that is away is waited for: without it, what lived before would be missing.

        Raises:
            QueryTooLarge: The past does not fit into the store's limits.
        """
        positions = await patiently(self.history.positions)
        await patiently(self._load)
        self.live.begin(positions)
        tail = Tail(await asyncio.to_thread(self._sources, positions), self.live)
        self._following.tail = tail
        self.loaded.set()
        work = [tail.run(stop)]
        if self._outbox is not None:
            work.append(HandingOff(self._outbox, self.reports).run(stop))
        await all_or_none(*work)

    async def _load(self) -> None:
        async for events in self.history.living_events():
            for event in events:
                self.live.load(event)


@asynccontextmanager
async def open_api(
    settings: ApiSettings,
    broker: Broker,
    *,
    sql: Sql | None = None,
    source: Callable[[dict[Place, int]], LogSource] | None = None,
    artifacts: ArtifactStore | None = None,
    clock: Clock | None = None,
    outbox: Callable[[], Outbox] | None = None,
) -> AsyncIterator[Api]:
    """Wires an api.

    Args:
        settings: The api's.
        broker: For commands.
        sql: Instead of the endpoint that the settings name.
        source: Opens what is followed, given positions, instead of Kafka.
        artifacts: Instead of the store that the settings name.
        clock: Instead of the machine's.
        outbox: Opens what answers revocations, instead of Kafka; without it and with a `source`, nothing does.

    Raises:
        ValueError: The artifacts' URL or a password file can't be used.
    """
    live = Live(ReadModel(settings.finished_max_count), settings.stream_limits())
    clock = clock or SystemClock()
    commands = Commands(broker, clock, settings.instance_id)

    def kafka(begin: dict[Place, int]) -> LogSource:
        return KafkaLog(
            settings.kafka(), prefix=settings.topic_prefix, group=GROUP, wants=followed, begin=begin,
            fetch_wait_max_ms=FETCH_WAIT_MAX_MS,
        )  # fmt: skip

    def kafka_outbox() -> Outbox:
        return KafkaOutbox(
            settings.kafka(), prefix=settings.topic_prefix, topic=TOKEN_EVENTS.name, group=REPORTS_GROUP,
            instance_id=settings.instance_id,
        )  # fmt: skip

    if outbox is None and source is None:
        outbox = kafka_outbox
    async with AsyncExitStack() as opened:
        if sql is None:
            client = SqlClient(settings.sql_address(), settings.sql_password(), readonly=settings.sql_readonly)
            sql = await opened.enter_async_context(client)
        store = artifacts or settings.artifacts()
        history = History(sql)
        following = Following()
        reports = Reports(
            live, history, store, broker, clock, settings.instance_id, through=following.through
        )  # fmt: skip
        yield Api(
            settings, live, history, LogProgress(history.positions), commands, store, reports, source or kafka, outbox,
            following,
        )  # fmt: skip


async def all_or_none(*work: Coroutine[Any, Any, None]) -> None:
    """Runs until all have ended; where one fails, the others are cancelled.

    Raises:
        Exception: The first one's.
    """
    tasks = [asyncio.create_task(one) for one in work]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
