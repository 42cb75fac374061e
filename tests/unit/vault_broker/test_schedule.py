"""What is done first, how much at once, and what while Vault is away."""

from __future__ import annotations

import pytest

from sluice_vault_broker.adapters.holdings import Holdings, Kind, Wanted
from sluice_vault_broker.adapters.schedule import BACKOFF_MAX_MS, Schedule
from sluice_vault_broker.ports import VaultAway, VaultRefused
from tests.unit.vault_broker.world import World


def holdings(world: World) -> Holdings:
    found = Holdings()
    for key, entity in world.state.items():
        found.observe(0, key, entity)
    assert not list(found.wanted(Kind.MINT)), "nothing is done for what is not durable"
    found.durable(0)
    return found


@pytest.fixture
def world() -> World:
    """Revocations, mints and renewals are wanted, two of each."""
    world = World()
    world.grant("a", "b", "c", "d")
    world.wait(34 * 60)
    for agent_id in ("a", "b"):
        world.revoke(agent_id, 1, reason="agent_ended")
    world.request("e")
    world.request("f")
    return world


def taken(schedule: Schedule, now_ms: int = 0) -> list[Wanted]:
    found = []
    while (wanted := schedule.take(now_ms)) is not None:
        found.append(wanted)
    return found


@pytest.mark.covers("V1")
def test_revocations_come_before_mints_before_renewals(world: World) -> None:
    schedule = Schedule(holdings(world), places=16, ready=lambda number: True)
    kinds = [one.kind for one in taken(schedule)]
    assert kinds == [Kind.REVOKE] * 2 + [Kind.MINT] * 2 + [Kind.RENEW] * 3
    assert taken(schedule) == []


@pytest.mark.covers("V1")
def test_some_places_are_for_revocations_alone(world: World) -> None:
    held = holdings(world)
    schedule = Schedule(held, places=4, ready=lambda number: True)
    for wanted in [one for one in taken(schedule) if one.kind is Kind.REVOKE]:
        schedule.answered(wanted)
        held.observe(0, wanted.key, None)
    held.durable(0)
    assert len(taken(schedule)) == 1
    world.revoke("c", 1, reason="agent_ended")
    for key, entity in world.state.items():
        if "revocation" in key and "c" in getattr(entity, "agent_id", ""):
            held.observe(0, key, entity)
    held.durable(0)
    assert [one.kind for one in taken(schedule)] == [Kind.REVOKE]


@pytest.mark.covers("V8")
def test_while_vault_is_away_one_thing_at_a_time_is_tried_less_and_less_often(world: World) -> None:
    schedule = Schedule(holdings(world), places=8, ready=lambda number: True)
    for wanted in taken(schedule):
        schedule.failed(wanted, VaultAway("away"), 0)
    assert schedule.away
    now_ms, waits = 0, []
    for _ in range(12):
        began = now_ms
        while not (found := taken(schedule, now_ms)):
            now_ms += 50
        assert len(found) == 1
        waits.append(now_ms - began)
        schedule.failed(found[0], VaultAway("away"), now_ms)
    assert max(waits) <= BACKOFF_MAX_MS + 50
    now_ms += BACKOFF_MAX_MS
    [back] = taken(schedule, now_ms)
    schedule.answered(back)
    assert len(taken(schedule, now_ms)) > 1


@pytest.mark.covers("V8")
def test_what_vault_refuses_does_not_hold_up_the_others(world: World) -> None:
    schedule = Schedule(holdings(world), places=16, ready=lambda number: True)
    first, *others = taken(schedule)
    schedule.failed(first, VaultRefused("no right"), 0)
    for one in others:
        schedule.answered(one)
    assert taken(schedule, 50) == []
    assert taken(schedule, 200) == [first]


def test_nothing_is_begun_that_could_not_be_told(world: World) -> None:
    assert taken(Schedule(holdings(world), places=8, ready=lambda number: False)) == []
    held = holdings(world)
    held.forget(0)
    assert taken(Schedule(held, places=8, ready=lambda number: True)) == []
