"""The pipeline that finds out why another one failed (O6): one function, so that whoever asks for it makes the same."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from sluice_contracts import ids
from sluice_contracts.messages.base import ArtifactRef
from sluice_contracts.messages.pipeline import Diagnosed, PipelineSpawn
from sluice_contracts.messages.plan import Budget, Limits, Plan, TaskSpec

ROLE = "diagnostician"
"""The shipped role of its one agent."""

TASK_ID = "diagnose"
REPORT_NAME, MARKDOWN_NAME = "handoff.json", "handoff.md"
EVIDENCE_FOLDER = "evidence"
"""Where the agent finds the report, and what the failed pipeline has left. `artifacts` is the workspace's own."""

EVIDENCE_MAX_COUNT = 32
EVIDENCE_MAX_BYTES = 64 * 1024 * 1024
"""What the failed pipeline has left, as far as it is laid in, in its order: 32 references are some 8 KiB of a task,
which may have 36, and a workspace may have 256 MiB."""

OBJECTIVE_SHOWN_CHARACTERS = 2_000
"""Of the failed pipeline's objective; the report has more of it."""

EVIDENCE_NAME_CHARACTERS = 80
TIMEOUT_S = 900
TURNS_MAX = 30
TOKENS_MAX = 300_000
"""A diagnosis is bounded: it costs less than what it is about, and nobody waits for it."""

FINDINGS_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["cause", "evidence", "recommendations"],
    "additionalProperties": False,
    "properties": {
        "cause": {"type": "string", "minLength": 1, "maxLength": 4_000},
        "evidence": {"type": "array", "maxItems": 32, "items": {"type": "string", "maxLength": 1_000}},
        "recommendations": {"type": "array", "maxItems": 32, "items": {"type": "string", "maxLength": 1_000}},
    },
}
"""JSON Schema of the findings: the result of the diagnostic's one task."""

_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]+")


def diagnostic_spawn(
    *,
    pipeline_id: str,
    tenant: str,
    objective: str,
    cause_id: str,
    alert_id: str | None,
    reason: str,
    depth: int,
    report: ArtifactRef,
    markdown: ArtifactRef,
    artifacts: Sequence[ArtifactRef],
    model: str | None = None,
) -> tuple[str, PipelineSpawn]:
    """Makes the id and the spawn of the pipeline that diagnoses another one.

    The same cause gives the same id, so that a repetition meets the first. It has no dedupe key: its id is no key's.

    Args:
        pipeline_id: The pipeline that failed.
        tenant: Whose both are.
        objective: What the failed one was to do.
        cause_id: The id of the message for which it is made: `handoff.reported`, or somebody's request.
        alert_id: The breach, if there was one.
        reason: Why the pipeline failed, such as `error_budget_exceeded`.
        depth: 1; 2 for a diagnostic of a diagnostic. The spawner has a limit.
        report: The handoff report, as JSON.
        markdown: The same for people.
        artifacts: What the failed pipeline's tasks have left.
        model: What its agents were told to use; None where their roles said it.
    """
    shown = objective[:OBJECTIVE_SHOWN_CHARACTERS]
    task = TaskSpec(
        id=TASK_ID,
        role=ROLE,
        objective=(
            f"Pipeline {pipeline_id} was ended: {reason}. Find out why. Begin with {MARKDOWN_NAME}; {REPORT_NAME} has "
            f"the same with all details, and {EVIDENCE_FOLDER}/ what its tasks have left. Give the probable cause, the "
            "evidence for it with its place, and what should be done now, in the order in which it should be done."
        ),
        success_criteria=(
            "The cause is the first in its chain, or it is said what would have to be known to find it.",
            "Every piece of evidence has a place: a file and line, an event, an agent and turn.",
            "The recommendations say whether the work can be taken up again, and from where.",
        ),
        timeout_s=TIMEOUT_S,
        retries=1,
        budget=Budget(tokens=TOKENS_MAX),
        output_schema=FINDINGS_SCHEMA,
    )
    plan = Plan(
        objective=f"Find out why pipeline {pipeline_id} failed ({reason}). It was to do this: {shown}",
        tasks=(task,),
        inputs=(
            report.model_copy(update={"name": REPORT_NAME}),
            markdown.model_copy(update={"name": MARKDOWN_NAME}),
            *_evidence(artifacts),
        ),
        model=model,
        limits=Limits(max_agents=1, max_iterations=TURNS_MAX),
        unattended=True,
    )
    diagnosed = Diagnosed(pipeline_id=pipeline_id, alert_id=alert_id, depth=depth)
    spawn = PipelineSpawn(plan=plan, parent_pipeline_id=pipeline_id, diagnosed=diagnosed)
    return diagnostic_id(tenant, cause_id), spawn


def diagnostic_id(tenant: str, cause_id: str) -> str:
    """The id of the diagnostic that is made for a message, such as `handoff.reported`."""
    return ids.derived_id("diagnostic", tenant, cause_id)


def _evidence(artifacts: Sequence[ArtifactRef]) -> list[ArtifactRef]:
    """The artifacts under names of which each is safe and there once; the same bytes once."""
    laid: dict[str, ArtifactRef] = {}
    left_bytes = EVIDENCE_MAX_BYTES
    for ref in artifacts:
        if len(laid) == EVIDENCE_MAX_COUNT:
            break
        if ref.sha256 in laid or ref.size_bytes > left_bytes:
            continue
        base = (ref.name or "artifact").rpartition("/")[2]
        name = f"{EVIDENCE_FOLDER}/{len(laid) + 1:02}-{_UNSAFE.sub('_', base)[-EVIDENCE_NAME_CHARACTERS:]}"
        laid[ref.sha256] = ArtifactRef(sha256=ref.sha256, size_bytes=ref.size_bytes, name=name, kind=ref.kind)
        left_bytes -= ref.size_bytes
    return list(laid.values())
