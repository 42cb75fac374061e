"""Where to read on, and what is missing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice_observability.domain.places import Place, starting_point
from sluice_observability.domain.retrying import Backoff

AT = Place("pipeline.events", "i1", 0)


@pytest.mark.covers("O1")
@pytest.mark.parametrize(
    ("position", "first", "end", "offset", "reason", "missing"),
    [
        (None, 0, 0, 0, None, None),
        (None, 0, 9, 0, None, None),
        (5, 0, 9, 5, None, None),
        (9, 0, 9, 9, None, None),
        (5, 5, 9, 5, None, None),
        (5, 7, 9, 7, "retention", (5, 7)),
        (None, 7, 9, 7, "retention", (0, 7)),
        (9, 0, 7, None, "truncated", (7, 9)),
    ],
)
def test_where_to_read_on(
    position: int | None, first: int, end: int, offset: int | None, reason: str | None, missing: tuple[int, int] | None
) -> None:
    start = starting_point(AT, position, first, end)
    assert start.offset == offset
    assert (start.gap and start.gap.reason) == reason
    assert (start.gap and (start.gap.first_offset, start.gap.next_offset)) == missing


@given(st.none() | st.integers(0, 100), st.integers(0, 100), st.integers(0, 100))
def test_nothing_is_read_twice_and_nothing_skipped_in_silence(position: int | None, first: int, length: int) -> None:
    start = starting_point(AT, position, first, first + length)
    wanted = position or 0
    if start.offset is not None:
        assert start.offset >= wanted
        skipped = start.offset - wanted
        assert skipped == (0 if start.gap is None else start.gap.next_offset - start.gap.first_offset)
    else:
        assert start.gap is not None


def test_waits_grow_and_are_bounded() -> None:
    waits = [Backoff().wait_s(failures) for failures in range(1, 1_000)]
    assert waits == sorted(waits)
    assert (waits[0], waits[-1]) == (0.1, 5.0)
