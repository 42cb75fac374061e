"""`sluice budgets` on a real installation: limits that are set count, and a breach is a row."""

from __future__ import annotations

import uuid

import pytest
from confluent_kafka import Producer

from sluice_contracts import codec
from sluice_contracts.envelope import CloudEvent
from sluice_contracts.messages.signal import ErrorReported
from sluice_runtime.connection import KafkaConnection
from tests.integration.client.sluice import Sluice, until


def report_error(sluice: Sluice, pipeline: str, tenant: str) -> None:
    """As another system would."""
    connection = KafkaConnection.from_file(sluice.data / "credentials" / "operator.json")
    event = CloudEvent(str(uuid.uuid4()), "test", tenant, pipeline, 1 << 42, ErrorReported(code="timeout"))
    record = codec.encode(event, topic="signals", key=pipeline)
    producer = Producer({**connection.confluent(), "partitioner": "murmur2_random"})
    producer.produce("sluice.signals", record.value, record.key, headers=list(record.headers))
    assert producer.flush(30) == 0


@pytest.mark.covers("V5", "O4")
def test_limits_that_are_set_count(sluice: Sluice) -> None:
    pipeline, tenant = str(uuid.uuid4()), f"tenant-{uuid.uuid4().hex[:8]}"
    sluice.ok("budgets", "set", "--tenant", tenant, "--errors-per-minute", "0", "--progress-timeout-s", "90")
    sluice.ok("budgets", "set", "--pipeline", pipeline, "--api-calls-per-minute", "7")

    def listed() -> dict[str, dict[str, object]]:
        return {one["scope"]: one for one in sluice.ok("budgets", "list", "--json").json}

    until(lambda: {f"tenant/{tenant}", f"pipeline/{pipeline}"} <= listed().keys(), "both scopes in the log")
    limits = listed()[f"tenant/{tenant}"]
    assert (limits["errors_per_minute"], limits["api_calls_per_minute"], limits["progress_timeout_s"]) == (0, None, 90)
    assert f"pipeline/{pipeline}" in sluice.ok("budgets", "list").out

    report_error(sluice, pipeline, tenant)
    query = "SELECT JSONExtractString(payload, 'condition') AS condition FROM events WHERE type = 'alert.raised'"
    asked = ("sql", f"{query} AND pipeline_id = {{id:String}}", "-p", f"id={pipeline}", "--json")
    until(lambda: sluice.ok(*asked).json == [{"condition": "error_budget_exceeded"}], "the alert in SQL")

    sluice.ok("budgets", "set", "--tenant", tenant, "--clear")
    until(lambda: f"tenant/{tenant}" not in listed(), "the scope to be cleared")


@pytest.mark.parametrize(
    "arguments",
    [(), ("--clear", "--errors-per-minute", "1"), ("--tenant", "a", "--pipeline", "b", "--errors-per-minute", "1"),
     ("--tenant", "a b", "--errors-per-minute", "1")],
)  # fmt: skip
def test_what_makes_no_sense_is_not_written(sluice: Sluice, arguments: tuple[str, ...]) -> None:
    refused = sluice("budgets", "set", *arguments)
    assert refused.code == 2
