"""The fold of what is told of a pipeline's blackboard (A4). The dispatch table stands at the end."""

from __future__ import annotations

from collections.abc import Mapping

from sluice_contracts.envelope import CloudEvent
from sluice_contracts.messages import Message, blackboard
from sluice_observability.domain.folding import Fold
from sluice_observability.domain.views import KeyView, PipelineView


def _written(view: PipelineView, data: blackboard.BlackboardWritten, event: CloudEvent[Message]) -> None:
    view.blackboard[data.key] = KeyView(
        data.key, data.key_version, data.agent_id, False, event.time_ms, data.expires_at_ms
    )


def _deleted(view: PipelineView, data: blackboard.BlackboardDeleted, event: CloudEvent[Message]) -> None:
    view.blackboard[data.key] = KeyView(data.key, data.key_version, data.agent_id, True, event.time_ms)


def _detected(view: PipelineView, data: blackboard.BlackboardConflictDetected, event: CloudEvent[Message]) -> None:
    view.conflicts_detected += 1


def _resolved(view: PipelineView, data: blackboard.BlackboardConflictResolved, event: CloudEvent[Message]) -> None:
    view.conflicts_resolved += 1


FOLDS: Mapping[type[Message], Fold] = {
    blackboard.BlackboardWritten: _written,
    blackboard.BlackboardDeleted: _deleted,
    blackboard.BlackboardConflictDetected: _detected,
    blackboard.BlackboardConflictResolved: _resolved,
}
