"""Error budgets: how fast signals are counted, how soon a breach is told, and whether all are, and no others."""

from __future__ import annotations

import asyncio
import json
import signal
import statistics
import sys
import time
import uuid
from collections import Counter
from collections.abc import Iterable

from confluent_kafka import Producer

from benchmarks.installation import PARTITIONS, PREFIX, Installation
from benchmarks.results import Goal, Result, at_least, listed, result
from sluice_client.wiring import MONITOR
from sluice_contracts import codec, topics
from sluice_contracts.envelope import CloudEvent, OutgoingRecord
from sluice_contracts.messages import Message
from sluice_contracts.messages.signal import ErrorReported, ProgressReported
from tests.log import Log
from tests.unit.observability.budget_oracle import Told
from tests.unit.observability.budget_streams import Signals, raised, wanted

PIPELINES = 400
OWN_STORES = [row.name for row in topics.TOPICS if row.internal]
NONE = Goal("≤", 0, of_ratio=False)
WAIT_S = 65
"""Longer than the minute after which missing progress is told."""

SETTLE_S = 3
"""After the last alert that is wanted: for what nobody wants."""


async def monitor_signals_per_s(installation: Installation, *, quick: bool) -> list[Result]:
    """Drains a backlog of signals of pipelines that are near their limits and break none."""
    rounds, records = (1, 20_000) if quick else (3, 60_000)
    ours: list[float] = []
    bare: list[float] = []
    for _ in range(rounds):
        for way, found in (("bare", bare), ("ours", ours)):
            prefix = await asyncio.to_thread(_fill, installation, records)
            found.append(records / await _process(installation, way, prefix, records))
    return [
        result("monitor_signals_per_s", statistics.median(ours), "signals/s",
               against="a bare Faust table of the last minute's (event id, time)",
               against_value=statistics.median(bare), goal=at_least(0.8),
               note="ours checks each record's contract, keeps six minutes, and writes each state before it goes on;"
               f" bare commits behind its back; a signal a second of {PIPELINES} pipelines; rounds {listed(ours)},"
               f" bare {listed(bare)}")
    ]  # fmt: skip


def _fill(installation: Installation, records: int) -> str:
    prefix = f"benchmonitor-{uuid.uuid4()}."
    installation.create_installation_topics(prefix, PARTITIONS)
    installation.create_topics([f"{prefix}bare.state"], PARTITIONS)
    now_ms, pipelines = time.time_ns() // 1_000_000, [str(uuid.uuid4()) for _ in range(PIPELINES)]
    span_ms = records // PIPELINES * 1_000
    assert span_ms < 250_000, "what is later counts in no window"

    def events() -> Iterable[CloudEvent[Message]]:
        for number in range(records):
            turn = number // PIPELINES
            data: Message = ProgressReported(agent_id="agent", attempt=1, turn=turn, api_calls=1)
            if turn % 20 == 19:
                data = ErrorReported(code="timeout", agent_id="agent", attempt=1, api_calls=1)
            at_ms = now_ms - span_ms + turn * 1_000
            yield CloudEvent(str(uuid.uuid4()), "runner/1", "acme", pipelines[number % PIPELINES], at_ms, data)

    _write(installation, prefix, events())
    return prefix


def _write(installation: Installation, prefix: str, events: Iterable[CloudEvent[Message]]) -> None:
    producer = Producer({**installation.connection("admin").confluent(), "linger.ms": 5,
                         "partitioner": "murmur2_random", "queue.buffering.max.messages": 1_000_000})  # fmt: skip
    for event in events:
        record: OutgoingRecord = codec.encode(event, topic="signals", key=event.subject)
        producer.produce(prefix + record.topic, record.value, record.key, headers=list(record.headers))
        producer.poll(0)
    if producer.flush(120):
        raise RuntimeError("Kafka did not take the signals within 120 s")


async def _process(installation: Installation, way: str, prefix: str, records: int) -> float:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.monitor_process", way, str(installation.credentials("admin")), prefix,
        str(records), stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, _ = await process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"monitor_process {way} ended with {process.returncode}")
    return float(json.loads(output)["seconds"])


async def breaches(installation: Installation, *, quick: bool) -> list[Result]:
    """Random signals, late, again and out of order, while the monitor is killed."""
    count, kills = (3_000, 2) if quick else (20_000, 10)
    return await asyncio.to_thread(_breaches, installation, count, kills)


def _breaches(installation: Installation, count: int, kills: int) -> list[Result]:
    signals = Signals(time.time_ns(), pipelines=count // 25, watched=True)
    for _ in range(kills):
        _write(installation, PREFIX, signals.some(count // kills))
        installation.stack.wait_ready(MONITOR, WAIT_S)
        installation.stack.kill_service(MONITOR, signal.SIGKILL)
    log = Log(installation.connection("admin"), PREFIX, without=OWN_STORES)
    log.catch_up()
    right = wanted(log.records["signals"], time.time_ns() // 1_000_000 + 1_000 * WAIT_S)
    until = time.monotonic() + 2 * WAIT_S  # missing progress is told a minute after the last that came
    while len(log.records["alerts"]) < len(right) and time.monotonic() < until:
        log.catch_up()
    time.sleep(SETTLE_S)
    log.catch_up()
    told = raised(log.records["alerts"])
    log.close()
    kinds = ", ".join(f"{kind} {number}" for kind, number in sorted(Counter(one["condition"] for one in right).items()))
    note = (
        f"{count} random signals, late, again and out of order; {len(right)} breaches by the oracle ({kinds}); "
        f"the monitor killed {kills} times"
    )
    return [
        result("false_breaches", _missing(told, right), "breaches", goal=NONE, note=f"or told twice; {note}"),
        result("missed_breaches", _missing(right, told), "breaches", goal=NONE, note=note),
    ]


def _missing(these: list[Told], those: list[Told]) -> int:
    """How many of these are not among those, or come more often."""
    left = [json.dumps(one, sort_keys=True) for one in those]
    count = 0
    for one in these:
        text = json.dumps(one, sort_keys=True)
        if text in left:
            left.remove(text)
        else:
            count += 1
    return count
