"""Wires the store: settings to adapters, adapters to handlers. Tests call it with doubles."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from sluice_contracts import topics
from sluice_observability.adapters.clickhouse import ClickHouse
from sluice_observability.adapters.columns import LogColumns
from sluice_observability.adapters.kafka_log import KafkaLog
from sluice_observability.adapters.migrations import migrate, shipped
from sluice_observability.adapters.read_only import EmbeddedReadOnly
from sluice_observability.bootstrap.patience import patiently
from sluice_observability.handlers.positions import GrowingClock, positions_in
from sluice_observability.handlers.refusals import Checker, DeadLetterOffice
from sluice_observability.handlers.sink import Sink
from sluice_observability.ports import Database, LogSource, ReadOnlyDatabase
from sluice_observability.settings import StoreSettings
from sluice_runtime.broker import Broker
from sluice_runtime.clock import Clock, SystemClock

logger = logging.getLogger(__name__)

GROUP = "observability-store"
"""Named in commits for lag tools only; nobody joins it."""


def stored(topic: str) -> bool:
    """Whether the event log takes a topic: all of the contract's, dead letters too, but no service's own store."""
    row = topics.find(topic.removeprefix("dlq."))
    return row is not None and not row.internal


@dataclass(frozen=True, slots=True)
class Store:
    """A wired store. `read_only` is None where analysts connect to a server."""

    sink: Sink
    database: Database
    read_only: ReadOnlyDatabase | None


@asynccontextmanager
async def open_store(
    settings: StoreSettings,
    broker: Broker,
    *,
    database: Database | None = None,
    source: LogSource | None = None,
    clock: Clock | None = None,
) -> AsyncIterator[Store]:
    """Opens the database, brings its schema up to date, and wires a sink that begins where the log ends.

    A database that is away is waited for.

    Args:
        settings: The store's.
        broker: For dead letters.
        database: Instead of the one that the settings name.
        source: Instead of Kafka.
        clock: Instead of the machine's.

    Raises:
        MigrationChanged: The schema is another one than this release's.
        ValueError: `clickhouse_url` is no URL of a server.
    """
    clock = clock or SystemClock()
    async with AsyncExitStack() as opened:
        opened_database = database or _database(settings)
        opened.callback(opened_database.close)
        applied = await patiently(lambda: asyncio.to_thread(migrate, opened_database, shipped()))
        if applied:
            logger.info("applied migrations: %s", ", ".join(applied))
        positions = await patiently(lambda: asyncio.to_thread(positions_in, opened_database))
        growing = await patiently(lambda: asyncio.to_thread(GrowingClock.after, opened_database, clock))
        policy = settings.sink_policy()
        opened_source: LogSource = source or KafkaLog(
            settings.kafka(), prefix=settings.topic_prefix, group=GROUP, wants=stored, begin=positions,
            fetch_wait_max_ms=policy.flush_interval_ms // 2,
        )  # fmt: skip
        letters = DeadLetterOffice(broker, clock, window_records=policy.batch_max_rows + policy.poll_max_messages)
        loop = asyncio.get_running_loop()
        checker = Checker(opened_source, broker.partition_for)
        sink = Sink(opened_source, LogColumns(), opened_database, checker, letters, growing, loop, policy)
        read_only = (
            EmbeddedReadOnly(settings.clickhouse_directory, settings.query_limits())
            if database is None and settings.clickhouse_url is None
            else None
        )
        yield Store(sink, opened_database, read_only)


def _database(settings: StoreSettings) -> ClickHouse:
    if settings.clickhouse_url is not None:
        return ClickHouse.server(settings.clickhouse_url, settings.clickhouse_password())
    settings.clickhouse_directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    return ClickHouse.embedded(settings.clickhouse_directory)
