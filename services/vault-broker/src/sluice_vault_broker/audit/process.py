"""The follower as a process."""

from __future__ import annotations

import asyncio

from sluice_contracts.topics import Principal
from sluice_runtime.clock import SystemClock
from sluice_runtime.http import Readiness, probes_app
from sluice_runtime.http_server import serve
from sluice_runtime.kafka.broker import KafkaBroker
from sluice_runtime.metrics import Metrics
from sluice_vault_broker.audit.follower import FILE, KAFKA, Follower
from sluice_vault_broker.audit.settings import AuditSettings

SERVICE = str(Principal.VAULT_AUDIT)


async def run(settings: AuditSettings, stop: asyncio.Event) -> None:
    """Runs the follower until `stop` is set. It asks Vault nothing, and has no login there."""
    metrics = Metrics(SERVICE, settings.instance_id)
    readiness = Readiness(KAFKA, FILE)
    client_id = f"{SERVICE}-{settings.instance_id}"
    async with (
        KafkaBroker(settings.kafka(), prefix=settings.topic_prefix, client_id=client_id) as broker,
        serve(probes_app(readiness, metrics), host=settings.http_host, port=settings.http_port),
    ):
        follower = Follower(
            settings.vault_audit_file, broker, SystemClock(), metrics, readiness, installation=settings.topic_prefix
        )
        await follower.run(stop)
