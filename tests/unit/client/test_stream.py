"""The live stream's connections: made again, and not faster than the api can bear."""

from __future__ import annotations

import json

import pytest
from websockets.exceptions import ConnectionClosedError
from websockets.frames import Close

from sluice_client.errors import Unreachable
from sluice_client.stream import PAUSE_MAX_S, EventStream
from tests.unit.client.test_following import Clock

BUSY, GONE, INVALID, RESTART = 4429, 4410, 4400, 1012


class Socket:
    """Gives what it has, then is closed with a code."""

    def __init__(self, clock: Clock, code: int, events: int, stands_s: float) -> None:
        self._clock, self._code, self._left, self._stands_s = clock, code, events, stands_s

    def recv(self, timeout: float | None = None) -> str:
        if self._left:
            self._left -= 1
            return json.dumps({"position": f"pipeline.events/0/{self._left}"})
        self._clock.sleep(self._stands_s)
        raise ConnectionClosedError(Close(self._code, "by order"), None)

    def close(self) -> None:
        pass


class Api:
    """Closes each connection as it is told."""

    def __init__(self, code: int, *, events: int = 0, stands_s: float = 0.0) -> None:
        self.clock = Clock()
        self.opened: list[float] = []
        self.addresses: list[str] = []
        self._code, self._events, self._stands_s = code, events, stands_s

    def connect(self, address: str) -> Socket:
        self.opened.append(self.clock.now_s)
        self.addresses.append(address)
        return Socket(self.clock, self._code, self._events, self._stands_s)

    def stream(self) -> EventStream:
        return EventStream("http://api", "p", clock=self.clock, sleep=self.clock.sleep, connect=self.connect)


@pytest.mark.covers("O8")
def test_a_busy_api_is_asked_ever_more_seldom_and_given_up_in_the_end() -> None:
    api = Api(BUSY)
    with api.stream() as stream, pytest.raises(Unreachable, match="4429"):
        stream.next(3_600)
    pauses = [after - before for before, after in zip(api.opened, api.opened[1:], strict=False)]
    assert pauses[:5] == [0.5, 1.0, 2.0, 4.0, PAUSE_MAX_S]
    assert 60 < api.clock.now_s <= 60 + PAUSE_MAX_S


@pytest.mark.covers("O8")
def test_a_pause_does_not_hold_who_waits_for_less() -> None:
    api = Api(BUSY)
    with api.stream() as stream:
        for number in range(1, 40):
            assert stream.next(0.25) is None
            assert api.clock.now_s == pytest.approx(0.25 * number)
        assert len(api.opened) == 5
        stream.gap = False
        while len(api.opened) == 5:
            assert stream.next(0.25) is None
        assert stream.gap, "what happened during the pause was not heard"


@pytest.mark.covers("O8")
def test_a_connection_that_gave_something_is_made_again_at_once() -> None:
    api = Api(RESTART, events=1)
    with api.stream() as stream:
        for _ in range(100):
            assert stream.next(1) is not None
    assert api.clock.now_s == 0
    assert "after=" in api.addresses[-1]


@pytest.mark.covers("O8")
def test_a_quiet_pipelines_connection_may_be_closed_now_and_then() -> None:
    api = Api(RESTART, stands_s=30)
    with api.stream() as stream:
        for _ in range(20):
            assert stream.next(30) is None
    assert len(api.opened) >= 10


@pytest.mark.covers("O8")
def test_a_position_that_is_gone_is_left_at_once_and_a_wrong_request_is_told() -> None:
    api = Api(GONE, events=1)
    with api.stream() as stream:
        assert stream.next(1) is not None
        assert stream.next(1) is not None
    assert "after=" not in api.addresses[-1]
    with Api(INVALID).stream() as stream, pytest.raises(Unreachable, match="does not take"):
        stream.next(1)
