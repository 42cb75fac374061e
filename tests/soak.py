"""`make soak`: the long counts. Writes docs/soak.md, with the seeds, so that anybody can run the same again.

python -m tests.soak [--only NAME,…] [--seeds 2000] [--credential-seeds 1000] [--gate-seeds 2000] [--kills 200]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from tests import soak_gate
from tests.faults.test_gate_kills import WINDOWS
from tests.faults.test_kills import kill_at_random
from tests.faults.verifying import SETTINGS, verify
from tests.installation import SERVICES, Installation
from tests.simulation.gate_world import GateWorld
from tests.simulation.vault_faults import KINDS
from tests.simulation.vault_world import VaultWorld
from tests.simulation.world import World
from tests.soak_rows import PAGE, Row, write

BLOCK = 50
ROUND_KILLS = 20
"""Kills between two looks at the whole history: a fault is found near its cause."""


def simulate(first: int) -> list[str]:
    """Runs a block of seeds of the spawner; returns what failed."""
    return _failed({f"seed {seed}": lambda seed=seed: World(seed) for seed in range(first, first + BLOCK)})  # type: ignore[misc]


def simulate_gate(first: int) -> list[str]:
    """Runs a block of seeds of spawner, vault-broker and Vault together; returns what failed."""
    return _failed({f"seed {seed}": lambda seed=seed: GateWorld(seed) for seed in range(first, first + BLOCK)})  # type: ignore[misc]


def simulate_credentials(first: int) -> list[str]:
    """Runs a block of seeds of the vault-broker, each kind of fault by itself and all together; returns what failed."""
    return _failed(
        {
            f"seed {seed}, {kind}": lambda seed=seed, kind=kind: VaultWorld(seed, KINDS.get(kind))  # type: ignore[misc]
            for seed in range(first, first + BLOCK)
            for kind in (*KINDS, "all")
        }
    )


def _failed(worlds: dict[str, Callable[[], World | VaultWorld]]) -> list[str]:
    failed = []
    for name, make in worlds.items():
        try:
            world = make()
            world.run()
            world.check()
        except Exception as error:
            failed.append(f"{name}: {type(error).__name__}: {error}")
    return failed


def simulation(what: str, block: Callable[[int], list[str]], first: int, seeds: int, courses: int = 1) -> Row:
    """All seeds, on all cores."""
    started, failed = time.monotonic(), []
    with ProcessPoolExecutor() as pool:
        for number, found in enumerate(pool.map(block, range(first, first + seeds, BLOCK)), 1):
            failed += found
            print(f"{what}: {number * BLOCK} of {seeds} seeds, {len(failed)} failed", flush=True)
    for one in failed:
        print(one)
    minutes = (time.monotonic() - started) / 60
    return Row(what, seeds * courses, f"{first}–{first + seeds - 1}", "; ".join(failed) or "none", minutes)


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


def main() -> int:
    """Runs all of it, or some rounds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=2_000)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--credential-seeds", type=int, default=1_000)
    parser.add_argument("--gate-seeds", type=int, default=2_000)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--only", default="", help="names of rounds, separated by commas")
    options = parser.parse_args()
    first, kinds = options.first_seed, len(KINDS) + 1
    of_kinds = f"simulation of credentials, each of {len(KINDS)} kinds of fault by itself and all together"
    rounds: dict[str, Callable[[], Iterable[Row]]] = {
        "simulation": lambda: [simulation("simulation", simulate, first, options.seeds)],
        "credentials": lambda: [simulation(of_kinds, simulate_credentials, first, options.credential_seeds, kinds)],
        "gate": lambda: [simulation("simulation of the gate", simulate_gate, first, options.gate_seeds)],
        **{service: lambda service=service: [kills(service, options.kills)] for service in SERVICES},  # type: ignore[misc]
        **{window: lambda window=window: [soak_gate.broker_at(window, options.kills)] for window in WINDOWS},  # type: ignore[misc]
        "grants": lambda: [soak_gate.runner_with_grants(options.kills)],
        "vault": lambda: soak_gate.vault_leaves(options.kills // 2),
        "budgets": lambda: [soak_gate.monitor_kills(options.kills)],
    }
    chosen = options.only.split(",") if options.only else list(rounds)
    if unknown := set(chosen) - rounds.keys():
        parser.error(f"there is no round {sorted(unknown)}; there are: {', '.join(rounds)}")
    found = []
    for name in chosen:
        for row in rounds[name]():
            found.append(row)
            write([row])
    print(PAGE.read_text())
    return 0 if all(row.faults == "none" for row in found) else 1


if __name__ == "__main__":
    sys.exit(main())
