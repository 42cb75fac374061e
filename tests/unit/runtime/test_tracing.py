"""W3C Trace Context."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice_runtime.tracing import TraceContext, child_of, parse, root

LAWFUL = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.mark.covers("O7")
def test_a_lawful_header_is_read_and_written() -> None:
    context = parse(LAWFUL)
    assert context == TraceContext("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", 1)
    assert context is not None
    assert context.traceparent == LAWFUL


@pytest.mark.parametrize("flags", ["00", "01"])
def test_a_later_version_is_read_as_far_as_it_is_known(flags: str) -> None:
    context = parse(f"cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-{flags}-what-comes-later")
    assert context is not None
    assert context.traceparent == LAWFUL[:-2] + flags


@pytest.mark.parametrize(
    "text",
    [
        None, "", "x", LAWFUL.upper(), LAWFUL + "-more", LAWFUL + "\n", " " + LAWFUL, LAWFUL[:-1], "ff" + LAWFUL[2:],
        "00-" + "0" * 32 + "-00f067aa0ba902b7-01", "00-4bf92f3577b34da6a3ce929d0e0e4736-" + "0" * 16 + "-01",
        "cc" + LAWFUL[2:] + "-" + "x" * 300,
    ],
)  # fmt: skip
def test_what_is_unlawful_begins_a_new_trace(text: str | None) -> None:
    assert parse(text) is None


@pytest.mark.covers("O7")
def test_a_child_is_the_same_whenever_it_is_made() -> None:
    parent = parse(LAWFUL)
    assert parent is not None
    assert parent.child("id", 1) == parent.child("id", 1)
    spans = {parent.child("id", 1).span_id, parent.child("id", 2).span_id, parent.child("id1").span_id, parent.span_id}
    assert len(spans) == 4
    assert parent.child("id").trace_id == parent.trace_id
    assert parent.child("id").flags == parent.flags


@given(st.text())
def test_roots_are_lawful_and_derived(cause_id: str) -> None:
    made = root(cause_id.encode("utf-8", "replace").decode())
    assert parse(made.traceparent) == made
    assert parse(made.child("x").traceparent) == made.child("x")


def test_a_header_that_is_unlawful_has_no_child() -> None:
    assert child_of("x", "id") is None
    parent = parse(LAWFUL)
    assert parent is not None
    assert child_of(LAWFUL, "id") == parent.child("id").traceparent
