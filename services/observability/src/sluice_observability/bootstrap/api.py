"""Wires the api: settings to adapters, adapters to handlers. Tests call it with doubles."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

from sluice_observability.adapters.kafka_log import KafkaLog
from sluice_observability.adapters.sql_client import SqlClient
from sluice_observability.bootstrap.patience import patiently
from sluice_observability.domain.places import Place
from sluice_observability.domain.read_model import ReadModel
from sluice_observability.handlers.commands import Commands
from sluice_observability.handlers.history import History
from sluice_observability.handlers.live import Live
from sluice_observability.handlers.progress import LogProgress
from sluice_observability.handlers.tail import FETCH_WAIT_MAX_MS, Tail, followed
from sluice_observability.ports import LogSource, Sql
from sluice_observability.settings import ApiSettings
from sluice_runtime.artifacts import ArtifactStore
from sluice_runtime.broker import Broker
from sluice_runtime.clock import Clock, SystemClock

GROUP = "observability-api"
"""The Kafka client asks for one; nobody joins it."""


@dataclass(frozen=True, slots=True)
class Api:
    """A wired api: `follow` fills the read model and keeps it up to date; `loaded` is set once the past is in it."""

    settings: ApiSettings
    live: Live
    history: History
    progress: LogProgress
    commands: Commands
    artifacts: ArtifactStore
    _sources: Callable[[dict[Place, int]], LogSource]
    loaded: asyncio.Event = field(default_factory=asyncio.Event)

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
        source = await asyncio.to_thread(self._sources, positions)
        self.loaded.set()
        await Tail(source, self.live).run(stop)

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
) -> AsyncIterator[Api]:
    """Wires an api.

    Args:
        settings: The api's.
        broker: For commands.
        sql: Instead of the endpoint that the settings name.
        source: Opens what is followed, given positions, instead of Kafka.
        artifacts: Instead of the store that the settings name.
        clock: Instead of the machine's.

    Raises:
        ValueError: The artifacts' URL or a password file can't be used.
    """
    live = Live(ReadModel(settings.finished_max_count), settings.stream_limits())
    commands = Commands(broker, clock or SystemClock(), settings.instance_id)

    def kafka(begin: dict[Place, int]) -> LogSource:
        return KafkaLog(
            settings.kafka(), prefix=settings.topic_prefix, group=GROUP, wants=followed, begin=begin,
            fetch_wait_max_ms=FETCH_WAIT_MAX_MS,
        )  # fmt: skip

    async with AsyncExitStack() as opened:
        if sql is None:
            client = SqlClient(settings.sql_address(), settings.sql_password(), readonly=settings.sql_readonly)
            sql = await opened.enter_async_context(client)
        store = artifacts or settings.artifacts()
        history = History(sql)
        yield Api(settings, live, history, LogProgress(history.positions), commands, store, source or kafka)
