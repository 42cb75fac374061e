"""From a command to an agent's first turn, beside as many bare hops."""

from __future__ import annotations

import asyncio
import statistics
import time
from typing import Any

from benchmarks.client import Client, spawn_plan
from benchmarks.hops import BareHops, echoes
from benchmarks.installation import Installation
from benchmarks.results import Result, at_most, percentile, result

_HOPS = [f"bench.hop.{number}" for number in range(5)]
"""Command, request for a slot, its grant, task, event."""


async def spawn_to_first_turn(installation: Installation, *, quick: bool) -> list[Result]:
    """From sending `pipeline.spawn` to reading the first `agent.turn_finished`."""
    rounds, each = (1, 10) if quick else (5, 30)
    seen: dict[str, asyncio.Future[float]] = {}

    def watch(message: Any, headers: dict[str, bytes]) -> None:
        if headers["ce_type"] == b"agent.turn_finished":
            future = seen.get(message.key.decode())
            if future is not None and not future.done():
                future.set_result(time.perf_counter())

    alone: list[float] = []
    observed: list[float] = []
    floor: list[float] = []

    async def first_turn_ms() -> float:
        begun = time.perf_counter()
        pipeline_id, ended = await client.spawn(plan)
        first = seen[pipeline_id] = asyncio.get_running_loop().create_future()
        found = (await first - begun) * 1_000
        await ended
        return found

    async with (
        echoes(installation, _HOPS),
        BareHops(installation, _HOPS) as hops,
        Client(installation, ("agent.events.default",), watch) as client,
    ):
        plan = spawn_plan(installation.model(1), "researcher")
        await client.run(plan)
        for _ in range(rounds):
            observed += [await first_turn_ms() for _ in range(each)]
            with installation.without_observers():
                await hops.once_ms()
                floor += [await hops.once_ms() for _ in range(each)]
                await first_turn_ms()
                alone += [await first_turn_ms() for _ in range(each)]
    return [
        result("spawn_to_first_turn_ms_p50", statistics.median(alone), "ms",
               against=f"{len(_HOPS)} bare hops (write, read)", against_value=statistics.median(floor), goal=at_most(2),
               note="from sending pipeline.spawn to reading the finished first turn: command, request for a slot, its "
               f"grant, task and event are the {len(_HOPS)} hops; between them the path waits for five more "
               f"acknowledged writes (three journals, offsets of the task, attempt_started); "
               f"p99 {percentile(alone, 0.99):.1f} ms, floor {percentile(floor, 0.99):.1f} ms; with store and api "
               f"beside it p50 {statistics.median(observed):.1f} ms, p99 {percentile(observed, 0.99):.1f} ms")
    ]  # fmt: skip
