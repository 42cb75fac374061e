"""The monitor as it runs, on real Kafka: what it tells is what the oracle tells, whoever is killed meanwhile."""

from __future__ import annotations

import asyncio
import random
import signal
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition
from confluent_kafka.admin import AdminClient

from sluice_contracts import codec, topics
from sluice_contracts.envelope import CloudEvent, OutgoingRecord
from sluice_contracts.messages.alert import BudgetSet
from sluice_contracts.messages.signal import ErrorReported, ProgressReported, ViolationReported, WatchChanged
from sluice_runtime.clock import SystemClock
from sluice_runtime.memory import partition_for
from tests.integration.observability.conftest import StartService, new_prefix, starting
from tests.integration.observability.support import PARTITIONS, Writer, wait_for
from tests.kafka import TestKafka, write_unreadable
from tests.log import Log
from tests.unit.observability.budget_oracle import Told
from tests.unit.observability.budget_streams import Signals, raised, wanted

OWN_STORES = [row.name for row in topics.TOPICS if row.internal]
PROGRESS_MS = 2_000
IMPATIENT = {"SLUICE_PROGRESS_TIMEOUT_S": str(PROGRESS_MS // 1_000)}
HASTY = {"SLUICE_SESSION_TIMEOUT_MS": "3000", **IMPATIENT}
MARKED = "marker"
COURSES, KILLS_OF_EACH = 4, 5
LONG_AFTER_MS = 10**8
"""All progress that is missing then is missing for ever."""

OWNED = "sluice_partitions_owned"
CLOCK = SystemClock()


@pytest.fixture
def log(kafka: TestKafka, prefix: str) -> Iterator[Log]:
    reading = Log(kafka.connection, prefix, without=OWN_STORES)
    yield reading
    reading.close()


def settle(writer: Writer, log: Log) -> list[Told]:
    """What the oracle wants of all that was written; waits until it is told, and sees that nothing else is.

    Last in each partition an agent begins that never comes on: once that is told, all that was to be told before has
    been, rightly or not.
    """
    marks: dict[int, str] = {}
    while len(marks) < PARTITIONS:
        pipeline = str(uuid.uuid4())
        marks[partition_for(pipeline.encode(), PARTITIONS)] = pipeline
    watched = WatchChanged(agent_id="agent", attempt=1, watched=True)
    writer.tell(*(CloudEvent(f"w-{one}", "spawner", MARKED, one, CLOCK.now_ms(), watched) for one in marks.values()))
    log.catch_up()
    right = wanted(log.records["signals"], CLOCK.now_ms() + LONG_AFTER_MS, progress_ms=PROGRESS_MS)

    def all_told() -> bool:
        log.catch_up()
        return len(log.records["alerts"]) >= len(right)

    wait_for("all alerts", all_told)
    assert raised(log.records["alerts"]) == right, "no other breaches, none twice, and the same contents"
    return [one for one in right if one["tenant"] != MARKED]


@pytest.mark.covers("V5", "O4")
def test_what_is_told_is_what_the_oracle_tells(start: StartService, writer: Writer, log: Log) -> None:
    monitor = start("monitor", **IMPATIENT)
    monitor.ready()
    signals = Signals(1, watched=True)
    for _ in range(8):
        writer.tell(*signals.some(100))
    found = settle(writer, log)
    assert {one["condition"] for one in found} == {
        "error_budget_exceeded", "api_call_budget_exceeded", "no_progress", "policy_violation"
    }  # fmt: skip
    assert {one["action"] for one in found} == {"revoke_pipeline", "revoke_agent", "throttle"}
    total = len(found) + PARTITIONS
    wait_for("the figures", lambda: monitor.metric("sluice_alerts_raised_total") >= total)
    assert monitor.metric("sluice_alerts_raised_total") == total
    assert monitor.metric("sluice_alert_delay_seconds_count") == total
    assert monitor.metric("sluice_signals_unheeded_total") > 0
    assert monitor.stop() == 0


@pytest.mark.covers("V5", "O4")
def test_each_breach_is_told_once_through_kills_and_rebalances(kafka: TestKafka, tmp_path: Path) -> None:
    """Twenty kills -9, each while signals are written and alerts told; every other with a second monitor beside."""
    with ThreadPoolExecutor(COURSES) as pool:
        for number, told in enumerate(pool.map(lambda seed: killed(kafka, tmp_path, seed), range(COURSES))):
            assert told["no_progress"] > KILLS_OF_EACH, f"course {number} stood still too little"
            assert told.total() > told["no_progress"] + KILLS_OF_EACH, f"course {number} broke too little"


def killed(kafka: TestKafka, directory: Path, seed: int) -> Counter[str]:
    draw, signals = random.Random(seed), Signals(seed, pipelines=80, watched=True)
    prefix, own = new_prefix(kafka), directory / str(seed)
    own.mkdir()
    writer, log = Writer(kafka.connection, prefix), Log(kafka.connection, prefix, without=OWN_STORES)
    with starting(kafka, prefix, own) as start:
        monitors = [start("monitor", **HASTY)]
        for kill in range(KILLS_OF_EACH):
            for monitor in monitors:
                monitor.ready()
            writer.tell(*signals.some(draw.randrange(100, 300)))
            if kill % 2:
                monitors.append(start("monitor", **HASTY))
                time.sleep(draw.uniform(0, 3))  # the fault comes anywhere in the rebalance
            writer.tell(*signals.some(draw.randrange(1, 200)))
            time.sleep(draw.uniform(0, 0.1))  # … or anywhere in a step
            victim = monitors.pop(draw.randrange(len(monitors)))
            victim.kill()
            if not monitors:
                victim.start()
                monitors.append(victim)
        told = settle(writer, log)
    log.close()
    return Counter(one["condition"] for one in told)


@pytest.mark.covers("V5")
def test_who_was_away_does_not_miss_the_progress_in_the_backlog(start: StartService, writer: Writer, log: Log) -> None:
    """Deadlines pass while nobody reads; what came on meanwhile is heard first. What stood still is told."""
    monitor = start("monitor", **IMPATIENT)
    monitor.ready()
    agents = [(str(uuid.uuid4()), "agent") for _ in range(6)]

    def say(*data: WatchChanged | ProgressReported, pipeline: str) -> None:
        writer.tell(*(CloudEvent(str(uuid.uuid4()), "runner/1", "acme", pipeline, CLOCK.now_ms(), one) for one in data))

    for pipeline, agent in agents:
        say(WatchChanged(agent_id=agent, attempt=1, watched=True), pipeline=pipeline)
    wait_for("the signals to be observed", lambda: monitor.metric("sluice_signals_observed_total") >= len(agents))
    monitor.kill()
    for turn in range(8):  # four seconds, twice the limit
        time.sleep(0.5)
        for pipeline, agent in agents[1:]:
            say(ProgressReported(agent_id=agent, attempt=1, turn=turn), pipeline=pipeline)
    for pipeline, agent in agents[1:]:
        say(WatchChanged(agent_id=agent, attempt=1, watched=False), pipeline=pipeline)
    monitor.start()
    monitor.ready()
    [alert] = settle(writer, log)
    assert (alert["condition"], alert["agent_id"]) == ("no_progress", "agent")


@pytest.mark.covers("V5", "O4")
def test_a_frozen_monitor_that_wakes_up_repeats_nothing(start: StartService, writer: Writer, log: Log) -> None:
    """It stands still in the middle of a stream, another takes its partitions over, and it goes on where it stood."""
    first, signals = start("monitor", **HASTY), Signals(7, pipelines=60, watched=True)
    first.ready()
    writer.tell(*signals.some(400))
    first.send(signal.SIGSTOP)
    second = start("monitor", **HASTY)
    second.ready()
    writer.tell(*signals.some(400))
    settle(writer, log)
    first.send(signal.SIGCONT)
    writer.tell(*signals.some(400))
    settle(writer, log)
    wait_for("both to own partitions", lambda: first.metric(OWNED) + second.metric(OWNED) == PARTITIONS)
    writer.tell(*signals.some(400))
    assert settle(writer, log)


@pytest.mark.covers("V5", "C2")
def test_what_is_no_signal_is_a_dead_letter_and_delays_nobody(
    kafka: TestKafka, start: StartService, writer: Writer, log: Log, prefix: str
) -> None:
    monitor = start("monitor", **IMPATIENT)
    monitor.ready()
    violation = ViolationReported(policy="egress", severity="CRITICAL")
    events = [CloudEvent(f"v{number}", "siem", "acme", f"p{number}", CLOCK.now_ms(), violation) for number in range(40)]
    bad = [b"", b"{", b"\xff\xfe", b"[" * 10_000, b"null", b'{"policy": 3}']
    for number, event in enumerate(events):
        good = codec.encode(event, topic="signals", key=event.subject)
        writer.write([good, OutgoingRecord("signals", good.key, bad[number % len(bad)], good.headers)])
        if number % 20 == 10:
            for partition in range(PARTITIONS):
                asyncio.run(write_unreadable(kafka.connection, f"{prefix}signals", partition, b"p", b"{}"))
    asyncio.run(write_unreadable(kafka.connection, f"{prefix}budgets", 0, b"installation", b"{}"))
    writer.write([OutgoingRecord("budgets", b"tenant/acme", b"no budget")])
    writer.tell(CloudEvent("last", "siem", "acme", "last", CLOCK.now_ms(), violation))
    assert len(settle(writer, log)) == 41
    refused = 40 + 2 * PARTITIONS

    def letters() -> tuple[int, int]:
        log.catch_up()
        return len(log.records["dlq.signals"]), len(log.records["dlq.budgets"])

    wait_for("all dead letters", lambda: letters() == (refused, 2))
    monitor.kill()
    monitor.start()
    monitor.ready()
    writer.tell(CloudEvent("again", "siem", "acme", "again", CLOCK.now_ms(), violation))
    assert len(settle(writer, log)) == 42
    assert letters() == (refused, 2), "refused again after a crash, each is written once"
    assert monitor.metric("sluice_records_refused_total") == 0


def rewind(kafka: TestKafka, group: str, topic: str) -> None:
    """Has a group begin again, as an operator would."""
    offsets = [TopicPartition(topic, number, 0) for number in range(PARTITIONS)]
    admin = AdminClient(kafka.connection.confluent())
    for future in admin.alter_consumer_group_offsets([ConsumerGroupTopicPartitions(group, offsets)]).values():
        future.result()


@pytest.mark.covers("V5")
def test_budgets_change_while_it_runs(
    kafka: TestKafka, start: StartService, writer: Writer, log: Log, prefix: str
) -> None:
    """Nearest scope first, from the next signal on; rewinding the group has nothing counted anew by other limits."""
    monitor = start("monitor")
    monitor.ready()

    def put(budget: BudgetSet) -> None:
        event = CloudEvent(str(uuid.uuid4()), "runbook", "acme", budget.name or "installation", CLOCK.now_ms(), budget)
        writer.write([codec.encode(event, topic="budgets", key=budget.key)])

    def errors(pipeline: str, count: int, tenant: str = "acme") -> None:
        for _ in range(count):
            error = ErrorReported(code="timeout")
            writer.tell(CloudEvent(str(uuid.uuid4()), "runner/1", tenant, pipeline, CLOCK.now_ms(), error))

    def broken() -> list[str]:
        log.catch_up()
        return [(one.key or b"").decode() for one in log.records["alerts"]]

    def observed(count: int) -> None:
        wait_for("signals to be observed", lambda: monitor.metric("sluice_signals_observed_total") >= count)

    errors("acme-1", 3)
    errors("other-1", 3, "other")
    observed(6)
    put(BudgetSet(scope="tenant", name="acme", errors_per_minute=2))
    put(BudgetSet(scope="pipeline", name="acme-2", errors_per_minute=50))
    wait_for("the limits", lambda: monitor.metric("sluice_budgets_set") == 2)
    assert broken() == []
    errors("acme-1", 1)
    errors("acme-2", 9)
    errors("other-1", 2, "other")
    wait_for("acme-1 to break", lambda: broken() == ["acme-1"])
    observed(18)
    put(BudgetSet(scope="installation", errors_per_minute=0))
    writer.write([OutgoingRecord("budgets", b"pipeline/acme-2", None)])
    wait_for("the limits", lambda: monitor.metric("sluice_budgets_set") == 2)
    monitor.stop()
    rewind(kafka, f"{prefix}monitor", f"{prefix}signals")
    monitor.start()
    monitor.ready()
    time.sleep(1)  # nothing is told by what was observed already
    assert broken() == ["acme-1"]
    errors("other-1", 1, "other")
    wait_for("other-1 to break", lambda: broken() == ["acme-1", "other-1"])
