"""The fold that people see: what it shows, and that neither repetition nor order between topics changes it."""

from __future__ import annotations

import copy
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from sluice_contracts import topics
from sluice_contracts.envelope import CloudEvent
from sluice_contracts.messages import Message, agent, pipeline
from sluice_observability.domain import read_model
from sluice_observability.domain.read_model import ReadModel
from sluice_observability.domain.told_turns import TOLD_MAX_COUNT
from sluice_observability.domain.views import PipelineView
from tests.unit.observability.events import (
    START_MS,
    Teller,
    failing,
    finishing,
    losing,
    refusing,
    spawning,
    turn,
    whole_life,
)

PIPELINE = "11111111-1111-4111-8111-111111111111"


def folded(events: list[CloudEvent[Message]], finished_max_count: int = 10) -> ReadModel:
    model = ReadModel(finished_max_count)
    for event in events:
        model.apply(event)
    return model


@pytest.mark.covers("U1")
def test_a_finished_pipeline_is_shown_whole() -> None:
    view = folded(whole_life(PIPELINE)).pipeline(PIPELINE)
    assert view is not None
    assert (view.state, view.reason, view.duration_ms, view.agents_used) == ("COMPLETED", "all tasks succeeded", 42, 1)
    task = view.tasks["look"]
    assert (task.status, task.summary, task.turns, task.attempt) == ("succeeded", "a.log:1", 2, 1)
    assert [one.name for one in task.artifacts] == ["report.md"]
    [one] = view.agents.values()
    assert (one.state, one.turns, one.usage.input_tokens, one.runner_id, one.model) == ("SUCCEEDED", 2, 200, "r1", "m1")


@pytest.mark.covers("U1")
def test_a_failed_pipeline_tells_why() -> None:
    teller = Teller(PIPELINE)
    view = folded([*spawning(teller), *failing(teller)]).pipeline(PIPELINE)
    assert view is not None
    assert view.state == "FAILED"
    assert view.problem is not None
    assert view.problem.code == "agent_timeout"
    assert view.tasks["look"].problem == view.problem
    assert view.agents[teller.agent_id].last_problem == view.problem


def test_a_turn_counts_once_and_the_spawners_sums_count_in_the_end() -> None:
    teller = Teller(PIPELINE)
    events = [*spawning(teller), turn(teller, 1), *losing(teller)]
    events += [turn(teller, 2, attempt=1, tokens=9_999), turn(teller, 2, attempt=2)]
    view = folded(events).pipeline(PIPELINE)
    assert view is not None
    one = view.agents[teller.agent_id]
    assert (one.turns, one.usage.input_tokens, one.attempt, one.attempts_lost) == (2, 10_099, 2, 1)
    view = folded([*events, *finishing(teller)]).pipeline(PIPELINE)
    assert view is not None
    one = view.agents[teller.agent_id]
    assert (one.turns, one.usage.input_tokens) == (2, 200)


@pytest.mark.parametrize("refused_first", [False, True])
def test_a_turn_that_was_refused_counts_for_nothing(refused_first: bool) -> None:
    """A late turn of an attempt that is over: it is no checkpoint, and its tokens are nobody's."""
    teller = Teller(PIPELINE)
    events = [*spawning(teller), turn(teller, 1), turn(teller, 2)]
    right = folded(events).pipeline(PIPELINE)
    late = turn(teller, 3, tokens=9_999)
    told = [late, refusing(teller, late)]
    view = folded([*events, *(reversed(told) if refused_first else told), late]).pipeline(PIPELINE)
    assert view is not None
    assert right is not None
    one, before = view.agents[teller.agent_id], right.agents[teller.agent_id]
    assert (one.turns, one.usage, one.transcript, one.turn_finished_at_ms) == (
        before.turns, before.usage, before.transcript, before.turn_finished_at_ms
    )  # fmt: skip
    assert one.messages_refused == 1


def test_of_many_turns_only_the_newest_are_kept() -> None:
    teller = Teller(PIPELINE)
    turns = [turn(teller, number) for number in range(1, 3 * TOLD_MAX_COUNT)]
    late = turn(teller, 3 * TOLD_MAX_COUNT)
    view = folded([*spawning(teller), *turns, late, *turns[:3], refusing(teller, late)]).pipeline(PIPELINE)
    assert view is not None
    one = view.agents[teller.agent_id]
    assert len(one.turns_told) <= TOLD_MAX_COUNT
    assert (one.turns, one.usage.input_tokens) == (len(turns), 100 * len(turns))
    assert one.turn_finished_at_ms == turns[-1].time_ms
    assert b"settled" not in TypeAdapter(PipelineView).dump_json(view)


@given(seed=st.integers(0, 2**32))
def test_repetition_and_order_between_topics_change_nothing(seed: int) -> None:
    draw = random.Random(seed)
    teller = Teller(PIPELINE)
    turns = [turn(teller, 1), turn(teller, 2, attempt=1, tokens=9_999), turn(teller, 2, attempt=2)]
    refused = [refusing(teller, turns[1])] if draw.random() < 0.5 else []
    decided = [*spawning(teller), *losing(teller), *refused, *(finishing(teller) if draw.random() < 0.5 else ())]
    expected = folded([*decided, *turns]).pipeline(PIPELINE)
    left, right = list(decided), list(turns)
    events: list[CloudEvent[Message]] = []
    while left or right:
        events.append((left if not right or (left and draw.random() < 0.5) else right).pop(0))
        if draw.random() < 0.3:
            events.append(draw.choice(events))
    view = folded(events).pipeline(PIPELINE)
    assert view is not None
    assert expected is not None
    assert view == expected


def test_a_repeated_event_is_no_news() -> None:
    model = ReadModel(10)
    events = whole_life(PIPELINE)
    assert all(model.apply(event) for event in events)
    before = copy.deepcopy(model.pipeline(PIPELINE))
    assert not any(model.apply(event) for event in events if not isinstance(event.data, agent.AttemptEvent))
    assert model.pipeline(PIPELINE) == before


def test_only_the_newest_finished_pipelines_are_kept() -> None:
    model = folded([event for number in range(5) for event in whole_life(f"p{number}")], finished_max_count=2)
    assert [number for number in range(5) if model.pipeline(f"p{number}") is not None] == [3, 4]
    assert len(model) == 2
    assert model.agent(Teller("p0").agent_id) is None
    assert model.agent(Teller("p4").agent_id) is not None


@pytest.mark.covers("U1")
@pytest.mark.parametrize("runner_first", [False, True])
def test_the_last_spawn_of_an_id_is_the_pipeline_that_is_meant(runner_first: bool) -> None:
    """Its former life ended longer ago than the retention. A runner may be heard before the spawner."""
    again = Teller(PIPELINE, start_ms=START_MS + 60_000)
    events = [*spawning(again), turn(again, 1)]
    if runner_first:
        events = [events[-1], *events[:-1]]
    former = whole_life(PIPELINE)
    repeated = [event for event in former if not isinstance(event.data, agent.AttemptEvent)]
    model = folded([*former, *events, *repeated])
    view = model.pipeline(PIPELINE)
    assert view == folded(events).pipeline(PIPELINE)
    assert view is not None
    assert (view.state, list(view.agents)) == ("RUNNING", [again.agent_id])
    assert [one.pipeline_id for one in model.living()] == [PIPELINE]
    assert model.agent(Teller(PIPELINE).agent_id) is None
    assert model.agent(again.agent_id) is not None
    for event in finishing(again):
        model.apply(event)
    assert list(model.living()) == []
    assert len(model) == 1


def test_living_pipelines_are_never_forgotten() -> None:
    model = ReadModel(1)
    for number in range(50):
        for event in spawning(Teller(f"p{number}")):
            model.apply(event)
    assert len(list(model.living())) == 50


def test_runners_of_unknown_pipelines_can_not_fill_the_memory() -> None:
    model = ReadModel(1)
    for number in range(read_model.UNKNOWN_MAX_COUNT + 5):
        model.apply(turn(Teller(f"p{number}"), 1))
    assert len(model) == 0
    for event in spawning(Teller("p0")):  # forgotten, so its turn is too
        model.apply(event)
    [one] = model.living()
    assert one.agents[Teller("p0").agent_id].turns == 0


def test_questions_come_and_go() -> None:
    teller = Teller(PIPELINE)
    asked = pipeline.QuestionAsked(
        question_id="q1", agent_id=teller.agent_id, question="Roll back?", options=("yes", "no"), deadline_at_ms=1
    )
    model = folded([*spawning(teller), teller.spawner(asked)])
    view = model.pipeline(PIPELINE)
    assert view is not None
    assert [one.question for one in view.questions.values()] == ["Roll back?"]
    assert view.summary().questions_pending == 1
    model.apply(
        teller.spawner(
            pipeline.QuestionAnswered(question_id="q1", agent_id=teller.agent_id, answer="yes", answered_by="command")
        )
    )
    assert view.questions == {}


def test_every_event_of_the_spawner_is_folded_or_left_out_on_purpose() -> None:
    left_out = {pipeline.PipelineRefused, pipeline.PipelineReported}
    assert set(topics.PIPELINE_EVENTS.messages) - read_model.FOLDS.keys() == left_out


@pytest.mark.covers("P3")
def test_a_second_life_under_one_id_begins_anew() -> None:
    model = ReadModel(1)
    for event in whole_life("p1"):
        model.apply(event)
    again = Teller("p1", start_ms=START_MS + 9_000_000)
    begun, *others = spawning(again, team="second")
    assert model.apply(begun)
    view = model.pipeline("p1")
    assert view is not None
    assert (view.state, view.labels, view.agents, view.finished_at_ms) == ("SPAWNED", {"team": "second"}, {}, None)
    assert not model.apply(whole_life("p1")[-1]), "the first life's end, told again late"
    for event in others:
        model.apply(event)
    for event in whole_life("p2"):
        model.apply(event)  # the one finished pipeline that is kept
    assert [view.pipeline_id for view in model.living()] == ["p1"]
    assert model.agent(again.agent_id) is not None
