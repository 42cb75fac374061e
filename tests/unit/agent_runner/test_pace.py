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


@pytest.mark.covers("V5")
@given(st.integers(1, 6_000), st.lists(st.integers(0, 90_000), max_size=50))
def test_no_minute_holds_more_calls_than_it_may(rate: int, idle_ms: list[int]) -> None:
    pace, now_ms, calls = Pace(), 0, []
    pace.limit(rate)
    for idle in idle_ms:
        now_ms += idle
        now_ms += pace.wait_ms(now_ms)
        assert pace.wait_ms(now_ms) == 0
        pace.called(now_ms)
        calls.append(now_ms)
    for begin in calls:
        assert sum(begin <= at < begin + 60_000 for at in calls) <= rate


@pytest.mark.covers("V5")
def test_a_pace_is_replaced_by_a_later_one_and_counts_from_the_last_call() -> None:
    pace = Pace()
    pace.called(0)
    assert pace.wait_ms(1) == 0, "nobody has set one"
    pace.limit(1)
    assert pace.wait_ms(1_000) == 59_000
    pace.limit(60)
    assert pace.wait_ms(1_000) == 0
    assert Pace(7).wait_ms(0) == 0, "the first call waits for none"
    pace.limit(7)
    assert pace.wait_ms(0) == 8_572, "rounded up: seven such waits are no less than a minute"


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
