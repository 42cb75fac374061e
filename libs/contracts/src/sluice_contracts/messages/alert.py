"""Breaches of error budgets (V5), and the budgets themselves."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from sluice_contracts.messages.base import Count, Identifier, Message, Milliseconds, Ordinal, Summary, message

AlertCondition = Literal["error_budget_exceeded", "api_call_budget_exceeded", "no_progress", "policy_violation"]
AlertAction = Literal["revoke_pipeline", "revoke_agent", "throttle"]


@message("alert.raised")
class AlertRaised(Message):
    """A budget is broken. Each breach is told once: its id is made of pipeline, life, condition, what is broken."""

    condition: AlertCondition
    action: AlertAction
    agent_id: Identifier | None = Field(
        default=None, description="Whom the action is about; absent or null: the whole pipeline."
    )
    attempt: Ordinal | None = None
    observed: Count = Field(description="Errors or calls in the window; milliseconds without progress; violations.")
    limit: Count = Field(description="What was allowed, in the same unit.")
    window_ms: Milliseconds
    evidence: tuple[Annotated[str, Field(max_length=1_024)], ...] = Field(
        default=(), max_length=16, description="Ids of the signals that broke it, the last ones."
    )
    breached_at_ms: Milliseconds = Field(
        description="The time of the signal that broke it, or of the missing progress."
    )
    detail: Summary


@message("budget.set")
class BudgetSet(Message):
    """Sets limits for the installation, a tenant or a pipeline; the nearest one counts, None inherits.

    The record's key is `installation`, `tenant/<tenant>` or `pipeline/<pipeline_id>`; the last record of a key counts.
    """

    scope: Literal["installation", "tenant", "pipeline"]
    name: Identifier | None = Field(
        default=None, description="The tenant or the pipeline; absent or null for the installation."
    )
    errors_per_minute: Count | None = Field(default=None, description="More of them end all credentials.")
    api_calls_per_minute: Count | None = Field(default=None, description="More of them throttle, then end all.")
    progress_timeout_s: Ordinal | None = Field(default=None, description="Longer without progress ends the agent's.")

    @model_validator(mode="after")
    def _names_what_it_is_about(self) -> BudgetSet:
        if (self.name is None) != (self.scope == "installation"):
            raise ValueError("a tenant's and a pipeline's budget have a name, the installation's has none")
        return self

    @property
    def key(self) -> str:
        """The record's key: the scope, and whose it is."""
        return self.scope if self.name is None else f"{self.scope}/{self.name}"
