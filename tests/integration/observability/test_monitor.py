"""The monitor as it runs, on real Kafka: what it tells is what the oracle tells, whoever is killed meanwhile."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator

import pytest

from tests.integration.observability.budgets import OWN_STORES, Signals, now_ms, raised, wanted
from tests.integration.observability.conftest import StartService
from tests.integration.observability.support import Writer, wait_for
from tests.kafka import TestKafka
from tests.log import Log
from tests.unit.observability.budget_oracle import Told

HASTY = {"SLUICE_SESSION_TIMEOUT_MS": "3000"}
KILLS = 20


@pytest.fixture
def log(kafka: TestKafka, prefix: str) -> Iterator[Log]:
    reading = Log(kafka.connection, prefix, without=OWN_STORES)
    yield reading
    reading.close()


LONG_AFTER_MS = 10**8
"""All progress that is missing then is missing for ever."""


def settle(log: Log, **limits: int) -> list[Told]:
    """What the oracle wants of all that was written; waits until it is told, and nothing else is."""
    log.catch_up()
    right = wanted(log, now_ms() + LONG_AFTER_MS, **limits)
    ids = {one["id"] for one in right}

    def all_told() -> bool:
        log.catch_up()
        return ids <= {one["id"] for one in raised(log)}

    wait_for("all alerts", all_told)
    assert raised(log) == right, "no other breaches, none twice, and the same contents"
    return right


@pytest.mark.covers("V5", "O4")
def test_what_is_told_is_what_the_oracle_tells(start: StartService, writer: Writer, log: Log) -> None:
    monitor = start("monitor", SLUICE_PROGRESS_TIMEOUT_S="2")
    monitor.ready()
    signals = Signals(1, watched=True)
    for _ in range(8):
        writer.tell(*signals.some(100))
    found = settle(log, progress_ms=2_000)
    assert {one["condition"] for one in found} == {
        "error_budget_exceeded", "api_call_budget_exceeded", "no_progress", "policy_violation"
    }  # fmt: skip
    assert {one["action"] for one in found} == {"revoke_pipeline", "revoke_agent", "throttle"}
    assert monitor.stop() == 0


@pytest.mark.covers("V5", "O4")
def test_each_breach_is_told_once_through_kills_and_rebalances(start: StartService, writer: Writer, log: Log) -> None:
    """Twenty kills at random moments of a stream, every third with a second monitor beside, which goes or stays."""
    draw, signals = random.Random(5), Signals(5, pipelines=60)
    monitors = [start("monitor", **HASTY, SLUICE_INSTANCE_ID="first")]
    monitors[0].ready()
    for kill in range(KILLS):
        writer.tell(*signals.some(draw.randrange(1, 120)))
        if kill % 3 == 2:
            monitors.append(start("monitor", **HASTY))
        time.sleep(draw.uniform(0, 1.5))  # the fault comes anywhere in the course of a life
        writer.tell(*signals.some(draw.randrange(1, 60)))
        time.sleep(draw.uniform(0, 0.05))
        victim = draw.choice(monitors)
        victim.kill()
        if len(monitors) > 1 and draw.random() < 0.7:
            monitors.remove(victim)
        else:
            victim.start()
    settle(log)
