"""The shape of a service that decides: a pure function from state and message to deltas and outputs.

A decider never awaits, reads no clock, draws no random number and does no I/O, so that it can be replayed, simulated
and tested as a table. `processor` makes its decisions durable.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import msgspec

from sluice_contracts.envelope import CloudEvent
from sluice_contracts.messages.base import Message


class Entity(msgspec.Struct, frozen=True, tag_field="kind", omit_defaults=True, forbid_unknown_fields=False):
    """One entry of the state, under one key. Immutable: a change is a new entity (`msgspec.structs.replace`)."""


class Timer(Entity, frozen=True, tag="timer"):
    """A timer in the state. It fires once, when `due_at_ms` has come and all that was in the log by then is decided.

    A fired timer stays until a decision deletes or replaces it; a firing of an older generation must be ignored.
    """

    pipeline_id: str
    name: str
    due_at_ms: int
    generation: int = 0
    tenant: str = ""

    @property
    def key(self) -> str:
        """The timer's key in the state."""
        return timer_key(self.pipeline_id, self.name)


def timer_key(pipeline_id: str, name: str) -> str:
    """The state key of a pipeline's timer."""
    return f"{pipeline_id}/timer/{name}"


class TimerDue(Message):
    """The input by which the processor tells that a timer fired. Never on a topic."""

    type: ClassVar[str] = "timer.due"
    name: str
    generation: int


class LeaseExpired(Message):
    """The input by which the processor tells that no heartbeat named an attempt for its lease. Never on a topic."""

    type: ClassVar[str] = "lease.expired"
    agent_id: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Output:
    """A message to publish once the decision is durable. `topic` has no prefix."""

    topic: str
    key: str
    event: CloudEvent[Message]


@dataclass(frozen=True, slots=True)
class Decision:
    """What one input changes: entities by key (None deletes), and messages in their order."""

    deltas: Mapping[str, Entity | None] = field(default_factory=dict)
    outputs: tuple[Output, ...] = ()


State = Mapping[str, Entity]
"""A partition's state by key. Keys begin with the pipeline's id and a slash."""


class Decider(Protocol):
    """A service's decisions.

    Attributes:
        entity_type: The union of all entity classes of the state, for decoding what was stored.
    """

    entity_type: Any

    def decide(self, state: State, event: CloudEvent[Message], now_ms: int) -> Decision:
        """Decides one input.

        Guarantee asked of the implementation: the same state, event and now give the same decision; an input whose id
        or number shows that it was decided already gives an empty decision.
        """
        ...
