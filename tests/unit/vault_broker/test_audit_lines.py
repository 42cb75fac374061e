"""Lines, however their bytes come; and what is taken of an entry, by an allow-list."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice_contracts import codec
from sluice_contracts.envelope import CloudEvent, OutgoingRecord, Record
from sluice_contracts.messages import Message
from sluice_contracts.messages.audit import AuditLineRefused, VaultUsed
from sluice_vault_broker.audit.domain.lines import Line, Position, take
from sluice_vault_broker.audit.domain.rotation import Lost, Taken
from sluice_vault_broker.audit.domain.telling import Teller
from tests.unit.vault_broker.audit_entries import AGENT, CANARY, HMAC, PIPELINE, TOKEN, entry, line

FILE = "0" * 64
LINE_MAX = 8
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def decoded(record: OutgoingRecord) -> CloudEvent[Message]:
    return codec.decode(Record(record.topic, 0, 0, 1, record.key, record.value, record.headers))


def told(*bodies: bytes, installation: str = "sluice.") -> list[CloudEvent[Message]]:
    lines = [Line(FILE, 1_000 * number, body) for number, body in enumerate(bodies)]
    return [decoded(one) for one in Teller(installation).tell(Taken(Position(FILE, 1), lines), 5).records]


def used(**changes: Any) -> VaultUsed:
    [event] = told(line(1, **changes))
    assert isinstance(event.data, VaultUsed)
    return event.data


@given(st.lists(st.binary(max_size=12).map(lambda one: one.replace(b"\n", b"")), max_size=8), st.data())
def test_lines_are_the_same_however_the_bytes_come(bodies: list[bytes], data: st.DataObject) -> None:
    content = b"".join(body + b"\n" for body in bodies) + data.draw(st.sampled_from([b"", b"half"]))
    position, found, there = Position(FILE, 1), [], 0
    while there < len(content):  # the file grows by some bytes, and is read from the position on
        there += data.draw(st.integers(1, 10))
        lines, position = take(position, content[position.offset : there], LINE_MAX)
        found += lines
    assert [one.body for one in found] == [body[:LINE_MAX] for body in bodies]
    assert [one.fault for one in found] == ["too_large" if len(body) > LINE_MAX else None for body in bodies]
    assert all(content[one.offset :].startswith(one.body) for one in found)
    assert position.offset == len(content.rpartition(b"\n")[0]) + (1 if bodies else 0)
    assert not position.in_line


@pytest.mark.covers("V7")
def test_a_use_is_told_with_who_what_and_how_long() -> None:
    late = "2026-11-21T09:26:44.001535456Z"
    [event] = told(line(1, "request"), line(1, time=late))
    assert (event.subject, event.tenant, event.source) == (PIPELINE, "acme", "vault-audit")
    assert codec.format_time(event.time_ms) == "2026-11-21T09:26:44.001Z"
    message = event.data
    assert isinstance(message, VaultUsed)
    assert message.model_dump(exclude_defaults=True) == {
        "place": {"file": FILE, "offset": 1_000, "size_bytes": len(line(1, time=late))},
        "request_id": "request-1", "operation": "read", "path": "secret/data/api-keys/openrouter", "mount_type": "kv",
        "outcome": "done", "accessor": "8Yk3nD2pQx7VbT1sW5mZr4Lc", "token_hmac": HMAC,
        "made_accessor": "9Zk3nD2pQx7VbT1sW5mZr4Lc", "display_name": "token-sluice",
        "policies": ("sluice-parent", "pipeline-agent"), "agent_id": AGENT, "attempt": 2,
        "remote_address": "127.0.0.1", "latency_us": 412,
    }  # fmt: skip
    assert used().latency_us is None, "its request was not seen"


@pytest.mark.covers("V4", "V7")
def test_nothing_but_what_the_list_allows_comes_through() -> None:
    records = Teller("sluice.").tell(Taken(Position(FILE, 1), [Line(FILE, 0, line(1))]), 5).records
    texts = [part for record in records for part in (record.key, record.value, *dict(record.headers).values())]
    assert not [text for text in texts if CANARY.encode() in (text or b"")]
    # A device with log_raw, a token in an old path, in an error, in a name.
    raw = entry(2)
    raw["request"] |= {"client_token": TOKEN, "path": f"auth/token/lookup/{TOKEN}"}
    raw["auth"] |= {"display_name": TOKEN, "accessor": TOKEN, "metadata": {"pipeline_id": TOKEN}}
    raw["error"] = f"token={TOKEN} is none"
    records = Teller("sluice.").tell(Taken(Position(FILE, 1), [Line(FILE, 0, json.dumps(raw).encode())]), 5).records
    texts = [part for record in records for part in (record.key, record.value, *dict(record.headers).values())]
    assert not [text for text in texts if b"hvs." in (text or b"")]
    message = decoded(records[0]).data
    assert isinstance(message, VaultUsed)
    assert message.token_hmac is None
    assert message.path == "auth/token/lookup/[redacted:vault-token]"


@pytest.mark.covers("V7")
def test_what_vault_refuses_is_told_too() -> None:
    ended = "2 errors occurred:\n\t* permission denied\n\t* invalid token\n\n"
    request = {"id": "r", "operation": "read", "path": "p", "client_token": HMAC}
    unknown = used(auth=None, request=request, error=ended)
    assert (unknown.outcome, unknown.accessor, unknown.token_hmac) == ("refused", None, HMAC)
    assert used(error="1 error occurred:\n\t* permission denied\n\n").outcome == "refused"
    assert used(error="no such key").outcome == "failed"
    denied = entry(1)["auth"] | {"policy_results": {"allowed": False}}
    assert used(auth=denied).outcome == "refused"
    [event] = told(line(1, auth=None, request=request, error=ended))
    assert (event.subject, event.tenant) == ("installation", "system")


def test_another_installation_s_uses_are_for_its_own_log() -> None:
    assert told(line(1), installation="other.") == []
    nobody = entry(1)["auth"] | {"metadata": {"installation": "sluice."}}
    [event] = told(line(1, auth=nobody), installation="other.")
    assert event.subject == "installation", "who is no pipeline is told everywhere"


@pytest.mark.covers("C2", "V7")
@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "not_json"), (b'{"type": "resp', "not_json"), (b"\x00" * 9, "not_json"), (b"[" * 100_000, "not_json"),
        (b'{"a": ' + b"9" * 5_000 + b"}", "not_json"), (b'{"type": "\xff"}', "not_utf8"), (b"[1]", "no_entry"),
        (line(1, "other"), "no_entry"), (line(1, request=None), "no_entry"), (line(1, time="yesterday"), "no_entry"),
        (line(1, time=None), "no_entry"), (line(1, time="2026-11-21T09:26:44"), "no_entry"),
    ],
)  # fmt: skip
def test_a_line_that_can_t_be_read_is_told_by_its_place(body: bytes, reason: str) -> None:
    before, refused, after = told(line(1), body, line(2))
    assert isinstance(before.data, VaultUsed)
    assert isinstance(after.data, VaultUsed)
    assert isinstance(refused.data, AuditLineRefused)
    assert (refused.data.reason, refused.data.place.offset) == (reason, 1_000)
    assert refused.data.place.size_bytes == len(body)
    assert refused.subject == "installation"


@given(st.dictionaries(st.sampled_from(["auth", "request", "response", "time", "type", "error"]), JSON), st.data())
def test_whatever_an_entry_holds_it_is_one_lawful_record(changes: dict[str, Any], data: st.DataObject) -> None:
    base = entry(1)
    for name in ("request", "auth"):
        base[name] |= data.draw(st.dictionaries(st.sampled_from(sorted(base[name])), JSON))
    if isinstance(base["auth"]["metadata"], dict):
        base["auth"]["metadata"] |= data.draw(
            st.dictionaries(st.sampled_from(["tenant", "pipeline_id", "attempt"]), JSON)
        )
    base |= changes
    assert len(told(json.dumps(base).encode())) == (0 if base["type"] == "request" else 1)


def test_a_file_that_is_lost_is_told() -> None:
    [record] = Teller("sluice.").tell(Taken(Position(FILE, 1), lost=Lost(FILE, 77)), 5).records
    event = decoded(record)
    assert (event.type, event.data.model_dump()["offset"]) == ("audit.lines_lost", 77)
