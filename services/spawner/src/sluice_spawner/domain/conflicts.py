"""Conflicts on the blackboard (A4): two agents wrote on the same version, and the second one's write did not count.

A conflict is settled when the agent that lost writes the key after all, or when its task ends: it has heard what stands
there, and lets it be. Where the plan says `first_wins`, it is settled at once. So none is open when a pipeline ends.
"""

from __future__ import annotations

from typing import Literal

from sluice_contracts.messages.blackboard import (
    BlackboardConflictDetected,
    BlackboardConflictResolved,
    BlackboardWriteRequested,
)
from sluice_spawner.domain.building import DecisionBuilder
from sluice_spawner.domain.facts import conflict_id_of
from sluice_spawner.domain.state_blackboard import KeyEntity, OpenConflict

Resolution = Literal["retried", "let_be", "first_wins"]


def detect(builder: DecisionBuilder, message: BlackboardWriteRequested, key: KeyEntity) -> None:
    """The agent of this request has lost to whoever wrote the key last."""
    builder.publish(
        BlackboardConflictDetected(
            key=message.key,
            key_version=key.version,
            agent_id=message.agent_id,
            conflict_id=conflict_id_of(builder.pipeline_id, message.agent_id, message.request_id, message.turn),
            action=message.action,
            expected_version=message.key_version,
            written_by=key.agent_id,
        )
    )
    if builder.view.plan().first_wins:
        _settle(builder, message.agent_id, builder.view.agent(message.agent_id).conflicts[-1], "first_wins")


def written(builder: DecisionBuilder, agent_id: str, name: str) -> None:
    """An agent's write of a key was accepted: what it had lost there is settled."""
    for conflict in builder.view.agent(agent_id).conflicts:
        if conflict.key == name:
            _settle(builder, agent_id, conflict, "retried")


def let_be(builder: DecisionBuilder, agent_id: str) -> None:
    """An agent's task ends: whatever it had lost is settled."""
    for conflict in builder.view.agent(agent_id).conflicts:
        _settle(builder, agent_id, conflict, "let_be")


def _settle(builder: DecisionBuilder, agent_id: str, conflict: OpenConflict, resolution: Resolution) -> None:
    builder.publish(
        BlackboardConflictResolved(
            key=conflict.key,
            key_version=builder.view.key(conflict.key).version,
            agent_id=agent_id,
            conflict_id=conflict.conflict_id,
            resolution=resolution,
            expected_version=conflict.expected_version,
            written_by=conflict.written_by,
        )
    )
