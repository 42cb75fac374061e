"""The shape of a service that decides: a pure function from state and message to deltas and outputs.

A decider never awaits, reads no clock, draws no random number and does no I/O, so that it can be replayed, simulated
and tested as a table. `processor` makes its decisions durable.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, TypeVar

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


E = TypeVar("E", bound=Entity)


class EntityView:
    """One pipeline's entities as a decision sees them: the state, with the decision's own changes laid over it.

    A service's view adds a method for each of its entities. Reading an entity of another class than its key says, or
    one that must be there and is not, raises `AssertionError`: the state is damaged, and the processor must stop.

    Attributes:
        deltas: What was written.
    """

    __slots__ = ("_state", "deltas", "pipeline_id")

    def __init__(self, state: State, pipeline_id: str) -> None:
        self._state = state
        self.pipeline_id = pipeline_id
        self.deltas: dict[str, Entity | None] = {}

    def _find(self, name: str, cls: type[E]) -> E | None:
        key = f"{self.pipeline_id}/{name}"
        entity = self.deltas[key] if key in self.deltas else self._state.get(key)
        assert entity is None or type(entity) is cls, f"{key} is a {type(entity).__name__}, not a {cls.__name__}"
        return entity

    def _get(self, name: str, cls: type[E]) -> E:
        entity = self._find(name, cls)
        assert entity is not None, f"{self.pipeline_id}/{name} is missing"
        return entity

    def _put(self, name: str, entity: Entity | None) -> None:
        key = f"{self.pipeline_id}/{name}"
        if entity is None and key not in self._state:
            self.deltas.pop(key, None)
        else:
            self.deltas[key] = entity

    def find_timer(self, name: str) -> Timer | None:
        """A timer, if it is set."""
        return self._find(f"timer/{name}", Timer)

    def set_timer(self, name: str, due_at_ms: int, generation: int, tenant: str) -> None:
        """Sets a timer, in the place of the one of that name."""
        timer = Timer(
            pipeline_id=self.pipeline_id, name=name, due_at_ms=due_at_ms, generation=generation, tenant=tenant
        )
        self._put(f"timer/{name}", timer)

    def delete_timer(self, name: str) -> None:
        """Deletes a timer, if it is set."""
        self._put(f"timer/{name}", None)


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
