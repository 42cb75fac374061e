"""What spawner and runners say to each other about an agent's attempts and turns."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from sluice_contracts.messages.base import (
    ArtifactRef,
    Body,
    Count,
    Identifier,
    Message,
    Milliseconds,
    Ordinal,
    Problem,
    Summary,
    Text,
    Usage,
    Value,
    message,
)
from sluice_contracts.messages.pipeline import Attempt, TaskOutcome
from sluice_contracts.messages.plan import TaskSpec
from sluice_contracts.messages.token import Accessor, Grant


class Answer(Value):
    """The spawner's answer to something that the agent asked."""

    request_id: Identifier
    answer: Text | None = None
    problem: Problem | None = None


@message("agent.run")
class AgentRun(Message):
    """To a queue: run this attempt of an agent, from its last finished turn on."""

    agent_id: Identifier
    attempt: Attempt
    task: TaskSpec
    objective: Text = Field(description="The whole pipeline's objective.")
    inputs: tuple[ArtifactRef, ...] = ()
    dependency_outcomes: tuple[TaskOutcome, ...] = ()
    turn: Count = Field(default=0, description="Turns finished so far.")
    transcript: ArtifactRef | None = Field(default=None, description="The last finished turn's link of the transcript.")
    usage: Usage = Usage()
    max_iterations: Ordinal = 50
    deadline_at_ms: Milliseconds = Field(
        description="When the task must have ended; from now on, time waited for people comes on top."
    )
    answers: tuple[Answer, ...] = Field(default=(), description="Answered, and not yet seen in a finished turn.")
    grant: Grant | None = Field(
        default=None, description="The attempt's credential; absent or null where the task may have none."
    )
    api_calls_per_minute: Ordinal | None = Field(
        default=None, description="Where the pipeline is throttled: what this agent may make."
    )


@message("agent.stop")
class AgentStop(Message):
    """To an inbox: stop this attempt and every older one; nothing that it still says counts."""

    agent_id: Identifier
    attempt: Attempt
    reason: Summary
    runner_id: Identifier | None = Field(
        default=None, description="Only what this runner has is stopped; absent or null: whichever has it."
    )


@message("agent.throttle")
class AgentThrottle(Message):
    """To an inbox: from now on the agent makes at most so many API calls a minute."""

    agent_id: Identifier
    api_calls_per_minute: Ordinal


@message("agent.answer")
class AgentAnswer(Message):
    """To an inbox: the answer to one request of the agent. It may come more than once."""

    agent_id: Identifier
    answer: Answer


class AttemptEvent(Message):
    """What a runner says about an attempt that it holds; the number and the runner's id fence it."""

    agent_id: Identifier
    attempt: Attempt
    runner_id: Identifier


@message("agent.attempt_started")
class AgentAttemptStarted(AttemptEvent):
    """The runner took the attempt. The first runner in the order of the log holds it."""


@message("agent.grant_opened")
class AgentGrantOpened(AttemptEvent):
    """The runner opened the attempt's grant (V7): from here on it has the token in its memory."""

    accessor: Accessor
    latency_ms: Milliseconds = 0


@message("agent.grant_refused")
class AgentGrantRefused(AttemptEvent):
    """The attempt's grant could not be opened (V7). The runner says it before the `agent.failed` that has its code."""

    accessor: Accessor
    problem: Problem = Field(
        description="`grant_refused`: Vault does not open it as this queue's and attempt's. `vault_not_configured`: "
        "the runner has no Vault. `vault_unavailable`: Vault was away until the deadline, or until the grant's end."
    )
    latency_ms: Milliseconds = Field(
        default=0, description="From when the runner began to open it; waiting for Vault counts."
    )


class ToolCall(Value):
    """One tool call of a turn, audited (W4)."""

    call_id: str = Field(max_length=128)
    name: str = Field(max_length=128)
    arguments: dict[str, Any] | None = Field(default=None, description="Absent or null if larger than 8 KiB: see ref.")
    arguments_ref: ArtifactRef | None = None
    result: Body
    is_error: bool = False
    duration_ms: Milliseconds = 0


@message("agent.turn_finished")
class AgentTurnFinished(AttemptEvent):
    """A turn is durable: the model was called, its tools ran, the transcript's new link is in the artifact store.

    A turn of which this event was accepted is never run again.
    """

    turn: Ordinal
    transcript: ArtifactRef
    provider: str
    model: str
    finish_reason: str
    usage: Usage
    model_ms: Milliseconds
    model_calls: Ordinal = Field(default=1, description="With the retries.")
    prompt: Body = Field(description="What this turn added to the conversation before the model's answer, as JSON.")
    response: Body
    tool_calls: tuple[ToolCall, ...] = ()


@message("agent.succeeded")
class AgentSucceeded(AttemptEvent):
    """The agent finished its task."""

    summary: Summary
    result: Body
    artifacts: tuple[ArtifactRef, ...] = ()


@message("agent.failed")
class AgentFailed(AttemptEvent):
    """The attempt ended without a result."""

    problem: Problem
    retryable: bool


@message("agent.input_requested")
class AgentInputRequested(AttemptEvent):
    """The agent asks a human (P10); the spawner turns it into a question."""

    request_id: Identifier
    question: Text
    options: tuple[Text, ...] = ()
    default: Text | None = None
    timeout_s: Annotated[int, Field(gt=0, le=7 * 86_400)] = 3_600


class HeldAttempt(Value):
    """One attempt that a runner has: waiting for a free place, or running."""

    agent_id: Identifier
    attempt: Attempt
    state: Literal["queued", "running"]


@message("runner.heartbeat")
class RunnerHeartbeat(Message):
    """A runner lives, and holds these attempts."""

    runner_id: Identifier
    queues: tuple[Identifier, ...]
    slots: Ordinal
    attempts: tuple[HeldAttempt, ...] = ()
