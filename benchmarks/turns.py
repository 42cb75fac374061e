"""Agents' turns beside LangGraph's steps: many at once, and one alone."""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
from datetime import datetime
from typing import Any

from benchmarks.client import Client, spawn_plan
from benchmarks.installation import Installation
from benchmarks.results import Result, at_least, at_most, cpu_split, listed, result

AT_ONCE = 32
TURNS = 10
"""Per run, as the peer's chain has steps."""

LONG_TURNS = 100
"""A run in which starting and ending a pipeline hardly counts."""

WARM_EACH = 60
"""Runs of each place before the first round: until about then the broker's compiler takes as long as the broker, and
brokers of an installation run for months."""

_PEER = "LangGraph + AsyncSqlite, 10-step chain"
_DURABILITY = "our broker acknowledges from the page cache, SQLite fsyncs"


async def langgraph(installation: Installation, at_once: int, each: int) -> tuple[float, float, list[float]]:
    """Runs the peer in a process of its own. Returns the seconds of all, its processor time, the seconds of each run.

    Raises:
        RuntimeError: It failed; what it wrote stands above.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.langgraph_chain",
        str(installation.directory), str(TURNS), str(at_once), str(each),
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, _ = await process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"the peer ended with {process.returncode}")
    found = json.loads(output)
    return float(found["seconds"]), float(found["cpu_s"]), list(found["runs_s"])


async def turns_per_s(installation: Installation, *, quick: bool) -> list[Result]:
    """Durable turns per second with 32 pipelines at once."""
    rounds, each, long_each, peer_each, warm_each = (1, 6, 1, 2, 1) if quick else (3, 30, 5, 4, WARM_EACH)
    ours: list[float] = []
    long: list[float] = []
    peer: list[float] = []
    peer_cpu_ms: list[float] = []
    short_ms: list[dict[str, float]] = []
    long_ms: list[dict[str, float]] = []
    async with Client(installation) as client:
        for length, count in ((TURNS, warm_each), (LONG_TURNS, 1)):
            await client.run_many(spawn_plan(installation.model(length), "researcher"), at_once=AT_ONCE, each=count)
        for _ in range(rounds):
            seconds, cpu_s, _ = await langgraph(installation, AT_ONCE, peer_each)
            peer.append(AT_ONCE * peer_each * TURNS / seconds)
            peer_cpu_ms.append(cpu_s * 1_000 / (AT_ONCE * peer_each * TURNS))
            for length, count, found, cpu_ms in ((TURNS, each, ours, short_ms), (LONG_TURNS, long_each, long, long_ms)):
                plan, turns = spawn_plan(installation.model(length), "researcher"), AT_ONCE * count * length
                before = installation.cpu_s()
                found.append(turns / await client.run_many(plan, at_once=AT_ONCE, each=count))
                taken = {name: now - before[name] for name, now in installation.cpu_s().items()}
                cpu_ms.append({name: seconds * 1_000 / turns for name, seconds in taken.items()})
    against, floor = f"{_PEER}, 32 at once", statistics.median(peer)
    return [
        result("turns_per_s_32", statistics.median(ours), "turns/s",
               against=against, against_value=floor, goal=at_least(5),
               note=f"runs of {TURNS} turns, a new pipeline for each, spawned, reported and ended within the time; "
               f"each turn calls a tool; everything runs, and each pipeline gets its credentials and loses them; "
               f"{cpu_split(short_ms)} a turn; rounds {listed(ours)}, peer {listed(peer)}; {_DURABILITY}"),
        result("turns_per_s_32_long", statistics.median(long), "turns/s",
               against=against, against_value=floor, goal=at_least(5),
               note=f"the same in runs of {LONG_TURNS} turns; rounds {listed(long)}; "
               f"{cpu_split(long_ms)} a turn; a step of the peer takes {statistics.median(peer_cpu_ms):.2f} ms"),
    ]  # fmt: skip


async def turn_ms(installation: Installation, *, quick: bool) -> list[Result]:
    """One turn of a run of ten, alone on the machine."""
    rounds, each = (1, 5) if quick else (4, 25)
    spans: dict[str, list[int]] = {}

    def watch(message: Any, headers: dict[str, bytes]) -> None:
        if headers["ce_type"] in (b"agent.attempt_started", b"agent.turn_finished"):
            moment = datetime.fromisoformat(headers["ce_time"].decode()).timestamp()
            spans.setdefault(message.key.decode(), []).append(round(moment * 1_000))

    peer: list[float] = []
    ours: list[float] = []
    async with Client(installation, ("agent.events.default",), watch) as client:
        plan = spawn_plan(installation.model(TURNS), "researcher")
        await client.run(plan)
        for _ in range(rounds):
            _, _, runs_s = await langgraph(installation, 1, each)
            peer += [run_s * 1_000 / TURNS for run_s in runs_s]
            for _ in range(each):
                times = spans[await client.run(plan)]
                assert len(times) == TURNS + 1, f"{len(times)} events of a run of {TURNS} turns"
                ours.append((times[-1] - times[0]) / TURNS)
    return [
        result("turn_ms_p50", statistics.median(ours), "ms", against="LangGraph step in a 10-step run alone",
               against_value=statistics.median(peer), goal=at_most(1.5),
               note=f"from attempt_started to the last turn_finished, over {TURNS}; in {len(ours)} runs; {_DURABILITY}")
    ]  # fmt: skip
