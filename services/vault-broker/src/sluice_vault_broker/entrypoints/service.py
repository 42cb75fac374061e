"""The vault-broker as a process."""

from __future__ import annotations

import asyncio

from sluice_runtime.clock import SystemClock
from sluice_runtime.http import Readiness, probes_app
from sluice_runtime.http_server import serve
from sluice_runtime.kafka.broker import KafkaBroker
from sluice_runtime.metrics import Metrics
from sluice_runtime.processor.running import RESTORED, run_parts
from sluice_runtime.vault.client import Connection
from sluice_vault_broker.adapters.vault import VaultApi
from sluice_vault_broker.bootstrap import SERVICE, VaultBroker
from sluice_vault_broker.settings import BrokerSettings


async def run(settings: BrokerSettings, stop: asyncio.Event) -> None:
    """Runs the vault-broker until `stop` is set. It is ready without Vault as well: what is wanted waits for it.

    An orderly stop ends its login: whoever had that could end any token.
    """
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
    connection = Connection(place)
    vault = VaultApi(connection, installation=settings.topic_prefix)
    async with broker, serve(probes_app(readiness, metrics), host=settings.http_host, port=settings.http_port):
        service = VaultBroker(settings, broker, SystemClock(), metrics, vault)
        await run_parts(
            service.processor, service.hands.run(stop), service.reconciler.run(stop),
            stop=stop, readiness=readiness, metrics=metrics,
        )  # fmt: skip
        if await service.hands.ended():
            await asyncio.to_thread(connection.log_out)
