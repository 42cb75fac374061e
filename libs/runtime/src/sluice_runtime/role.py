"""A role as a value (W1). `roles` reads them from files."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from sluice_contracts.messages.base import Identifier


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class RoleLimits(_Strict):
    """What one turn of the role may take."""

    max_output_tokens: Annotated[int, Field(ge=1, le=200_000, description="Asked of the model.")] = 4_096
    max_tool_calls_per_turn: Annotated[int, Field(ge=1, le=64)] = 16
    question_timeout_s: Annotated[int, Field(ge=1, le=7 * 86_400)] = 3_600


class Role(_Strict):
    """What an agent is: its instructions, its queue, its model, its tools.

    Attributes:
        queue: The topics `agent.tasks.<queue>` and so on that its agents work on.
        model: For tasks that name none; None takes the runner's default.
        tools: Names of the tools that it is granted.
        output_schema: JSON Schema of its result, for tasks that bring none.
        finish_without_tool: Whether an answer without a tool call is its result.
    """

    name: Identifier
    description: Annotated[str, Field(min_length=1, max_length=500)]
    queue: Identifier = "default"
    model: Annotated[str, Field(min_length=1, max_length=255)] | None = None
    system_prompt: Annotated[str, Field(min_length=1, max_length=32_000)]
    tools: Annotated[list[Identifier], Field(min_length=1, max_length=64)]
    output_schema: dict[str, Any] | None = None
    limits: RoleLimits = RoleLimits()
    finish_without_tool: bool = False
