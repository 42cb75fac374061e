"""The Faust app of the monitor: how it is set up, and its table. Faust and mode have no types that help.

Nothing of it asks Kafka for a right that the topic table does not give: no topic is made, there is no leader's topic,
no web server, no folder.
"""

from __future__ import annotations

import asyncio
from typing import Any

import faust
from yarl import URL

from sluice_observability.adapters.faust_transport import LOGGER, SluiceTransport
from sluice_runtime.connection import KafkaConnection
from sluice_runtime.kafka.names import KafkaNames

VERSION_BYTES = 8
"""Before each value of the table."""


class SluiceApp(faust.App):  # type: ignore[misc]
    """Without folders on the disk: the table is in memory."""

    logger = LOGGER

    def _create_directories(self) -> None:
        pass


class VersionedTable(faust.Table):  # type: ignore[misc]
    """A table of values with versions before them: of a key's records the one of the highest version counts."""

    logger = LOGGER

    def apply_changelog_batch(self, batch: Any) -> None:
        """Called by Faust with records of the changelog, in their order."""
        data = self.data.data
        newer = []
        for event in batch:
            key, value = event.key, event.message.value
            if value is not None:
                if value[:VERSION_BYTES] < data.get(key, b"")[:VERSION_BYTES]:
                    continue
                data[key] = value  # so that the next of this batch is compared with it
            newer.append(event)
        super().apply_changelog_batch(newer)


def made_app(
    group: str,
    connection: KafkaConnection,
    names: KafkaNames,
    partitions: int,
    instance: str,
    session_timeout_ms: int,
    write_timeout_s: float,
) -> Any:
    """An app that has not started; `adapters.faust_signals.FaustSignals` says what the arguments are."""
    url = [URL(f"kafka://{one}") for one in connection.bootstrap_servers.split(",")]
    session_s = session_timeout_ms / 1_000
    arguments = connection.aiokafka()
    credentials = None
    if connection.username is not None:
        credentials = faust.SASLCredentials(
            username=connection.username, password=connection.password,
            mechanism=connection.sasl_mechanism, ssl_context=arguments.get("ssl_context"),
        )  # fmt: skip
    app = SluiceApp(
        group,
        broker=url,
        broker_credentials=credentials,
        ssl_context=arguments.get("ssl_context"),
        broker_client_id=f"monitor-{instance}",
        broker_session_timeout=session_s,
        broker_heartbeat_interval=max(0.3, session_s / 5),
        broker_request_timeout=max(15.0, session_s),
        broker_rebalance_timeout=30.0,
        canonical_url=URL(f"http://{instance}"),  # the assignor tells instances apart by it; nobody is asked there
        consumer_auto_offset_reset="earliest",
        producer_request_timeout=write_timeout_s,
        producer_max_request_size=16 * 1024 * 1024,
        store="memory://",
        topic_allow_declare=False,
        topic_disable_leader=True,
        topic_partitions=partitions,
        table_standby_replicas=0,
        processing_guarantee="at_least_once",
        stream_recovery_delay=0.0,
        stream_wait_empty=False,
        web_enabled=False,
        autodiscover=False,
    )
    app.transport = SluiceTransport(url, app, connection, names, loop=asyncio.get_running_loop())
    return app
