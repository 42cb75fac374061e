"""What the turn machine asks its driver to do next. There is always exactly one thing."""

from __future__ import annotations

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


class AskHuman(msgspec.Struct, frozen=True):
    """Publish `agent.input_requested` for each; then `on_asked`."""

    questions: tuple[Question, ...]


class Wait(msgspec.Struct, frozen=True):
    """Nothing to do until `on_answer`."""


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


Action = CallModel | RunTools | FinishTurn | AskHuman | Wait | Succeed | Fail
