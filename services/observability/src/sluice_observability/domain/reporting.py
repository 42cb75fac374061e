"""The handoff report (O5) from the read model's view of a pipeline: a pure function of what is known at one moment.

All that failed is in it: each task, agent and kind of error of the view. Texts are shortened, so that the size is
bounded by what a plan may have: some 4 KiB for each task and agent.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from sluice_contracts import handoff
from sluice_contracts.limits import COUNT_MAX, IDENTIFIER_PATTERN, SUMMARY_MAX_CHARACTERS
from sluice_contracts.messages.base import Problem, Usage
from sluice_contracts.messages.token import TokenRevoked
from sluice_observability.domain.recommending import commands_about, recommended
from sluice_observability.domain.views import (
    AgentView,
    AlertView,
    ErrorsView,
    HandoffView,
    PipelineView,
    TaskView,
    TokenView,
)

OBJECTIVE_MAX_CHARACTERS = 8_000
TASK_OBJECTIVE_MAX_CHARACTERS = 1_000
TASK_SUMMARY_MAX_CHARACTERS = 2_000
DETAIL_MAX_CHARACTERS = 1_000
"""A stranger reads a report in minutes; whatever is shortened stands whole in the log."""

AGENTS_AFFECTED_MAX_COUNT = 100
"""Named in the event; the report has all."""

CONCLUDING = {"agent.failed": 1, "task.failed": 2}
"""Events that tell again, each after those before it, what went wrong below: a call, an attempt, a task."""

CODES_SHOWN_COUNT = 5
"""Kinds of errors in the one sentence, the most frequent."""


@dataclass(frozen=True, slots=True)
class Occasion:
    """Why a report is made.

    Attributes:
        revoked: With the id and time of its event, where the end of the credentials is the cause.
        incomplete_because: What may be missing from the view; empty where it has all.
    """

    cause: Literal["revocation", "demand"]
    cause_id: str
    reason: str
    reported_at_ms: int
    revoked: TokenRevoked | None = None
    revoked_at_ms: int = 0
    incomplete_because: str = ""


def report_on_end(view: PipelineView) -> HandoffView | None:
    """The newest report that knows how a pipeline ended: its revocation's, or one that was made at its end or later."""
    ended_at_ms = COUNT_MAX if view.finished_at_ms is None else view.finished_at_ms
    about = [one for one in view.handoffs if one.cause == "revocation" or one.reported_at_ms >= ended_at_ms]
    return about[-1] if about else None


def why_failed(view: PipelineView) -> str:
    """Why a pipeline failed, as an identifier: its credentials' end, or else its problem."""
    revoked = [one.reason for one in view.handoffs if one.cause == "revocation"]
    code = view.problem.code if view.problem is not None else ""
    found = revoked[-1] if revoked else code
    return found if re.match(IDENTIFIER_PATTERN, found) else "failed"


def report_on(view: PipelineView, occasion: Occasion) -> handoff.HandoffReport:
    """Makes the report on a pipeline as the read model has it."""
    occurred, followed = occurrences(view)
    errors = _errors(occurred)
    checkpoints = [(_checkpoint(one), one.agent_id) for one in view.agents.values()]
    newest = max(
        ((made, agent_id) for made, agent_id in checkpoints if made is not None),
        key=lambda one: one[0].finished_at_ms,
        default=(None, None),
    )
    affected = agents_affected(view)
    revocation = _revocation(view, occasion)
    summary = handoff.HandoffSummary(
        text=sentence(view, occasion.reason),
        errors=sum(one.count for one in errors),
        errors_by_code=dict(_by_code(occurred)),
        errors_by_type=errors,
        consequences=_errors(followed),
        agents_affected=affected,
        last_checkpoint=newest[0],
        last_checkpoint_agent_id=newest[1],
        alerts=tuple(map(_alert, view.alerts)),
        revocation=revocation,
    )
    return handoff.HandoffReport(
        pipeline_id=view.pipeline_id,
        tenant=view.tenant,
        cause=occasion.cause,
        cause_id=occasion.cause_id,
        reason=occasion.reason,
        reported_at_ms=occasion.reported_at_ms,
        complete=not occasion.incomplete_because,
        incomplete_because=occasion.incomplete_because,
        summary=summary,
        context=_context(view),
        recommended_actions=recommended(view, occasion.reason),
        commands=commands_about(view, affected),
    )


def occurrences(view: PipelineView) -> tuple[list[ErrorsView], list[ErrorsView]]:
    """Errors where they happened, and what followed from them: the same code of the same agent told by an event that
    concludes, so that a call that failed is not counted again as its attempt's and its task's failure.
    """
    lowest: dict[tuple[str | None, str], int] = {}
    for one in view.errors.values():
        key, rank = (one.agent_id, one.code), CONCLUDING.get(one.type, 0)
        lowest[key] = min(lowest.get(key, rank), rank)
    occurred: list[ErrorsView] = []
    followed: list[ErrorsView] = []
    for one in view.errors.values():
        is_first = CONCLUDING.get(one.type, 0) == lowest[one.agent_id, one.code]
        (occurred if is_first else followed).append(one)
    return occurred, followed


def sentence(view: PipelineView, reason: str) -> str:
    """What went wrong, in one sentence."""
    counted = _by_code(occurrences(view)[0])
    total = sum(counted.values())
    most = ", ".join(f"{code} {count}" for code, count in counted.most_common(CODES_SHOWN_COUNT))
    more = f", {len(counted) - CODES_SHOWN_COUNT} more kinds" if len(counted) > CODES_SHOWN_COUNT else ""
    errors = f"{total} errors ({most}{more})" if total else "no errors"
    done = sum(task.status == "succeeded" for task in view.tasks.values())
    text = f"{reason}: {errors}; {done} of {len(view.tasks)} tasks succeeded"
    return text[:SUMMARY_MAX_CHARACTERS]


def agents_affected(view: PipelineView) -> tuple[str, ...]:
    """The agents that had errors, and those that ended without success."""
    named = [one.agent_id for one in view.errors.values() if one.agent_id is not None]
    named += [one.agent_id for one in view.alerts if one.agent_id is not None]
    named += [one.agent_id for one in view.agents.values() if _is_affected(one)]
    return tuple(dict.fromkeys(named))


def _is_affected(one: AgentView) -> bool:
    return one.last_problem is not None or one.state in ("ERROR", "TERMINATED")


def _by_code(errors: Iterable[ErrorsView]) -> Counter[str]:
    counted: Counter[str] = Counter()
    for one in errors:
        counted[one.code] += one.count
    return counted


def _errors(errors: Iterable[ErrorsView]) -> tuple[handoff.ErrorsOfType, ...]:
    found = sorted(errors, key=lambda one: (-one.count, one.first_at_ms, one.code))
    return tuple(
        handoff.ErrorsOfType(
            code=one.code,
            type=one.type,
            agent_id=one.agent_id,
            count=one.count,
            first_at_ms=one.first_at_ms,
            last_at_ms=one.last_at_ms,
            detail=_cut(one.detail, DETAIL_MAX_CHARACTERS),
            details=tuple(
                handoff.ErrorDetail(detail=detail, count=count) for detail, count in Counter(one.details).most_common()
            ),
        )
        for one in found
    )


def _alert(one: AlertView) -> handoff.ReportedAlert:
    return handoff.ReportedAlert(
        alert_id=one.alert_id,
        condition=one.condition,
        action=one.action,
        agent_id=one.agent_id,
        observed=one.observed,
        limit=one.limit,
        window_ms=one.window_ms,
        detail=_cut(one.detail, DETAIL_MAX_CHARACTERS),
        breached_at_ms=one.breached_at_ms,
        evidence=one.evidence,
    )


def _revocation(view: PipelineView, occasion: Occasion) -> handoff.Revocation | None:
    told = occasion.revoked
    if told is None:
        return None
    return handoff.Revocation(
        event_id=occasion.cause_id,
        reason=told.reason,
        detail=_cut(told.detail, DETAIL_MAX_CHARACTERS),
        alert_id=told.alert_id,
        accessors=told.accessors,
        revoked_at_ms=occasion.revoked_at_ms,
        latency_ms=told.latency_ms,
    )


def _context(view: PipelineView) -> handoff.HandoffContext:
    return handoff.HandoffContext(
        objective=_cut(view.objective, OBJECTIVE_MAX_CHARACTERS),
        state=view.state,
        state_reason=_cut(view.reason, DETAIL_MAX_CHARACTERS),
        labels=view.labels,
        spawned_at_ms=view.spawned_at_ms,
        parent_pipeline_id=view.parent_pipeline_id,
        diagnosed_pipeline_id=None if view.diagnosed is None else view.diagnosed.pipeline_id,
        progress=_progress(view),
        tasks=tuple(_task(one, view.agents.get(one.agent_id or "")) for one in view.tasks.values()),
        agents=tuple(map(_agent, view.agents.values())),
        questions=tuple(
            handoff.ReportedQuestion(
                question_id=one.question_id,
                agent_id=one.agent_id,
                question=_cut(one.question, DETAIL_MAX_CHARACTERS),
                options=tuple(_cut(option, DETAIL_MAX_CHARACTERS) for option in one.options),
                deadline_at_ms=one.deadline_at_ms,
            )
            for one in view.questions.values()
        ),
        credentials=_credentials(view.tokens.values()),
        blackboard={},
    )


def _progress(view: PipelineView) -> handoff.Progress:
    agents = view.agents.values()
    usage = view.usage if view.finished else sum((one.usage for one in agents), Usage())
    return handoff.Progress(
        tasks=len(view.tasks),
        by_status=dict(Counter(task.status for task in view.tasks.values())),
        turns=min(sum(one.turns for one in agents), COUNT_MAX),
        usage=usage,
    )


def _task(one: TaskView, agent: AgentView | None) -> handoff.ReportedTask:
    told = one if one.status == "succeeded" or agent is None else agent
    return handoff.ReportedTask(
        task_id=one.task_id,
        role=one.role,
        status=one.status,
        objective=_cut(one.objective, TASK_OBJECTIVE_MAX_CHARACTERS),
        agent_id=one.agent_id,
        attempt=one.attempt,
        retries=one.retries,
        turns=told.turns,
        summary=_cut(one.summary, TASK_SUMMARY_MAX_CHARACTERS),
        problem=_problem(one.problem),
        artifacts=one.artifacts,
        usage=told.usage,
    )


def _agent(one: AgentView) -> handoff.ReportedAgent:
    return handoff.ReportedAgent(
        agent_id=one.agent_id,
        task_id=one.task_id,
        role=one.role,
        state=one.state,
        attempt=one.attempt,
        attempts_lost=one.attempts_lost,
        messages_refused=one.messages_refused,
        runner_id=one.runner_id,
        model=one.model,
        turns=one.turns,
        usage=one.usage,
        last_problem=_problem(one.last_problem),
        checkpoint=_checkpoint(one),
    )


def _checkpoint(one: AgentView) -> handoff.Checkpoint | None:
    if one.transcript is None:
        return None
    return handoff.Checkpoint(turn=one.turns, transcript=one.transcript, finished_at_ms=one.turn_finished_at_ms)


def _credentials(tokens: Iterable[TokenView]) -> tuple[handoff.ReportedToken, ...]:
    known: Sequence[TokenView] = [one for one in tokens if one.accessor is not None]
    return tuple(
        handoff.ReportedToken(
            accessor=one.accessor or "",
            agent_id=one.agent_id,
            attempt=one.attempt,
            state=one.state,
            granted_at_ms=one.granted_at_ms,
            ended_at_ms=one.ended_at_ms,
            reason=one.reason,
        )
        for one in known
    )


def _problem(one: Problem | None) -> Problem | None:
    return None if one is None else one.model_copy(update={"detail": _cut(one.detail, DETAIL_MAX_CHARACTERS)})


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
