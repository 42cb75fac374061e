"""The handoff report as a pure function: what it says of a breach, and that nothing that failed is left out of it."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import get_args

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice_contracts.documents import handoff_report_schema
from sluice_contracts.envelope import CloudEvent
from sluice_contracts.handoff import HandoffReport
from sluice_contracts.limits import SUMMARY_MAX_CHARACTERS, TEXT_MAX_CHARACTERS
from sluice_contracts.messages import Message
from sluice_contracts.messages.agent import AgentFailed
from sluice_contracts.messages.base import AgentState, ArtifactRef, Problem, TaskStatus, Usage
from sluice_contracts.messages.pipeline import TaskFailed
from sluice_contracts.messages.signal import ErrorReported
from sluice_contracts.messages.token import TokenRenew, TokenRevoked
from sluice_observability.domain.read_model import ReadModel
from sluice_observability.domain.report_text import markdown_of
from sluice_observability.domain.reporting import (
    Occasion,
    agents_affected,
    report_on,
    report_on_end,
    sentence,
    why_failed,
)
from sluice_observability.domain.views import AgentView, ErrorsView, PipelineView, QuestionView, TaskView, TokenView
from tests.unit.observability.breaches import Safeguard, breach, handed_off, reported
from tests.unit.observability.events import START_MS, TRANSCRIPT, Teller, failing, spawning, turn

SCHEMA = handoff_report_schema()

GOLDEN = Path(__file__).parent / "handoff.md"
"""The report on the breach of these tests, as people read it; who changes its form looks at it here."""


def view_of_breach() -> tuple[PipelineView, Occasion]:
    teller = Teller("p1")
    model = ReadModel(1)
    told = breach(teller)
    for event in told:
        model.apply(event)
    view = model.pipeline("p1")
    assert view is not None
    revoked = told[-1]
    assert isinstance(revoked.data, TokenRevoked)
    return view, Occasion(
        "revocation", revoked.id, revoked.data.reason, START_MS + 60_000, revoked.data, revoked.time_ms
    )


@pytest.mark.covers("O5")
def test_an_error_is_counted_once_where_it_happened() -> None:
    """A model that fails three times fails its attempt, and that its task: three errors, as the budget counts them."""
    teller = Teller("p1")
    safeguard = Safeguard(teller)
    away = Problem(code="model_unavailable", detail="no answer")
    failed = AgentFailed(agent_id=teller.agent_id, attempt=1, runner_id="r1", problem=away, retryable=True)
    told = [
        *spawning(teller), *safeguard.errors(3, "model_unavailable"), teller.runner(failed),
        teller.spawner(TaskFailed(task_id="look", problem=away)),
        teller.spawner(TaskFailed(task_id="other", problem=Problem(code="agent_timeout", detail="no turn"))),
    ]  # fmt: skip
    model = ReadModel(1)
    for event in told:
        model.apply(event)
    view = model.pipeline("p1")
    assert view is not None
    made = report_on(view, Occasion("demand", "c", "on_demand", START_MS))
    assert made.summary.errors == 4
    assert made.summary.errors_by_code == {"model_unavailable": 3, "agent_timeout": 1}
    assert [(one.type, one.count) for one in made.summary.errors_by_type] == [("error.reported", 3), ("task.failed", 1)]
    assert {one.type for one in made.summary.consequences} == {"agent.failed", "task.failed"}
    assert "4 errors (model_unavailable 3, agent_timeout 1)" in sentence(view, "x")
    assert "## What followed from them" in markdown_of(made)


@pytest.mark.covers("O5")
def test_the_report_on_a_breach() -> None:
    view, occasion = view_of_breach()
    made = report_on(view, occasion)
    agent_id = Teller("p1").agent_id
    assert made.complete
    assert made.summary.errors_by_code == {"provider_unavailable": 6}
    [errors] = made.summary.errors_by_type
    assert (errors.agent_id, errors.type, errors.count, errors.detail) == (
        agent_id, "error.reported", 6, "no answer, try 6",
    )  # fmt: skip
    assert made.summary.agents_affected == (agent_id,)
    assert made.summary.last_checkpoint is not None
    assert (made.summary.last_checkpoint.turn, made.summary.last_checkpoint.transcript) == (1, TRANSCRIPT)
    assert made.summary.revocation is not None
    assert made.summary.revocation.latency_ms == 11
    [alert] = made.summary.alerts
    assert (alert.condition, alert.observed, alert.limit) == ("error_budget_exceeded", 6, 5)
    context = made.context
    assert (context.objective, context.progress.by_status, context.blackboard) == (
        "find the first error", {"running": 1}, {},
    )  # fmt: skip
    assert context.progress.usage.cost_usd == 0.5
    assert {(one.accessor, one.state, one.reason) for one in context.credentials} == {
        ("root.p1", "revoked", "error_budget_exceeded"), ("child.p1", "revoked", "error_budget_exceeded"),
    }  # fmt: skip
    assert [one.code for one in made.recommended_actions] == ["check_provider", "start_again"]
    assert "sealed" not in made.model_dump_json()


def view_of_failed_calls(*details: str) -> PipelineView:
    teller = Teller("p1")
    model = ReadModel(1)
    for event in [*spawning(teller), turn(teller, 1), turn(teller, 2)]:
        model.apply(event)
    for number, detail in enumerate(details):
        data = ErrorReported(agent_id=teller.agent_id, attempt=1, code="tool_failed", detail=detail)
        model.apply(replace(teller.command(data), id=f"error-{number}"))
    view = model.pipeline("p1")
    assert view is not None
    return view


@pytest.mark.covers("O5")
@pytest.mark.parametrize(
    ("details", "because", "again"),
    [
        (["read_file: a.csv does not exist"] * 6, "6 × read_file: a.csv does not exist", True),
        (
            ["read_file: a.csv does not exist", "read_file: b.csv does not exist", "read_file: b.csv does not exist"],
            "2 × read_file: b.csv does not exist, 1 × read_file: a.csv does not exist",
            True,
        ),
        ([f"read_file: {name} does not exist" for name in "ab"],
         "1 × read_file: a does not exist, 1 × read_file: b does not exist", False),
    ],
)  # fmt: skip
def test_failed_calls_of_tools_are_named_with_what_they_asked_for(
    details: list[str], because: str, again: bool
) -> None:
    made = report_on(view_of_failed_calls(*details), Occasion("demand", "request", "demand", START_MS))
    [errors] = made.summary.errors_by_type
    assert (errors.count, errors.detail, {one.detail: one.count for one in errors.details}) == (
        len(details), details[-1], dict(Counter(details)),
    )  # fmt: skip
    first = made.recommended_actions[0]
    assert (first.code, first.because) == ("mend_tool_calls", because)
    assert ("again and again" in first.text) == again
    text = markdown_of(made)
    assert all(detail in text for detail in details)


@pytest.mark.covers("O5")
def test_what_errors_said_is_counted_within_bounds() -> None:
    view = view_of_failed_calls(*(f"{number}: " + "x" * 3_000 for number in range(100)))
    [errors] = view.errors.values()
    assert (errors.count, len(errors.details), sum(errors.details.values())) == (100, 8, 8)
    assert max(map(len, errors.details)) == 300


@pytest.mark.covers("O5")
def test_a_task_that_was_cut_off_has_the_turns_of_its_agent() -> None:
    made = report_on(view_of_failed_calls(), Occasion("demand", "request", "demand", START_MS))
    assert [(one.task_id, one.turns, one.usage.input_tokens) for one in made.context.tasks] == [("look", 2, 200)]


@pytest.mark.covers("O5")
def test_no_command_is_offered_whose_names_a_shell_could_take_for_more() -> None:
    view = PipelineView("p1; reboot", "acme", spawned=True)
    assert report_on(view, Occasion("demand", "request", "demand", START_MS)).commands == ()


@pytest.mark.covers("O5")
def test_the_report_on_a_breach_for_people() -> None:
    assert markdown_of(report_on(*view_of_breach())) == GOLDEN.read_text()


NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,30}", fullmatch=True)
TEXTS = st.text(max_size=80) | st.just("x" * TEXT_MAX_CHARACTERS) | st.just("| `a` <b> [c](d)\n# e")
PROBLEMS = st.builds(Problem, code=st.text(max_size=64), detail=st.text(max_size=80) | st.just("y" * 4_000))
TIMES = st.integers(0, 4_000_000_000_000)
COUNTS = st.integers(0, 2**53 - 1)


@st.composite
def views(draw: st.DrawFn) -> PipelineView:
    view = PipelineView("p1", "acme", spawned=draw(st.booleans()), objective=draw(TEXTS))
    for name in draw(st.lists(NAMES, max_size=6, unique=True)):
        view.tasks[name] = TaskView(
            name, draw(TEXTS), "researcher", draw(st.sampled_from(get_args(TaskStatus))), summary=draw(TEXTS),
            problem=draw(st.none() | PROBLEMS),
        )  # fmt: skip
    for name in draw(st.lists(NAMES, max_size=6, unique=True)):
        view.agents[name] = AgentView(
            name, "p1", "acme", state=draw(st.sampled_from(get_args(AgentState))), turns=draw(COUNTS),
            usage=Usage(input_tokens=draw(COUNTS)), last_problem=draw(st.none() | PROBLEMS),
            transcript=draw(st.none() | st.just(TRANSCRIPT)), turn_finished_at_ms=draw(TIMES),
        )  # fmt: skip
    agents = st.none() | NAMES
    for number in range(draw(st.integers(0, 8))):
        view.errors[str(number)] = ErrorsView(
            draw(st.text(max_size=64)), "error.reported", draw(agents), draw(st.integers(1, 10**6)), draw(TIMES),
            draw(TIMES), draw(TEXTS),
        )  # fmt: skip
    for name in draw(st.lists(NAMES, max_size=3, unique=True)):
        view.tokens[name] = TokenView(draw(st.none() | st.just(name)), draw(agents), 1, "revoked")
        view.questions[name] = QuestionView(name, name, draw(TEXTS), (draw(TEXTS),), None, draw(TIMES))
    return view


@pytest.mark.covers("O5")
@given(views())
def test_nothing_that_failed_is_left_out(view: PipelineView) -> None:
    made = report_on(view, Occasion("demand", "request", "demand", START_MS))
    body = made.model_dump_json()
    jsonschema.validate(json.loads(body), SCHEMA)
    assert HandoffReport.model_validate_json(body) == made
    context, summary = made.context, made.summary
    assert [(one.task_id, one.status) for one in context.tasks] == [
        (one.task_id, one.status) for one in view.tasks.values()
    ]
    assert {one.agent_id for one in context.agents} == view.agents.keys()
    assert summary.errors == sum(summary.errors_by_code.values())
    told = [*summary.errors_by_type, *summary.consequences]
    assert sum(one.count for one in told) == sum(one.count for one in view.errors.values())
    assert len(told) == len(view.errors)
    assert {one.question_id for one in context.questions} == view.questions.keys()
    failed = {one.agent_id for one in view.agents.values() if one.last_problem is not None or one.state == "ERROR"}
    assert failed <= set(summary.agents_affected)
    assert {one.agent_id for one in view.errors.values() if one.agent_id} <= set(agents_affected(view))
    assert len(sentence(view, "demand")) <= SUMMARY_MAX_CHARACTERS


@pytest.mark.covers("O5")
@given(views())
def test_for_people_each_line_is_one_and_makes_no_markup_of_its_own(view: PipelineView) -> None:
    text = markdown_of(report_on(view, Occasion("demand", "request", "demand", START_MS, incomplete_because="a | b")))
    headings = [line for line in text.splitlines() if line.startswith("#")]
    assert len(headings) == len(set(headings))
    assert "**Not complete:** a \\| b." in text
    assert "<b>" not in text
    for line in text.splitlines():
        if line.startswith("| "):
            assert line.replace("\\|", "").count("|") in (4, 6, 7, 8, 9)


@pytest.mark.covers("O5")
def test_the_largest_report_is_bounded() -> None:
    view = PipelineView("p1", "acme", spawned=True, objective="x" * TEXT_MAX_CHARACTERS)
    problem = Problem(code="c" * 64, detail="d" * 4_000)
    artifacts = tuple(ArtifactRef(sha256=f"{number:064x}", size_bytes=1, name="n" * 255) for number in range(10))
    for number in range(1_000):
        name = f"task-{number}"
        view.tasks[name] = TaskView(
            name, "o" * TEXT_MAX_CHARACTERS, "r", "failed", summary="s" * 4_000, problem=problem, artifacts=artifacts
        )
        view.agents[name] = AgentView(name, "p1", "acme", last_problem=problem, transcript=TRANSCRIPT)
    made = report_on(view, Occasion("demand", "request", "demand", START_MS))
    assert len(made.model_dump_json(indent=1)) < 16 * 1024 * 1024
    assert len(markdown_of(made)) < 1024 * 1024


def on_demand(teller: Teller) -> CloudEvent[Message]:
    made = handed_off(teller, teller.command(TokenRenew()))
    data = reported(made).model_copy(update={"cause": "demand", "reason": "shift_change"})
    return replace(made, id=f"on-demand-{made.time_ms}", data=data)


@pytest.mark.covers("O5", "O6")
def test_a_diagnostic_reads_no_report_from_before_the_end() -> None:
    teller, model = Teller("p1"), ReadModel(1)
    for event in [*spawning(teller), on_demand(teller), *failing(teller)]:
        model.apply(event)
    view = model.pipeline("p1")
    assert view is not None
    assert len(view.handoffs) == 1
    assert report_on_end(view) is None, "it knows nothing of the failure: another one has to be made"
    assert why_failed(view) == "agent_timeout"
    model.apply(later := on_demand(teller))
    assert report_on_end(view) == view.handoffs[-1]
    assert view.handoffs[-1].event_id == later.id
    assert why_failed(view) == "agent_timeout"


@pytest.mark.covers("O5", "O6")
def test_the_report_on_a_revocation_is_read_though_another_was_made_before_the_end() -> None:
    teller, model = Teller("p1"), ReadModel(1)
    told = breach(teller)
    for event in [*told, handed := handed_off(teller, told[-1]), on_demand(teller), *failing(teller)]:
        model.apply(event)
    view = model.pipeline("p1")
    assert view is not None
    found = report_on_end(view)
    assert found is not None
    assert found.event_id == handed.id
    assert why_failed(view) == "error_budget_exceeded"
    view.handoffs.clear()
    view.problem = Problem(code="No code.", detail="")
    assert why_failed(view) == "failed"
