"""Small state machines that are told the time: the pace of calls, an outage; and a secret that nobody sees."""

from __future__ import annotations

import copy
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice_agent_runner.domain.outage import BACKOFF_MAX_MS, Outage
from sluice_agent_runner.domain.pace import Pace
from sluice_agent_runner.domain.secret import Secret


def fullest(moments: list[int]) -> int:
    """How many are in the fullest minute [s, s + 60 s)."""
    return max((sum(begin <= at < begin + 60_000 for at in moments) for begin in moments), default=0)


IDLE_MS = st.one_of(st.just(0), st.integers(0, 90_000))
CALLS = st.lists(st.tuples(IDLE_MS, IDLE_MS), max_size=12)
"""Of an attempt: how long it does something else before each call, and how long until the call is told."""

PLACE = st.tuples(st.integers(0, 90_000), st.lists(st.tuples(IDLE_MS, CALLS), max_size=12))
"""When its first attempt begins; of each attempt how long after the one before it begins, and its calls."""


@pytest.mark.covers("V5")
@given(limit=st.integers(1, 120), places=st.lists(PLACE, min_size=1, max_size=4))
def test_whoever_follows_whom_no_minute_has_more_calls_than_the_limit(
    limit: int, places: list[tuple[int, list[tuple[int, list[tuple[int, int]]]]]]
) -> None:
    """Each place has its share of the limit; by when calls go out, and by when they are told."""
    share = max(1, limit // len(places))
    begun, told = list[int](), list[int]()
    for now_ms, attempts in places:
        for idle_ms, calls in attempts:
            now_ms += idle_ms
            pace = Pace(now_ms, share)
            for before_ms, lasts_ms in calls:
                now_ms += before_ms
                now_ms += pace.wait_ms(now_ms)
                assert pace.wait_ms(now_ms) == 0
                pace.called(now_ms)
                begun.append(now_ms)
                now_ms += lasts_ms
                pace.told(now_ms)
                told.append(now_ms)
    assert max(fullest(begun), fullest(told)) <= share * len(places)


@pytest.mark.covers("V5")
@pytest.mark.parametrize("rate", [1, 7, 20, 100, 600])
@pytest.mark.parametrize("each", [1, 3, 50])
def test_a_place_makes_use_of_its_share(rate: int, each: int) -> None:
    """Calls that take no time, in attempts of so many: as many as may be within a minute, or one less by rounding."""
    now_ms, calls = 0, list[int]()
    while now_ms < 120_000:
        pace = Pace(now_ms, rate)
        for _ in range(each):
            now_ms += pace.wait_ms(now_ms)
            pace.called(now_ms)
            calls.append(now_ms)
    assert rate - 1 <= fullest(calls) <= rate


@pytest.mark.covers("V5")
def test_a_pace_is_replaced_by_a_later_one_and_counts_from_the_last_call() -> None:
    pace = Pace(0)
    assert pace.wait_ms(1) == 0, "nobody has set one"
    pace.called(1_000)
    pace.limit(1)
    assert pace.wait_ms(2_000) == 59_000
    pace.told(3_000)
    assert pace.wait_ms(3_000) == 60_000
    pace.limit(60)
    assert pace.wait_ms(4_000) == 0
    pace.limit(7)
    assert pace.wait_ms(3_000) == 8_572, "rounded up: seven such waits are no less than a minute"


@pytest.mark.covers("V5")
def test_the_first_call_waits_too_for_another_may_just_have_called() -> None:
    assert Pace(5_000, 60).wait_ms(5_000) == 1_000
    pace = Pace(5_000)
    pace.limit(60)
    assert pace.wait_ms(5_400) == 600, "throttled before it called"


@pytest.mark.covers("V8")
def test_while_it_is_away_one_asks_and_the_others_wait() -> None:
    outage = Outage()
    assert outage.wait_ms(0) == outage.wait_ms(0) == 0
    outage.failed(0)
    assert outage.away
    waits = []
    now_ms = 0
    for _ in range(10):
        now_ms += outage.wait_ms(now_ms)
        assert outage.wait_ms(now_ms) == 0
        assert outage.wait_ms(now_ms) > 0, "another one asks already"
        outage.failed(now_ms)
        waits.append(outage.wait_ms(now_ms))
    assert waits == sorted(waits)
    assert waits[-1] == BACKOFF_MAX_MS
    outage.worked()
    assert outage.wait_ms(now_ms) == 0
    assert not outage.away


@pytest.mark.covers("V8")
def test_one_who_asks_and_never_comes_back_is_followed_by_another() -> None:
    outage = Outage()
    outage.failed(0)
    assert outage.wait_ms(1_000) == 0
    assert 0 < outage.wait_ms(1_001) <= BACKOFF_MAX_MS
    assert outage.wait_ms(1_001 + BACKOFF_MAX_MS) == 0


@pytest.mark.covers("V4")
def test_a_secret_shows_itself_to_nobody() -> None:
    secret = Secret("hvs.canary")
    shown = [
        repr(secret),
        str(secret),
        f"{secret}",
        f"{secret!r:>40}",
        repr([secret]),
        repr({"a": secret}),
        f"{secret:x}",
    ]
    assert not any("canary" in text for text in shown)
    for way in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="neither pickled nor copied"):
            way(secret)
    assert secret.reveal() == "hvs.canary"
