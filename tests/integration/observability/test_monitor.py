"""The monitor as it runs, on real Kafka: what it tells is what the oracle tells, whoever is killed meanwhile."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.observability.budgets import OWN_STORES, Signals, now_ms, raised, wanted
from tests.integration.observability.conftest import StartService
from tests.integration.observability.support import Writer, wait_for
from tests.kafka import TestKafka
from tests.log import Log


@pytest.fixture
def log(kafka: TestKafka, prefix: str) -> Iterator[Log]:
    reading = Log(kafka.connection, prefix, without=OWN_STORES)
    yield reading
    reading.close()


def settled(log: Log, **limits: int) -> bool:
    """Whether the topic has what the oracle wants by now."""
    log.catch_up()
    return {one["id"] for one in wanted(log, now_ms(), **limits)} <= {one["id"] for one in raised(log)}


@pytest.mark.covers("V5", "O4")
def test_what_is_told_is_what_the_oracle_tells(start: StartService, writer: Writer, log: Log) -> None:
    monitor = start("monitor", SLUICE_PROGRESS_TIMEOUT_S="2")
    monitor.ready()
    signals = Signals(1, watched=True)
    for _ in range(8):
        writer.tell(*signals.some(100))
    wait_for("all alerts", lambda: settled(log, progress_ms=2_000))
    found = raised(log)
    assert found == wanted(log, now_ms(), progress_ms=2_000)
    assert {one["condition"] for one in found} == {
        "error_budget_exceeded", "api_call_budget_exceeded", "no_progress", "policy_violation"
    }  # fmt: skip
    assert monitor.stop() == 0
