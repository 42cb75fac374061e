"""Handoff reports on real Kafka: one for each revocation, whoever is killed or frozen, and what it says."""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx
import jsonschema
import pytest
from confluent_kafka import Consumer, TopicPartition

from sluice_contracts import codec, topics
from sluice_contracts.envelope import CloudEvent, Record
from sluice_contracts.handoff import HandoffReport
from sluice_contracts.messages import Message
from tests.contracts.examples import SCHEMAS
from tests.integration.observability.breaches import breach, reported
from tests.integration.observability.conftest import StartService
from tests.integration.observability.support import PARTITIONS, Service, Writer, wait_for
from tests.kafka import TestKafka
from tests.unit.observability.events import Teller

SCHEMA = json.loads((SCHEMAS / "handoff-report.v1.schema.json").read_text())


class Reader:
    """Reads a topic as everybody does: committed records only."""

    def __init__(self, kafka: TestKafka, prefix: str, topic: str) -> None:
        self.found: list[CloudEvent[Message]] = []
        self._topic = topic
        self._consumer = Consumer(
            {
                **kafka.connection.confluent(), "group.id": f"{prefix}reader", "enable.auto.commit": False,
                "isolation.level": "read_committed", "auto.offset.reset": "earliest",
            }
        )  # fmt: skip
        self._consumer.assign([TopicPartition(prefix + topic, number, 0) for number in range(PARTITIONS)])

    def read(self, timeout_s: float = 0.1) -> list[CloudEvent[Message]]:
        for message in self._consumer.consume(1_000, timeout_s):
            assert message.error() is None, message.error()
            record = Record(
                self._topic, message.partition(), message.offset(), message.timestamp()[1], message.key(),
                message.value(), tuple(message.headers()),
            )  # fmt: skip
            self.found.append(codec.decode(record))
        return self.found

    def close(self) -> None:
        self._consumer.close()


@pytest.fixture
def reports(kafka: TestKafka, prefix: str) -> Iterator[Reader]:
    reader = Reader(kafka, prefix, topics.REPORTS.name)
    yield reader
    reader.close()


@pytest.fixture
def api(start: StartService, store: Service) -> Service:
    service = start("api", SLUICE_SQL_URL=store.url)
    service.ready()
    return service


@pytest.mark.covers("O5")
def test_a_revoked_pipeline_is_handed_off(api: Service, store: Service, writer: Writer, reports: Reader) -> None:
    teller = Teller("p1")
    told = breach(teller)
    writer.tell(*told)
    [event] = wait_for("the report", reports.read)
    revoked, data = told[-1], reported(event)
    assert (event.subject, event.tenant, event.causation_id) == ("p1", "acme", revoked.id)
    assert (data.cause, data.cause_id, data.reason, data.errors) == (
        "revocation", revoked.id, "error_budget_exceeded", 6,
    )  # fmt: skip
    assert data.agents_affected == (teller.agent_id,)
    body = httpx.get(f"{api.url}/api/artifacts/{data.report.sha256}").json()
    jsonschema.validate(body, SCHEMA)
    report = HandoffReport.model_validate(body)
    assert (report.complete, report.incomplete_because) == (True, "")
    assert report.summary.errors_by_code == {"provider_unavailable": 6}
    assert report.summary.last_checkpoint is not None
    assert report.summary.last_checkpoint.turn == 1
    assert report.summary.revocation is not None
    assert report.summary.revocation.accessors == ("root.p1", "child.p1")
    assert [one.state for one in report.context.credentials] == ["revoked", "revoked"]
    text = httpx.get(f"{api.url}/api/artifacts/{data.markdown.sha256}").text
    assert text.startswith("# Handoff of pipeline p1\n")
    assert "sealed" not in json.dumps(body) + text
