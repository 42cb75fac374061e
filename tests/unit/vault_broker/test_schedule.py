"""What is done first, how much at once, and what while Vault is away."""

from __future__ import annotations

import sys
from collections.abc import Callable
from uuid import UUID

import pytest
from msgspec.structs import replace

from sluice_runtime.deciding import Entity
from sluice_vault_broker.adapters.holdings import Holdings, Kind, Wanted
from sluice_vault_broker.adapters.schedule import BACKOFF_MAX_MS, Schedule
from sluice_vault_broker.domain.state import PipelineEntity, RevocationEntity, TokenEntity
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


class Course:
    """A Vault that does not answer some acts, and what a schedule has it do."""

    def __init__(self, world: World, *, places: int = 8) -> None:
        self.holdings = holdings(world)
        self.schedule = Schedule(self.holdings, places=places, ready=lambda number: True)
        self.now_ms = 0
        self.given: list[tuple[int, Wanted]] = []
        self.under_way_max_count = 0

    def run(self, seconds: int, *, stuck: Callable[[Wanted], bool], each: Callable[[], None] = lambda: None) -> None:
        until_ms = self.now_ms + seconds * 1_000
        while self.now_ms < until_ms:
            each()
            batch = taken(self.schedule, self.now_ms)
            self.under_way_max_count = max(self.under_way_max_count, len(batch))
            for wanted in batch:
                self.given.append((self.now_ms, wanted))
                if stuck(wanted):
                    self.schedule.failed(wanted, VaultAway("500"), self.now_ms)
                else:
                    self.schedule.answered(wanted)
                    self.want(wanted.key, done(wanted))
            self.now_ms += 50

    def want(self, key: str, entity: Entity | None) -> None:
        self.holdings.observe(0, key, entity)
        self.holdings.durable(0)

    def left(self) -> set[str]:
        return {wanted.key for kind in Kind for wanted in self.holdings.wanted(kind)}


def done(wanted: Wanted) -> Entity | None:
    """What the state says when the answer was decided."""
    if isinstance(wanted.entity, RevocationEntity):
        return None
    return replace(wanted.entity, accessor=wanted.entity.accessor or f"of-{wanted.key}", renewing_since_ms=None)


def first_of(course: Course, kind: Kind) -> str:
    return next(iter(course.holdings.wanted(kind))).key


@pytest.mark.covers("V5", "V8")
@pytest.mark.parametrize("kind", Kind)
def test_an_act_that_vault_never_answers_holds_up_no_other(world: World, kind: Kind) -> None:
    course = Course(world)
    stuck = first_of(course, kind)
    course.run(10, stuck=lambda wanted: wanted.key == stuck)
    assert course.left() == {stuck}
    assert not course.schedule.away
    tries = [now_ms for now_ms, wanted in course.given if wanted.key == stuck]
    assert 5 <= len(tries) <= 15, "it is tried again, less and less often"


@pytest.mark.covers("V5", "V8")
def test_what_comes_while_an_act_is_not_answered_is_done_soon(world: World) -> None:
    course = Course(world)
    stuck = first_of(course, Kind.REVOKE)
    course.run(60, stuck=lambda wanted: wanted.key == stuck)
    for key, entity in world.state.items():
        if isinstance(entity, RevocationEntity) and key != stuck:
            course.want(key, replace(entity))
    began_ms = course.now_ms
    course.run(1, stuck=lambda wanted: wanted.key == stuck)
    assert course.left() == {stuck}
    assert next(now_ms for now_ms, wanted in course.given if now_ms >= began_ms and wanted.key != stuck) == began_ms


@pytest.mark.covers("V1", "V5", "V8")
def test_many_acts_that_are_not_answered_leave_room_for_the_others(world: World) -> None:
    """As when a quota is on the login: pipelines come and get no token, and all else goes on."""
    course, count = Course(world, places=4), 0
    logins = {f"{uuid_of(number)}/root" for number in range(1_000)}

    def come() -> None:
        nonlocal count
        if count < 200:
            pipeline_id = uuid_of(count)
            course.want(f"{pipeline_id}/pipeline", PipelineEntity(tenant="t", since_ms=1, sequence=1, tokens=1))
            course.want(f"{pipeline_id}/root", TokenEntity(number=1, wanted_at_ms=1, request_id="r"))
            count += 1

    course.run(60, stuck=lambda wanted: wanted.key in logins, each=come)
    assert course.left() <= logins
    assert len(course.left()) == 200
    last = [now_ms for now_ms, wanted in course.given if wanted.key not in logins][-1]
    assert last < 5_000, "revocations and renewals wait for no quota"
    began_ms, before = course.now_ms, len(course.given)
    course.run(60, stuck=lambda wanted: wanted.key in logins)
    assert len(course.given) - before <= 60, f"{len(course.given) - before} tries in a minute from {began_ms}"
    course.run(120, stuck=lambda wanted: False)
    assert course.left() == set(), "when they are answered again, all come"


def uuid_of(number: int) -> str:
    return str(UUID(int=number + 1))


@pytest.mark.covers("V8")
def test_a_vault_that_is_away_after_all_is_left_in_peace(world: World) -> None:
    """An act that was not answered before does not hide it, nor is it asked oftener for that."""
    course = Course(world)
    stuck = first_of(course, Kind.REVOKE)
    course.run(5, stuck=lambda wanted: wanted.key == stuck)
    for key, entity in world.state.items():
        if isinstance(entity, RevocationEntity | TokenEntity):
            course.want(key, replace(entity))
    course.run(30, stuck=lambda wanted: True)
    assert course.schedule.away
    course.under_way_max_count, before = 0, len(course.given)
    course.run(60, stuck=lambda wanted: True)
    assert course.under_way_max_count == 1
    tried = course.given[before:]
    assert len(tried) <= 60_000 // BACKOFF_MAX_MS + 1
    assert len({wanted.kind for _, wanted in tried}) == len(Kind), "whatever is answered first ends it"
    course.run(15, stuck=lambda wanted: False)
    assert course.left() == set()


def calls_per_act(count: int) -> float:
    """How many functions are called to find the next of so many logins, until all but one that is stuck are done.

    Every third is refused at first, and what is answered is decided late.
    """
    held, calls, acts, now_ms = Holdings(), 0, 0, 0
    for number in range(count):
        held.observe(0, f"{uuid_of(number)}/pipeline", PipelineEntity(tenant="t", since_ms=1, sequence=1, tokens=1))
        held.observe(0, f"{uuid_of(number)}/root", TokenEntity(number=1, wanted_at_ms=1, request_id="r"))
    held.durable(0)
    schedule = Schedule(held, places=8, ready=lambda number: True)
    stuck, refused = f"{uuid_of(0)}/root", {f"{uuid_of(number)}/root" for number in range(2, count, 3)}

    def hear(frame: object, event: str, argument: object) -> None:
        nonlocal calls
        calls += event == "call"

    undecided: list[Wanted] = []
    while held.count(Kind.MINT) > 1:
        sys.setprofile(hear)
        found = taken(schedule, now_ms)
        sys.setprofile(None)
        acts, now_ms = acts + len(found), now_ms + 50
        for wanted in found:
            if wanted.key == stuck:
                schedule.failed(wanted, VaultAway("500"), now_ms)
            elif wanted.key in refused:
                refused.discard(wanted.key)
                schedule.failed(wanted, VaultRefused("403"), now_ms)
            else:
                schedule.answered(wanted)
                undecided.append(wanted)
        if len(undecided) >= count // 4 or len(undecided) + 1 == held.count(Kind.MINT):
            for wanted in undecided:
                held.observe(0, wanted.key, done(wanted))
            held.durable(0)
            undecided.clear()
    return calls / acts


@pytest.mark.covers("V8")
def test_to_find_the_next_thing_costs_the_same_however_much_is_wanted() -> None:
    """A backlog after Vault was away: counted, not timed."""
    few, many = calls_per_act(100), calls_per_act(2_000)
    assert many < 1.5 * few, f"{few:.0f} calls with 100 wanted, {many:.0f} with 2,000"


def test_what_is_held_up_comes_at_its_old_place_when_nothing_holds_it_up_any_more() -> None:
    """A pipeline that is held, a partition that is not ready, a refusal: later ones go first, and only meanwhile."""
    held, ready = Holdings(), [True, False]
    for number in range(6):
        pipeline_id = uuid_of(number)
        held.observe(
            number % 2, f"{pipeline_id}/pipeline", PipelineEntity(tenant="t", since_ms=1, sequence=1, tokens=1)
        )
        held.observe(number % 2, f"{pipeline_id}/root", TokenEntity(number=1, wanted_at_ms=1, request_id="r"))
    held.durable(0)
    held.durable(1)
    schedule = Schedule(held, places=2, ready=lambda number: ready[number])
    order = [uuid_of(number) for number in (0, 2, 4, 1, 3, 5)]

    def next_of(now_ms: int) -> str:
        wanted = schedule.take(now_ms)
        assert wanted is not None
        schedule.failed(wanted, VaultRefused("403"), now_ms)
        return wanted.pipeline_id

    schedule.hold(order[0])
    assert [next_of(0), next_of(0)] == order[1:3]
    assert schedule.take(0) is None
    ready[1] = True
    assert next_of(0) == order[3]
    schedule.release(order[0])
    assert next_of(0) == order[0]
    assert [next_of(BACKOFF_MAX_MS) for _ in order] == order
