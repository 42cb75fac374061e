"""The process `api`: HTTP and the live stream."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection
from typing import Any

from fastapi import FastAPI

from sluice_observability.bootstrap.api import Api, open_api
from sluice_observability.entrypoints import reading, safeguarding, stream, writing
from sluice_observability.entrypoints.answers import PROBLEMS, on_query_too_large, on_store_unavailable
from sluice_observability.ports import QueryTooLarge, StoreUnavailable
from sluice_observability.settings import ApiSettings
from sluice_runtime.http import Readiness, build_app
from sluice_runtime.http_server import serve
from sluice_runtime.kafka.broker import KafkaBroker
from sluice_runtime.lag import Lag
from sluice_runtime.metrics import Metrics

SERVICE = "observability-api"


def build(api: Api, readiness: Readiness, metrics: Metrics, hosts: Collection[str] | None = ()) -> FastAPI:
    """The application of a wired api."""
    app = _application(readiness, metrics, hosts)
    app.state.api = api
    return app


def openapi() -> dict[str, Any]:
    """The OpenAPI document that `/openapi.json` gives; the live stream, a web socket, has no place in it."""
    return _application(Readiness(), Metrics(SERVICE, "")).openapi()


def _application(readiness: Readiness, metrics: Metrics, hosts: Collection[str] | None = ()) -> FastAPI:
    app = build_app(
        "Sluice",
        readiness,
        metrics,
        hosts=hosts,
        description="Pipelines of agents: commands, what lives, what happened.",
        docs_url=None,
        redoc_url=None,
        responses=PROBLEMS,
    )
    app.add_exception_handler(StoreUnavailable, on_store_unavailable)
    app.add_exception_handler(QueryTooLarge, on_query_too_large)
    app.include_router(writing.router)
    app.include_router(safeguarding.router)
    app.include_router(reading.router)
    app.include_router(stream.router)
    return app


async def run(settings: ApiSettings, stop: asyncio.Event) -> None:
    """Runs the api until `stop` is set."""
    metrics = Metrics(SERVICE, settings.instance_id)
    readiness = Readiness("history")
    client_id = f"{SERVICE}-{settings.instance_id}"
    async with (
        KafkaBroker(settings.kafka(), prefix=settings.topic_prefix, client_id=client_id) as broker,
        open_api(settings, broker) as api,
    ):
        following = asyncio.create_task(api.follow(stop))
        telling = asyncio.create_task(Lag(broker, metrics).keep_told(api.through))
        app = build(api, readiness, metrics, settings.hosts())
        async with serve(app, host=settings.http_host, port=settings.http_port):
            ready = asyncio.create_task(api.loaded.wait())
            stopped = asyncio.create_task(stop.wait())
            await asyncio.wait({ready, following, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if api.loaded.is_set():
                readiness.met("history")
            await asyncio.wait({following, stopped}, return_when=asyncio.FIRST_COMPLETED)
            for waiting in (ready, stopped):
                waiting.cancel()
            if not stop.is_set():
                await following
        telling.cancel()
        if not api.loaded.is_set():
            following.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await following
