"""One way from topic `signals` to counted budgets, in a process of its own; prints one JSON line with the seconds.

    python -m benchmarks.monitor_process ours|bare CREDENTIALS_FILE PREFIX RECORDS

`ours` is the monitor as it is wired in the service; `bare` is the agent that one writes first: a Faust table with the
last minute's (event id, time) of each pipeline, which commits when Faust does and loses signals in rebalances. Both are
timed from the first signal that they count to the last.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.bare_faust import bare_app
from sluice_observability.bootstrap.monitor import Monitor
from sluice_observability.settings import MonitorSettings
from sluice_runtime.kafka.broker import KafkaBroker

LOOK_S = 0.005
START_TIMEOUT_S = 60
WINDOW_MS = 60_000


async def ours(credentials: Path, prefix: str, records: int) -> float:
    """The monitor."""
    settings = MonitorSettings(kafka_credentials_file=credentials, topic_prefix=prefix)
    async with KafkaBroker(settings.kafka(), prefix=prefix, client_id="bench-monitor") as broker:
        monitor, stop = Monitor.wired(settings, broker), asyncio.Event()
        running = asyncio.create_task(monitor.run(stop))

        def positions() -> int:
            watch = monitor.watch
            return 0 if watch is None else sum(watch.position(one) or 0 for one in watch.owned)

        seconds = await timed(positions, records)
        stop.set()
        await running
    return seconds


async def bare(credentials: Path, prefix: str, records: int) -> float:
    """A table that counts the same."""
    app = bare_app(f"{prefix}bare", credentials)
    signals = app.topic(f"{prefix}signals", key_type=bytes)
    changelog = app.topic(
        f"{prefix}bare.state", key_type=bytes, key_serializer="raw", acks=False, internal=True, allow_empty=True
    )
    table = app.Table("counts", key_type=bytes, changelog_topic=changelog)
    seen = 0

    @app.agent(signals)
    async def count(stream: Any) -> None:
        nonlocal seen
        async for event in stream.events():
            headers = dict(event.headers)
            data, kind = event.value, headers["ce_type"]
            at_ms = round(datetime.fromisoformat(headers["ce_time"].decode()).timestamp() * 1_000)
            state = table.get(event.key) or {"errors": [], "calls": []}
            fact, now_ms = [headers["ce_id"].decode(), at_ms], at_ms - WINDOW_MS
            if kind == b"error.reported":
                state["errors"] = [one for one in state["errors"] if one[1] > now_ms] + [fact]
            if data.get("api_calls"):
                state["calls"] = [one for one in state["calls"] if one[1] > now_ms] + [[*fact, data["api_calls"]]]
            if len({one[0] for one in state["errors"]}) > 5 or sum(one[2] for one in state["calls"]) > 100:
                state["broken"] = True
            table[event.key] = state
            seen += 1

    starting = asyncio.create_task(app.start())
    seconds = await timed(lambda: seen, records)
    await starting
    await app.stop()
    return seconds


async def timed(counted: Any, records: int) -> float:
    """From the first signal to the last."""
    async with asyncio.timeout(START_TIMEOUT_S):
        while (first := counted()) == 0:
            await asyncio.sleep(LOOK_S)
    begun = time.perf_counter()
    while counted() < records:
        await asyncio.sleep(LOOK_S)
    return (time.perf_counter() - begun) * records / (records - first)


def main() -> None:
    """Runs what the command line names."""
    way, credentials, prefix, records = sys.argv[1:]
    logging.basicConfig(level=logging.ERROR)
    run = {"ours": ours, "bare": bare}[way]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        seconds = runner.run(run(Path(credentials), prefix, int(records)))
    print(json.dumps({"seconds": seconds}), flush=True)


if __name__ == "__main__":
    main()
