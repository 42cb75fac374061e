"""From a command to an agent's first turn, beside as many bare hops."""

from __future__ import annotations

import asyncio
import statistics
import time
import uuid
from typing import Any

from benchmarks.bare_vault import AGENT, BareVault, open_grant
from benchmarks.client import Client, spawn_plan
from benchmarks.hops import BareHops, echoes
from benchmarks.installation import Installation
from benchmarks.results import Result, at_most, percentile, result
from sluice_runtime.vault import names

_HOPS = [f"bench.hop.{number}" for number in range(7)]
"""Command, request for a slot, its grant, request for a credential, its grant, task, event."""


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
    hops_ms: list[float] = []
    vault_ms: list[float] = []
    bare = await asyncio.to_thread(BareVault, installation)
    runner = await asyncio.to_thread(installation.vault_client, names.RUNNER)

    def credential_ms() -> float:
        pipeline_id = str(uuid.uuid4())
        begun = time.perf_counter()
        grant = bare.mint(pipeline_id)
        open_grant(runner, pipeline_id, AGENT, 1, grant.sealed)
        taken_ms = (time.perf_counter() - begun) * 1_000
        bare.revoke(grant.top)
        bare.forget(pipeline_id)
        return taken_ms

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
                hops_ms += [await hops.once_ms() for _ in range(each)]
                vault_ms += [credential_ms() for _ in range(each)]
                await first_turn_ms()
                alone += [await first_turn_ms() for _ in range(each)]
    floor = [hop_ms + call_ms for hop_ms, call_ms in zip(hops_ms, vault_ms, strict=True)]
    return [
        result("spawn_to_first_turn_ms_p50", statistics.median(alone), "ms",
               against=f"{len(_HOPS)} bare hops (write, read) and the bare calls of Vault",
               against_value=statistics.median(floor), goal=at_most(2),
               note="from sending pipeline.spawn to reading the finished first turn: command, request for a slot, its "
               f"grant, request for a credential, its grant, task and event are the {len(_HOPS)} hops; Vault is asked "
               "to make the credential and to open it; between them the path waits for ten more acknowledged writes "
               "(four journals of the spawner, three of the vault-broker, offsets of the task, attempt_started, "
               "grant_opened); p50 of the hops "
               f"{statistics.median(hops_ms):.1f} ms, of Vault's calls {statistics.median(vault_ms):.1f} ms; "
               f"p99 {percentile(alone, 0.99):.1f} ms, floor {percentile(floor, 0.99):.1f} ms; with store and api "
               f"beside it p50 {statistics.median(observed):.1f} ms, p99 {percentile(observed, 0.99):.1f} ms")
    ]  # fmt: skip
