"""The process `store`: the one owner of the embedded engine."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping

from sluice_observability.bootstrap.store import Store, open_store
from sluice_observability.entrypoints.sql import SqlEndpoint
from sluice_observability.settings import StoreSettings
from sluice_runtime.broker import TopicPartition
from sluice_runtime.http import Readiness, build_app
from sluice_runtime.http_server import serve
from sluice_runtime.kafka.broker import KafkaBroker
from sluice_runtime.lag import Lag
from sluice_runtime.metrics import ROWS_WRITTEN, Metrics

SERVICE = "observability-store"

WATCH_INTERVAL_S = 0.5
"""How old readiness and metrics may be."""


async def run(settings: StoreSettings, stop: asyncio.Event) -> None:
    """Runs the store until `stop` is set."""
    metrics = Metrics(SERVICE, settings.instance_id)
    readiness = Readiness("database")
    app = build_app(
        SERVICE, readiness, metrics, hosts=settings.hosts(), docs_url=None, redoc_url=None, openapi_url=None
    )
    client_id = f"{SERVICE}-{settings.instance_id}"
    async with (
        KafkaBroker(settings.kafka(), prefix=settings.topic_prefix, client_id=client_id) as broker,
        open_store(settings, broker) as store,
        contextlib.AsyncExitStack() as opened,
    ):
        if store.read_only is not None:
            sql = SqlEndpoint(store.read_only, metrics)
            opened.callback(sql.close)
            app.routes.extend(sql.routes)
        readiness.met("database")
        await opened.enter_async_context(serve(app, host=settings.http_host, port=settings.http_port))
        watching = asyncio.create_task(_watch(store, readiness, metrics))
        opened.callback(watching.cancel)

        async def through() -> Mapping[TopicPartition, int]:
            return store.sink.figures.through

        telling = asyncio.create_task(Lag(broker, metrics).keep_told(through))
        opened.callback(telling.cancel)
        await store.sink.run(stop)


async def _watch(store: Store, readiness: Readiness, metrics: Metrics) -> None:
    """Shows what the sink's threads do."""
    rows = metrics.counter(ROWS_WRITTEN, table="log")
    shown = 0
    while True:
        figures = store.sink.figures
        rows.inc(figures.rows - shown)
        shown = figures.rows
        if figures.waiting_for is None:
            readiness.met("sink")
        else:
            readiness.missing("sink", figures.waiting_for)
        await asyncio.sleep(WATCH_INTERVAL_S)
