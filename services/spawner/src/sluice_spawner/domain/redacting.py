"""What people write is redacted at this door: behind it no state, event or agent has what looks like a secret.

An agent would not see it anyway, for runners redact all that enters a conversation. The command itself stands on its
topic as it was written.
"""

from __future__ import annotations

from typing import Any

from sluice_contracts.limits import SUMMARY_MAX_CHARACTERS, TEXT_MAX_CHARACTERS
from sluice_contracts.messages.pipeline import PipelineAnswer, PipelineCancel, PipelineSpawn
from sluice_contracts.messages.plan import TaskSpec
from sluice_runtime.redaction import names_secret, redact

_HIDDEN = "[redacted:secret]"


def spawn(command: PipelineSpawn) -> PipelineSpawn:
    """A spawn without secrets in its texts. Names — of tasks, roles, models, files — are left as they are."""
    plan = command.plan
    changed: dict[str, Any] = {
        "objective": _text(plan.objective),
        "tasks": tuple(map(_task, plan.tasks)),
        "labels": _strings(plan.labels),
    }
    return command.model_copy(update={"plan": plan.model_copy(update=changed)})


def answer(command: PipelineAnswer) -> PipelineAnswer:
    """An answer without secrets."""
    return command.model_copy(update={"answer": _text(command.answer)})


def cancel(command: PipelineCancel) -> PipelineCancel:
    """A cancellation without secrets in its reason."""
    return command.model_copy(update={"reason": redact(command.reason)[:SUMMARY_MAX_CHARACTERS]})


def _is_secret(name: str, value: Any) -> bool:
    return isinstance(value, str) and names_secret(name)


def _task(task: TaskSpec) -> TaskSpec:
    changed: dict[str, Any] = {
        "objective": _text(task.objective),
        "success_criteria": tuple(map(_text, task.success_criteria)),
        "acceptance_criteria": tuple(map(_text, task.acceptance_criteria)),
        "output_schema": _strings(task.output_schema),
    }
    return task.model_copy(update=changed)


def _text(text: str) -> str:
    # The mark may be longer than what it stands for.
    return redact(text)[:TEXT_MAX_CHARACTERS]


def _strings(value: Any) -> Any:
    """JSON with its strings redacted; `JSON_MAX_DEPTH` bounds the recursion."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {name: _HIDDEN if _is_secret(name, one) else _strings(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_strings(one) for one in value]
    return value
