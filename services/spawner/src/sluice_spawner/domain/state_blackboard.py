"""What the spawner knows of a pipeline's blackboard: an index, and one small entity for each key. See `state`."""

from __future__ import annotations

import msgspec

from sluice_runtime.deciding import Entity


class BlackboardEntity(Entity, frozen=True, tag="blackboard"):
    """The names of all keys that were ever written, in that order: their versions go on rising."""

    keys: tuple[str, ...] = ()


class KeyEntity(Entity, frozen=True, tag="blackboard_key"):
    """One key.

    Attributes:
        version: Of the last accepted write; a deletion is one.
        agent_id: Whose that was.
        value: None once it was deleted.
        expires_at_ms: From then on it is as if deleted.
    """

    version: int
    agent_id: str
    value: str | None = None
    expires_at_ms: int = 0

    def lives(self, now_ms: int) -> bool:
        """Whether it has a value."""
        return self.value is not None and now_ms < self.expires_at_ms


class OpenConflict(msgspec.Struct, frozen=True, array_like=True):
    """A conflict that an agent lost, and has not settled.

    Attributes:
        expected_version: What it had read.
        written_by: The agent that was first.
    """

    conflict_id: str
    key: str
    expected_version: int
    written_by: str
