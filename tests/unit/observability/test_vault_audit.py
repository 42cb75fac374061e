"""Vault's audit file as analysts see it: whose token it was, also after its end; what can't be read."""

from __future__ import annotations

import pytest

from sluice_contracts.envelope import OutgoingRecord
from sluice_observability.adapters.clickhouse import ClickHouse
from sluice_vault_broker.audit.domain.lines import Line, Position
from sluice_vault_broker.audit.domain.rotation import Lost, Taken
from sluice_vault_broker.audit.domain.telling import Teller as AuditTeller
from tests.unit.observability.breaches import Safeguard
from tests.unit.observability.doubles import Message
from tests.unit.observability.events import Teller, spawning
from tests.unit.observability.test_views import EXAMPLES, stored
from tests.unit.vault_broker.audit_entries import AGENT, HMAC, PIPELINE, entry, line

FILE = "a" * 64
REFUSED = "2 errors occurred:\n\t* permission denied\n\t* invalid token\n\n"


def messages_of(records: list[OutgoingRecord], first: int = 0) -> list[Message]:
    return [
        Message(one.topic, 0, first + number, one.value, one.headers, one.key, 1_790_000_000_000 + number)
        for number, one in enumerate(records)
    ]


def after_its_end(number: int, hmac: str) -> bytes:
    request = {"id": f"late-{number}", "operation": "read", "path": "secret/data/x", "client_token": hmac}
    return line(number, auth=None, request=request, error=REFUSED)


def told(*bodies: bytes, lost: Lost | None = None) -> list[OutgoingRecord]:
    lines = [Line(FILE, 1_000 * number, body) for number, body in enumerate(bodies)]
    return AuditTeller("sluice.").tell(Taken(Position(FILE, 1), lines, lost), 1_790_000_000_000).records


@pytest.mark.covers("V7", "O2")
def test_a_use_after_the_token_s_end_is_known_by_an_earlier_one(engine: ClickHouse) -> None:
    broker = entry(5)["auth"] | {"metadata": {"role_name": "vault-broker"}, "accessor": "b", "display_name": "approle"}
    records = told(
        line(1, "request"), line(1), after_its_end(2, HMAC), after_its_end(3, "hmac-sha256:nobody"),
        line(4, auth=broker, error="no such key", request=entry(4)["request"] | {"client_token": "hmac-sha256:broker"}),
    )  # fmt: skip
    # The whole of it again, as after a topic was read from its beginning: each use is one row all the same.
    stored(engine, [], *messages_of(records), *messages_of(records, first=len(records)))
    query = "SELECT tenant, pipeline_id, agent_id, attempt, outcome, accessor, known_by FROM vault_audit ORDER BY at"
    accessor = entry(1)["auth"]["accessor"]
    assert engine.rows(query) == [
        ("acme", PIPELINE, AGENT, 2, "done", accessor, "token"),
        ("acme", PIPELINE, AGENT, 2, "refused", accessor, "earlier_use"),
        ("system", "", "", 0, "refused", "", ""),
        ("system", "", "", 0, "failed", "b", "token"),
    ]
    [row] = engine.rows("SELECT latency_ms, operation, made_accessor FROM vault_audit WHERE outcome = 'done'")
    assert row == (0.0, "read", entry(1)["response"]["auth"]["accessor"])
    assert engine.rows("SELECT count() FROM vault_audit WHERE latency_ms IS NULL") == [(3,)]


@pytest.mark.covers("V7", "C2")
def test_what_can_t_be_read_or_is_gone_stands_apart(engine: ClickHouse) -> None:
    stored(engine, [], *messages_of(told(b"\xff", lost=Lost("b" * 64, 77))))
    assert engine.rows("SELECT type, file, offset, reason FROM vault_audit_faults ORDER BY type") == [
        ("audit.line_refused", FILE, 0, "not_utf8"), ("audit.lines_lost", "b" * 64, 77, ""),
    ]  # fmt: skip
    assert engine.rows("SELECT count() FROM vault_audit") == [(0,)]


@pytest.mark.covers("V7", "O2")
def test_the_examples_show_the_uses_of_one_token(engine: ClickHouse) -> None:
    safeguard = Safeguard(Teller(PIPELINE))
    accessor = entry(1)["auth"]["accessor"]
    safeguard.child = accessor
    granted = [*spawning(safeguard.teller), *safeguard.granted(), safeguard.revoked()]
    stored(engine, granted, *messages_of(told(line(1), after_its_end(2, HMAC))))
    asked = [example for example in EXAMPLES if "vault_audit" in example and "token_lives" in example]
    assert asked
    for example in asked:
        rows = engine.rows(example.replace("{pipeline:String}", f"'{PIPELINE}'"))
        assert [row for row in rows if "refused" in row], example
