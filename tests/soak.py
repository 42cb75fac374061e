"""`make soak`: the long counts. Writes docs/soak.md, with the seeds, so that anybody can run the same again.

python -m tests.soak [--seeds 2000] [--credential-seeds 1000] [--kills 200] [--first-seed 0]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.faults.test_kills import kill_at_random
from tests.faults.verifying import SETTINGS, verify
from tests.installation import SERVICES, Installation
from tests.simulation.vault_world import KINDS, VaultWorld
from tests.simulation.world import World

PAGE = Path(__file__).resolve().parent.parent / "docs" / "soak.md"
BLOCK = 50
ROUND_KILLS = 20
"""Kills between two looks at the whole history: a fault is found near its cause."""


@dataclass
class Row:
    """One line of the table."""

    what: str
    count: int
    seeds: str
    faults: str
    minutes: float


def simulate(first: int) -> list[str]:
    """Runs a block of seeds; returns what failed."""
    failed = []
    for seed in range(first, first + BLOCK):
        world = World(seed)
        try:
            world.run()
            world.check()
        except Exception as error:
            failed.append(f"seed {seed}: {type(error).__name__}: {error}")
    return failed


def simulation(first: int, seeds: int) -> Row:
    """All seeds, on all cores."""
    started, failed = time.monotonic(), []
    blocks = range(first, first + seeds, BLOCK)
    with ProcessPoolExecutor() as pool:
        for number, found in enumerate(pool.map(simulate, blocks), 1):
            failed += found
            print(f"simulation: {number * BLOCK} of {seeds} seeds, {len(failed)} failed", flush=True)
    for one in failed:
        print(one)
    minutes = (time.monotonic() - started) / 60
    return Row("simulation", seeds, f"{first}–{first + seeds - 1}", "; ".join(failed) or "none", minutes)


def simulate_credentials(first: int) -> list[str]:
    """Runs a block of seeds of the vault-broker, each kind of fault by itself and all together; returns what failed."""
    failed = []
    for seed in range(first, first + BLOCK):
        for kind in (*KINDS, "all"):
            world = VaultWorld(seed, KINDS.get(kind))
            try:
                world.run()
                world.check()
            except Exception as error:
                failed.append(f"seed {seed}, {kind}: {type(error).__name__}: {error}")
    return failed


def credentials(first: int, seeds: int) -> Row:
    """All seeds of the vault-broker, on all cores."""
    started, failed = time.monotonic(), []
    with ProcessPoolExecutor() as pool:
        for number, found in enumerate(pool.map(simulate_credentials, range(first, first + seeds, BLOCK)), 1):
            failed += found
            print(f"credentials: {number * BLOCK} of {seeds} seeds, {len(failed)} failed", flush=True)
    for one in failed:
        print(one)
    minutes, courses = (time.monotonic() - started) / 60, seeds * (len(KINDS) + 1)
    what = f"simulation of credentials, each of {len(KINDS)} kinds of fault by itself and all together"
    return Row(what, courses, f"{first}–{first + seeds - 1}", "; ".join(failed) or "none", minutes)


def kills(service: str, count: int) -> Row:
    """Kills of one service on a real installation."""
    started = time.monotonic()
    seeds = [f"soak-{service}-{number}" for number in range(0, count, ROUND_KILLS)]
    faults = "none"
    with tempfile.TemporaryDirectory(prefix="sluice-soak-") as directory:
        with Installation(Path(directory), SETTINGS) as installation:
            for number, seed in enumerate(seeds, 1):
                kill_at_random(installation, service, seed, ROUND_KILLS)
                try:
                    verify(installation)
                except AssertionError as error:
                    faults = f"{seed}: {error}"
                    break
                done = number * ROUND_KILLS
                print(f"{service}: {done} of {count} kills, {len(installation.spawned)} pipelines", flush=True)
            pipelines = len(installation.spawned)
    minutes = (time.monotonic() - started) / 60
    return Row(f"kill -9 of {service}, {pipelines} pipelines", count, f"{seeds[0]} … {seeds[-1]}", faults, minutes)


def render(rows: Iterator[Row]) -> str:
    """The page."""
    lines = [
        "# Soak",
        "",
        "Written by `make soak`. After each round the laws of `tests/history.py` are checked on every record of every",
        "topic (nothing lost, one terminal event per pipeline, one content per id, order, no finished turn",
        "run again), and the event log against the topics by set equality. One instance of each service.",
        "",
        "| what | count | seeds | faults found | minutes |",
        "|---|---|---|---|---|",
    ]
    lines += [f"| {row.what} | {row.count} | {row.seeds} | {row.faults} | {row.minutes:.1f} |" for row in rows]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Runs all of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=2_000)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--credential-seeds", type=int, default=1_000)
    parser.add_argument("--kills", type=int, default=200)
    options = parser.parse_args()
    rows = [simulation(options.first_seed, options.seeds), credentials(options.first_seed, options.credential_seeds)]
    rows += [kills(service, options.kills) for service in SERVICES]
    PAGE.write_text(render(iter(rows)))
    print(PAGE.read_text())
    return 0 if all(row.faults == "none" for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
