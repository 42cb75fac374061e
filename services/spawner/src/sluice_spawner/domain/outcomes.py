"""What tasks produced, made to fit into a record."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from sluice_contracts.messages.base import ArtifactRef
from sluice_contracts.messages.pipeline import TaskOutcome
from sluice_spawner.domain.state import TaskEntity
from sluice_spawner.domain.view import View

ELLIPSIS = "…"


def json_bytes(text: str) -> int:
    """The bytes that a text takes in a JSON record, quotes included."""
    return len(msgspec.json.encode(text))


def clipped(text: str, max_bytes: int) -> str:
    """The longest beginning of a text that takes at most so many bytes as JSON; the end is marked where it is cut."""
    if json_bytes(text) <= max_bytes:
        return text
    low, high = 0, len(text)  # text[:low] fits, text[:high] does not
    while high - low > 1:
        middle = (low + high) // 2
        if json_bytes(text[:middle] + ELLIPSIS) <= max_bytes:
            low = middle
        else:
            high = middle
    return text[:low] + ELLIPSIS if low else ""


def fitting(artifacts: Sequence[ArtifactRef], max_bytes: int) -> tuple[ArtifactRef, ...]:
    """The first artifacts that take at most so many bytes."""
    taken = 0
    for count, ref in enumerate(artifacts):
        taken += len(ref.model_dump_json(exclude_defaults=True).encode()) + 1
        if taken > max_bytes:
            return tuple(artifacts[:count])
    return tuple(artifacts)


def outcome_of(view: View, task_id: str) -> TaskOutcome:
    """How a task ended, or where it stands."""
    task: TaskEntity = view.task(task_id)
    return TaskOutcome(
        task_id=task_id,
        status=task.status,
        summary=task.summary,
        artifacts=tuple(artifact.ref() for artifact in task.artifacts),
        problem=None if task.fault is None else task.fault.problem(),
    )


def bounded(outcomes: Sequence[TaskOutcome], max_bytes: int) -> tuple[TaskOutcome, ...]:
    """Outcomes that take at most so many bytes together.

    If they take more, each gets the same share: half of it for artifacts, the rest for its problem and summary. Task
    and status are never cut; where even they do not fit, the last outcomes are left out.
    """
    if sum(map(_size, outcomes)) <= max_bytes:
        return tuple(outcomes)
    share = max_bytes // len(outcomes)
    kept: list[TaskOutcome] = []
    taken = 0
    for outcome in outcomes:
        small = _shrunk(outcome, share)
        taken += _size(small)
        if taken > max_bytes:
            break
        kept.append(small)
    return tuple(kept)


def _shrunk(outcome: TaskOutcome, max_bytes: int) -> TaskOutcome:
    if _size(outcome) <= max_bytes:
        return outcome
    left = max_bytes - _size(outcome.model_copy(update={"summary": "", "artifacts": (), "problem": None}))
    left -= 64  # names of the members, and their punctuation
    artifacts = fitting(outcome.artifacts, left // 2)
    left -= sum(len(ref.model_dump_json(exclude_defaults=True).encode()) + 1 for ref in artifacts)
    problem = outcome.problem
    if problem is not None:
        bare = len(problem.model_copy(update={"detail": ""}).model_dump_json(exclude_defaults=True).encode())
        detail = clipped(problem.detail, left // 2 - bare)
        problem = problem.model_copy(update={"detail": detail}) if left // 2 >= bare else None
        left -= 0 if problem is None else bare + json_bytes(detail)
    summary = clipped(outcome.summary, left)
    return outcome.model_copy(update={"summary": summary, "artifacts": artifacts, "problem": problem})


def _size(outcome: TaskOutcome) -> int:
    return len(outcome.model_dump_json(exclude_defaults=True).encode()) + 1
