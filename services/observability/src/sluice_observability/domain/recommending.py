"""What a handoff report recommends: a table of rules over the view of a pipeline. The table stands at the end.

Beside it the commands by which a stranger sees more, and has the work go on.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from sluice_contracts.handoff import Command, RecommendedAction
from sluice_contracts.limits import IDENTIFIER_PATTERN
from sluice_contracts.messages.pipeline import AgentAttemptLost
from sluice_contracts.messages.token import FULL_REVOCATIONS
from sluice_observability.domain.problem_codes import About, about
from sluice_observability.domain.views import PipelineView

NAMED_MAX_COUNT = 5
"""Things that one fact names; the report has the others."""

AGENTS_SHOWN_COUNT = 3
"""Whose last turns a command shows: of those that had errors, the first."""

REVOKED = "credential_revoked"

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
    codes = _codes(view, "provider")
    if not codes:
        return None
    return RecommendedAction(
        code="check_provider",
        text="Check the model's provider: its status, the key's quota, and whether another model should do the work.",
        because=_named(sorted(codes)),
    )


def _tools(view: PipelineView, reason: str) -> RecommendedAction | None:
    said: Counter[str] = Counter()
    for one in view.errors.values():
        if about(one.code) == "tools":
            said.update(one.details)
    if not said:
        return None
    again = max(said.values()) > 1
    return RecommendedAction(
        code="mend_tool_calls",
        text="Look at what these tool calls asked for: add it to the plan's inputs, or correct what has it asked for"
        + (": the same call failed again and again, and will." if again else "."),
        because=_named([f"{count} × {detail}" for detail, count in said.most_common()]),
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


def _credentials(view: PipelineView, reason: str) -> RecommendedAction | None:
    codes = _codes(view, "credentials")
    if reason in FULL_REVOCATIONS:
        codes -= {REVOKED}  # a runner may hear of it from Vault before it is stopped
    if not codes:
        return None
    return RecommendedAction(
        code="check_credentials",
        text="Check Vault and the vault-broker: credentials ended, or were not to be had, before the work was "
        "done. See whether Vault could be reached and tokens were renewed; what became of each stands in the report.",
        because=_named(sorted(codes)),
    )


def _lost(view: PipelineView, reason: str) -> RecommendedAction | None:
    by_code: dict[str, set[str]] = {}
    for one in view.errors.values():
        if one.type == AgentAttemptLost.type and one.agent_id is not None:
            by_code.setdefault(one.agent_id, set()).add(one.code)
    lost = [one.agent_id for one in view.agents.values() if one.attempts_lost]
    lost = [one for one in lost if {about(code) for code in by_code.get(one, ())} != {"credentials"}]
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
    given = " Remove the tasks that succeeded, and give their artifacts to the others as inputs." if done else ""
    return RecommendedAction(
        code="start_again",
        text="Start a new pipeline for the tasks that are left: the report's commands take the plan from the log."
        f"{given} The agents' last turns say what they had found.",
        because=f"{_named(left)} did not succeed",
    )


def _report_only(view: PipelineView, reason: str) -> RecommendedAction | None:
    if view.spawned:
        return None
    return RecommendedAction(
        code="read_log",
        text="Read the pipeline's events in the log: the api knew nothing of it when this was written.",
        because=view.pipeline_id,
    )


def commands_about(view: PipelineView, agents: Sequence[str]) -> tuple[Command, ...]:
    """What shows more of a pipeline, and starts one that goes on; nothing where a name is not fit for a shell.

    Args:
        view: The pipeline.
        agents: Those that had errors.
    """
    names = [view.pipeline_id, view.tenant, *agents]
    return tuple(_commands(view, agents)) if all(re.fullmatch(IDENTIFIER_PATTERN, one) for one in names) else ()


def _commands(view: PipelineView, agents: Sequence[str]) -> Iterator[Command]:
    name = view.pipeline_id
    yield Command(purpose="The whole story, line by line", command=f"sluice logs {name}")
    yield Command(purpose="How it ended, and what a diagnosis has found", command=f"sluice status {name}")
    for agent_id in [one for one in agents if one in view.agents and view.agents[one].turns][:AGENTS_SHOWN_COUNT]:
        yield Command(
            purpose=f"What agent {agent_id} said and did in its last turns",
            command='sluice sql --format Vertical "SELECT turn, prompt, response, tool_calls FROM turns'
            f" WHERE agent_id = '{agent_id}' ORDER BY turn DESC LIMIT 3\"",
        )
    mend = "mend what broke it"
    if any(one.status == "succeeded" for one in view.tasks.values()):
        mend += ", remove the tasks that succeeded"
    if any(one.artifacts for one in view.tasks.values()):
        yield Command(purpose="What the tasks have left, as files", command=f"sluice artifacts {name} --save found")
        mend += ", add `found` to its inputs"
    yield Command(
        purpose=f"The plan: {mend}",
        command="sluice sql --format TSVRaw \"SELECT JSONExtractRaw(payload, 'plan') FROM events"
        f" WHERE type = 'pipeline.spawned' AND pipeline_id = '{name}'\" > plan.json",
    )
    yield Command(
        purpose="Go on with it", command=f"sluice run plan.json --tenant {view.tenant} --parent {name} --watch"
    )


def _codes(view: PipelineView, subject: About) -> set[str]:
    return {one.code for one in view.errors.values() if about(one.code) == subject}


def _named(things: Sequence[str]) -> str:
    shown = ", ".join(one[:200] for one in things[:NAMED_MAX_COUNT])
    return shown if len(things) <= NAMED_MAX_COUNT else f"{shown} and {len(things) - NAMED_MAX_COUNT} more"


RULES: tuple[Rule, ...] = (
    _report_only,
    _secure,
    _provider,
    _tools,
    _calls,
    _stuck,
    _credentials,
    _lost,
    _questions,
    _failed_tasks,
    _go_on,
)
"""In the order in which what they recommend should be done."""
