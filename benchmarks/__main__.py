"""Measures ours beside floors and peers, in one run: python -m benchmarks [--only NAME …] [--quick]."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
from collections.abc import Awaitable
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import uvloop

from benchmarks import asks, breaking, budgets, life, minting, renewing, results, sink, spawning, turns
from benchmarks.installation import Installation
from benchmarks.results import Result


class Measure(Protocol):
    """Measures on a running installation; `quick` takes fewer counts, whose figures say less."""

    def __call__(self, installation: Installation, *, quick: bool) -> Awaitable[list[Result]]: ...


MEASURES: dict[str, Measure] = {
    "starts": life.starts,
    "turns_per_s": turns.turns_per_s,
    "turn_ms": turns.turn_ms,
    "asks_per_s": asks.asks_per_s,
    "spawn_to_first_turn": spawning.spawn_to_first_turn,
    "visible_ms": sink.visible_ms,
    "sink_events_per_s": sink.sink_events_per_s,
    "monitor_signals_per_s": budgets.monitor_signals_per_s,
    "breaches": budgets.breaches,
    "mint_ms": minting.mint_ms,
    "tokens_live_max": renewing.tokens_live_max,
    "breach_to_refused_ms": breaking.breach_to_refused_ms,
    "restore": life.restore,
    "memory": life.memory,
}
"""In the order in which they are run."""


def main() -> int:
    """Runs what the command line names; returns the process's exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=MEASURES, metavar="NAME", help=f"of {', '.join(MEASURES)}")
    parser.add_argument("--quick", action="store_true", help="smaller counts; results.json is left alone")
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="sluice-bench-") as directory,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        found = runner.run(measure(Path(directory), arguments.only or list(MEASURES), quick=arguments.quick))
    print(results.table(found))
    return 0


async def measure(directory: Path, names: list[str], *, quick: bool) -> list[Result]:
    """Brings an installation up and measures one after the other."""
    installation = Installation(directory)
    found: list[Result] = []
    await asyncio.to_thread(installation.start)
    try:
        for name in (name for name in MEASURES if name in names):
            print(f"measuring {name} …", file=sys.stderr, flush=True)
            load = os.getloadavg()[0]
            here = f"{os.cpu_count()} cores for everything, load {load:.1f} before"
            made = await MEASURES[name](installation, quick=quick)
            made = [replace(one, note=f"{one.note}; {here}") for one in made]
            if not quick:
                results.write(made)  # a later measure that fails must not cost this one
            found += made
    finally:
        await asyncio.to_thread(installation.stop)
    return found


if __name__ == "__main__":
    sys.exit(main())
