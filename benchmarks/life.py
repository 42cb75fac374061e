"""How long starts take, how long a restore, and how much memory the services keep."""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import uuid

from benchmarks.client import Client, spawn_plan
from benchmarks.installation import SERVICES, Installation
from benchmarks.results import Goal, Result, at_most, result

SETTLE_S = 5.0
"""After a start or a load, memory is read once buffers are written and garbage is collected."""

_START_STEP = "start the services"


async def starts(installation: Installation, *, quick: bool) -> list[Result]:
    """Stops the installation and starts it again: nothing to download, data there."""
    services: list[float] = []
    whole: list[float] = []
    for _ in range(1 if quick else 3):
        await asyncio.to_thread(installation.stop)
        await asyncio.to_thread(installation.start)
        services.append(installation.steps_s[_START_STEP])
        whole.append(installation.start_s)
    return [
        result("services_start_s", statistics.median(services), "s", goal=Goal("≤", 5, of_ratio=False),
               note=f"from Kafka's readiness until all services answer /readyz; {_list(services)}"),
        result("stack_start_warm_s", statistics.median(whole), "s", goal=Goal("≤", 20, of_ratio=False),
               note=f"Kafka, topics, access rules, services; {_list(whole)}"),
    ]  # fmt: skip


async def restore(installation: Installation, *, quick: bool) -> list[Result]:
    """A takeover of 100,000 pipelines' state from its checkpoint."""
    pipelines, rounds = (2_000, 2) if quick else (100_000, 3)
    prefix = f"benchrestore-{uuid.uuid4()}."
    await asyncio.to_thread(installation.create_installation_topics, prefix, 1)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.restore_process", str(installation.credentials("admin")), prefix,
        str(pipelines), str(rounds), stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, _ = await process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"restore_process ended with {process.returncode}")
    found = json.loads(output)
    return [
        result("restore_100k_s", statistics.median(found["ours"]), "s", against="getmany + decode of the same bytes",
               against_value=statistics.median(found["bare"]), goal=at_most(2),
               note=f"{pipelines:,} pipelines, {found['entities']:,} entities in one partition; Worker.take_over from "
               f"a real checkpoint, with claim and timers; {_list(found['ours'])}, bare {_list(found['bare'])}")
    ]  # fmt: skip


async def memory(installation: Installation, *, quick: bool) -> list[Result]:
    """Resident memory: idle after a start, under load, and after 10,000 pipelines."""
    loaded_each, each = (2, 4) if quick else (20, 310)
    await asyncio.to_thread(installation.stop)
    await asyncio.to_thread(installation.start)
    await asyncio.sleep(SETTLE_S)
    idle = installation.rss_mb()
    loaded = dict(idle)

    async def sample() -> None:
        while True:
            for service, found in installation.rss_mb().items():
                loaded[service] = max(loaded[service], found)
            await asyncio.sleep(0.5)

    async with Client(installation) as client:
        sampling = asyncio.create_task(sample())
        await client.run_many(spawn_plan(installation.model(10), "researcher"), at_once=32, each=loaded_each)
        sampling.cancel()
        pipelines = 32 * (loaded_each + each)
        await client.run_many(spawn_plan(installation.model(1), "researcher"), at_once=32, each=each)
    await asyncio.sleep(SETTLE_S)
    after = installation.rss_mb()
    return [
        result(f"rss_mb.{service}", after[service], "MB", against="under load", against_value=loaded[service],
               goal=at_most(1.2),
               note=f"idle {idle[service]:.0f}, under load of {32 * loaded_each} pipelines {loaded[service]:.0f}, "
               f"after {pipelines:,} pipelines {after[service]:.0f}")
        for service in SERVICES
    ]  # fmt: skip


def _list(figures: list[float]) -> str:
    return "/".join(f"{figure:.2f}" for figure in figures)
