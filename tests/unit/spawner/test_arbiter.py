"""P13: the limit of agents per installation, as the arbiter keeps it."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sluice_contracts.messages.admission import AdmissionGranted
from sluice_spawner.domain.policy import GRANTS_PER_DECISION_MAX_COUNT, WAITING_LOOK_MS, SpawnerPolicy
from sluice_spawner.handlers import SpawnerDecider
from tests.unit.spawner.slots import claims, queue, request, talk, world_of
from tests.unit.spawner.world import ROLES, START_MS, World

FEW = 3


def limit(world: World, agents: int) -> None:
    """The operator sets another limit, and starts the spawner again."""
    world.decider = SpawnerDecider(SpawnerPolicy(installation_agents_max=agents), ROLES)


@pytest.mark.covers("P13")
def test_pipelines_are_served_first_come_first_served() -> None:
    world = world_of(FEW)
    request(world, "a", 2, 1)
    request(world, "b", 2, 1, tenant="beta")
    request(world, "c", 1, 1)
    request(world, "d", 5, 1)
    assert (claims(world), queue(world)) == ({"a": (2, 2), "b": (2, 1), "c": (1, 0), "d": (5, 0)}, ["b", "c", "d"])
    request(world, "a", 1, 2, held=1)
    assert (claims(world)["b"], queue(world)) == ((2, 2), ["c", "d"])
    assert world.admission[-1].event.tenant == "beta", "a grant is its pipeline's, whoever made room for it"
    request(world, "c", 0, 2)  # gives up while it waits
    request(world, "b", 0, 2)
    assert (claims(world), queue(world)) == ({"a": (1, 1), "d": (5, 2)}, ["d"])


@pytest.mark.covers("P13")
def test_whoever_wants_more_goes_to_the_end_and_whoever_waits_keeps_his_place() -> None:
    world = world_of(1)
    for name in "abcd":
        request(world, name, 1, 1)
    request(world, "a", 2, 2, held=1)
    request(world, "b", 3, 2)
    request(world, "c", 0, 2)  # out of the middle
    assert queue(world) == ["b", "d", "a"]
    request(world, "a", 1, 3, held=1)  # the last one
    assert queue(world) == ["b", "d"]


@pytest.mark.covers("P13")
def test_a_request_is_answered_where_its_pipeline_knows_of_less() -> None:
    """A grant that answers an older request does not count, so what it said is said again."""
    world = world_of(FEW)
    request(world, "a", 3, 1)
    request(world, "a", 2, 2, held=0)
    assert talk(world) == ["a has 3", "a has 2"]
    request(world, "a", 1, 3, held=1)
    assert talk(world) == ["a has 3", "a has 2"]
    request(world, "b", 1, 1)
    request(world, "c", 2, 1)
    request(world, "c", 3, 2, held=0)  # it waits, and its first slot may not have been heard of
    assert talk(world) == ["a has 3", "a has 2", "b has 1", "c has 1", "c has 1"]


@pytest.mark.covers("P13")
def test_a_limit_that_was_raised_is_noticed_and_one_that_was_lowered_takes_nothing() -> None:
    world = world_of(2)
    request(world, "a", 2, 1)
    request(world, "b", 4, 1)
    limit(world, 4)
    world.wait(WAITING_LOOK_MS / 1_000 - 1)
    assert claims(world)["b"] == (4, 0)
    world.wait(1)
    assert claims(world)["b"] == (4, 2)
    limit(world, 1)
    world.wait(WAITING_LOOK_MS / 1_000)
    request(world, "a", 0, 2)
    assert claims(world) == {"b": (4, 2)}
    request(world, "b", 1, 2, held=1)
    request(world, "c", 1, 1)
    assert (claims(world), world.pool.granted) == ({"b": (1, 1), "c": (1, 0)}, 1)


@pytest.mark.covers("P13")
def test_many_are_served_in_decisions_of_bounded_size() -> None:
    count = GRANTS_PER_DECISION_MAX_COUNT + 44
    world = world_of(count)
    request(world, "all", count, 1)
    names = [f"w{number}" for number in range(count)]
    for name in names:
        request(world, name, 1, 1)
    request(world, "all", 0, 2)
    assert sum(granted for _, granted in claims(world).values()) == GRANTS_PER_DECISION_MAX_COUNT
    assert world.timers()[0].due_at_ms == START_MS
    world.wait(0)
    assert claims(world) == dict.fromkeys(names, (1, 1))
    assert world.timers() == []


@dataclass
class Wish:
    """A claim of the model."""

    number: int
    wanted: int
    granted: int = 0


@dataclass
class Model:
    """The arbiter as one would write it without thinking of state: a list is the queue."""

    limit: int
    wishes: dict[str, Wish] = field(default_factory=dict)
    waiting: list[str] = field(default_factory=list)

    def hear(self, name: str, slots: int, number: int) -> None:
        wish = self.wishes.setdefault(name, Wish(0, 0))
        if number > wish.number:
            wish.number, wish.wanted, wish.granted = number, slots, min(wish.granted, slots)
        if wish.wanted == wish.granted and name in self.waiting:
            self.waiting.remove(name)
        if wish.wanted > wish.granted and name not in self.waiting:
            self.waiting.append(name)
        if wish.wanted == 0:
            del self.wishes[name]
        while self.waiting and (free := self.limit - sum(one.granted for one in self.wishes.values())) > 0:
            first = self.wishes[self.waiting[0]]
            first.granted = min(first.wanted, first.granted + free)
            if first.granted == first.wanted:
                self.waiting.pop(0)


@pytest.mark.covers("P13", "P12")
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 2**32), st.integers(1, 6), st.integers(1, 80))
def test_never_more_than_the_limit_first_come_first_served_and_all_in_the_end(
    seed: int, agents: int, steps: int
) -> None:
    """Requests of many pipelines in any order; any pipeline's latest ones again, as after a crash."""
    choose = random.Random(seed)
    world, model = world_of(agents), Model(agents)
    said: dict[str, list[tuple[int, int]]] = {f"p{number}": [] for number in range(6)}
    known = dict.fromkeys(said, 0)

    def ask(name: str, slots: int) -> None:
        known[name] = min(known[name], slots)
        said[name].append((slots, known[name]))
        hear(name, len(said[name]))

    def hear(name: str, number: int) -> None:
        before = len(world.admission)
        slots, held = said[name][number - 1]
        request(world, name, slots, number, held=held)
        model.hear(name, slots, number)
        for output in world.admission[before:]:
            data = output.event.data
            assert isinstance(data, AdmissionGranted)
            if data.number == len(said[output.event.subject]):
                known[output.event.subject] = max(known[output.event.subject], data.slots)
        assert claims(world) == {one: (wish.wanted, wish.granted) for one, wish in model.wishes.items()}
        assert queue(world) == model.waiting
        assert world.pool.granted == sum(granted for _, granted in claims(world).values()) <= agents
        assert not model.waiting or world.pool.granted == agents, "somebody waits for what is free"

    def all_know() -> bool:
        return all(known[name] == granted for name, (_, granted) in claims(world).items())

    for _ in range(steps):
        name = choose.choice(sorted(said))
        if choose.random() < 0.3:
            for number in range(choose.randint(1, len(said[name]) + 1), len(said[name]) + 1):
                hear(name, number)
        else:
            ask(name, choose.choice([0, 1, 1, 2, 3, agents + 2]))
        assert all_know()
    for name in sorted(said):
        ask(name, 1)
    served = set[str]()
    while holders := [name for name, (_, granted) in claims(world).items() if granted]:
        served |= set(holders)
        ask(choose.choice(holders), 0)
        assert all_know()
    assert served == set(said)
    assert world.kept() == {}
