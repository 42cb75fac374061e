"""Bare hops between processes, and round trips over them: the floor of everything that crosses Kafka."""

from __future__ import annotations

import asyncio
import itertools
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from benchmarks.client import follow
from benchmarks.installation import PARTITIONS, Installation

ROUND_TRIPS_TIMEOUT_S = 120
"""A round takes seconds; one that takes this long has lost a record, and that is a defect."""

Send = Callable[[str, int], Awaitable[None]]
"""Sends the n-th request of a lane."""


@asynccontextmanager
async def echoes(
    installation: Installation, topics: Sequence[str], module: str = "benchmarks.echo"
) -> AsyncIterator[None]:
    """Processes that copy from each topic to the next one."""
    await asyncio.to_thread(installation.create_topics, topics, PARTITIONS)
    processes = []
    try:
        for source, target in itertools.pairwise(topics):
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", module, str(installation.credentials("admin")), source, target,
                stdout=asyncio.subprocess.PIPE,
            )  # fmt: skip
            processes.append(process)
            assert process.stdout is not None
            if await process.stdout.readline() != b"ready\n":
                raise RuntimeError(f"the echo from {source} to {target} did not start")
        yield
    finally:
        for process in processes:
            process.kill()
            await process.wait()


class BareHops:
    """Sends along a chain of echoes and waits for what comes out at its end."""

    def __init__(self, installation: Installation, topics: Sequence[str]) -> None:
        self._arguments = installation.connection("admin").aiokafka()
        self._first, self._last = topics[0], topics[-1]

    async def __aenter__(self) -> BareHops:
        self._producer = AIOKafkaProducer(**self._arguments, enable_idempotence=True, acks="all")
        await self._producer.start()
        self.consumer = await follow(self._arguments, [self._last])
        await self.consumer.getmany(timeout_ms=100)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.consumer.stop()
        await self._producer.stop()

    async def send(self, lane: str, number: int) -> None:
        """Sends one record of 400 bytes, as an average request has."""
        value = f"{lane} {number}".encode().ljust(400)
        await self._producer.send(self._first, value=value, key=lane.encode(), headers=[("ce_id", b"%d" % number)])

    async def once_ms(self) -> float:
        """One record along the whole chain, alone."""
        begun = time.perf_counter()
        await self.send("alone", 0)
        while not any((await self.consumer.getmany(timeout_ms=500)).values()):
            pass
        return (time.perf_counter() - begun) * 1_000


async def round_trips(
    consumer: AIOKafkaConsumer, send: Send, lanes: Sequence[str], each: int, answers: Callable[[Any], str | None]
) -> float:
    """Keeps one request of each lane in flight, `each` times. Returns round trips per second.

    Args:
        answers: Names the lane that a record answers; None for a record that answers none.
    """
    sent = dict.fromkeys(lanes, 1)
    open_lanes = len(lanes)
    begun = time.perf_counter()
    async with asyncio.timeout(ROUND_TRIPS_TIMEOUT_S):
        for lane in lanes:
            await send(lane, 0)
        while open_lanes:
            for messages in (await consumer.getmany(timeout_ms=500)).values():
                for message in messages:
                    answered = answers(message)
                    if answered is None:
                        continue
                    if sent[answered] == each:
                        open_lanes -= 1
                        continue
                    await send(answered, sent[answered])
                    sent[answered] += 1
    return len(lanes) * each / (time.perf_counter() - begun)
