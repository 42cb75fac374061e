"""Secrets that strangers write are not in the log, and what is no secret is there byte for byte."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice_contracts import codec
from sluice_observability.adapters.columns import LogColumns
from sluice_observability.domain.secrets import by_strangers, clean_bytes, clean_headers, clean_texts
from sluice_runtime.redaction import redact
from tests.unit.observability.doubles import PREFIX, Message

COMMANDS, LETTERS, EVENTS = "pipeline.commands", "dlq.pipeline.commands", "pipeline.events"
NAMES = {PREFIX + topic: (topic, "i1") for topic in (COMMANDS, LETTERS, EVENTS)}
TOKEN = "sk-canary-0123456789abcdef0123456789"
WORD = "canary" + "0123456789abcdef"
HEADERS = [
    ("ce_id", "i"), ("ce_source", "s"), ("ce_type", "t"), ("ce_subject", "j"), ("ce_tenant", "n"), ("x", "o"),
    ("ce_causationid", "c"), ("traceparent", "p"), ("ce_time", "m"), ("ce_dataschema", "d"),
]  # fmt: skip


def rows_of(*messages: Message) -> list[dict[str, Any]]:
    columns = LogColumns()
    columns.add(messages, NAMES)
    rows: list[dict[str, Any]] = columns.take().to_pylist()
    return rows


def leaks(row: dict[str, Any]) -> list[str]:
    return [
        name for name, value in row.items() if any(one in str(value) for one in (TOKEN, WORD, TOKEN[3:20], WORD[:12]))
    ]


@pytest.mark.covers("O7")
@pytest.mark.parametrize("topic", [COMMANDS, LETTERS, EVENTS])
@pytest.mark.parametrize("secret", [TOKEN, f"password={WORD}"])
def test_a_secret_in_any_attribute_of_a_record_is_in_no_column(topic: str, secret: str) -> None:
    pairs = [(name, secret.encode()) for name, _ in HEADERS]
    plain = Message(topic, 0, 1, b"{}", [(name, text.encode()) for name, text in HEADERS])
    row, neighbour = rows_of(Message(topic, 0, 0, b"{}", pairs, secret.encode()), plain)
    assert leaks(row) == []
    assert "[redacted:" in row["key"]
    assert (row["event_id"], row["trace_id"]) == ("i1/0/0", "")
    assert neighbour == rows_of(plain)[0]


@pytest.mark.covers("O7")
def test_a_header_whose_name_tells_of_a_secret_has_one() -> None:
    pairs = [
        ("authorization", f"Bearer {WORD}"), ("Authorization", WORD), ("x-api-key", WORD), ("Cookie", f"a=b; c={WORD}"),
        ("dlq_original_authorization", f"Basic {WORD}"), ("dlq_detail", f"source 'password={WORD}' is unknown"),
        (TOKEN, "x"), ("note", f"the token: {WORD}"), ("plain", "token_count: 5"), ("empty_token", ""),
    ]  # fmt: skip
    [row] = rows_of(Message(LETTERS, 0, 0, b"{}", [(name, text.encode()) for name, text in pairs]))
    assert leaks(row) == []
    headers = dict(row["headers"])
    assert headers["authorization"] == "[redacted:secret]"
    assert headers["dlq_detail"] == "source 'password=[redacted:password]' is unknown"
    assert (headers["plain"], headers["empty_token"], headers["[redacted:api-key]"]) == ("token_count: 5", "", "x")
    assert len(headers) == len(pairs)


@pytest.mark.covers("O7", "C2")
@pytest.mark.parametrize("topic", [COMMANDS, LETTERS])
def test_a_body_that_is_not_utf8_is_redacted_and_else_the_same_bytes(topic: str) -> None:
    body = b'{"objective": "\xff\x00\xe4", "note": "p\xc3\xa0ss", "password": "%s\xc3\xa0x"}'
    [row] = rows_of(Message(topic, 0, 0, body % WORD.encode()))
    assert row["raw"] == body.replace(b"%s\xc3\xa0x", b"[redacted:password]")
    assert (row["payload"], row["value_bytes"]) == ("", len(body % WORD.encode()))


@pytest.mark.covers("O7", "C1")
def test_a_structured_events_attributes_are_redacted_too() -> None:
    document = {"id": TOKEN, "source": f"password={WORD}", "type": "x", "subject": TOKEN, "data": {"token": WORD}}
    kind = ("content-type", codec.STRUCTURED_CONTENT_TYPE)
    [row] = rows_of(Message(COMMANDS, 0, 0, json.dumps(document).encode(), [kind], TOKEN.encode()))
    assert leaks(row) == []
    assert (row["type"], row["payload"]) == ("x", '{"token": "[redacted:token]"}')


@pytest.mark.parametrize(
    ("topic", "expected"),
    [(COMMANDS, True), (LETTERS, True), ("dlq.agent.events.q", True), (EVENTS, False), ("agent.tasks.q", False)],
)
def test_strangers_are_who_is_no_service(topic: str, expected: bool) -> None:
    assert by_strangers(topic) is expected


@given(st.lists(st.binary(max_size=40) | st.sampled_from([b"password=", TOKEN.encode(), b"authorization: \xff"])))
def test_what_is_no_secret_is_the_same_bytes(values: list[bytes]) -> None:
    assert clean_texts(values) == [clean_bytes(value) for value in values]
    for value in values:
        assert clean_bytes(value) == value or b"[redacted:" in clean_bytes(value)
    together = b"\xff".join(values)
    assert clean_bytes(together) == together or b"[redacted:" in clean_bytes(together)


@given(st.lists(st.tuples(st.text(max_size=8), st.text(max_size=20))))
def test_headers_keep_their_number_and_order(pairs: list[tuple[str, str]]) -> None:
    cleaned = clean_headers(pairs)
    assert len(cleaned) == len(pairs)
    assert all(new == old or "[redacted:" in "".join(new) for new, old in zip(cleaned, pairs, strict=True))


@given(st.text(st.sampled_from("0123456789abcdef-\n"), max_size=400))
def test_no_rule_finds_a_secret_in_what_ids_are_made_of(text: str) -> None:
    """`clean_texts` passes over such texts without asking the rules."""
    assert redact(text) == text
