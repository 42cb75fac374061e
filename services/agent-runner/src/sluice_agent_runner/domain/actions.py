"""What the turn machine asks its driver to do next. There is always exactly one thing."""

from __future__ import annotations

from typing import Literal

import msgspec

from sluice_agent_runner.domain.conversation import Conclusion, ModelRequest, ToolCall, TurnRecord, WrittenArtifact
from sluice_agent_runner.domain.limits import PROBLEM_DETAIL_MAX_CHARACTERS
from sluice_contracts.messages.base import Problem


class CallModel(msgspec.Struct, frozen=True):
    """Ask the model, and tell `signals` of each call; answer with `on_model_reply` or `on_model_failed`."""

    request: ModelRequest


class RunTools(msgspec.Struct, frozen=True):
    """Run these in their order; answer with `on_tool_results`."""

    calls: tuple[ToolCall, ...]


class FinishTurn(msgspec.Struct, frozen=True):
    """Store the record's link, publish `agent.turn_finished` and what `signals` has, wait until the broker has them.

    Then `on_turn_durable`.
    """

    record: TurnRecord


class Question(msgspec.Struct, frozen=True):
    """One question to a person. Its id is the same whenever it is asked again."""

    request_id: str
    question: str
    options: tuple[str, ...]
    default: str | None


class BoardRead(msgspec.Struct, frozen=True):
    """One look at the blackboard, after this turn: at a key, or at the list of those that begin with the prefix."""

    request_id: str
    turn: int
    key: str | None = None
    prefix: str = ""


class BoardWrite(msgspec.Struct, frozen=True):
    """One write of a key of the blackboard, after this turn."""

    request_id: str
    turn: int
    action: Literal["set", "delete"]
    key: str
    version: int
    value: str = ""
    ttl_s: int | None = None


Request = Question | BoardRead | BoardWrite
"""What an agent asks of the spawner, and hears later. Its id is the same in every attempt."""


class Ask(msgspec.Struct, frozen=True):
    """Publish each request in its order; then `on_asked`."""

    requests: tuple[Request, ...]


class Wait(msgspec.Struct, frozen=True):
    """Nothing to do until `on_answer`.

    Attributes:
        for_person: Whether a person is waited for; else the spawner answers at once.
    """

    for_person: bool


class Succeed(msgspec.Struct, frozen=True):
    """Publish `agent.succeeded`. The attempt is over."""

    conclusion: Conclusion
    artifacts: tuple[WrittenArtifact, ...]


class Fail(msgspec.Struct, frozen=True):
    """Publish `agent.failed`. The attempt is over."""

    problem: Problem
    retryable: bool


def failure(code: str, detail: str, *, retryable: bool = False, limit: str | None = None) -> Fail:
    """A failure with its problem; the detail is cut to what people read."""
    detail = detail[:PROBLEM_DETAIL_MAX_CHARACTERS]
    return Fail(Problem(code=code, detail=detail, limit=limit), retryable)


Action = CallModel | RunTools | FinishTurn | Ask | Wait | Succeed | Fail
