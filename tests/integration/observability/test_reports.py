"""Handoff reports on real Kafka: one for each revocation, whoever is killed or frozen, and what it says."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator

import httpx
import jsonschema
import pytest

from sluice_contracts import topics
from sluice_contracts.handoff import HandoffReport
from tests.contracts.examples import SCHEMAS
from tests.integration.observability.conftest import StartService
from tests.integration.observability.reading import Reader
from tests.integration.observability.support import Service, Writer, wait_for
from tests.kafka import TestKafka
from tests.unit.observability.breaches import breach, reported
from tests.unit.observability.events import Teller

SCHEMA = json.loads((SCHEMAS / "handoff-report.v1.schema.json").read_text())


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


@pytest.mark.covers("O5", "O1")
def test_a_clickhouse_that_hangs_takes_nothing_from_the_report(
    api: Service, store: Service, writer: Writer, reports: Reader
) -> None:
    store.send(signal.SIGSTOP)
    try:
        writer.tell(*breach(Teller("p1")))
        [event] = wait_for("the report", reports.read)
        report = HandoffReport.model_validate(
            httpx.get(f"{api.url}/api/artifacts/{reported(event).report.sha256}").json()
        )
        assert (reported(event).complete, report.complete) == (True, True)
        assert report.summary.errors == 6
    finally:
        store.send(signal.SIGCONT)
    rows = "SELECT complete, errors FROM handoff_reports"
    assert wait_for("the log to have it", lambda: store.sql(rows)) == [{"complete": True, "errors": 6}]
