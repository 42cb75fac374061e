"""The handoff report (O5): what a stranger needs to take a pipeline over. A document in the artifact store, no message.

`handoff.reported` names it. `schemas/handoff-report.v1.schema.json` is generated from here.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from sluice_contracts.messages.alert import AlertAction, AlertCondition
from sluice_contracts.messages.base import (
    AgentState,
    ArtifactRef,
    Count,
    Milliseconds,
    PipelineState,
    Problem,
    TaskStatus,
    Usage,
    Value,
)

SCHEMA_ID = "urn:sluice:handoff-report:v1"
SCHEMA_FILE = "handoff-report.v1.schema.json"

JSON_MEDIA_TYPE = "application/json"
MARKDOWN_MEDIA_TYPE = "text/markdown; charset=utf-8"

TokenState = Literal["requested", "granted", "renewed", "denied", "revoked", "expired"]


class Checkpoint(Value):
    """Where an agent can be taken up: its last finished turn."""

    turn: Count
    transcript: ArtifactRef | None = Field(description="The last link of the transcript; each names the one before.")
    finished_at_ms: Milliseconds


class ErrorDetail(Value):
    """What several errors said in the same words."""

    detail: str
    count: Count


class ErrorsOfType(Value):
    """Errors of one code that one agent had, or nobody in particular."""

    code: str
    type: str = Field(description="The event that told of them, such as error.reported or agent.failed.")
    agent_id: str | None
    count: Count
    first_at_ms: Milliseconds
    last_at_ms: Milliseconds
    detail: str = Field(description="Of the last one.")
    details: tuple[ErrorDetail, ...] = Field(
        default=(), description="The first eight that differ, shortened to 300 characters, the most frequent first."
    )


class ReportedTask(Value):
    """A task of the plan, and how far it is: by what its agent has said, as long as it has not succeeded."""

    task_id: str
    role: str
    status: TaskStatus
    objective: str
    agent_id: str | None
    attempt: Count
    retries: Count
    turns: Count
    summary: str
    problem: Problem | None
    artifacts: tuple[ArtifactRef, ...]
    usage: Usage


class ReportedAgent(Value):
    """An agent, and where it can be taken up."""

    agent_id: str
    task_id: str
    role: str
    state: AgentState
    attempt: Count
    attempts_lost: Count
    messages_refused: Count
    runner_id: str | None
    model: str | None
    turns: Count
    usage: Usage
    last_problem: Problem | None
    checkpoint: Checkpoint | None = Field(description="Null: it has not finished a turn.")


class ReportedToken(Value):
    """A credential, by Vault's name of it. Never the token, nor its sealed form."""

    accessor: str
    agent_id: str | None = Field(description="Null: the pipeline's own.")
    attempt: Count | None
    state: TokenState
    granted_at_ms: Milliseconds | None
    ended_at_ms: Milliseconds | None
    reason: str | None = Field(description="Why it was revoked.")


class ReportedAlert(Value):
    """A breach of a budget."""

    alert_id: str
    condition: AlertCondition
    action: AlertAction
    agent_id: str | None
    observed: Count
    limit: Count
    window_ms: Milliseconds
    detail: str
    breached_at_ms: Milliseconds
    evidence: tuple[str, ...] = Field(description="Ids of the signals that broke it.")


class ReportedQuestion(Value):
    """A question that nobody has answered."""

    question_id: str
    agent_id: str
    question: str
    options: tuple[str, ...]
    deadline_at_ms: Milliseconds


class RecommendedAction(Value):
    """What to do, by a rule that looked at the facts."""

    code: str
    text: str
    because: str = Field(description="The fact by which the rule applies.")


class Command(Value):
    """A line for a shell, where `sluice` knows the installation."""

    purpose: str
    command: str


class Revocation(Value):
    """The end of the pipeline's credentials."""

    event_id: str = Field(description="The id of `token.revoked`.")
    reason: str
    detail: str
    alert_id: str | None
    accessors: tuple[str, ...] = Field(description="At most a thousand of them are named.")
    revoked_at_ms: Milliseconds
    latency_ms: Milliseconds


class HandoffSummary(Value):
    """What went wrong, and for whom."""

    text: str = Field(description="One sentence.")
    errors: Count = Field(description="Each counts once, where it happened: what followed from it counts no more.")
    errors_by_code: dict[str, int]
    errors_by_type: tuple[ErrorsOfType, ...]
    consequences: tuple[ErrorsOfType, ...] = Field(
        default=(), description="Failures of attempts and tasks by those errors; `errors` does not count them."
    )
    agents_affected: tuple[str, ...]
    last_checkpoint: Checkpoint | None = Field(description="The newest of all agents'.")
    last_checkpoint_agent_id: str | None
    alerts: tuple[ReportedAlert, ...]
    revocation: Revocation | None = Field(description="Null: nobody has ended the credentials.")


class Progress(Value):
    """How far the plan is."""

    tasks: Count
    by_status: dict[str, int]
    turns: Count
    usage: Usage = Field(description="Of all turns so far, those of agents that run among them.")


class HandoffContext(Value):
    """What was to be done, how far it came, and what there is."""

    objective: str
    state: PipelineState
    state_reason: str
    labels: dict[str, str]
    spawned_at_ms: Milliseconds
    parent_pipeline_id: str | None
    diagnosed_pipeline_id: str | None = Field(description="Where it is a diagnostic: what it is about.")
    progress: Progress
    tasks: tuple[ReportedTask, ...]
    agents: tuple[ReportedAgent, ...]
    questions: tuple[ReportedQuestion, ...]
    credentials: tuple[ReportedToken, ...]
    blackboard: dict[str, Any] = Field(description="What the agents have shared; empty as long as there is none.")


class HandoffReport(Value):
    """All that is known of a pipeline at one moment: enough for a stranger to take over."""

    version: Literal[1] = 1
    pipeline_id: str
    tenant: str
    cause: Literal["revocation", "demand"]
    cause_id: str = Field(description="The id of `token.revoked`, or of the request.")
    reason: str
    reported_at_ms: Milliseconds
    complete: bool = Field(description="Whether all that was on the topics when the cause was seen is in it.")
    incomplete_because: str = Field(default="", description="What may be missing, where it is not complete.")
    summary: HandoffSummary
    context: HandoffContext
    recommended_actions: tuple[RecommendedAction, ...]
    commands: tuple[Command, ...] = Field(default=(), description="To see more, and to have the work go on.")
