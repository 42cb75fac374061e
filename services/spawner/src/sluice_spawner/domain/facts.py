"""Facts that are on no topic: what the spawner decided, or took in, and nobody else needs to hear."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sluice_contracts.ids import derived_id
from sluice_contracts.messages.agent import Answer
from sluice_contracts.messages.base import Message, Problem

ADVANCE_TIMER = "advance"
RETENTION_TIMER = "retention"
WAITING_TIMER = "waiting"


def spawn_timer(agent_id: str) -> str:
    """The name of the timer that waits for a runner to take an attempt; its generation is the attempt."""
    return f"spawn:{agent_id}"


def task_timer(agent_id: str) -> str:
    """The name of the timer of a task's deadline."""
    return f"task:{agent_id}"


def wait_timer(agent_id: str) -> str:
    """The name of the timer after which an agent that waits for a person gives its credential up."""
    return f"wait:{agent_id}"


def question_timer(question_id: str) -> str:
    """The name of the timer of a question's deadline."""
    return f"question:{question_id}"


def question_id_of(pipeline_id: str, agent_id: str, request_id: str, turn: int) -> str:
    """The id of a question.

    An attempt that asks again after a crash has as many turns finished as the one before it, so it meets its question;
    a request id that a model uses again in a later turn makes a new one.
    """
    return derived_id("question", pipeline_id, agent_id, request_id, turn)


def conflict_id_of(pipeline_id: str, agent_id: str, request_id: str, turn: int) -> str:
    """The id of the conflict in which a request of an agent, after this turn, came second."""
    return derived_id("conflict", pipeline_id, agent_id, request_id, turn)


class StartsDeferred(Message):
    """More tasks may start than one decision hands out; a timer goes on at once."""

    type: ClassVar[str] = "starts.deferred"


class QuestionDeclined(Message):
    """A question will have no answer; the agent is told why."""

    type: ClassVar[str] = "question.declined"
    question_id: str
    agent_id: str
    problem: Problem


class AnswerKept(Message):
    """A request to the blackboard has its answer, which is kept until a finished turn has seen it."""

    type: ClassVar[str] = "answer.kept"
    agent_id: str
    answer: Answer


class DeadlinePassed(Message):
    """A timer has done its work."""

    type: ClassVar[str] = "deadline.passed"
    name: str


class InputRefused(Message):
    """An input was refused; if it comes again, nobody needs to hear of it again."""

    type: ClassVar[str] = "input.refused"


class RetentionEnded(Message):
    """A finished pipeline is forgotten."""

    type: ClassVar[str] = "retention.ended"


class SlotsClaimed(Message):
    """A pipeline's request counts: it wants so many slots in all."""

    type: ClassVar[str] = "slots.claimed"
    pipeline_id: str
    slots: int
    number: int


class SlotsGranted(Message):
    """A pipeline has so many slots in all, and is told."""

    type: ClassVar[str] = "slots.granted"
    pipeline_id: str
    slots: int


class GrantAwaited(Message):
    """An attempt was decided, and waits for its grant."""

    type: ClassVar[str] = "grant.awaited"
    agent_id: str
    attempt: int
    reason: str


class GrantGivenUp(Message):
    """An agent waits for a person for so long that it keeps neither its attempt nor its credential."""

    type: ClassVar[str] = "grant.given_up"
    agent_id: str


class CredentialsLost(Message):
    """All credentials of a pipeline are, or will be, revoked: nothing of it goes on."""

    type: ClassVar[str] = "credentials.lost"
    reason: str
    alert_id: str | None


class RootDenied(Message):
    """There will be no token of the pipeline's own. Empty: since then `token.revoked` was heard."""

    type: ClassVar[str] = "root.denied"
    denial_id: str


class AgentSuspended(Message):
    """An agent's attempt is over, since its credential is gone."""

    type: ClassVar[str] = "agent.suspended"
    agent_id: str


class CallsThrottled(Message):
    """The agents of a pipeline may make so many API calls a minute, each."""

    type: ClassVar[str] = "calls.throttled"
    api_calls_per_minute: int


class LookPlanned(Message):
    """Pipelines wait for slots; a timer looks again."""

    type: ClassVar[str] = "look.planned"
    due_at_ms: int


@dataclass(frozen=True, slots=True)
class Fact:
    """Something that has happened to one pipeline, or to the slots of all, in its order.

    Attributes:
        message: A message that was emitted, or an input that was accepted.
        time_ms: When it was decided.
        cause_id: The id of the input that was being decided.
        tenant: The pipeline's.
        sequence: Of an emitted message.
        traceparent: Of the cause.
    """

    message: Message
    time_ms: int
    cause_id: str
    tenant: str
    sequence: int | None = None
    traceparent: str | None = None
