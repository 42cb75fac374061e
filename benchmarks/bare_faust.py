"""Faust as one writes it first: an app without anything of ours, and a process that copies from topic to topic.

python -m benchmarks.bare_faust CREDENTIALS_FILE FROM_TOPIC TO_TOPIC
"""

from __future__ import annotations

import asyncio
import logging
import sys
from pathlib import Path
from typing import Any

import faust
import uvloop
from yarl import URL

from sluice_runtime.connection import KafkaConnection


def bare_app(name: str, credentials: Path) -> faust.App:
    """An app that makes no topics, no leader's topic and no web server, which nobody needs here; else as Faust is."""
    connection = KafkaConnection.from_file(credentials)
    directory = credentials.parent / "faust"
    directory.mkdir(exist_ok=True)
    return faust.App(
        name,
        broker=[URL(f"kafka://{one}") for one in connection.bootstrap_servers.split(",")],
        broker_credentials=faust.SASLCredentials(
            username=connection.username, password=connection.password, mechanism=connection.sasl_mechanism
        ),
        store="memory://", web_enabled=False, autodiscover=False, topic_allow_declare=False, topic_disable_leader=True,
        consumer_auto_offset_reset="earliest", stream_wait_empty=False, datadir=str(directory),
    )  # fmt: skip


async def main(credentials: Path, source: str, target: str) -> None:
    """Copies until it is killed. Says `ready` once it has started."""
    app = bare_app(f"{source}.copy", credentials)
    incoming = app.topic(source, key_type=bytes, value_type=bytes, value_serializer="raw")
    outgoing = app.topic(target, key_type=bytes, value_type=bytes, value_serializer="raw")

    @app.agent(incoming)
    async def copy(stream: Any) -> None:
        async for event in stream.events():
            await outgoing.send(key=event.key, value=event.value)

    await app.start()
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    logging.basicConfig(level=logging.ERROR)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3]))
