"""Who waits is woken, and a slow client costs nobody else anything."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import pytest

from sluice_contracts.envelope import CloudEvent
from sluice_contracts.messages import Message, pipeline
from sluice_contracts.messages.base import Problem
from sluice_observability.domain.effects import Position
from sluice_observability.domain.places import Place
from sluice_observability.domain.policy import StreamLimits
from sluice_observability.domain.read_model import ReadModel
from sluice_observability.handlers.live import (
    CLIENTS_MAX_COUNT,
    Live,
    PositionGone,
    SlowClient,
    Told,
    TooManyClients,
)
from tests.unit.observability.events import Teller, plan, spawning, whole_life

EVENTS, COMMANDS = "pipeline.events", "pipeline.commands"


def told(pipeline_id: str = "p1", first: int = 0) -> list[Told]:
    events = list(spawning(Teller(pipeline_id), cause="c0"))
    return [Told(Position(EVENTS, 0, first + number), event) for number, event in enumerate(events)]


def live(kept: int = 100, waiting: int = 100) -> Live:
    return Live(ReadModel(10), StreamLimits(buffer_max_count=kept, client_max_count=waiting))


@pytest.mark.covers("U1")
def test_a_waiter_is_woken_by_the_event_that_answers() -> None:
    async def run() -> bool:
        now = live()
        waiting = asyncio.create_task(now.wait_until(lambda: now.effects.answered("c0"), 30))
        await asyncio.sleep(0)
        now.tell(told())
        return await waiting

    assert asyncio.run(run())


def test_a_wait_has_an_end() -> None:
    assert asyncio.run(live().wait_until(lambda: False, 0.01)) is False


@pytest.mark.covers("U1")
def test_a_command_is_reached_with_its_effect_and_not_before() -> None:
    now = live()
    command = Teller("p1").command(pipeline.PipelineCancel())
    now.tell([Told(Position(COMMANDS, 0, 7), command)])
    assert not now.reached(Position(COMMANDS, 0, 7))
    problem = Problem(code="unknown_pipeline", detail="p1")
    refused = pipeline.PipelineRefused(command_id=command.id, command_type="pipeline.cancel", problem=problem)
    now.tell([Told(Position(EVENTS, 0, 3), Teller("p1").spawner(refused, command.id))])
    assert now.reached(Position(COMMANDS, 0, 7))
    assert now.reached(Position(COMMANDS, 0, 2))
    assert not now.reached(Position(COMMANDS, 0, 8))
    assert not now.reached(Position(COMMANDS, 1, 2))
    assert now.horizon(Position(COMMANDS, 0, 7)) == Position(EVENTS, 0, 3)
    assert now.refusal(command.id) == refused


def refused(teller: Teller, command: CloudEvent[Message], offset: int) -> Told:
    problem = Problem(code="unknown_role", detail="nobody")
    data = pipeline.PipelineRefused(command_id=command.id, command_type=command.type, problem=problem)
    return Told(Position(EVENTS, 0, offset), teller.spawner(data, command.id))


@pytest.mark.covers("P3", "U1")
def test_a_refusal_is_forgotten_when_the_same_command_is_taken() -> None:
    now, teller = live(), Teller("p1")
    command = teller.command(pipeline.PipelineSpawn(plan=plan()))
    now.tell([Told(Position(COMMANDS, 0, 1), command), refused(teller, command, 0)])
    assert now.was_refused(command.id)
    now.tell([Told(Position(COMMANDS, 0, 2), command)])
    assert not now.reached(Position(COMMANDS, 0, 2))
    now.tell([Told(Position(EVENTS, 0, 1), next(spawning(teller, cause=command.id)))])
    assert now.reached(Position(COMMANDS, 0, 2))
    assert now.refusal(command.id) is None


@pytest.mark.covers("P3", "U1")
def test_a_second_spawn_of_a_pipeline_needs_no_event() -> None:
    now = live()
    now.tell(told())
    again = Teller("p1").command(pipeline.PipelineSpawn(plan=plan()))
    now.tell([Told(Position(COMMANDS, 0, 9), again)])
    assert now.reached(Position(COMMANDS, 0, 9))


def test_positions_of_events_are_reached_when_they_are_folded() -> None:
    now = live()
    now.begin({Place(EVENTS, "i", 0): 5})
    assert now.reached(Position(EVENTS, 0, 4))
    assert now.before_start(Position(EVENTS, 0, 4))
    assert not now.reached(Position(EVENTS, 0, 5))
    now.tell(told(first=5)[:1])
    assert now.reached(Position(EVENTS, 0, 5))
    assert not now.reached(Position(EVENTS, 0, 6))


@pytest.mark.covers("O8")
def test_a_client_that_comes_back_misses_nothing() -> None:
    async def run() -> tuple[list[Position], list[Position]]:
        now = live()
        events = told()
        now.tell(events[:3])
        client = now.subscribe(lambda one: True, events[0].position)
        now.tell(events[3:])
        got = [one.position for one in await client.take()]
        return got, [one.position for one in events[1:]]

    got, expected = asyncio.run(run())
    assert got == expected


@pytest.mark.covers("O8")
def test_a_position_that_is_not_kept_is_said_to_be_gone() -> None:
    now = live(kept=2)
    events = told()
    now.tell(events)
    with pytest.raises(PositionGone):
        now.subscribe(lambda one: True, events[0].position)


@pytest.mark.covers("O8")
def test_a_slow_client_gets_what_it_has_and_is_told_while_others_go_on() -> None:
    async def run() -> None:
        now = live(waiting=2)
        slow, quick = now.subscribe(lambda one: True, None), now.subscribe(lambda one: True, None)
        events = told()
        for one in events:
            now.tell([one])
            assert await quick.take() == [one]
        assert await slow.take() == events[:2]
        with pytest.raises(SlowClient):
            await slow.take()

    asyncio.run(run())


@pytest.mark.covers("O8")
def test_a_client_sees_only_what_it_asked_for_and_nothing_twice() -> None:
    async def run() -> list[str]:
        now = live()
        client = now.subscribe(lambda one: one.event.type == "task.assigned", None)
        now.tell(told("p1"))
        now.tell(told("p1"))
        now.tell(told("p2"))
        return [one.event.subject for one in await client.take()]

    assert asyncio.run(run()) == ["p1", "p2"]


@pytest.mark.covers("O8")
def test_large_events_are_bounded_by_their_bytes_kept_and_waiting() -> None:
    async def run() -> None:
        now = Live(ReadModel(10), StreamLimits(buffer_max_bytes=30_000, client_max_bytes=30_000))
        slow = now.subscribe(lambda one: True, None)
        events = [replace(one, value_bytes=10_000) for one in told()]
        now.tell(events)
        assert await slow.take() == events[:2]
        with pytest.raises(SlowClient):
            await slow.take()
        with pytest.raises(PositionGone):
            now.subscribe(lambda one: True, events[-3].position)
        assert await now.subscribe(lambda one: True, events[-2].position).take() == events[-1:]
        huge = [replace(one, value_bytes=1_000_000) for one in told("p2", first=100)]
        client = now.subscribe(lambda one: True, None)
        now.tell(huge[:1])
        assert await client.take() == huge[:1], "one always has a place"

    asyncio.run(run())


@pytest.mark.covers("O8")
def test_a_client_too_many_is_told_so_until_one_has_gone() -> None:
    now = live()
    first, *_ = [now.subscribe(lambda one: True, None) for _ in range(CLIENTS_MAX_COUNT)]
    with pytest.raises(TooManyClients, match=f"{CLIENTS_MAX_COUNT} clients"):
        now.subscribe(lambda one: True, None)
    now.unsubscribe(first)
    now.subscribe(lambda one: True, None)


@pytest.mark.covers("O8")
def test_a_client_that_has_gone_waits_no_longer() -> None:
    async def run() -> None:
        now = live()
        client = now.subscribe(lambda one: True, None)
        waiting = asyncio.create_task(client.take())
        await asyncio.sleep(0)
        client.close()
        assert await waiting == ()
        now.tell(told())
        assert await client.take() == ()

    asyncio.run(run())


@pytest.mark.covers("O8")
def test_an_event_is_shown_whole_and_encoded_once() -> None:
    one = Told(Position(EVENTS, 0, 3), whole_life("pü")[0])
    assert one.text is one.text
    assert "pü" in one.text
    shown = json.loads(one.text)
    event = one.event
    assert shown == {
        "position": "pipeline.events/0/3", "id": event.id, "type": "pipeline.spawned", "name": "pipeline_started",
        "source": event.source, "tenant": "acme", "pipeline_id": "pü", "time_ms": event.time_ms,
        "sequence": event.sequence, "causation_id": None, "data": event.data.model_dump(mode="json"),
    }  # fmt: skip


def test_the_past_is_folded_without_being_streamed() -> None:
    now = live()
    client = now.subscribe(lambda one: True, None)
    for event in whole_life("p1"):
        now.load(event)
    assert now.model.pipeline("p1") is not None
    with pytest.raises(asyncio.TimeoutError):
        asyncio.run(asyncio.wait_for(client.take(), 0.01))
