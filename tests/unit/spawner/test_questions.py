"""P10: questions of agents, and their answers."""

from __future__ import annotations

import pytest

from sluice_contracts.messages.agent import AgentAnswer, AgentRun, AgentStop
from sluice_contracts.messages.pipeline import (
    AgentStateChanged,
    PipelineCompleted,
    PipelineFailed,
    PipelineRefused,
    PipelineStateChanged,
    QuestionAnswered,
    QuestionAsked,
    TaskFailed,
)
from sluice_spawner.domain.policy import SpawnerPolicy
from tests.unit.spawner.world import START_MS, World, plan, types


def asking(*, default: str | None = None, policy: SpawnerPolicy | None = None, unattended: bool = False) -> World:
    world = World(policy)
    world.spawn(plan("a", "b", unattended=unattended))
    world.start("a")
    world.turn("a", 1)
    world.ask("a", "q1", default=default)
    return world


def states(world: World) -> list[str]:
    return [event.to_state for event in world.all(PipelineStateChanged)]


@pytest.mark.covers("P10", "P1", "A3")
def test_a_question_is_asked_answered_and_seen() -> None:
    world = asking()
    asked = world.last(QuestionAsked)
    assert (asked.question, asked.options, asked.deadline_at_ms) == ("which?", ("a", "b"), START_MS + 60_000)
    assert world.last(AgentStateChanged).to_state == "WAITING"
    assert states(world) == ["RUNNING", "NEEDS_INPUT"]
    said = world.answer(asked.question_id, "b")
    assert types(said) == ["question.answered", "agent.answer", "agent.state_changed", "pipeline.state_changed"]
    assert (world.last(QuestionAnswered).answer, world.last(QuestionAnswered).answered_by) == ("b", "command")
    assert world.last(AgentAnswer).answer.answer == "b"
    assert world.said[-3].topic == "agent.inbox.general"
    assert states(world)[-1] == "RUNNING"
    world.turn("a", 2)
    assert world.agent("a").answers == ()
    world.succeed("a")
    world.run("b")
    assert isinstance(world.terminal(), PipelineCompleted)


@pytest.mark.covers("P10")
def test_several_questions_pend_at_once_and_others_work_on() -> None:
    world = asking()
    world.ask("a", "q2")
    world.start("b")
    world.ask("b", "q1")
    first, second, third = (event.question_id for event in world.all(QuestionAsked))
    assert len({first, second, third}) == 3
    world.answer(second, "two")
    assert world.agent("a").state == "WAITING"
    world.answer(first, "one")
    assert world.agent("a").state == "BUSY"
    assert states(world)[-1] == "NEEDS_INPUT"
    world.answer(third, "three")
    assert states(world) == ["RUNNING", "NEEDS_INPUT", "RUNNING"]


@pytest.mark.covers("P10")
def test_the_first_answer_counts_and_every_other_is_refused() -> None:
    world = asking()
    question_id = world.last(QuestionAsked).question_id
    world.answer(question_id, "b", id_="x")
    assert world.answer(question_id, "b", id_="x") == []
    world.answer(question_id, "a", id_="y")
    assert world.last(PipelineRefused).problem.code == "question_settled"
    world.answer("never-asked", "a")
    assert world.last(PipelineRefused).problem.code == "unknown_question"
    assert len(world.all(QuestionAnswered)) == 1
    world.cancel()
    assert world.answer(question_id, "b", id_="x") == []


@pytest.mark.covers("P10", "P13")
def test_the_deadline_brings_the_default() -> None:
    world = asking(default="a")
    world.start("b")
    world.wait(60)
    assert (world.last(QuestionAnswered).answer, world.last(QuestionAnswered).answered_by) == ("a", "deadline")
    assert world.last(AgentAnswer).answer.answer == "a"
    assert states(world)[-1] == "RUNNING"


@pytest.mark.covers("P10", "P13")
def test_the_deadline_without_default_fails_the_task() -> None:
    world = asking()
    world.start("b")
    world.wait(60)
    assert world.last(TaskFailed).problem.code == "question_unanswered"
    assert world.all(AgentStop)[0].agent_id == world.agent_id("a")
    assert isinstance(world.terminal(), PipelineFailed)


@pytest.mark.covers("P10")
def test_a_task_that_ends_takes_its_questions_with_it() -> None:
    world = World()
    world.spawn(plan("a", "b", on_failure="carry_on"))
    world.start("a")
    world.start("b")
    world.ask("a")
    question_id = world.last(QuestionAsked).question_id
    world.fail("a")
    assert states(world) == ["RUNNING", "NEEDS_INPUT", "RUNNING"]
    world.answer(question_id, "b")
    assert world.last(PipelineRefused).problem.code == "question_settled"
    assert world.wait(60) == []
    world.succeed("b")
    assert isinstance(world.terminal(), PipelineCompleted)


@pytest.mark.covers("P10", "P13")
def test_waiting_for_a_person_does_not_count_against_the_task() -> None:
    world = World()
    world.spawn(plan({"id": "a", "timeout_s": 100}))
    world.start("a")
    world.wait(90)
    world.ask("a", "q1", timeout_s=3_600)
    world.ask("a", "q2", timeout_s=3_600)
    first, second = (event.question_id for event in world.all(QuestionAsked))
    world.wait(1_000)
    world.answer(first, "x")
    world.wait(1_000)
    world.lose("a")
    assert world.last(AgentRun).deadline_at_ms == START_MS + 2_100_000
    world.start("a")
    world.answer(second, "x")
    assert world.wait(9) == []
    world.wait(1)
    assert world.last(TaskFailed).problem.code == "agent_timeout"


@pytest.mark.covers("P10", "P12")
def test_an_answer_survives_the_attempt_that_asked() -> None:
    """Answered while nobody holds the agent: the next attempt has it, in its task or once it says that it runs."""
    world = asking()
    question_id = world.last(QuestionAsked).question_id
    world.lose("a")
    assert world.last(AgentRun).answers == ()
    assert world.all(AgentAnswer) == []
    said = world.answer(question_id, "b")
    assert "agent.answer" not in types(said)
    said = world.start("a", runner="r2")
    assert types(said) == ["task.started", "agent.state_changed", "agent.answer"]
    world.lose("a")
    answers = world.last(AgentRun).answers
    assert [(answer.request_id, answer.answer) for answer in answers] == [("q1", "b")]
    assert types(world.start("a", runner="r3")) == ["task.started", "agent.state_changed"]
    world.turn("a", 2, runner="r3")
    assert world.agent("a").answers == ()


@pytest.mark.covers("P10", "P12")
def test_an_attempt_that_asks_again_meets_its_question() -> None:
    world = asking()
    question_id = world.last(QuestionAsked).question_id
    world.lose("a")
    world.start("a", runner="r2")
    assert types(world.ask("a", "q1", runner="r2")) == ["agent.state_changed"]
    world.answer(question_id, "b")
    assert len(world.all(AgentAnswer)) == 1
    world.lose("a")
    world.start("a", runner="r3")
    assert types(world.ask("a", "q1", runner="r3")) == ["agent.answer"]
    assert len(world.all(QuestionAsked)) == 1


@pytest.mark.covers("P10")
def test_a_request_id_used_again_in_a_later_turn_is_a_new_question() -> None:
    world = asking()
    again = world.heard[-1][0]
    world.answer(world.last(QuestionAsked).question_id, "b")
    world.turn("a", 2)
    assert world.hear(again) == []
    world.ask("a", "q1")
    first, second = world.all(QuestionAsked)
    assert first.question_id != second.question_id


@pytest.mark.covers("P10")
def test_unattended_takes_the_default_at_once_and_needs_nobody() -> None:
    world = asking(default="a", unattended=True)
    assert world.last(QuestionAnswered).answered_by == "default"
    assert world.last(AgentAnswer).answer.answer == "a"
    assert states(world) == ["RUNNING"]
    assert world.agent("a").state == "BUSY"


@pytest.mark.covers("P10")
def test_unattended_without_default_tells_the_agent_so() -> None:
    world = asking(unattended=True)
    assert world.all(QuestionAsked) == []
    problem = world.last(AgentAnswer).answer.problem
    assert problem is not None
    assert problem.code == "question_unanswered"
    world.lose("a")
    assert world.last(AgentRun).answers[0].problem == problem


@pytest.mark.covers("P10", "P13")
def test_questions_have_limits_and_a_breach_is_an_answer() -> None:
    world = asking(policy=SpawnerPolicy(questions_per_pipeline_max=6))
    for number in (2, 3, 4):
        world.ask("a", f"q{number}")
    said = world.ask("a", "q5")
    event = world.heard[-1][0]
    assert types(said) == ["agent.answer"]
    problem = world.last(AgentAnswer).answer.problem
    assert problem is not None
    assert problem.limit == "QUESTIONS_PER_AGENT_MAX_COUNT: 4 questions"
    assert world.hear(event) == []
    world.start("b")
    world.ask("b", "q1", default="x" * 5_000)
    assert "ANSWER_MAX_BYTES" in str(world.last(AgentAnswer).answer.problem)
    world.ask("b", "q1", question="x" * 32_000, default="y")
    world.ask("b", "q2")
    world.ask("b", "q3")
    assert "questions_per_pipeline_max: 6" in str(world.last(AgentAnswer).answer.problem)


@pytest.mark.covers("P10")
def test_an_answer_that_is_too_large_is_refused_and_the_question_stays() -> None:
    world = asking()
    question_id = world.last(QuestionAsked).question_id
    world.answer(question_id, "ä" * 3_000)
    refused = world.last(PipelineRefused).problem
    assert (refused.code, refused.field) == ("answer_too_large", "answer")
    world.answer(question_id, "b")
    assert world.last(QuestionAnswered).answer == "b"


@pytest.mark.covers("P10", "P13")
def test_the_largest_lawful_task_with_all_its_answers_fits_into_its_record() -> None:
    """Everything at its limit at once; the world checks the size of every attempt that is handed out."""
    world = World()
    long = {"id": "z", "objective": "x" * 31_000, "dependencies": ["a"]}
    world.spawn(plan("a", long))
    world.start("a")
    world.succeed("a", "s" * 4_000)
    world.start("z")
    for number in range(4):
        world.ask("z", f"q{number}")
        world.answer(world.last(QuestionAsked).question_id, "\n" * 2_047)
    world.lose("z")
    run = world.last(AgentRun)
    assert len(run.answers) == 4
    assert run.dependency_outcomes[0].summary == "s" * 4_000
