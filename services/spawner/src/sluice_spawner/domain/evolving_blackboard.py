"""How the blackboard changes, and what agents were answered about it. Called by `evolving` alone."""

from __future__ import annotations

from msgspec.structs import replace

from sluice_contracts.messages.blackboard import (
    BlackboardConflictDetected,
    BlackboardConflictResolved,
    BlackboardDeleted,
    BlackboardWritten,
)
from sluice_spawner.domain.facts import AnswerKept, Fact
from sluice_spawner.domain.policy import SpawnerPolicy
from sluice_spawner.domain.state import Fault, KeptAnswer
from sluice_spawner.domain.state_blackboard import BlackboardEntity, KeyEntity, OpenConflict
from sluice_spawner.domain.view import View


def written(view: View, message: BlackboardWritten, fact: Fact, policy: SpawnerPolicy) -> None:
    """A key has a value."""
    if view.find_key(message.key) is None:
        view.put_blackboard(BlackboardEntity(keys=(*view.blackboard().keys, message.key)))
    view.put_key(message.key, KeyEntity(message.key_version, message.agent_id, message.value, message.expires_at_ms))


def deleted(view: View, message: BlackboardDeleted, fact: Fact, policy: SpawnerPolicy) -> None:
    """A key has none any more; its version stays."""
    view.put_key(message.key, KeyEntity(message.key_version, message.agent_id))


def conflict_detected(view: View, message: BlackboardConflictDetected, fact: Fact, policy: SpawnerPolicy) -> None:
    """An agent has lost."""
    conflict = OpenConflict(message.conflict_id, message.key, message.expected_version, message.written_by)
    agent = view.agent(message.agent_id)
    view.put_agent(message.agent_id, replace(agent, conflicts=(*agent.conflicts, conflict)))
    pipeline = view.pipeline()
    detected, unresolved = pipeline.conflicts_detected + 1, pipeline.conflicts_unresolved + 1
    view.put_pipeline(replace(pipeline, conflicts_detected=detected, conflicts_unresolved=unresolved))


def conflict_resolved(view: View, message: BlackboardConflictResolved, fact: Fact, policy: SpawnerPolicy) -> None:
    """That is settled."""
    agent = view.agent(message.agent_id)
    left = tuple(conflict for conflict in agent.conflicts if conflict.conflict_id != message.conflict_id)
    view.put_agent(message.agent_id, replace(agent, conflicts=left))
    pipeline = view.pipeline()
    view.put_pipeline(replace(pipeline, conflicts_unresolved=pipeline.conflicts_unresolved - 1))


def answer_kept(view: View, message: AnswerKept, fact: Fact, policy: SpawnerPolicy) -> None:
    """An agent's request has its answer, which no finished turn has seen."""
    answer = message.answer
    fault = None if answer.problem is None else Fault.of(answer.problem)
    kept = KeptAnswer(answer.request_id, 0, answer=answer.answer, fault=fault, of_person=False)
    agent = view.agent(message.agent_id)
    view.put_agent(message.agent_id, replace(agent, answers=(*agent.answers, kept)))


def forget(view: View) -> None:
    """The pipeline has ended."""
    for name in view.blackboard().keys:
        view.put_key(name, None)
    view.put_blackboard(None)
