"""Commands to the spawner, and the events by which it tells what it decided."""

from __future__ import annotations

from pydantic import Field

from sluice_contracts.messages.base import (
    AgentState,
    ArtifactRef,
    Count,
    Identifier,
    Message,
    Milliseconds,
    Ordinal,
    PipelineState,
    Problem,
    Summary,
    TaskStatus,
    Text,
    Usage,
    Value,
    message,
)
from sluice_contracts.messages.plan import Plan

Attempt = Ordinal


class Diagnosed(Value):
    """What a diagnostic pipeline (O6) is about."""

    pipeline_id: Identifier
    alert_id: str | None = Field(default=None, max_length=1_024)
    depth: Ordinal = Field(
        default=1, description="2: a diagnostic of a diagnostic. The spawner refuses what is beyond its limit."
    )


@message("pipeline.spawn")
class PipelineSpawn(Message):
    """Starts a pipeline. With a dedupe key its id is `ids.pipeline_id(tenant, dedupe_key)`: a second is the first."""

    plan: Plan
    dedupe_key: str | None = Field(default=None, min_length=1, max_length=255)
    parent_pipeline_id: Identifier | None = None
    diagnosed: Diagnosed | None = Field(default=None, description="Given by the spawner and the api, where it is one.")


@message("pipeline.cancel")
class PipelineCancel(Message):
    """Ends a pipeline; its agents are stopped."""

    reason: Summary = "cancelled by command"


@message("pipeline.answer")
class PipelineAnswer(Message):
    """Answers a pending question (P10). The first answer in the order of the log counts."""

    question_id: Identifier
    answer: Text


@message("pipeline.tick")
class PipelineTick(Message):
    """Has the pipeline looked at again now (P12): what is due is done, what is lost is assigned again."""


@message("pipeline.spawned")
class PipelineSpawned(Message):
    """A pipeline exists; its plan was checked."""

    plan: Plan
    dedupe_key: str | None = None
    parent_pipeline_id: Identifier | None = None
    diagnosed: Diagnosed | None = None


@message("pipeline.refused")
class PipelineRefused(Message):
    """A command was understood and refused: nothing changed."""

    command_id: str
    command_type: str
    problem: Problem


@message("pipeline.state_changed")
class PipelineStateChanged(Message):
    """The pipeline's state (P1) changed."""

    from_state: PipelineState
    to_state: PipelineState
    reason: Summary


class TaskOutcome(Value):
    """How one task ended, in reports and results."""

    task_id: Identifier
    status: TaskStatus
    summary: Summary = ""
    artifacts: tuple[ArtifactRef, ...] = ()
    problem: Problem | None = None


@message("pipeline.reported")
class PipelineReported(Message):
    """What the tasks produced, collected (REPORT)."""

    objective: Text
    outcomes: tuple[TaskOutcome, ...]


class PipelineResult(Message):
    """The one terminal event's body (P1)."""

    reason: Summary
    duration_ms: Milliseconds
    agents_used: Count
    usage: Usage
    tasks: dict[Identifier, TaskStatus]
    problem: Problem | None = None


@message("pipeline.completed")
class PipelineCompleted(PipelineResult):
    """The pipeline reached its end (COMPLETED). Terminal."""


@message("pipeline.failed")
class PipelineFailed(PipelineResult):
    """The pipeline could not reach its end (FAILED). Terminal."""


@message("pipeline.cancelled")
class PipelineCancelled(PipelineResult):
    """The pipeline was ended by a command (CANCELLED). Terminal."""


class TaskEvent(Message):
    """What happened to one task."""

    task_id: Identifier


@message("task.assigned")
class TaskAssigned(TaskEvent):
    """A task was handed to a role's queue, as attempt `attempt` of its agent."""

    agent_id: Identifier
    attempt: Attempt
    queue: Identifier
    role: Identifier
    reason: Summary = "ready"


@message("task.started")
class TaskStarted(TaskEvent):
    """A runner holds the attempt."""

    agent_id: Identifier
    attempt: Attempt
    runner_id: Identifier


@message("task.retried")
class TaskRetried(TaskEvent):
    """A task failed and has retries left: it goes on from its agent's last finished turn."""

    agent_id: Identifier
    retry: Ordinal
    problem: Problem


@message("task.succeeded")
class TaskSucceeded(TaskEvent):
    """A task reached its criteria."""

    agent_id: Identifier
    summary: Summary
    artifacts: tuple[ArtifactRef, ...] = ()
    usage: Usage = Usage()
    turns: Count = 0


@message("task.failed")
class TaskFailed(TaskEvent):
    """A task ended without success, and has no retries left."""

    problem: Problem


@message("task.skipped")
class TaskSkipped(TaskEvent):
    """A task will not run: a dependency did not end as the edge demands, or the pipeline ends."""

    reason: Summary


@message("task.cancelled")
class TaskCancelled(TaskEvent):
    """A task that was assigned is stopped because the pipeline ends."""

    reason: Summary


@message("agent.created")
class AgentCreated(Message):
    """An agent exists, in state CREATED."""

    agent_id: Identifier
    task_id: Identifier
    role: Identifier
    queue: Identifier


@message("agent.state_changed")
class AgentStateChanged(Message):
    """An agent's state (A3) changed."""

    agent_id: Identifier
    from_state: AgentState
    to_state: AgentState
    reason: Summary = ""


@message("agent.attempt_lost")
class AgentAttemptLost(Message):
    """An attempt's lease ran out (W10): whatever it still says is refused by its number."""

    agent_id: Identifier
    attempt: Attempt
    runner_id: Identifier | None
    problem: Problem


@message("agent.attempt_refused")
class AgentAttemptRefused(Message):
    """Something that an attempt said does not count: it is not the agent's current one, or not this runner's."""

    agent_id: Identifier
    attempt: Attempt
    refused_id: str
    refused_type: str
    problem: Problem


@message("question.asked")
class QuestionAsked(Message):
    """The pipeline waits for an answer (NEEDS_INPUT)."""

    question_id: Identifier
    agent_id: Identifier
    question: Text
    options: tuple[Text, ...] = ()
    default: Text | None = None
    deadline_at_ms: Milliseconds


@message("question.answered")
class QuestionAnswered(Message):
    """A question is settled, by whom."""

    question_id: Identifier
    agent_id: Identifier
    answer: Text
    answered_by: str = Field(pattern="^(command|default|deadline)$")
