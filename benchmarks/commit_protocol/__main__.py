"""Run `python -m benchmarks.commit_protocol --bootstrap HOST:PORT [latency] [flat_out] [kills] [stops]`."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
from pathlib import Path

from . import faults, performance

RESULTS = Path(__file__).with_name("results.json")
PARTS = ("latency", "flat_out", "kills", "stops")


async def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.commit_protocol")
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], default=[])
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--stops", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=1)
    arguments = parser.parse_args()
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    results["machine"] = {"cores": os.cpu_count(), "python": platform.python_version(), "system": platform.system()}
    for part in arguments.parts or PARTS:
        if part == "latency":
            rows = await performance.run_latency(arguments.bootstrap, arguments.rounds)
            results[part] = {"medians": performance.medians(rows), "runs": rows}
        elif part == "flat_out":
            rows = await performance.run_flat_out(arguments.bootstrap, arguments.rounds)
            results[part] = {"medians": performance.medians(rows), "runs": rows}
        else:
            run = faults.run_kills if part == "kills" else faults.run_stops
            count = arguments.kills if part == "kills" else arguments.stops
            results[part] = {
                protocol: await run(arguments.bootstrap, protocol, arguments.first_seed, count)
                for protocol in ("transactions", "journal")
            }
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")


asyncio.run(main())
