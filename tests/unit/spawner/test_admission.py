"""P13: the limit of agents per installation, as a pipeline sees it."""

from __future__ import annotations

import pytest

from sluice_contracts import ids
from sluice_contracts.messages.admission import AdmissionGranted, AdmissionRequested
from sluice_contracts.messages.agent import AgentRun
from sluice_contracts.messages.base import Message
from sluice_contracts.messages.pipeline import AgentCreated, PipelineCancel, PipelineCompleted, PipelineSpawn
from sluice_spawner.domain.policy import SpawnerPolicy
from tests.unit.spawner.slots import claims, queue, request, talk, world_of
from tests.unit.spawner.world import PIPELINE, START_MS, World, of, plan


def grant(world: World, slots: int, number: int, *, pipeline: str = PIPELINE) -> list[Message]:
    return world.say(AdmissionGranted(slots=slots, number=number), pipeline_id=pipeline)


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
    world = world_of(3)
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
    assert [one.event.sequence for one in world.said] == list(range(START_MS, START_MS + len(world.said)))
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
    """An instance that had lost its partition publishes old requests, when their claim is long gone."""
    world = World()
    world.spawn(plan("a", "b", "c"))
    world.run("a")
    world.run("b")
    old = [one.event for one in world.admission if isinstance(one.event.data, AdmissionRequested)]
    assert [one.data.slots for one in old] == [3, 2, 1]
    world.cancel()
    world.wait(0 if known else 10 * 86_400)
    said = len(world.admission)
    world.elsewhere.add(PIPELINE)  # what is granted is heard when all of them have come
    for event in old:
        assert world.hear(event) == []
    assert claims(world) == {PIPELINE: (1, 1)}
    world.elsewhere.clear()
    [granted] = [one.event for one in world.admission[said:]]
    assert world.hear(granted) == []
    assert talk(world)[said:] == ["p-1 has 3", "p-1 wants 0"]
    assert claims(world) == {}
    assert world.pool.granted == 0
    grants = [one.event for one in world.admission if isinstance(one.event.data, AdmissionGranted)]
    assert len({event.id for event in grants}) == len(grants), "a second grant is not the first"
    if known:
        assert world.hear(granted) == []
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
