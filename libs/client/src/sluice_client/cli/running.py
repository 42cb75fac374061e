"""`run`: start a pipeline from a plan file, or from an objective."""

from __future__ import annotations

import uuid
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sluice_client.cli import options, output
from sluice_client.cli.exits import OUTCOMES

if TYPE_CHECKING:
    from sluice_client.client import Accepted, Sluice
    from sluice_client.installation import Installation

OBJECTIVE_TASK = "task"


def run(
    plan: Annotated[
        Path | None, typer.Argument(metavar="[PLAN]", help="A plan file, YAML or JSON.", show_default=False)
    ] = None,
    objective: Annotated[
        str | None, typer.Option("--objective", help="Instead of a file: what one task shall do.")
    ] = None,
    role: Annotated[str, typer.Option("--role", help="The role of that task's agent.")] = "researcher",
    inputs: Annotated[
        list[Path] | None, typer.Option("--input", "-i", metavar="PATH", help="A file or folder for the workspaces.")
    ] = None,
    scenario: Annotated[
        Path | None,
        typer.Option("--scenario", metavar="FILE", help="Answers in place of a model; see docs/scenarios.md."),
    ] = None,
    model: Annotated[str | None, typer.Option("--model", help="For tasks that name none.")] = None,
    label: Annotated[list[str] | None, typer.Option("--label", metavar="NAME=VALUE", help="To find it by.")] = None,
    tenant: Annotated[str, typer.Option("--tenant", help="Whose pipeline it is.")] = "default",
    dedupe_key: Annotated[
        str | None, typer.Option("--dedupe-key", metavar="KEY", help="The same key names the same pipeline.")
    ] = None,
    parent: Annotated[str | None, typer.Option("--parent", metavar="ID", help="On behalf of this pipeline.")] = None,
    wait: Annotated[
        bool, typer.Option("--wait", "-w", help="Wait for the end; the exit code tells the outcome.")
    ] = False,
    watch: Annotated[bool, typer.Option("--watch", help="As --wait, and show what happens.")] = False,
    timeout_s: Annotated[float | None, typer.Option("--timeout-s", min=0, help="Wait at most so long.")] = None,
    url: options.Url = None,
    data: options.Data = None,
    as_json: options.AsJson = False,
) -> None:
    """Start a pipeline. Prints its id; with --wait or --watch the exit code tells how it ended."""
    from sluice_client.client import Sluice
    from sluice_client.errors import InputInvalid

    if (plan is None) == (objective is None):
        raise InputInvalid("give a plan file or --objective; one of both, not both")
    installation = options.installation(url, data)
    made = _made_plan(installation, plan, objective, role, inputs or [], scenario, model, label or [])
    if installation.model_provider == "scripted" and not as_json and not _names_models(made):
        output.note("no model is configured: an agent that names none plays scenario no-model; see docs/scenarios.md")
    # A key of our own where none is given: then the id is known before the pipeline is asked for.
    key = dedupe_key or str(uuid.uuid4())
    with Sluice(installation.needed_api_url(), tenant=tenant) as sluice:
        if watch:
            raise typer.Exit(_watched(sluice, made, tenant, key, parent, as_json, timeout_s, fresh=dedupe_key is None))
        accepted = sluice.spawn(made, dedupe_key=key, parent_pipeline_id=parent)
        if not wait:
            _told(accepted, as_json)
            return
        if not as_json:
            output.note(f"pipeline {accepted.pipeline_id}")
        view = sluice.wait(accepted.pipeline_id, timeout_s=timeout_s, after=accepted.position)
    if as_json:
        output.data(view)
    else:
        from sluice_client.cli.panel import status_view

        output.render(status_view(view))
    raise typer.Exit(OUTCOMES[view["state"]])


def _watched(
    sluice: Sluice, plan: dict[str, Any], tenant: str, key: str, parent: str | None,
    as_json: bool, timeout_s: float | None, *, fresh: bool,
) -> int:  # fmt: skip
    from sluice_client.cli.watching import watched
    from sluice_client.stream import EventStream
    from sluice_contracts.ids import pipeline_id

    with EventStream(sluice.url, pipeline_id(tenant, key)) as stream:
        accepted = sluice.spawn(plan, dedupe_key=key, parent_pipeline_id=parent)
        if not as_json:
            output.note(f"pipeline {accepted.pipeline_id}")
        return watched(sluice, stream, fresh=fresh, as_json=as_json, timeout_s=timeout_s)


def _told(accepted: Accepted, as_json: bool) -> None:
    if as_json:
        output.data(asdict(accepted))
    else:
        output.say(accepted.pipeline_id)
        output.note(f"{accepted.state or 'accepted'}; follow it: sluice watch {accepted.pipeline_id}")


def _made_plan(
    installation: Installation, plan: Path | None, objective: str | None, role: str, inputs: list[Path],
    scenario: Path | None, model: str | None, labels: list[str],
) -> dict[str, Any]:  # fmt: skip
    import asyncio

    from sluice_client.errors import InputInvalid
    from sluice_client.plan_files import PlanFile, check_plan, completed, files_at, read_plan
    from sluice_runtime.artifacts import open_artifact_store

    if plan is not None:
        file = read_plan(plan)
    else:
        file = PlanFile(
            {"objective": objective, "tasks": [{"id": OBJECTIVE_TASK, "objective": objective, "role": role}]}
        )
    content = file.plan
    for label in labels:
        name, equals, value = label.partition("=")
        if not equals:
            raise InputInvalid(f"--label {label!r}: give it as NAME=VALUE")
        content["labels"] = {**content.get("labels", {}), name: value}
    chosen = model or _scripted(installation, scenario, file.scenario, has_model=bool(content.get("model")))
    if chosen is not None:
        content["model"] = chosen
    check_plan(content, str(plan) if plan is not None else "--objective")
    more = [found for path in inputs for found in files_at(path)]
    store = None
    if installation.artifacts_url is not None:
        try:
            store = open_artifact_store(installation.artifacts_url)
        except ValueError as error:
            raise InputInvalid(str(error)) from None
    return asyncio.run(completed(file, more, store))


def _names_models(plan: dict[str, Any]) -> bool:
    return bool(plan.get("model")) or all(task.get("model") for task in plan["tasks"])


def _scripted(installation: Installation, given: Path | None, of_plan: Path | None, *, has_model: bool) -> str | None:
    """The scripted model, where a scenario is asked for, or the plan brings one and the installation has no model."""
    from sluice_client.errors import InputInvalid
    from sluice_client.plan_files import install_scenario

    scenario = given
    if scenario is None and installation.model_provider == "scripted" and not has_model:
        scenario = of_plan
    if scenario is None:
        return None
    if installation.scenarios_directory is None:
        raise InputInvalid(
            f"scenario {scenario}: this installation's folder of scenarios is not known here; lay the file there and "
            "name it: --model scripted:NAME"
        )
    return install_scenario(scenario, Path(installation.scenarios_directory))


def add_to(app: typer.Typer) -> None:
    """Makes the command known."""
    app.command()(run)
