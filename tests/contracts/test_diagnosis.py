"""The spawn of a diagnostic: the same from whoever makes it, and one that the spawner and the runners take."""

from __future__ import annotations

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice_agent_runner.domain.names import components
from sluice_contracts import diagnosis
from sluice_contracts.limits import TEXT_MAX_CHARACTERS
from sluice_contracts.messages.base import ArtifactRef
from sluice_contracts.messages.pipeline import PipelineSpawn
from sluice_spawner.domain.planning import check
from sluice_spawner.domain.policy import RoleCatalogue

REPORT = ArtifactRef(sha256="a" * 64, size_bytes=10, media_type="application/json", name="whatever.json", kind="report")
MARKDOWN = ArtifactRef(sha256="b" * 64, size_bytes=10, media_type="text/markdown", name="x.md", kind="report")
ROLES = RoleCatalogue({diagnosis.ROLE: "default"}, frozenset({"default"}))

ARTIFACTS = st.builds(
    ArtifactRef,
    sha256=st.integers(0, 99).map(lambda number: f"{number:064x}"),
    size_bytes=st.integers(0, 2 * diagnosis.EVIDENCE_MAX_BYTES),
    media_type=st.text(max_size=2_000),
    name=st.none() | st.text(max_size=255),
    kind=st.none() | st.text(max_size=64),
)


def spawn(**more: object) -> tuple[str, PipelineSpawn]:
    given_: dict[str, object] = {
        "pipeline_id": "failed", "tenant": "acme", "objective": "Look around.", "cause_id": "cause",
        "alert_id": "alert", "reason": "error_budget_exceeded", "depth": 1, "report": REPORT, "markdown": MARKDOWN,
        "artifacts": (), **more,
    }  # fmt: skip
    return diagnosis.diagnostic_spawn(**given_)  # type: ignore[arg-type]


@pytest.mark.covers("O6")
@given(
    objective=st.text(max_size=TEXT_MAX_CHARACTERS) | st.just("𝕏" * TEXT_MAX_CHARACTERS),
    artifacts=st.lists(ARTIFACTS, max_size=60),
)
def test_whatever_failed_its_diagnostic_is_a_plan_that_is_taken(objective: str, artifacts: list[ArtifactRef]) -> None:
    pipeline_id, command = spawn(objective=objective, artifacts=artifacts)
    assert (pipeline_id, command) == spawn(objective=objective, artifacts=artifacts)
    check(command, pipeline_id=pipeline_id, tenant="acme", roles=ROLES, diagnostic_depth_max=1)
    names = [ref.name or "" for ref in command.plan.inputs]
    assert names[:2] == ["handoff.json", "handoff.md"]
    assert len(set(names)) == len(names)
    for name in names:
        assert components(name)[0] not in ("artifacts", "dependencies")
    assert sum(ref.size_bytes for ref in command.plan.inputs[2:]) <= diagnosis.EVIDENCE_MAX_BYTES


@pytest.mark.covers("O6")
def test_it_tells_what_it_is_about_and_asks_nobody() -> None:
    pipeline_id, command = spawn()
    assert command.parent_pipeline_id == "failed"
    assert command.diagnosed is not None
    assert command.diagnosed.model_dump() == {"pipeline_id": "failed", "alert_id": "alert", "depth": 1}
    assert command.plan.unattended
    [task] = command.plan.tasks
    assert (task.role, task.constraints) == ("diagnostician", ())
    assert pipeline_id != spawn(cause_id="another")[0] != spawn(tenant="other")[0]


@pytest.mark.covers("O6")
def test_its_findings_have_a_form() -> None:
    jsonschema.validate(
        {"cause": "The disk was full.", "evidence": [], "recommendations": []}, diagnosis.FINDINGS_SCHEMA
    )
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"cause": ""}, diagnosis.FINDINGS_SCHEMA)
