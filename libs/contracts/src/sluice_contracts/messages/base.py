"""The base of all messages, their registry, and the values that several of them share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from sluice_contracts.limits import (
    COST_DIGITS,
    COST_MAX_USD,
    COUNT_MAX,
    IDENTIFIER_PATTERN,
    SUMMARY_MAX_CHARACTERS,
    TEXT_MAX_CHARACTERS,
)

Identifier = Annotated[str, StringConstraints(pattern=IDENTIFIER_PATTERN)]
Text = Annotated[str, StringConstraints(max_length=TEXT_MAX_CHARACTERS)]
Summary = Annotated[str, StringConstraints(max_length=SUMMARY_MAX_CHARACTERS)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0, le=COUNT_MAX)]
Ordinal = Annotated[int, Field(ge=1, le=COUNT_MAX)]
Dollars = Annotated[float, Field(ge=0, le=COST_MAX_USD, allow_inf_nan=False)]
Milliseconds = Annotated[
    int, Field(ge=0, le=COUNT_MAX, description="Milliseconds since the Unix epoch, or a duration.")
]


class Value(BaseModel):
    """A value inside a message: immutable; fields that it does not know are ignored, so that a newer writer can add."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Message(Value):
    """What one record's value holds. A subclass names its `type`; a breaking change makes a new `version`.

    Attributes:
        only_subject: The one subject that the message may have; None where it is whatever the message is about.
    """

    type: ClassVar[str]
    version: ClassVar[int] = 1
    only_subject: ClassVar[str | None] = None


_REGISTRY: dict[tuple[str, int], type[Message]] = {}


def message(type_: str, *, version: int = 1) -> Any:
    """Class decorator: registers a message under its CloudEvents type.

    Raises:
        ValueError: Two classes claim one type and version.
    """

    def register(cls: type[Message]) -> type[Message]:
        if (type_, version) in _REGISTRY:
            raise ValueError(f"message {type_} v{version} is defined twice: {_REGISTRY[type_, version]} and {cls}")
        cls.type = type_
        cls.version = version
        _REGISTRY[type_, version] = cls
        return cls

    return register


def registry() -> Mapping[tuple[str, int], type[Message]]:
    """All messages by (type, version)."""
    return _REGISTRY


class ArtifactRef(Value):
    """A write-once body in the artifact store, named by the SHA-256 of its bytes."""

    sha256: Sha256
    size_bytes: Count
    media_type: str = "text/plain; charset=utf-8"
    name: str | None = Field(default=None, max_length=255, description="Where a workspace or a reader shows it.")
    kind: str | None = Field(default=None, max_length=64, description="requirements, design, code, review, report, …")


class Body(Value):
    """A text of any size: inline up to 64 KiB, else by reference. Exactly one of both is given."""

    text: str | None = None
    ref: ArtifactRef | None = None


class Usage(Value):
    """What model calls used. Costs are US dollars, as the provider reported or priced them. Sums stop at the limits."""

    input_tokens: Count = 0
    output_tokens: Count = 0
    cost_usd: Dollars = 0.0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            input_tokens=min(self.input_tokens + other.input_tokens, COUNT_MAX),
            output_tokens=min(self.output_tokens + other.output_tokens, COUNT_MAX),
            cost_usd=min(round(self.cost_usd + other.cost_usd, COST_DIGITS), COST_MAX_USD),
        )


class Problem(Value):
    """Why something was refused or failed: a code for machines, a detail for people with value and next step."""

    code: str = Field(max_length=64, description="snake_case and stable, such as unknown_role or agent_timeout.")
    detail: Summary
    field: str | None = Field(default=None, max_length=255, description="JSON path of the offending field.")
    limit: str | None = Field(default=None, max_length=255, description="The limit that was broken, with its unit.")


PipelineState = Literal["SPAWNED", "RUNNING", "NEEDS_INPUT", "REPORT", "COMPLETED", "FAILED", "CANCELLED"]
TaskStatus = Literal["pending", "assigned", "running", "succeeded", "failed", "skipped", "cancelled"]
AgentState = Literal["CREATED", "BUSY", "WAITING", "SUCCEEDED", "ERROR", "TERMINATED"]
