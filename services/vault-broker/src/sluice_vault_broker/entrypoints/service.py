"""The vault-broker as a process."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from sluice_runtime.clock import SystemClock
from sluice_runtime.http import Readiness, probes_app
from sluice_runtime.http_server import serve
from sluice_runtime.kafka.broker import KafkaBroker
from sluice_runtime.metrics import PARTITIONS_OWNED, Metrics
from sluice_runtime.vault.client import Connection
from sluice_vault_broker.adapters.hvac_vault import HvacVault
from sluice_vault_broker.bootstrap import SERVICE, VaultBroker
from sluice_vault_broker.settings import BrokerSettings

READY_LOOK_S = 0.1
RESTORED = "partitions"


async def run(settings: BrokerSettings, stop: asyncio.Event) -> None:
    """Runs the vault-broker until `stop` is set. It is ready without Vault as well: what is wanted waits for it."""
    metrics = Metrics(SERVICE, settings.instance_id)
    readiness = Readiness(RESTORED)
    broker = KafkaBroker(
        settings.kafka(),
        prefix=settings.topic_prefix,
        client_id=settings.instance_id,
        session_timeout_ms=settings.session_timeout_ms,
    )
    place = settings.vault()
    assert place is not None, "its settings are required"
    vault = HvacVault(Connection(place), installation=settings.topic_prefix)
    async with broker, serve(probes_app(readiness, metrics), host=settings.http_host, port=settings.http_port):
        service = VaultBroker(settings, broker, SystemClock(), metrics, vault)

        async def tell_readiness() -> None:
            while not stop.is_set():
                if service.processor.ready:
                    readiness.met(RESTORED)
                else:
                    readiness.missing(RESTORED, "not in the group, or a partition is being restored")
                metrics.gauge(PARTITIONS_OWNED).set(len(service.processor.partitions))
                await asyncio.sleep(READY_LOOK_S)

        parts = (service.processor.run(stop), service.hands.run(stop), service.reconciler.run(stop), tell_readiness())
        async with asyncio.TaskGroup() as tasks:
            for part in parts:
                tasks.create_task(_until_stopped(part, stop))


async def _until_stopped(part: Coroutine[Any, Any, None], stop: asyncio.Event) -> None:
    """Runs a part. One that ends sooner ends the process; a task group would not notice that it was cancelled.

    Raises:
        RuntimeError: The part ended, and nobody had asked it to.
    """
    try:
        await part
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
    if not stop.is_set():
        raise RuntimeError("a part of the vault-broker ended, and nobody had asked it to")
