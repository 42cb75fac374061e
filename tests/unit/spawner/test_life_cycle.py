"""P1: from the command to the one terminal event."""

from __future__ import annotations

import pytest

from sluice_contracts import ids
from sluice_contracts.limits import COST_MAX_USD, COUNT_MAX
from sluice_contracts.messages.agent import AgentRun, AgentStop
from sluice_contracts.messages.base import Usage
from sluice_contracts.messages.pipeline import (
    PipelineCancelled,
    PipelineCompleted,
    PipelineFailed,
    PipelineRefused,
    PipelineReported,
    PipelineSpawn,
    PipelineSpawned,
    PipelineStateChanged,
    QuestionAsked,
    TaskAssigned,
    TaskSucceeded,
)
from sluice_spawner.domain.policy import RoleCatalogue, SpawnerPolicy
from tests.unit.spawner.world import PIPELINE, START_MS, World, plan, reference, types


@pytest.mark.covers("P1", "A3")
def test_one_task_from_spawn_to_completed() -> None:
    world = World()
    assert types(world.spawn(plan("a"))) == [
        "pipeline.spawned", "pipeline.state_changed", "agent.created", "task.assigned", "agent.run",
    ]  # fmt: skip
    assert types(world.start("a")) == ["task.started", "agent.state_changed"]
    assert world.turn("a", 1) == []
    assert world.turn("a", 2) == []
    world.now_ms += 1_500
    said = world.succeed("a", "found it", artifacts=[reference("report")])
    assert types(said) == [
        "agent.state_changed", "task.succeeded", "pipeline.state_changed", "pipeline.reported", "pipeline.completed",
    ]  # fmt: skip
    usage = Usage(input_tokens=20, output_tokens=4, cost_usd=1.0)
    done = world.last(TaskSucceeded)
    assert (done.summary, done.turns, done.usage) == ("found it", 2, usage)
    assert world.last(PipelineReported).outcomes[0].artifacts == (reference("report"),)
    end = world.last(PipelineCompleted)
    assert end.duration_ms == 1_500
    assert end.agents_used == 1
    assert end.usage == usage
    assert end.tasks == {"a": "succeeded"}
    assert [(e.from_state, e.to_state) for e in world.all(PipelineStateChanged)] == [
        ("SPAWNED", "RUNNING"), ("RUNNING", "REPORT"),
    ]  # fmt: skip


@pytest.mark.covers("P1")
def test_the_attempt_carries_all_that_a_runner_needs() -> None:
    world = World()
    given = plan({"id": "a", "timeout_s": 7}, model="m-1", inputs=[reference("log").model_dump()])
    world.spawn(given)
    run = world.last(AgentRun)
    assert run.task.model == "m-1"
    assert run.inputs == given.inputs
    assert run.objective == "do it"
    assert run.deadline_at_ms == START_MS + 7_000
    assert (run.attempt, run.turn, run.transcript, run.max_iterations) == (1, 0, None, 50)
    assert world.said[-1].topic == "agent.tasks.general"
    assert world.said[-1].key == run.agent_id


@pytest.mark.covers("P1", "P4")
def test_a_task_is_told_the_outcomes_of_its_direct_dependencies() -> None:
    world = World()
    world.spawn(plan("a", "b: a", "c: b"))
    world.run("a", "first")
    world.run("b", "second")
    assert [(o.task_id, o.summary) for o in world.last(AgentRun).dependency_outcomes] == [("b", "second")]
    world.run("c", "third")
    report = world.last(PipelineReported)
    assert [(o.task_id, o.summary) for o in report.outcomes] == [("a", "first"), ("b", "second"), ("c", "third")]


@pytest.mark.covers("P1", "O7")
def test_every_event_is_numbered_and_tells_its_cause() -> None:
    world = World()
    world.spawn(plan("a", "b"))
    world.run("a")
    world.run("b")
    events = [output.event for output in world.said]
    assert [event.sequence for event in events] == list(range(START_MS, START_MS + len(events)))
    assert len({event.id for event in events}) == len(events)
    causes = {event.id for event, _, _ in world.heard}
    for event in events:
        assert event.causation_id in causes
        assert (event.source, event.tenant, event.subject) == ("spawner", "acme", PIPELINE)
        assert event.traceparent is not None
    # One trace (O7), in which every event is a step of its own.
    assert {event.traceparent.split("-")[1] for event in events if event.traceparent} == {"1" * 32}
    assert len({event.traceparent.split("-")[2] for event in events if event.traceparent}) == len(events)


@pytest.mark.covers("P1")
def test_ids_differ_where_careless_producers_use_one_id_for_all() -> None:
    world = World()
    world.spawn(plan("a"), pipeline_id="x", id_="1")
    world.spawn(plan("a"), pipeline_id="y", id_="1")
    assert len({output.event.id for output in world.said}) == len(world.said)


@pytest.mark.covers("P1")
def test_cancel_stops_what_runs_and_skips_what_does_not() -> None:
    world = World()
    world.spawn(plan("a", "b", "c: a"))
    world.start("a")
    said = world.cancel()
    assert types(said) == [
        "agent.stop", "agent.state_changed", "task.cancelled",
        "agent.stop", "agent.state_changed", "task.cancelled",
        "task.skipped", "pipeline.cancelled",
    ]  # fmt: skip
    end = world.last(PipelineCancelled)
    assert end.tasks == {"a": "cancelled", "b": "cancelled", "c": "skipped"}
    assert end.reason == "enough"
    assert {stop.agent_id for stop in world.all(AgentStop)} == {world.agent_id("a"), world.agent_id("b")}


@pytest.mark.covers("P1")
def test_only_what_is_finished_remains_and_that_not_for_ever() -> None:
    world = World()
    world.spawn(plan("a", "b: a"))
    world.run("a")
    world.run("b")
    assert sorted(world.kept()) == [f"{PIPELINE}/finished", f"{PIPELINE}/timer/retention"]
    world.wait(world.policy.finished_retention_s)
    assert world.kept() == {}


@pytest.mark.covers("P3")
def test_a_second_spawn_is_the_first_also_after_the_end() -> None:
    world = World()
    key = ids.pipeline_id("acme", "k")
    command = PipelineSpawn(plan=plan("a"), dedupe_key="k")
    assert world.say(command, pipeline_id=key)
    assert world.say(command, pipeline_id=key) == []
    world.say(PipelineSpawn(plan=plan("b", "c"), dedupe_key="k"), pipeline_id=key)
    assert world.cancel(pipeline_id=key)
    assert world.say(command, pipeline_id=key) == []
    assert len(world.all(PipelineSpawned)) == 1


@pytest.mark.covers("P1")
@pytest.mark.parametrize(
    ("tenant", "code"), [("acme", "unknown_pipeline"), ("system", "unknown_pipeline"), ("other", "unknown_pipeline")]
)
def test_commands_to_nobody_are_refused(tenant: str, code: str) -> None:
    world = World()
    for said in (world.cancel(tenant=tenant), world.tick(tenant=tenant), world.answer("q", "x", tenant=tenant)):
        assert [message.problem.code for message in said if isinstance(message, PipelineRefused)] == [code]
    assert world.state == {}


@pytest.mark.covers("P1")
def test_another_tenant_does_not_reach_a_pipeline_but_the_installation_does() -> None:
    world = World()
    world.spawn(plan("a"))
    world.cancel(tenant="other")
    refused = world.said[-1].event
    assert isinstance(refused.data, PipelineRefused)
    assert (refused.tenant, refused.data.problem.code) == ("other", "unknown_pipeline")
    world.spawn(plan("a"), tenant="other")
    assert world.last(PipelineRefused).problem.code == "pipeline_id_taken"
    assert types(world.cancel(tenant="system"))[-1] == "pipeline.cancelled"


@pytest.mark.covers("P1")
def test_a_command_after_the_end_is_refused_and_one_that_was_obeyed_is_not() -> None:
    world = World()
    world.spawn(plan("a"))
    event = world.event(world.heard[0][0].data)
    assert world.hear(event) == []
    world.cancel(id_="cancel-1")
    assert world.cancel(id_="cancel-1") == []
    assert world.cancel(id_="cancel-2")[0].problem.code == "pipeline_ended"  # type: ignore[attr-defined]
    assert world.cancel(id_="cancel-2") == []
    world.terminal()


@pytest.mark.covers("P1", "O1")
def test_an_id_that_is_used_again_after_the_retention_is_another_pipeline() -> None:
    """Even if the very same command comes again: nothing of it is taken for something of the former life."""
    world = World(SpawnerPolicy(finished_retention_s=60))
    again = world.event(PipelineSpawn(plan=plan("a")), id_="spawn-1")
    lives = []
    for _ in range(2):
        begun, said, admission = world.now_ms, len(world.said), len(world.admission)
        world.hear(again)
        agent_id = world.agent_id("a")
        world.start("a")
        world.ask("a")
        world.answer(world.last(QuestionAsked).question_id, "x")
        world.turn("a", 1)
        world.succeed("a")
        assert world.hear(again) == []
        assert world.last(PipelineCompleted).agents_used == 1
        events = [output.event for output in [*world.said[said:], *world.admission[admission:]]]
        lives.append((begun, agent_id, {event.id for event in events}, world.last(QuestionAsked).question_id))
        assert min(event.sequence for event in events if event.sequence is not None) == begun
        world.wait(60)
        assert world.kept() == {}
    former, latter = lives
    assert former[0] < latter[0]
    assert former[1] != latter[1]
    assert former[2] & latter[2] == set()
    assert former[3] != latter[3]
    numbers = [output.event.sequence for output in world.said]
    assert numbers == sorted(set(numbers))  # type: ignore[type-var]


@pytest.mark.covers("P13")
def test_at_most_max_agents_live_at_once_first_come_first_served() -> None:
    world = World()
    world.spawn(plan("a", "b", "c", "d", limits={"max_agents": 2}))
    assert [e.task_id for e in world.all(TaskAssigned)] == ["a", "b"]
    world.run("b")
    assert [e.task_id for e in world.all(TaskAssigned)] == ["a", "b", "c"]
    world.run("a")
    world.run("c")
    world.run("d")
    assert world.last(PipelineCompleted).agents_used == 4


@pytest.mark.covers("P13")
def test_a_wide_plan_is_handed_out_in_decisions_of_bounded_size() -> None:
    world = World(SpawnerPolicy(installation_agents_max=100))
    names = [f"t{number}" for number in range(100)]
    said = world.spawn(plan(*names, limits={"max_agents": 1_000}))
    assert sum(isinstance(message, AgentRun) for message in said) == 16
    world.wait(0)
    assert [e.task_id for e in world.all(TaskAssigned)] == names
    for name in names:
        world.run(name)
    assert world.last(PipelineCompleted).agents_used == 100


def test_a_role_that_was_removed_since_the_spawn_fails_its_task() -> None:
    queue_of = {"writer": "general", "coder": "code"}
    world = World(roles=RoleCatalogue(queue_of=queue_of, queues=frozenset({"general", "code"})))
    world.spawn(plan("a", {"id": "b", "role": "coder", "dependencies": ["a"]}))
    queue_of.pop("coder")
    world.run("a")
    end = world.last(PipelineFailed)
    assert end.problem is not None
    assert end.problem.code == "unknown_role"
    assert end.tasks == {"a": "succeeded", "b": "failed"}


@pytest.mark.covers("C2", "P12")
def test_the_largest_lawful_numbers_are_decided_kept_and_told() -> None:
    """What the contract lets in can be stored and written again; sums stop at the limits."""
    largest = Usage(input_tokens=COUNT_MAX, output_tokens=COUNT_MAX, cost_usd=COST_MAX_USD)
    body = reference("x").model_copy(update={"size_bytes": COUNT_MAX})
    budget = {"tokens": COUNT_MAX, "cost_usd": COST_MAX_USD}
    world = World()
    world.spawn(plan({"id": "a", "budget": budget}, inputs=[body.model_dump()]))
    world.start("a")
    world.turn("a", 1, usage=largest)
    world.turn("a", 2, usage=largest)
    world.succeed("a", artifacts=[body])
    assert world.last(PipelineCompleted).usage == largest
