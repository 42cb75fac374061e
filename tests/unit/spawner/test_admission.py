"""P13: the limit of agents per installation, from both sides of the topic."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sluice_contracts import ids
from sluice_contracts.messages.admission import AdmissionGranted, AdmissionRequested
from sluice_contracts.messages.agent import AgentRun
from sluice_contracts.messages.base import Message
from sluice_contracts.messages.pipeline import AgentCreated, PipelineCancel, PipelineCompleted, PipelineSpawn
from sluice_spawner.domain.policy import GRANTS_PER_DECISION_MAX_COUNT, WAITING_LOOK_MS, SpawnerPolicy
from sluice_spawner.domain.state import ClaimEntity
from sluice_spawner.handlers import SpawnerDecider
from tests.unit.spawner.world import PIPELINE, ROLES, START_MS, World, of, plan

FEW = 3


def world_of(agents: int) -> World:
    return World(SpawnerPolicy(installation_agents_max=agents))


def limit(world: World, agents: int) -> None:
    """The operator sets another limit, and starts the spawner again."""
    world.decider = SpawnerDecider(SpawnerPolicy(installation_agents_max=agents), ROLES)


def request(world: World, pipeline: str, slots: int, number: int, *, held: int = 0, tenant: str = "acme") -> None:
    """A pipeline of another partition asks."""
    world.elsewhere.add(pipeline)
    message = AdmissionRequested(pipeline_id=pipeline, slots=slots, held=held, number=number)
    world.say(message, pipeline_id=ids.INSTALLATION_ID, tenant=tenant)


def grant(world: World, slots: int, number: int, *, pipeline: str = PIPELINE) -> list[Message]:
    return world.say(AdmissionGranted(slots=slots, number=number), pipeline_id=pipeline)


def claims(world: World) -> dict[str, tuple[int, int]]:
    """Wanted and granted of each claim."""
    return {
        key.rpartition("/")[2]: (entity.wanted, entity.granted)
        for key, entity in world.state.items() if isinstance(entity, ClaimEntity)
    }  # fmt: skip


def queue(world: World) -> list[str]:
    """Who waits, the first first; the links are the same from both ends."""
    found: list[str] = []
    at, before = world.pool.first, None
    while at is not None:
        entity = world.state[f"installation/claim/{at}"]
        assert isinstance(entity, ClaimEntity)
        assert entity.previous == before
        assert entity.waits
        found.append(at)
        at, before = entity.next, at
    assert world.pool.last == before
    return found


def talk(world: World) -> list[str]:
    """What pipelines and arbiter said to each other, in few letters."""
    lines = []
    for output in world.admission:
        data = output.event.data
        if isinstance(data, AdmissionRequested):
            lines.append(f"{data.pipeline_id} wants {data.slots}")
        elif isinstance(data, AdmissionGranted):
            lines.append(f"{output.event.subject} has {data.slots}")
    return lines


def alive(world: World) -> set[str]:
    return {message.task_id for message in world.all(AgentCreated)}


# One pipeline


@pytest.mark.covers("P13")
def test_tasks_one_after_the_other_use_one_slot_and_ask_once() -> None:
    world = World()
    world.spawn(plan("a", "b: a", "c: b"))
    for task in "abc":
        world.run(task)
    assert isinstance(world.terminal(), PipelineCompleted)
    assert talk(world) == ["p-1 wants 1", "p-1 has 1", "p-1 wants 0"]
    assert claims(world) == {}


@pytest.mark.covers("P13")
def test_a_pipeline_asks_for_what_it_can_use_and_gives_back_what_it_can_not() -> None:
    world = World()
    world.spawn(plan("a", *(f"m{n}: a" for n in range(5)), "z: m0, m1, m2, m3, m4", limits={"max_agents": 3}))
    world.run("a")
    for number in range(5):
        world.run(f"m{number}")
    world.run("z")
    assert isinstance(world.terminal(), PipelineCompleted)
    assert talk(world) == [
        "p-1 wants 1", "p-1 has 1", "p-1 wants 3", "p-1 has 3", "p-1 wants 2", "p-1 wants 1", "p-1 wants 0",
    ]  # fmt: skip


@pytest.mark.covers("P13")
def test_what_is_granted_in_part_is_used_at_once() -> None:
    world = world_of(FEW)
    request(world, "other", 1, 1)
    world.spawn(plan("a", "b", "c", "d"))
    assert alive(world) == {"a", "b"}
    assert (claims(world)[PIPELINE], queue(world)) == ((4, 2), [PIPELINE])
    request(world, "other", 0, 2)
    assert alive(world) == {"a", "b", "c"}
    world.run("b")
    assert alive(world) == {"a", "b", "c", "d"}
    assert (claims(world)[PIPELINE], queue(world)) == ((3, 3), [])
    for task in "acd":
        world.run(task)
    assert isinstance(world.terminal(), PipelineCompleted)
    assert claims(world) == {}


@pytest.mark.covers("P13", "P10")
def test_an_agent_that_waits_for_a_person_keeps_its_slot() -> None:
    world = world_of(1)
    world.spawn(plan("a"))
    world.start("a")
    world.ask("a")
    request(world, "other", 1, 1)
    world.wait(30)
    assert claims(world) == {PIPELINE: (1, 1), "other": (1, 0)}


@pytest.mark.covers("P13")
@pytest.mark.parametrize("agents", [1, 50], ids=["waiting", "running"])
def test_a_cancelled_pipeline_gives_all_back(agents: int) -> None:
    world = world_of(agents)
    request(world, "first", 1, 1)
    world.spawn(plan("a", "b"))
    request(world, "last", 1, 1)
    world.cancel()
    assert PIPELINE not in claims(world)
    assert queue(world) == (["last"] if agents == 1 else [])
    request(world, "first", 0, 2)
    assert claims(world) == {"last": (1, 1)}


@pytest.mark.covers("P13")
def test_events_are_numbered_without_the_talk_about_slots() -> None:
    """Readers that drop by sequence see no hole that was not there before, and a request is no event of its key."""
    world = World()
    world.spawn(plan("a", "b"))
    world.run("a")
    world.run("b")
    assert [one.event.sequence for one in world.said] == list(range(1, len(world.said) + 1))
    for output in world.admission:
        event = output.event
        assert (output.topic, output.key, event.sequence, event.tenant) == ("admission", event.subject, None, "acme")
        asked = isinstance(event.data, AdmissionRequested)
        assert event.subject == ("installation" if asked else PIPELINE)
        assert (event.traceparent is not None) == asked
    [first, _] = world.all(AgentRun)
    traces = {(one.event.traceparent or "").split("-")[1] for one in world.said}
    assert len(traces) == 1, f"the grant took {first} out of its pipeline's trace"


@pytest.mark.covers("P13")
def test_a_pipeline_may_be_named_like_the_installation() -> None:
    world = World()
    spawn = PipelineSpawn(plan=plan("a"))
    said = world.say(spawn, pipeline_id=ids.INSTALLATION_ID)
    assert of(AgentRun, said)
    assert claims(world) == {"installation": (1, 1)}
    world.say(PipelineCancel(), pipeline_id=ids.INSTALLATION_ID)
    world.wait(10 * 86_400)
    assert world.kept() == {}


# What comes late or again


@pytest.mark.covers("P13")
def test_only_an_answer_to_the_latest_request_counts() -> None:
    world = world_of(1)
    request(world, "other", 1, 1)
    world.spawn(plan("a", "b", "c"))
    asked = world.admission[-1].event.data
    assert isinstance(asked, AdmissionRequested)
    for number in (asked.number - 1, asked.number + 1):
        assert grant(world, 3, number) == []
    assert alive(world) == set()
    grant(world, 2, asked.number)
    assert alive(world) == {"a", "b"}
    before = dict(world.state)
    for slots in (1, 2):
        assert grant(world, slots, asked.number) == []
        assert world.state == before


@pytest.mark.covers("P13", "P12")
@pytest.mark.parametrize("known", [True, False], ids=["ended", "forgotten"])
def test_what_is_granted_to_a_pipeline_that_has_ended_is_given_back(known: bool) -> None:
    """An instance that had lost its partition publishes an old request, when its claim is long gone."""
    world = World()
    world.spawn(plan("a"))
    old = world.admission[0].event
    world.cancel()
    world.wait(0 if known else 10 * 86_400)
    said = len(world.admission)
    assert world.hear(old) == []
    assert talk(world)[said:] == ["p-1 has 1", "p-1 wants 0"]
    assert claims(world) == {}
    assert world.pool.granted == 0
    grants = [one.event for one in world.admission if isinstance(one.event.data, AdmissionGranted)]
    assert len({event.id for event in grants}) == len(grants), "a second grant is not the first"
    if known:
        assert world.hear(grants[-1]) == []
        assert len(world.admission) == said + 2, "it was given back already"


@pytest.mark.covers("P13", "P12")
def test_requests_out_of_a_former_life_of_an_id_do_no_harm() -> None:
    world = World(SpawnerPolicy(finished_retention_s=60))
    world.spawn(plan("a"))
    world.cancel()
    world.wait(61)
    former = [one.event for one in world.admission]
    world.spawn(plan("a"))
    before = dict(world.state)
    for event in former:
        assert world.hear(event) == []
    assert world.state == before
    assert claims(world) == {PIPELINE: (1, 1)}


# The arbiter


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


# The law


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
