"""Error budgets: how fast signals are counted, how soon a breach is told, and whether all are, and no others."""

from __future__ import annotations

import asyncio
import json
import signal
import statistics
import sys
import time
import uuid
from collections.abc import Iterable
from typing import Any

from confluent_kafka import Producer

from benchmarks.installation import PARTITIONS, PREFIX, Installation
from benchmarks.results import Goal, Result, at_least, listed, percentile, result
from sluice_client.wiring import MONITOR
from sluice_contracts import codec, topics
from sluice_contracts.envelope import CloudEvent, OutgoingRecord
from sluice_contracts.messages import Message
from sluice_contracts.messages.signal import ErrorReported, ProgressReported, ViolationReported
from tests.log import Log
from tests.unit.observability.budget_oracle import Told
from tests.unit.observability.budget_streams import Signals, raised, wanted

PIPELINES = 400
BREACHES_PER_S = 50
OWN_STORES = [row.name for row in topics.TOPICS if row.internal]
NONE = Goal("≤", 0, of_ratio=False)
WAIT_S = 60


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
    """Random signals, late, again and out of order, while the monitor is killed; and how soon a breach is told."""
    count, kills, violations = (3_000, 2, 100) if quick else (20_000, 5, 500)
    return await asyncio.to_thread(_breaches, installation, count, kills, violations)


def _breaches(installation: Installation, count: int, kills: int, violations: int) -> list[Result]:
    delays_ms = _delays_ms(installation, violations)
    signals = Signals(1, pipelines=count // 25)
    for _ in range(kills):
        _write(installation, PREFIX, signals.some(count // kills))
        installation.stack.wait_ready(MONITOR, WAIT_S)
        installation.stack.kill_service(MONITOR, signal.SIGKILL)
    installation.stack.wait_ready(MONITOR, WAIT_S)
    log = Log(installation.connection("admin"), PREFIX, without=OWN_STORES)
    log.catch_up()
    right = wanted(log.records["signals"], time.time_ns() // 1_000_000)
    until = time.monotonic() + WAIT_S
    while len(log.records["alerts"]) < len(right) and time.monotonic() < until:
        log.catch_up()
    told = raised(log.records["alerts"])
    log.close()
    signs = f"{count} random signals, late, again and out of order"
    note = f"{len(right)} breaches by {signs}; the monitor killed {kills} times"
    return [
        result("false_breaches", _missing(told, right), "breaches", goal=NONE, note=f"or told twice; {note}"),
        result("missed_breaches", _missing(right, told), "breaches", goal=NONE, note=note),
        result("breach_to_alert_ms_p99", percentile(delays_ms, 0.99), "ms",
               note=f"a CRITICAL violation written until its alert is read, {BREACHES_PER_S} a second,"
               f" {len(delays_ms)} of them; p50 {percentile(delays_ms, 0.5):.1f}, most {max(delays_ms):.1f}"),
    ]  # fmt: skip


def _delays_ms(installation: Installation, count: int) -> list[float]:
    log = Log(installation.connection("admin"), PREFIX, without=OWN_STORES)
    log.catch_up()
    known = len(log.records["alerts"])
    producer = Producer(
        {**installation.connection("admin").confluent(), "linger.ms": 0, "partitioner": "murmur2_random"}
    )
    sent: dict[bytes, float] = {}
    seen: dict[bytes, float] = {}
    begun = time.perf_counter()
    violation = ViolationReported(policy="egress", severity="CRITICAL")
    while len(seen) < count and time.perf_counter() - begun < WAIT_S:
        while len(sent) < min(count, (time.perf_counter() - begun) * BREACHES_PER_S):
            event: CloudEvent[Any] = CloudEvent(
                str(uuid.uuid4()), "bench", "acme", str(uuid.uuid4()), time.time_ns() // 1_000_000, violation
            )
            record = codec.encode(event, topic="signals", key=event.subject)
            sent[event.subject.encode()] = time.perf_counter()
            producer.produce(PREFIX + record.topic, record.value, record.key, headers=list(record.headers))
            producer.poll(0)
        log.poll(0.001)
        for alert in log.records["alerts"][known:]:
            if alert.key in sent:
                seen.setdefault(alert.key, time.perf_counter())
        known = len(log.records["alerts"])
    log.close()
    if len(seen) < count:
        raise RuntimeError(f"{count - len(seen)} of {count} violations were not told in {WAIT_S} s")
    return sorted((seen[key] - sent[key]) * 1_000 for key in sent)


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
