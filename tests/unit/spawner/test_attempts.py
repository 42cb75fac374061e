"""W10, P12, P13: leases, fencing, retries, timeouts; finished turns are kept."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sluice_contracts.messages.agent import AgentRun, AgentStop
from sluice_contracts.messages.base import Message
from sluice_contracts.messages.pipeline import (
    AgentAttemptLost,
    AgentAttemptRefused,
    AgentStateChanged,
    PipelineCompleted,
    PipelineFailed,
    TaskFailed,
    TaskRetried,
    TaskStarted,
)
from sluice_spawner.domain.policy import TIMERS_PER_DECISION_MAX_COUNT, SpawnerPolicy
from tests.unit.spawner.world import PIPELINE, START_MS, World, known, of, plan, reference, types


def running(*tasks: str, policy: SpawnerPolicy | None = None, timeout_s: int = 300, retries: int = 2) -> World:
    world = World(policy)
    world.spawn(plan(*({"id": name, "timeout_s": timeout_s, "retries": retries} for name in tasks or ("a",))))
    world.start("a")
    return world


@pytest.mark.covers("P12")
def test_a_finished_turn_touches_one_small_entity_and_says_nothing() -> None:
    world = running()
    for number in range(1, 11):
        world.turn("a", number)
    _, _, decision = world.heard[-1]
    assert list(decision.deltas) == [f"{PIPELINE}/agent/{world.agent_id('a')}"]
    assert decision.outputs == ()


@pytest.mark.covers("P12", "W10")
def test_a_lost_attempt_goes_on_from_the_last_finished_turn() -> None:
    world = running()
    world.turn("a", 1)
    world.turn("a", 2)
    said = world.lose("a")
    assert types(said) == ["agent.attempt_lost", "agent.stop", "agent.state_changed", "task.assigned", "agent.run"]
    run = world.last(AgentRun)
    assert (run.attempt, run.turn, run.transcript) == (2, 2, reference("turn 2 "))
    assert run.usage.input_tokens == 20
    assert run.deadline_at_ms == START_MS + 300_000
    assert world.last(AgentAttemptLost).runner_id == "r1"
    assert world.last(AgentStop).attempt == 1
    world.start("a", runner="r2")
    world.turn("a", 3, runner="r2")
    world.succeed("a", runner="r2")
    assert world.last(PipelineCompleted).usage.input_tokens == 30


@pytest.mark.covers("W10")
@pytest.mark.parametrize(
    ("say", "stops"),
    [
        (lambda w: w.start("a", attempt=1, runner="r9"), True),
        (lambda w: w.turn("a", 2, attempt=1), True),
        (lambda w: w.succeed("a", attempt=1), False),
        (lambda w: w.fail("a", attempt=1, retryable=True), False),
        (lambda w: w.ask("a", attempt=1), True),
        (lambda w: w.start("a", attempt=2, runner="r1"), True),
        (lambda w: w.turn("a", 2, attempt=2, runner="r1"), True),
        (lambda w: w.succeed("a", attempt=2, runner="r1"), False),
        (lambda w: w.fail("a", attempt=2, runner="r1", retryable=True), False),
        (lambda w: w.turn("a", 2, attempt=3, runner="r2"), False),
    ],
    ids=[
        "start of an old one", "turn of an old one", "success of an old one", "failure of an old one",
        "question of an old one", "start by another", "turn by another", "success by another", "failure by another",
        "turn of one that was never handed out",
    ],
)  # fmt: skip
def test_what_does_not_count_is_refused_once_and_changes_nothing(
    say: Callable[[World], list[Message]], stops: bool
) -> None:
    world = running()
    world.turn("a", 1)
    world.lose("a")
    world.start("a", runner="r2")
    before = world.agent("a")
    said = say(world)
    assert types(said) == ["agent.attempt_refused", *(["agent.stop"] if stops else [])]
    event = world.heard[-1][0]
    refused = world.last(AgentAttemptRefused)
    assert (refused.refused_id, refused.refused_type) == (event.id, event.type)
    if stops:
        assert world.last(AgentStop).runner_id == event.data.runner_id  # type: ignore[attr-defined]
    assert world.agent("a") == before
    assert world.hear(event) == []
    world.turn("a", 2, runner="r2")
    world.succeed("a", runner="r2")
    assert isinstance(world.terminal(), PipelineCompleted)


@pytest.mark.covers("W10", "P12")
def test_what_counted_and_comes_again_is_passed_over_in_silence_for_ever() -> None:
    """Whatever happens in between: every input again, in order, after each step of a life with losses and a retry."""
    world = running("a", "b")
    steps: list[Callable[[], object]] = [
        lambda: world.start("b"),
        lambda: world.turn("a", 1),
        lambda: world.turn("a", 2),
        lambda: world.ask("a", default="x"),
        lambda: world.lose("a"),
        lambda: world.start("a", runner="r2"),
        lambda: world.turn("a", 3, runner="r2"),
        lambda: world.fail("a", runner="r2", retryable=True),
        lambda: world.start("a", runner="r1"),
        lambda: world.turn("a", 4),
        lambda: world.wait(61),  # the question's default counts
        lambda: world.succeed("a"),
        lambda: world.succeed("b"),
    ]
    for step in steps:
        step()
        for event in [event for event, _, decision in list(world.heard) if decision.outputs or decision.deltas]:
            before = known(world, event)
            assert world.hear(event) == [], event
            assert known(world, event) == before
    assert isinstance(world.terminal(), PipelineCompleted)


@pytest.mark.covers("W10")
def test_two_runners_take_one_attempt_and_the_first_holds_it() -> None:
    world = running()
    said = world.start("a", runner="r2")
    assert types(said) == ["agent.attempt_refused", "agent.stop"]
    assert (world.last(AgentStop).attempt, world.last(AgentStop).runner_id) == (1, "r2")
    assert world.agent("a").runner_id == "r1"
    assert len(world.all(TaskStarted)) == 1


@pytest.mark.covers("W10")
@pytest.mark.parametrize(
    ("number", "text"), [(1, "other"), (3, ""), (7, "")], ids=["same number, other content", "gap", "wide gap"]
)
def test_a_runner_that_disagrees_on_the_turn_loses_its_attempt(number: int, text: str) -> None:
    world = running()
    world.turn("a", 1)
    said = world.turn("a", number, text=text)
    assert types(said)[:3] == ["agent.attempt_refused", "agent.attempt_lost", "agent.stop"]
    assert world.last(AgentAttemptLost).problem.code == "coordination_failed"
    run = world.last(AgentRun)
    assert (run.attempt, run.turn, run.transcript) == (2, 1, reference("turn 1 "))


@pytest.mark.covers("W10")
def test_a_runner_that_begins_anew_loses_its_attempt() -> None:
    world = running()
    world.turn("a", 1)
    world.lose("a")
    world.start("a")
    said = world.turn("a", 1, text="from the start")
    assert of(AgentAttemptRefused, said)
    assert world.last(AgentRun).attempt == 3


@pytest.mark.covers("P13")
def test_a_turn_beyond_the_limit_ends_the_task() -> None:
    world = World()
    world.spawn(plan("a", limits={"max_iterations": 2}))
    world.start("a")
    world.turn("a", 1)
    world.turn("a", 2)
    said = world.turn("a", 3)
    assert types(said)[0] == "agent.attempt_refused"
    assert of(AgentStop, said)
    problem = world.last(TaskFailed).problem
    assert (problem.code, problem.limit) == ("max_iterations", "max_iterations: 2 turns")
    assert isinstance(world.terminal(), PipelineFailed)


@pytest.mark.covers("P3")
def test_a_retryable_failure_goes_on_from_the_last_turn_until_no_retry_is_left() -> None:
    world = running(retries=2)
    for retry in (1, 2):
        world.turn("a", retry)
        said = world.fail("a", retryable=True, code="rate_limited")
        assert types(said) == [
            "agent.state_changed",
            "task.retried",
            "agent.state_changed",
            "task.assigned",
            "agent.run",
        ]
        assert (world.last(TaskRetried).retry, world.last(TaskRetried).problem.code) == (retry, "rate_limited")
        assert (world.last(AgentRun).attempt, world.last(AgentRun).turn) == (retry + 1, retry)
        world.start("a")
    world.fail("a", retryable=True, code="rate_limited")
    assert world.last(TaskFailed).problem.code == "rate_limited"
    assert isinstance(world.terminal(), PipelineFailed)


@pytest.mark.covers("P3")
def test_a_failure_that_is_not_retryable_is_final() -> None:
    world = running()
    world.fail("a", code="model_unauthorized")
    assert world.all(TaskRetried) == []
    assert isinstance(world.terminal(), PipelineFailed)


@pytest.mark.covers("P13", "W10")
def test_an_attempt_that_no_runner_takes_is_handed_out_again_and_at_last_fails() -> None:
    world = World(SpawnerPolicy(spawn_attempts_max=6))
    world.spawn(plan("a"))
    assert world.wait(9.9) == []
    said = world.wait(0.1)
    assert types(said) == ["agent.attempt_lost", "agent.stop", "task.assigned", "agent.run"]
    assert world.last(AgentAttemptLost).runner_id is None
    world.wait(39.9)
    assert world.last(AgentRun).attempt == 5
    world.wait(10)
    assert world.last(AgentRun).attempt == 6
    world.wait(10)
    problem = world.last(TaskFailed).problem
    assert (problem.code, problem.limit) == ("agent_timeout", "spawn_timeout_s: 10 s")
    assert isinstance(world.terminal(), PipelineFailed)


@pytest.mark.covers("W10")
def test_attempts_that_nobody_took_are_counted_anew_once_one_is_taken() -> None:
    world = World(SpawnerPolicy(spawn_attempts_max=3))
    world.spawn(plan("a"))
    for _ in range(3):
        world.wait(20)
        world.start("a")
        world.lose("a")
    assert world.all(TaskFailed) == []


@pytest.mark.covers("P13", "W10")
def test_attempts_are_not_lost_for_ever() -> None:
    world = running(policy=SpawnerPolicy(lost_attempts_max=3))
    for _ in range(2):
        world.lose("a")
        world.start("a")
    world.lose("a")
    problem = world.last(TaskFailed).problem
    assert (problem.code, problem.limit) == ("agent_timeout", "lost_attempts_max: 3 attempts")


@pytest.mark.covers("W10")
def test_a_lease_that_ran_out_for_an_attempt_that_is_over_means_nothing() -> None:
    world = running()
    world.lose("a")
    assert world.lose("a", attempt=1) == []
    assert world.lose("a") == []  # nobody holds attempt 2 yet; its timer is the spawn's
    world.start("a")
    assert world.lose("a", attempt=1) == []


@pytest.mark.covers("P13", "A3")
def test_a_task_has_its_time_over_all_attempts() -> None:
    world = running(timeout_s=100)
    world.wait(60)
    world.lose("a")
    world.start("a")
    assert world.wait(39) == []
    said = world.wait(1)
    assert of(AgentStop, said)[0].attempt == 2
    problem = world.last(TaskFailed).problem
    assert (problem.code, problem.limit) == ("agent_timeout", "timeout_s: 100 s")
    assert world.all(AgentStateChanged)[-1].to_state == "ERROR"


@pytest.mark.covers("P12")
def test_a_timer_of_an_older_generation_is_ignored() -> None:
    world = World()
    world.spawn(plan("a"))
    old = next(timer for timer in world.timers() if timer.name.startswith("spawn:"))
    world.wait(10)
    assert world.last(AgentRun).attempt == 2
    assert world.fire(old) == []
    world.start("a")
    assert world.fire(old) == []


@pytest.mark.covers("P12")
def test_tick_does_what_is_due_and_nothing_else() -> None:
    world = World()
    world.spawn(plan("a", "b", on_failure="carry_on"))
    world.start("b")
    assert world.tick() == []
    world.now_ms += 10_000  # and no timer fired, as if the processor had been away
    assert types(world.tick()) == ["agent.attempt_lost", "agent.stop", "task.assigned", "agent.run"]
    world.now_ms += 300_000
    world.tick()
    assert {failed.task_id for failed in world.all(TaskFailed)} == {"a", "b"}
    assert isinstance(world.terminal(), PipelineFailed)


@pytest.mark.covers("P12")
def test_a_tick_fires_no_more_than_one_decision_may_hold() -> None:
    """Its outputs are one record of the journal: 130 attempts of 64 KiB would not fit. The timers bring the rest."""
    world = World()
    world.spawn(plan(*(f"t{number}" for number in range(40)), limits={"max_agents": 40}))
    world.wait(0)
    assert len(world.all(AgentRun)) == 40
    world.now_ms += 10_000  # and no timer fired, as if the processor had been away
    assert len(of(AgentRun, world.tick())) == TIMERS_PER_DECISION_MAX_COUNT
    assert len(of(AgentRun, world.tick())) == TIMERS_PER_DECISION_MAX_COUNT
    world.wait(0)
    assert [run.attempt for run in world.all(AgentRun)] == [1] * 40 + [2] * 40


@pytest.mark.covers("P12")
def test_a_tick_starts_nothing_beyond_what_its_timers_handed_out() -> None:
    world = World()
    world.spawn(plan(*(f"t{number}" for number in range(80)), limits={"max_agents": 50}))
    advance = [timer for timer in world.timers() if timer.name == "advance"]
    assert advance, "16 were started; the others have slots"
    world.now_ms += 10_000
    assert len(of(AgentRun, world.tick())) == TIMERS_PER_DECISION_MAX_COUNT
    world.wait(0)
    assert world.agent("t15").attempt == 2
    assert world.agent("t49").attempt == 1


@pytest.mark.covers("P12")
def test_a_tick_that_ends_the_pipeline_ends_it_once() -> None:
    world = World()
    world.spawn(plan("a", "b"))
    world.now_ms += 300_000
    world.tick()
    assert isinstance(world.terminal(), PipelineFailed)


@pytest.mark.covers("W10")
def test_a_late_turn_after_the_end_is_refused_and_its_runner_stopped() -> None:
    world = running("a", "b")
    world.start("b", runner="r2")
    world.turn("b", 1, runner="r2")
    turn = world.heard[-1][0]
    world.turn("a", 1)
    world.fail("a")
    assert world.hear(turn) == []
    late = world.event(turn.data.model_copy(update={"turn": 2}))
    said = world.hear(late)
    assert types(said) == ["agent.attempt_refused", "agent.stop"]
    assert world.hear(late) == []
    numbers = [output.event.sequence for output in world.said]
    assert numbers == list(range(START_MS, START_MS + len(numbers)))


@pytest.mark.covers("W10")
def test_agents_of_a_pipeline_that_nobody_knows_are_not_answered() -> None:
    world = running()
    event = world.heard[-1][0]
    assert world.hear(world.event(event.data, pipeline_id="other")) == []
    unknown = event.data.model_copy(update={"agent_id": "somebody"})
    assert types(world.say(unknown)) == ["agent.attempt_refused"]


@pytest.mark.covers("P12")
def test_the_clock_may_jump_back() -> None:
    world = running()
    world.now_ms -= 60_000
    world.turn("a", 1)
    world.succeed("a")
    assert world.last(PipelineCompleted).duration_ms == 0
