"""What error budgets are counted by (V5, O4): small facts, from whoever sees them. Each event counts once."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from sluice_contracts.messages.base import Count, Identifier, Message, Ordinal, Summary, message


class AgentSignal(Message):
    """A fact about an attempt of an agent."""

    agent_id: Identifier
    attempt: Ordinal


@message("watch.changed")
class WatchChanged(AgentSignal):
    """From now on progress is expected of an attempt, or none is: it has ended, or waits for a person."""

    watched: bool


@message("progress.reported")
class ProgressReported(AgentSignal):
    """An attempt came on: a turn is finished, or a long call still brings something."""

    turn: Count = 0
    api_calls: Count = Field(default=0, description="Calls since this attempt's last signal.")


@message("error.reported")
class ErrorReported(Message):
    """Something went wrong: a call of a model or a tool failed. One event is one error."""

    agent_id: Identifier | None = None
    attempt: Ordinal | None = None
    code: Identifier
    detail: Summary = ""
    api_calls: Count = Field(
        default=0, description="Calls since this attempt's last signal, the failed one among them."
    )


@message("violation.reported")
class ViolationReported(Message):
    """Somebody broke a policy. Any system may report it; a CRITICAL one ends the pipeline's credentials at once."""

    policy: Identifier
    severity: Literal["LOW", "MEDIUM", "HIGH", "CRITICAL"]
    agent_id: Identifier | None = None
    detail: Summary = ""
