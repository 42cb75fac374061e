"""A credential from its request to its grant, beside the same calls of Vault made bare."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from typing import Any

from benchmarks.bare_vault import QUEUE, BareVault
from benchmarks.commands import Gate
from benchmarks.hops import BareHops, echoes
from benchmarks.installation import Installation
from benchmarks.results import Result, at_most, percentile, result
from sluice_contracts.messages import Message
from sluice_contracts.messages.token import TokenRequest, TokenRevoke

ANSWER_TIMEOUT_S = 30
"""An answer takes milliseconds; one that takes this long is lost, and that is a defect."""

_HOPS = ["bench.mint.command", "bench.mint.event"]
FIRST, NEXT = "first", "next"


async def mint_ms(installation: Installation, *, quick: bool) -> list[Result]:
    """From sending `token.request` to reading `token.granted`, alone."""
    rounds, each = (1, 20) if quick else (5, 100)
    told: dict[tuple[str, str | None], asyncio.Future[float]] = {}

    def watch(topic: str, kind: str, pipeline_id: str, message: Any) -> None:
        if kind == "token.granted":
            happened(pipeline_id, json.loads(message.value).get("agent_id"))
        elif kind == "token.revoked":
            happened(pipeline_id, None)

    def happened(pipeline_id: str, agent_id: str | None) -> None:
        waiting = told.get((pipeline_id, agent_id))
        if waiting is not None and not waiting.done():
            waiting.set_result(time.perf_counter())

    async def until_told_ms(pipeline_id: str, agent_id: str | None, command: Message) -> float:
        found = told[pipeline_id, agent_id] = asyncio.get_running_loop().create_future()
        begun = time.perf_counter()
        await gate.say("token.commands", pipeline_id, command)
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            return (await found - begun) * 1_000

    async def ours_ms() -> tuple[float, float]:
        pipeline_id = str(uuid.uuid4())
        taken = [
            await until_told_ms(pipeline_id, agent_id, TokenRequest(agent_id=agent_id, attempt=1, queue=QUEUE))
            for agent_id in ("a0", "a1")
        ]
        await until_told_ms(pipeline_id, None, TokenRevoke(reason="pipeline_ended"))
        return taken[0], taken[1]

    def bare_ms() -> tuple[float, float]:
        pipeline_id = str(uuid.uuid4())
        begun = time.perf_counter()
        grant = bare.mint(pipeline_id)
        first = time.perf_counter()
        bare.mint_next(pipeline_id, grant.kept)
        second = time.perf_counter()
        bare.revoke(grant.top)
        bare.forget(pipeline_id)
        return (first - begun) * 1_000, (second - first) * 1_000

    ours: dict[str, list[float]] = {FIRST: [], NEXT: []}
    floor: dict[str, list[float]] = {FIRST: [], NEXT: []}
    hops_ms: list[float] = []
    bare = await asyncio.to_thread(BareVault, installation)
    async with (
        echoes(installation, _HOPS),
        BareHops(installation, _HOPS) as hops,
        Gate(installation, ("token.events",), watch) as gate,
    ):
        for number in range(rounds + 1):
            with installation.without_observers():
                for _ in range(each):  # one of each in turns: whatever else the machine does strikes them alike
                    for figures, found in ((floor, bare_ms()), (ours, await ours_ms())):
                        figures[FIRST].append(found[0])
                        figures[NEXT].append(found[1])
                    hops_ms.append(await hops.once_ms())
            if number == 0:  # it warms up
                for warm in (*ours.values(), *floor.values(), hops_ms):
                    warm.clear()
    return [
        _row("mint_ms_p99", ours[FIRST], floor[FIRST], hops_ms, "a pipeline's first agent: its root token is made too"),
        _row("mint_next_ms_p99", ours[NEXT], floor[NEXT], hops_ms, "a further agent of the same pipeline"),
    ]


def _row(measure: str, ours: list[float], floor: list[float], hops_ms: list[float], what: str) -> Result:
    return result(
        measure, percentile(ours, 0.99), "ms", against="the same calls of Vault made bare with hvac",
        against_value=percentile(floor, 0.99), goal=at_most(1.3),
        note=f"{what}; {len(ours)} alone, from sending token.request to reading token.granted, so the hops through "
        "Kafka and the journal are in ours only; p50 "
        f"{percentile(ours, 0.5):.1f} ms against {percentile(floor, 0.5):.1f} ms "
        f"({percentile(ours, 0.5) / percentile(floor, 0.5):.2f}×); two bare hops (write, read) take "
        f"{percentile(hops_ms, 0.5):.1f} ms, p99 {percentile(hops_ms, 0.99):.1f} ms; store and api stand still",
    )  # fmt: skip
