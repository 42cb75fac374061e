"""From the signal that breaks a budget until Vault refuses the agent's token, with many pipelines beside it."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import hvac
from hvac import exceptions

from benchmarks.bare_vault import QUEUE, BareVault, open_grant
from benchmarks.client import Client, spawn_plan
from benchmarks.commands import Gate
from benchmarks.hops import BareHops, echoes
from benchmarks.installation import Installation
from benchmarks.results import Goal, Result, at_most, percentile, result
from sluice_contracts.messages.signal import ErrorReported
from sluice_runtime.vault import names

SCENARIO = """\
agents:
  - turns:
      - {text: look, tool_calls: [{name: list_files}], delay_ms: 5000, repeat: 1000}
  - role: diagnostician
    turns:
      - tool_calls:
          - name: finish
            arguments: {summary: seen, result: '{"cause": "measured", "evidence": [], "recommendations": []}'}
"""
"""Agents that work on and on, a turn every five seconds; and the diagnostics that follow the breaches."""

ERRORS_ALLOWED = 5
LOOK_S = 0.002
WAIT_S = 60
"""What is waited for comes within a second; what takes this long is lost, and that is a defect."""

SPAWNED_AT_ONCE = 16
WITHIN_A_SECOND = Goal("≤", 1_000, of_ratio=False)


@dataclass
class _Pipeline:
    """A living one, and what was heard of it.

    Attributes:
        moments: When the client read the alert, and that the tokens were revoked.
    """

    grant: asyncio.Future[dict[str, Any]]
    working: asyncio.Future[None]
    ended: asyncio.Future[bytes]
    moments: dict[str, float] = field(default_factory=dict)


@dataclass
class _Taken:
    """Milliseconds: until refused; until the alert, and the revocation, were read."""

    refused: list[float] = field(default_factory=list)
    alert: list[float] = field(default_factory=list)
    revoked: list[float] = field(default_factory=list)


class _Herd:
    """Pipelines that live at once, each with a working agent; a broken one is replaced."""

    def __init__(self, installation: Installation) -> None:
        self._plan = spawn_plan(installation.scenario("works-on", SCENARIO), "researcher")
        self._known: dict[str, _Pipeline] = {}
        self._living: deque[str] = deque()
        self._runner = installation.vault_client(names.RUNNER)
        self._asking = installation.vault_client(names.RUNNER)
        self.gate = Gate(installation, ("token.events", "alerts", f"agent.events.{QUEUE}"), self._watch)
        self.client = Client(installation)

    def _watch(self, topic: str, kind: str, pipeline_id: str, message: Any) -> None:
        pipeline = self._known.get(pipeline_id)
        if pipeline is None:
            return
        if kind == "token.granted" and (data := json.loads(message.value)).get("grant"):
            _set(pipeline.grant, data)
        elif kind == "agent.grant_opened":
            _set(pipeline.working, None)
        elif kind in ("alert.raised", "token.revoked"):
            pipeline.moments.setdefault(kind, time.perf_counter())

    async def grow(self, count: int) -> None:
        """Spawns until so many live, some at a time."""
        while (missing := count - len(self._living)) > 0:
            await asyncio.gather(*(self._spawn() for _ in range(min(missing, SPAWNED_AT_ONCE))))

    async def _spawn(self) -> None:
        loop = asyncio.get_running_loop()
        pipeline_id, ended = await self.client.spawn(self._plan)
        pipeline = self._known[pipeline_id] = _Pipeline(loop.create_future(), loop.create_future(), ended)
        async with asyncio.timeout(WAIT_S):
            await pipeline.working
        self._living.append(pipeline_id)

    async def break_one(self, taken: _Taken) -> None:
        """Breaks the budget of the one that lives longest, and waits until it has failed and another lives."""
        pipeline_id = self._living.popleft()
        pipeline = self._known[pipeline_id]
        data = await pipeline.grant
        named = (data["agent_id"], data["attempt"], data["grant"]["sealed"])
        token = await asyncio.to_thread(open_grant, self._runner, pipeline_id, *named)
        for _ in range(ERRORS_ALLOWED):
            await (await self.gate.say("signals", pipeline_id, ErrorReported(code="measured")))
        begun = time.perf_counter()
        await self.gate.say("signals", pipeline_id, ErrorReported(code="measured"))
        refused = await asyncio.to_thread(_until_refused, self._asking, token)
        async with asyncio.timeout(WAIT_S):
            kind = await pipeline.ended
        if kind != b"pipeline.failed":
            raise RuntimeError(f"pipeline {pipeline_id} ended as {kind.decode()}; a broken budget fails it")
        taken.refused.append((refused - begun) * 1_000)
        taken.alert.append((pipeline.moments["alert.raised"] - begun) * 1_000)
        taken.revoked.append((pipeline.moments["token.revoked"] - begun) * 1_000)
        del self._known[pipeline_id]
        await self._spawn()


async def breach_to_refused_ms(installation: Installation, *, quick: bool) -> list[Result]:
    """With 1, 100 and 1,000 living pipelines."""
    counts, each = ((1, 10), 5) if quick else ((1, 100, 1_000), 100)
    hops = [f"bench.breach.{uuid.uuid4()}.{end}" for end in ("in", "out")]
    found: list[Result] = []
    bare = await asyncio.to_thread(BareVault, installation)
    herd = await asyncio.to_thread(_Herd, installation)

    async with (
        echoes(installation, hops, "benchmarks.bare_faust"),
        BareHops(installation, hops) as faust,
        herd.client,
        herd.gate,
    ):

        async def floor_ms() -> float:
            pipeline_id = str(uuid.uuid4())
            grant = await asyncio.to_thread(bare.mint, pipeline_id)
            begun = time.perf_counter()
            await faust.once_ms()
            await asyncio.to_thread(bare.revoke, grant.top)
            taken_ms = (time.perf_counter() - begun) * 1_000
            await asyncio.to_thread(bare.forget, pipeline_id)
            return taken_ms

        await herd.grow(1)
        for _ in range(3):  # they warm up
            await floor_ms()
            await herd.break_one(_Taken())
        for count in counts:
            await herd.grow(count)
            floor: list[float] = []
            taken = _Taken()
            for _ in range(each):
                floor.append(await floor_ms())
                await herd.break_one(taken)
            found += _rows(count, taken, floor)
    return found


def _rows(count: int, taken: _Taken, floor: list[float]) -> Iterator[Result]:
    measure = f"breach_to_refused_ms_p99.{count}"
    value = percentile(taken.refused, 0.99)
    note = (
        f"{count} pipelines live, each with an agent that takes a turn every 5 s; {len(taken.refused)} broken one "
        f"after the other, from sending the error that is too many until Vault refuses the agent's token (asked every "
        f"{LOOK_S * 1_000:.0f} ms); p50 {percentile(taken.refused, 0.5):.1f} ms, most {max(taken.refused):.1f} ms; the "
        f"alert is read after {percentile(taken.alert, 0.5):.1f} ms, p99 {percentile(taken.alert, 0.99):.1f} ms, "
        f"token.revoked after {percentile(taken.revoked, 0.5):.1f} ms, p99 {percentile(taken.revoked, 0.99):.1f} ms"
    )
    yield result(measure, value, "ms", goal=WITHIN_A_SECOND, note=note)
    yield result(
        f"breach_ratio_p99.{count}", value, "ms", against="bare Faust from topic to topic + bare revocation by hvac",
        against_value=percentile(floor, 0.99), goal=at_most(2),
        note=f"the same, beside its floor in turns; p50 {percentile(taken.refused, 0.5):.1f} ms against "
        f"{percentile(floor, 0.5):.1f} ms ({percentile(taken.refused, 0.5) / percentile(floor, 0.5):.2f}×)",
    )  # fmt: skip


def _until_refused(client: hvac.Client, token: str) -> float:
    """When Vault refused a token that it knew until now."""
    client.token = token
    until = time.monotonic() + WAIT_S
    while time.monotonic() < until:
        try:
            client.auth.token.lookup_self()
        except exceptions.Forbidden:
            return time.perf_counter()
        time.sleep(LOOK_S)
    raise RuntimeError(f"Vault still knew a token {WAIT_S} s after its pipeline's budget was broken")


def _set(future: asyncio.Future[Any], value: Any) -> None:
    if not future.done():
        future.set_result(value)
