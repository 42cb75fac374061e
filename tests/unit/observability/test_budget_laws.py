"""Counting breaches against the oracle: whatever comes, in whatever order, however often and late."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sluice_contracts.envelope import CloudEvent
from sluice_contracts.messages import Message
from sluice_contracts.messages.signal import ErrorReported, ProgressReported, ViolationReported, WatchChanged
from sluice_observability.domain.budget_limits import Limits
from sluice_observability.domain.budget_state import FORGET_MS, Pipeline, Signal, decode, encode
from sluice_observability.domain.budgets import due, next_look_ms, observe, settle
from tests.unit.observability.budget_oracle import Heard, Told, expected, told

PIPELINE = "pipeline-1"
TENANTS = ["acme", "acme", "other", "system"]
SOURCES = st.sampled_from(["test", "spawner/1"])
START = 1_800_000_000_000

AGENTS = st.sampled_from(["a", "a", "b"])
EDGES = [0, 0, 1, 30_000, 59_999, 60_000, 60_001, 69_999, 70_000, 70_001, 130_000, 300_000, 300_001, 360_000]
"""Where windows, grace and lateness begin and end, from one signal to another."""

CALLS = st.sampled_from([0, 1, 50, 51, 101])
ERRORS = st.builds(ErrorReported, code=st.just("timeout"), api_calls=st.sampled_from([0, 0, 0, 51]))
PROGRESS = st.builds(
    ProgressReported, agent_id=AGENTS, attempt=st.sampled_from([1, 1, 2]), turn=st.integers(0, 3), api_calls=CALLS
)
WATCHES = st.builds(WatchChanged, agent_id=AGENTS, attempt=st.sampled_from([1, 1, 2]), watched=st.booleans())
VIOLATIONS = st.builds(ViolationReported, policy=st.just("p"), severity=st.sampled_from(["LOW", "HIGH", "CRITICAL"]))
ALL = [ERRORS, ERRORS, PROGRESS, PROGRESS, WATCHES, WATCHES, VIOLATIONS]
KINDS = st.sampled_from([[ERRORS], [PROGRESS], [WATCHES], [PROGRESS, WATCHES], ALL, ALL])
LIMITS = [(5, 100, 60_000), (2, 100, 60_000), (1, 50, 60_000), (0, 30, 20_000), (3, 0, 30_000), (6_000, 6_000, 90_000)]


@st.composite
def streams(draw: st.DrawFn, *, changing: bool = False, mixed: bool = False) -> list[Heard]:
    """Records of a pipeline as Kafka has them: late, out of order, repeated, some from the future; `mixed` tenants."""
    kinds = draw(KINDS)
    moments = st.sampled_from(draw(st.lists(st.sampled_from(EDGES), min_size=1, max_size=4)))
    data: st.SearchStrategy[Message] = st.sampled_from(kinds).flatmap(lambda kind: kind)
    tenants = st.sampled_from(TENANTS if mixed else ["acme"])
    each = st.tuples(moments, data, st.sampled_from([None, 0, 1]), SOURCES, tenants)
    events = [
        CloudEvent(f"e{number:02}", source, tenant, PIPELINE, START + at, one, sequence=sequence)
        for number, (at, one, sequence, source, tenant) in enumerate(draw(st.lists(each, min_size=1, max_size=12)))
    ]
    limits = st.sampled_from(draw(st.lists(st.sampled_from(LIMITS), min_size=1, max_size=3 if changing else 1)))
    appended, stream = START, []
    for event in draw(st.one_of(st.permutations(events), st.lists(st.sampled_from(events), min_size=1, max_size=20))):
        appended = max(appended, event.time_ms + draw(st.sampled_from([0, 0, 0, -20_000, 300_000, 300_001])))
        stream.append(Heard(event, appended, *draw(limits)))
    return stream


def run(stream: Sequence[Heard], heard_ms: int, looks: Sequence[int] = (), *, stored: bool = False) -> list[Told]:
    """What the monitor's functions tell, looking at timers before the records of these numbers, too."""
    pipeline, found = Pipeline(), []
    for number, one in enumerate(stream):
        limits = Limits(one.errors, one.calls, one.progress_ms)
        if number in looks:
            outcome = due(pipeline, PIPELINE, one.appended_ms, limits)
            pipeline, found = settle(outcome.pipeline, one.appended_ms) or Pipeline(), [*found, *outcome.alerts]
        pipeline, alerts, _ = observe(pipeline, Signal(one.event, one.appended_ms), limits)
        found += alerts
        pipeline = decode(encode(pipeline)) if stored else pipeline
    found += due(pipeline, PIPELINE, heard_ms, Limits(progress_timeout_ms=stream[-1].progress_ms)).alerts
    return [told(alert) for alert in found]


@pytest.mark.covers("V5", "O4")
@settings(max_examples=600)
@given(
    stream=streams(changing=True, mixed=True),
    more=st.sampled_from([0, 1, 60_999, 61_000, 61_001, 61_002, 100_000]),
    data=st.data(),
)
def test_what_is_told_is_what_the_oracle_tells(stream: list[Heard], more: int, data: st.DataObject) -> None:
    """No false and no missed breach, the same contents in the same order, whenever timers are looked at."""
    heard_ms = stream[-1].appended_ms + more
    looks = data.draw(st.lists(st.integers(0, len(stream)), max_size=6))
    right = expected(stream, heard_ms, stream[-1].progress_ms)
    assert run(stream, heard_ms) == right
    assert run(stream, heard_ms, looks, stored=True) == right


@pytest.mark.covers("V5")
@settings(max_examples=300)
@given(stream=streams(), data=st.data())
def test_neither_order_nor_repetition_matters_to_whether_errors_break(stream: list[Heard], data: st.DataObject) -> None:
    """A statement about a set: of records that are not late, in any order, the first window or none is too full."""
    last = max(one.appended_ms for one in stream)
    errors = [
        Heard(one.event, last, one.errors, calls=10_000)
        for one in stream
        if isinstance(one.event.data, ErrorReported) and last - one.event.time_ms <= 300_000
    ]
    shuffled = [*data.draw(st.permutations(errors)), *data.draw(st.permutations(errors))]
    first, second = (run(order, last) if order else [] for order in (errors, shuffled))
    assert [one["id"] for one in first] == [one["id"] for one in second]


@pytest.mark.covers("V5")
@settings(max_examples=500)
@given(stream=streams(), more=st.sampled_from([0, 1, 60_999, 61_000, 61_001, 61_002, 100_000]), data=st.data())
def test_signals_that_are_read_again_after_a_crash_tell_nothing_new(
    stream: list[Heard], more: int, data: st.DataObject
) -> None:
    """The table may be further than the group's offset: what lies between is observed twice."""
    pipeline = Pipeline()
    alerts = []
    for one in stream:
        pipeline, new, _ = observe(
            pipeline, Signal(one.event, one.appended_ms), Limits(one.errors, one.calls, one.progress_ms)
        )
        alerts += new
    again = data.draw(st.integers(0, len(stream)))
    for one in (one for one in stream[again:] if one.appended_ms >= pipeline.since_ms):  # of this life
        after, new, _ = observe(
            pipeline, Signal(one.event, one.appended_ms), Limits(one.errors, one.calls, one.progress_ms)
        )
        assert new == ()
        assert after is pipeline


@settings(max_examples=300)
@given(stream=streams(changing=True, mixed=True))
def test_between_looks_there_is_nothing_to_do(stream: list[Heard]) -> None:
    pipeline = Pipeline()
    for one in stream:
        limits = Limits(one.errors, one.calls, one.progress_ms)
        pipeline = observe(pipeline, Signal(one.event, one.appended_ms), limits).pipeline
        look_ms = next_look_ms(pipeline, limits)
        assert due(pipeline, PIPELINE, look_ms - 1, limits).alerts == ()
        assert settle(pipeline, look_ms - 1) is pipeline
        outcome = due(pipeline, PIPELINE, look_ms, limits)
        assert outcome.alerts or settle(pipeline, look_ms) is not pipeline
    assert settle(pipeline, pipeline.heard_ms + FORGET_MS) is None


@settings(max_examples=300)
@given(stream=streams())
def test_the_state_is_kept_whole(stream: list[Heard]) -> None:
    pipeline = Pipeline()
    for one in stream:
        pipeline = observe(pipeline, Signal(one.event, one.appended_ms), Limits()).pipeline
        assert decode(encode(pipeline)) == pipeline
