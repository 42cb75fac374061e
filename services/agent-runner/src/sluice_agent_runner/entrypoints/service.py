"""The runner as a process: Kafka, HTTP probes, and an orderly end."""

from __future__ import annotations

import asyncio

from sluice_agent_runner.bootstrap import agent_runner
from sluice_agent_runner.entrypoints.consumer import Consumer
from sluice_agent_runner.settings import RunnerSettings
from sluice_runtime.http import Readiness, probes_app
from sluice_runtime.http_server import serve
from sluice_runtime.kafka.broker import KafkaBroker
from sluice_runtime.lag import Lag
from sluice_runtime.metrics import Metrics

SERVICE = "agent-runner"


async def main(settings: RunnerSettings, stop: asyncio.Event) -> None:
    """Runs until it is asked to stop; then running turns become durable, and the others are left to their leases.

    Raises:
        Exception: Whatever ended one of its parts: the process must not go on without it.
    """
    metrics = Metrics(SERVICE, settings.instance_id)
    readiness = Readiness("tasks")

    def vault_away(why: str | None) -> None:
        if why is None:
            readiness.met("vault")
        else:
            readiness.missing("vault", why)

    kafka = KafkaBroker(
        settings.kafka(),
        prefix=settings.topic_prefix,
        client_id=settings.instance_id,
        session_timeout_ms=settings.session_timeout_ms,
    )
    async with (
        kafka as broker,
        agent_runner(settings, broker, metrics=metrics, vault_away=vault_away) as wired,
        serve(probes_app(readiness, metrics), host=settings.http_host, port=settings.http_port) as http,
    ):
        stopping = asyncio.create_task(stop.wait())
        consumer = Consumer(
            broker, wired.runner, settings.queues, wired.services.time, wired.services.measures, Lag(broker, metrics)
        )
        reading = asyncio.create_task(consumer.run())
        beating = asyncio.create_task(wired.runner.keep_alive())
        parts = [reading, beating, asyncio.create_task(wired.runner.failure()), asyncio.create_task(http.wait_closed())]
        ready = asyncio.create_task(consumer.ready.wait())
        ready.add_done_callback(lambda _: readiness.met("tasks"))
        try:
            done, _ = await asyncio.wait((stopping, *parts), return_when=asyncio.FIRST_COMPLETED)
            readiness.missing("tasks", "stopping")
            for part in done - {stopping}:
                part.result()
                raise RuntimeError("a part of the runner ended, and nobody had asked it to")
            reading.cancel()
            await wired.runner.stop(settings.runner_grace_s)
        finally:
            for task in (stopping, ready, *parts):
                task.cancel()
            await asyncio.gather(stopping, ready, *parts, return_exceptions=True)
