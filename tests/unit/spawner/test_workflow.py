"""P4, P3: which plans are refused, with which names; what a task's end means for those that wait for it."""

from __future__ import annotations

from typing import Any

import pytest

from sluice_contracts import ids
from sluice_contracts.messages.agent import AgentRun
from sluice_contracts.messages.pipeline import (
    PipelineCompleted,
    PipelineFailed,
    PipelineRefused,
    PipelineReported,
    PipelineSpawn,
    TaskAssigned,
    TaskSkipped,
)
from sluice_spawner.domain import workflow
from sluice_spawner.domain.errors import SpawnRefused
from tests.unit.spawner.world import World, plan, reference

A_CHAIN = ["t0", *(f"t{number}: t{number - 1}" for number in range(1, 6))]

REFUSED: list[tuple[str, list[Any], dict[str, Any], str, list[str]]] = [
    ("itself", ["a: a"], {}, "dependency_cycle", ["a → a"]),
    ("cycle", ["a: c", "b: a", "c: b", "d"], {}, "dependency_cycle", ["a → b → c → a"]),
    ("cycle behind a task", ["x", "a: x, b", "b: a"], {}, "dependency_cycle", ["a", "b"]),
    ("unknown", ["a", "b: a, nobody"], {}, "unknown_dependency", ["b", "nobody"]),
    ("twice", ["a", "b", "a"], {}, "duplicate_task", ["a"]),
    ("both ways", ["a", "b: a, a?failed"], {}, "unreachable_task", ["b", "a"]),
    ("both ways, far", ["a", "b: a", "c: b", "d: a?failed", "e: c, d"], {}, "unreachable_task", ["task e", "a"]),
    ("fan-out", ["a", "b: a", "c: a", "d: a"], {"max_fan_out": 2}, "spawn_limit_exceeded", ["3", "a", "max_fan_out"]),
    ("depth", A_CHAIN, {"max_depth": 5}, "spawn_limit_exceeded", ["6", "5", "max_depth"]),
    ("role", [{"id": "a", "role": "pope"}], {}, "unknown_role", ["a", "pope", "analyst, coder, ghost, writer"]),
    (
        "queue",
        [{"id": "a", "role": "ghost"}],
        {},
        "unprovisioned_queue",
        ["a", "ghost", "--queue nowhere", "SLUICE_QUEUES"],
    ),
    ("constraint", [{"id": "a", "constraints": ["be-nice"]}], {}, "unknown_constraint", ["a", "be-nice", "read-only"]),
]


@pytest.mark.covers("P3", "P4", "P13")
@pytest.mark.parametrize(
    ("tasks", "limits", "code", "named"), [row[1:] for row in REFUSED], ids=[r[0] for r in REFUSED]
)
def test_a_plan_that_can_not_run_is_refused_with_names(
    tasks: list[Any], limits: dict[str, int], code: str, named: list[str]
) -> None:
    world = World()
    said = world.spawn(plan(*tasks, limits=limits))
    assert len(said) == 1
    refused = world.last(PipelineRefused)
    assert refused.command_type == "pipeline.spawn"
    assert refused.problem.code == code
    assert all(name in refused.problem.detail for name in named), refused.problem.detail
    assert refused.problem.field
    assert (refused.problem.limit is not None) == (code == "spawn_limit_exceeded")
    assert world.state == {}


@pytest.mark.covers("P3")
def test_an_id_that_the_dedupe_key_does_not_name_is_refused() -> None:
    world = World()
    world.say(PipelineSpawn(plan=plan("a"), dedupe_key="k"), pipeline_id="mine")
    problem = world.last(PipelineRefused).problem
    assert problem.code == "dedupe_key_mismatch"
    assert ids.pipeline_id("acme", "k") in problem.detail


def test_what_does_not_fit_into_its_messages_is_refused() -> None:
    world = World()
    world.spawn(plan({"id": "a", "objective": "x" * 32_000, "success_criteria": ["y" * 9_000]}))
    assert world.last(PipelineRefused).problem.code == "task_too_large"
    world.spawn(plan(*({"id": f"t{number}", "objective": "x" * 20_000} for number in range(12))))
    assert world.last(PipelineRefused).problem.code == "plan_too_large"


@pytest.mark.covers("P4")
def test_a_long_cycle_is_named_by_its_ends() -> None:
    nodes = [workflow.Node(f"n{i}", ((f"n{(i - 1) % 1_000}", "succeeded"),)) for i in range(1_000)]
    with pytest.raises(SpawnRefused, match=r"n0 → n1 → .*981 more") as refused:
        workflow.check(nodes, max_fan_out=50, max_depth=2_000)
    assert refused.value.code == "dependency_cycle"
    assert len(refused.value.problem().detail) < 1_000


@pytest.mark.covers("P4")
def test_conditions_let_the_other_branch_run_and_a_join_wait_for_both() -> None:
    world = World()
    world.spawn(plan("try", "good: try", "bad: try?failed", "join: good?finished, bad?finished"))
    world.start("try")
    world.fail("try")
    assert [(e.task_id, e.reason) for e in world.all(TaskSkipped)] == [
        ("good", "task try failed; this one waits for it to have succeeded")
    ]
    world.run("bad")
    world.run("join")
    assert isinstance(world.terminal(), PipelineCompleted)
    assert world.statuses() == {"try": "failed", "good": "skipped", "bad": "succeeded", "join": "succeeded"}
    assert [o.status for o in world.all(AgentRun)[-1].dependency_outcomes] == ["skipped", "succeeded"]


@pytest.mark.covers("P4")
def test_a_skip_is_handed_on_to_all_that_wait() -> None:
    world = World()
    world.spawn(plan("a", "b: a?failed", "c: b", "d: c", "e: a"))
    world.run("a")
    world.run("e")
    assert world.statuses() == {"a": "succeeded", "b": "skipped", "c": "skipped", "d": "skipped", "e": "succeeded"}


@pytest.mark.covers("P4")
def test_fail_fast_ends_everything_with_the_first_problem() -> None:
    world = World()
    world.spawn(plan("a", "b", "c: a", "d: a?finished"))
    world.start("a")
    world.start("b")
    world.fail("a", code="model_unauthorized")
    end = world.last(PipelineFailed)
    assert world.statuses() == {"a": "failed", "b": "cancelled", "c": "skipped", "d": "skipped"}
    assert end.problem is not None
    assert end.problem.code == "model_unauthorized"
    assert "task a" in end.reason
    assert world.all(PipelineReported) == []


@pytest.mark.covers("P4")
def test_carry_on_keeps_what_can_go_on() -> None:
    world = World()
    world.spawn(plan("a", "b", "c: a", "d: b", on_failure="carry_on"))
    world.start("a")
    world.fail("a")
    world.run("b")
    world.run("d")
    assert isinstance(world.terminal(), PipelineCompleted)
    assert world.last(PipelineCompleted).reason == "2 of 4 tasks succeeded"
    assert world.statuses() == {"a": "failed", "b": "succeeded", "c": "skipped", "d": "succeeded"}


@pytest.mark.covers("P1", "P4")
def test_carry_on_without_any_success_is_a_failure_with_the_first_problem() -> None:
    world = World()
    world.spawn(plan("a", "b", on_failure="carry_on"))
    for task, code in (("b", "first"), ("a", "second")):
        world.start(task)
        world.fail(task, code=code)
    end = world.last(PipelineFailed)
    assert end.problem is not None
    assert end.problem.code == "first"


@pytest.mark.covers("P4")
def test_fan_out_and_join() -> None:
    world = World()
    middle = [f"m{number}" for number in range(20)]
    world.spawn(plan("a", *(f"{name}: a" for name in middle), f"z: {', '.join(middle)}", limits={"max_agents": 50}))
    world.run("a")
    world.wait(0)  # more start than one decision hands out
    for name in reversed(middle):
        assert [e.task_id for e in world.all(TaskAssigned)][-1] != "z"
        world.run(name)
    world.run("z")
    assert world.last(PipelineCompleted).agents_used == 22


@pytest.mark.covers("P4")
def test_outcomes_are_shortened_evenly_where_they_do_not_fit() -> None:
    """A join of a thousand tasks with much to say: the record for the runner, and the report, stay within bounds."""
    world = World()
    names = [f"m{number:03}" for number in range(999)]
    world.spawn(plan(*names, f"z: {', '.join(names)}", limits={"max_agents": 5_000, "max_fan_out": 1_000}))
    world.wait(0)
    for name in names:
        world.start(name)
        world.succeed(name, "äöü\n" * 900, artifacts=[reference(f"{name} {n}") for n in range(30)])
    outcomes = world.last(AgentRun).dependency_outcomes  # its size is checked where it was said
    assert [outcome.task_id for outcome in outcomes] == names[: len(outcomes)]
    world.run("z")
    report = world.last(PipelineReported)
    assert len(report.outcomes) == 1_000


@pytest.mark.covers("P4")
def test_a_few_long_outcomes_keep_their_beginnings() -> None:
    world = World()
    names = [f"m{number}" for number in range(20)]
    world.spawn(plan(*names, f"z: {', '.join(names)}", limits={"max_agents": 50}))
    world.wait(0)
    for name in names:
        world.start(name)
        world.succeed(name, f"{name} " + "long \n" * 600, artifacts=[reference(name)])
    for outcome in world.last(AgentRun).dependency_outcomes:
        assert outcome.summary.startswith(f"{outcome.task_id} long \n")
        assert outcome.summary.endswith("…")
        assert outcome.artifacts == (reference(outcome.task_id),)
