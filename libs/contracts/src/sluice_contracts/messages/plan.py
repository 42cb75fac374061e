"""The plan of a pipeline as data: tasks (P3), their dependencies and conditions, limits."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from sluice_contracts.limits import TASKS_MAX_COUNT
from sluice_contracts.messages.base import ArtifactRef, Dollars, Identifier, Ordinal, Text, Value


class Dependency(Value):
    """An edge of the plan: the task waits for `task`, and runs only if that ended as `on` says."""

    task: Identifier
    on: Literal["succeeded", "failed", "finished"] = "succeeded"


class Budget(Value):
    """What a task may spend; the turn that would begin beyond it is not begun."""

    tokens: Ordinal | None = None
    cost_usd: Annotated[Dollars, Field(gt=0)] | None = None


class ExpectedArtifact(Value):
    """An artifact that the task must have written before it may finish."""

    name: str = Field(max_length=255)
    kind: str | None = Field(default=None, max_length=64)


class TaskSpec(Value):
    """One task of a plan (P3)."""

    id: Identifier
    objective: Text
    role: Identifier
    type: Identifier = "task"
    success_criteria: tuple[Text, ...] = ()
    acceptance_criteria: tuple[Text, ...] = ()
    constraints: tuple[Identifier, ...] = ()
    timeout_s: Annotated[int, Field(gt=0, le=86_400)] = 300
    model: str | None = Field(default=None, max_length=255, description="Overrides the role's model.")
    dependencies: tuple[Dependency, ...] = ()
    expected_artifacts: tuple[ExpectedArtifact, ...] = ()
    output_schema: dict[str, Any] | None = Field(default=None, description="JSON Schema that the result must satisfy.")
    retries: Annotated[int, Field(ge=0, le=20)] = 2
    budget: Budget = Budget()
    inputs: tuple[ArtifactRef, ...] = Field(default=(), description="Files laid into the workspace, read-only.")

    @field_validator("dependencies", mode="before")
    @classmethod
    def _names_are_edges(cls, value: Any) -> Any:
        if isinstance(value, list | tuple):
            return [{"task": item} if isinstance(item, str) else item for item in value]
        return value


class Limits(Value):
    """Limits of one pipeline (P13)."""

    max_agents: Annotated[int, Field(gt=0, le=10_000)] = 5
    max_iterations: Annotated[int, Field(gt=0, le=10_000)] = 50
    max_fan_out: Annotated[int, Field(gt=0, le=1_000)] = 50
    max_depth: Annotated[int, Field(gt=0, le=1_000)] = 50


class Plan(Value):
    """What a pipeline is to do: a graph of tasks, and what happens when one fails."""

    objective: Text
    tasks: tuple[TaskSpec, ...] = Field(min_length=1, max_length=TASKS_MAX_COUNT)
    on_failure: Literal["fail_fast", "carry_on"] = "fail_fast"
    on_conflict: Literal["loser_retries", "first_wins"] = Field(
        default="loser_retries", description="When a conflict on the blackboard is settled: see decision 0011."
    )
    inputs: tuple[ArtifactRef, ...] = Field(default=(), description="Files for every task's workspace, read-only.")
    model: str | None = Field(default=None, max_length=255, description="For tasks that name none.")
    limits: Limits = Limits()
    unattended: bool = Field(default=False, description="Questions are answered with their default, at once.")
    labels: dict[Identifier, str] = Field(default_factory=dict, max_length=32)
