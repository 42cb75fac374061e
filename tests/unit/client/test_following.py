"""Following a pipeline: each event once, none missed, to the end."""

from __future__ import annotations

from collections.abc import Sequence

import httpx

from sluice_client.client import Json, Sluice
from sluice_client.following import ends, follow
from sluice_client.stream import EventStream


def event(number: int, kind: str = "agent.turn_finished", topic: str = "agent.events.default") -> Json:
    return {
        "id": f"e{number}",
        "type": kind,
        "position": f"{topic}/0/{number}",
        "data": {"command_type": ""},
        "time_ms": number,
    }


END = event(99, "pipeline.completed", "pipeline.events")


class Log(httpx.BaseTransport):
    """The log as it is at each reading."""

    def __init__(self, *readings: Sequence[Json] | None) -> None:
        self.readings = list(readings)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        found = self.readings.pop(0) if len(self.readings) > 1 else self.readings[0]
        if found is None:
            raise httpx.ConnectError("away", request=request)
        return httpx.Response(200, json={"items": list(found), "next_offset": None})


class Stream(EventStream):
    """What the live stream tells; None is a moment without events."""

    def __init__(self, clock: Clock, *told: Json | None) -> None:
        super().__init__("http://api", "p")
        self.told, self.clock = list(told), clock

    def next(self, timeout_s: float) -> Json | None:
        found = self.told.pop(0) if self.told else None
        if found is None:
            self.clock.sleep(timeout_s)
        return found


class Clock:
    """Goes on by the time that is slept, and by what a stream without events takes."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


def told(log: Log, *events: Json | None, fresh: bool = False, gap: bool = False) -> list[str | None]:
    clock = Clock()
    stream = Stream(clock, *events)
    stream.gap = gap
    sluice = Sluice("http://api", transport=log, sleep=lambda seconds: None)
    found = follow(sluice, stream, fresh=fresh, clock=clock, sleep=clock.sleep)
    return [None if one is None else one["id"] for one in found]


def test_a_fresh_pipeline_has_no_past() -> None:
    assert told(Log([event(1)]), event(2), event(2), END, fresh=True) == [None, "e2", None, "e99"]


def test_the_past_comes_first_and_what_the_log_had_not_yet_comes_when_it_has_settled() -> None:
    log = Log([event(1)], [event(1), event(2), event(3)])
    assert told(log, event(3), None, event(4), END) == ["e1", "e3", "e2", "e4", "e99"]


def test_an_end_that_comes_early_waits_for_the_log() -> None:
    assert told(Log([event(1)], [event(1), event(2)]), END) == ["e1", "e2", "e99"]


def test_what_is_told_after_the_end_comes_before_it() -> None:
    assert told(Log([]), event(1), END, event(2), fresh=True) == [None, "e1", "e2", "e99"]


def test_the_end_may_stand_in_the_late_log_only() -> None:
    assert told(Log([event(1)], [event(1), END]), None) == ["e1", "e99"]


def test_an_ended_pipeline_is_told_whole() -> None:
    assert told(Log([event(1), event(2), END])) == ["e1", "e2", "e99"]


def test_after_a_gap_the_log_is_read_again() -> None:
    log = Log([event(1), event(2), event(3)])
    assert told(log, event(1), None, event(5), END, fresh=True, gap=True) == [None, "e1", "e2", "e3", "e5", "e99"]
    assert told(log, event(1), END, fresh=True, gap=True) == [None, "e1", "e2", "e3", "e99"]


def test_a_log_that_is_away_is_asked_again() -> None:
    away = [None] * 5  # the client's own tries
    log = Log(*away, [event(1), event(2)])
    assert told(log, event(3), None, END) == [None, "e1", "e2", "e3", None, "e99"]


def test_what_the_stream_does_not_tell_is_left_out_of_the_past() -> None:
    command = event(0, "pipeline.spawn", "pipeline.commands")
    assert told(Log([command, event(1), END])) == ["e1", "e99"]


def test_a_refused_command_ends_nothing_but_a_refused_spawn_does() -> None:
    refused = {**event(1, "pipeline.refused"), "data": {"command_type": "pipeline.cancel"}}
    assert not ends(refused)
    assert ends({**refused, "data": {"command_type": "pipeline.spawn"}})
