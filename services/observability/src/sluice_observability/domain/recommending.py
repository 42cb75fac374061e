"""What a handoff report recommends: a table of rules over the view of a pipeline. The table stands at the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sluice_contracts.handoff import RecommendedAction
from sluice_observability.domain.views import PipelineView

NAMED_MAX_COUNT = 5
"""Things that one fact names; the report has the others."""

Rule = Callable[[PipelineView, str], RecommendedAction | None]


def recommended(view: PipelineView, reason: str) -> tuple[RecommendedAction, ...]:
    """What should be done, in the order in which it should be done.

    Args:
        view: The pipeline.
        reason: Why it is handed off.
    """
    return tuple(action for rule in RULES if (action := rule(view, reason)) is not None)


def _secure(view: PipelineView, reason: str) -> RecommendedAction | None:
    if reason != "policy_violation":
        return None
    told = [one.detail for one in view.alerts if one.condition == "policy_violation"]
    return RecommendedAction(
        code="look_into_violation",
        text="Find out what was done against the policy before anything is started again, and rotate the secrets that "
        "the pipeline could read.",
        because=_named(told) or "the credentials were revoked for a violation",
    )


def _provider(view: PipelineView, reason: str) -> RecommendedAction | None:
    codes = {one.code for one in view.errors.values() if one.code.startswith(("provider_", "model_"))}
    if not codes:
        return None
    return RecommendedAction(
        code="check_provider",
        text="Check the model's provider: its status, the key's quota, and whether another model should do the work.",
        because=_named(sorted(codes)),
    )


def _calls(view: PipelineView, reason: str) -> RecommendedAction | None:
    told = [one.detail for one in view.alerts if one.condition == "api_call_budget_exceeded"]
    if not told and reason != "api_call_budget_exceeded":
        return None
    return RecommendedAction(
        code="look_for_loop",
        text="Look whether an agent goes in a circle: read its last turns. Raise the budget only if they make sense.",
        because=_named(told) or reason,
    )


def _lost(view: PipelineView, reason: str) -> RecommendedAction | None:
    lost = [one.agent_id for one in view.agents.values() if one.attempts_lost]
    if not lost:
        return None
    return RecommendedAction(
        code="check_runners",
        text="Check the runners of these agents: attempts were lost, so a runner died, froze, or could not reach "
        "Kafka.",
        because=_named(lost),
    )


def _stuck(view: PipelineView, reason: str) -> RecommendedAction | None:
    stuck = [one.agent_id or "" for one in view.alerts if one.condition == "no_progress"]
    if not stuck:
        return None
    return RecommendedAction(
        code="look_for_hang",
        text="Look at the last turn of these agents: a call of a model or a tool did not come back.",
        because=_named(list(dict.fromkeys(stuck))),
    )


def _questions(view: PipelineView, reason: str) -> RecommendedAction | None:
    if not view.questions:
        return None
    return RecommendedAction(
        code="settle_questions",
        text="Settle what the agents asked, and put the answers into the plan of whoever goes on.",
        because=_named([one.question for one in view.questions.values()]),
    )


def _failed_tasks(view: PipelineView, reason: str) -> RecommendedAction | None:
    failed = [one.task_id for one in view.tasks.values() if one.status == "failed"]
    if not failed:
        return None
    return RecommendedAction(
        code="mend_failed_tasks",
        text="Mend the cause of these tasks' failure before they are asked for again; their problems stand beside "
        "them.",
        because=_named(failed),
    )


def _go_on(view: PipelineView, reason: str) -> RecommendedAction | None:
    left = [one.task_id for one in view.tasks.values() if one.status not in ("succeeded", "skipped")]
    if not left:
        return None
    done = [one for one in view.tasks.values() if one.status == "succeeded"]
    given = " Give them the artifacts of the tasks that succeeded as inputs." if done else ""
    return RecommendedAction(
        code="start_again",
        text=f"Start a new pipeline with the tasks that are left.{given} The transcripts of the agents' last turns say "
        "what they had found.",
        because=_named(left),
    )


def _report_only(view: PipelineView, reason: str) -> RecommendedAction | None:
    if view.spawned:
        return None
    return RecommendedAction(
        code="read_log",
        text="Read the pipeline's events in the log: the api knew nothing of it when this was written.",
        because=view.pipeline_id,
    )


def _named(things: Sequence[str]) -> str:
    shown = ", ".join(one[:200] for one in things[:NAMED_MAX_COUNT])
    return shown if len(things) <= NAMED_MAX_COUNT else f"{shown} and {len(things) - NAMED_MAX_COUNT} more"


RULES: tuple[Rule, ...] = (
    _report_only,
    _secure,
    _provider,
    _calls,
    _stuck,
    _lost,
    _questions,
    _failed_tasks,
    _go_on,
)
"""In the order in which what they recommend should be done."""
