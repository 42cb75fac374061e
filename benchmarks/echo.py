"""A bare hop: copies records from one topic to another, as cheaply as aiokafka can. Stands for the floor.

python -m benchmarks.echo CREDENTIALS_FILE FROM_TOPIC TO_TOPIC
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import uvloop
from aiokafka import AIOKafkaProducer

from benchmarks.client import follow
from sluice_runtime.connection import KafkaConnection


async def main(credentials: Path, source: str, target: str) -> None:
    """Copies until it is killed. Says `ready` once it reads."""
    arguments = KafkaConnection.from_file(credentials).aiokafka()
    producer = AIOKafkaProducer(**arguments, enable_idempotence=True, acks="all")
    await producer.start()
    consumer = await follow(arguments, [source])
    await consumer.getmany(timeout_ms=100)
    print("ready", flush=True)
    while True:
        for messages in (await consumer.getmany(timeout_ms=500)).values():
            for message in messages:
                await producer.send(target, value=message.value, key=message.key, headers=list(message.headers))


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3]))
