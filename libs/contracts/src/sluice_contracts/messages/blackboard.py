"""The blackboard of a pipeline (A4): what agents ask of it, and what the spawner decided, in the log's order."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from sluice_contracts.limits import BLACKBOARD_NAME_MAX_CHARACTERS
from sluice_contracts.messages.agent import AttemptEvent
from sluice_contracts.messages.base import Count, Identifier, Message, Milliseconds, Ordinal, Text, message

Name = Annotated[str, Field(max_length=BLACKBOARD_NAME_MAX_CHARACTERS)]
"""A key, or the beginning of one, as an agent writes it. What is no lawful key is answered with a problem."""

Action = Literal["set", "delete"]


class BlackboardRequest(AttemptEvent):
    """What an agent asks; it is answered by `agent.answer`, once, however often it is asked."""

    request_id: Identifier
    turn: Count = Field(description="Turns that the agent has finished. What names fewer is passed over.")


@message("blackboard.read_requested")
class BlackboardReadRequested(BlackboardRequest):
    """The agent asks for one key, or for the list of keys that begin with a prefix."""

    key: Name | None = Field(default=None, description="Absent or null: the list.")
    prefix: Name = ""


@message("blackboard.write_requested")
class BlackboardWriteRequested(BlackboardRequest):
    """The agent asks to set or delete a key. It counts only on the version that the key has by then."""

    action: Action
    key: Name
    value: Text = Field(default="", description="Of set.")
    key_version: Count = Field(default=0, description="The version that was read; 0: the key must not exist.")
    ttl_s: Ordinal | None = Field(default=None, description="Of set. Absent or null: the installation's.")


class BlackboardEvent(Message):
    """What happened to one key. Its versions rise by one with each accepted write, deletions too."""

    key: Identifier
    key_version: Ordinal
    agent_id: Identifier


@message("blackboard.written")
class BlackboardWritten(BlackboardEvent):
    """A key has a new value, by this agent."""

    value: Text
    expires_at_ms: Milliseconds


@message("blackboard.deleted")
class BlackboardDeleted(BlackboardEvent):
    """A key has no value any more, by this agent."""


@message("blackboard.conflict_detected")
class BlackboardConflictDetected(BlackboardEvent):
    """The agent's write came second: another one was accepted after what it had read. `key_version` is the key's."""

    conflict_id: Identifier
    action: Action
    expected_version: Count = Field(description="The version that the agent had read; 0: that the key did not exist.")
    written_by: Identifier = Field(description="The agent whose write came first.")


@message("blackboard.conflict_resolved")
class BlackboardConflictResolved(BlackboardEvent):
    """The agent that lost has written the key anew (`retried`), or let it be (`let_be`: its task has ended).

    Where the plan says `first_wins`, it is resolved at once. `key_version` is the key's.
    """

    conflict_id: Identifier
    resolution: Literal["retried", "let_be", "first_wins"]
    expected_version: Count = Field(description="As it was when the conflict was detected.")
    written_by: Identifier = Field(description="As it was when the conflict was detected.")
