"""The spawner as a process."""

from __future__ import annotations

import asyncio

from sluice_runtime.clock import SystemClock
from sluice_runtime.http import Readiness, probes_app
from sluice_runtime.http_server import serve
from sluice_runtime.kafka.broker import KafkaBroker
from sluice_runtime.metrics import Metrics
from sluice_runtime.processor.running import RESTORED, run_parts
from sluice_spawner.bootstrap import SERVICE, Spawner
from sluice_spawner.settings import SpawnerSettings


async def run(settings: SpawnerSettings, stop: asyncio.Event) -> None:
    """Runs the spawner until `stop` is set."""
    metrics = Metrics(SERVICE, settings.instance_id)
    readiness = Readiness(RESTORED)
    broker = KafkaBroker(
        settings.kafka(),
        prefix=settings.topic_prefix,
        client_id=settings.instance_id,
        session_timeout_ms=settings.session_timeout_ms,
    )
    async with broker, serve(probes_app(readiness, metrics), host=settings.http_host, port=settings.http_port):
        spawner = Spawner(settings, broker, SystemClock(), metrics)
        await run_parts(
            spawner.processor, spawner.heartbeats.run(stop), stop=stop, readiness=readiness, metrics=metrics
        )
