"""GET: what lives from the read model, what is past from the log."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import islice
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import Response

from sluice_contracts.limits import IDENTIFIER_PATTERN
from sluice_contracts.messages.base import AgentState, ArtifactRef, Identifier, PipelineState
from sluice_observability.domain.views import AgentView, PipelineSummary, PipelineView, TaskView
from sluice_observability.entrypoints.answers import (
    After,
    Limit,
    Offset,
    Page,
    PipelineId,
    Row,
    away,
    loaded,
    not_found,
    of,
    page,
    pipeline_of,
    reach,
)
from sluice_runtime.artifacts import ArtifactCorrupt, ArtifactMissing, ArtifactStoreUnavailable
from sluice_runtime.http import ProblemError

router = APIRouter(tags=["reading"])

Id = Annotated[str, Path(pattern=IDENTIFIER_PATTERN)]
Tenant = Annotated[str | None, Query(pattern=IDENTIFIER_PATTERN, description="Of this tenant only.")]
Text = Annotated[str | None, Query(max_length=300)]


@dataclass(slots=True)
class TaskArtifact:
    """An artifact, and the task that made it."""

    task_id: str
    artifact: ArtifactRef


@router.get("/api/active-pipelines", summary="Pipelines that live")
async def active_pipelines(
    request: Request,
    after: After = None,
    tenant: Tenant = None,
    state: Annotated[list[PipelineState] | None, Query(description="In one of these states.")] = None,
    label: Annotated[list[str] | None, Query(description="With these labels, as name=value.")] = None,
    limit: Limit = 100,
    offset: Offset = 0,
) -> Page[PipelineSummary]:
    """Pipelines that did not reach their end, oldest first."""
    api = loaded(request)
    await reach(api, after)
    labels = {}
    for one in label or ():
        name, equals, value = one.partition("=")
        if not equals:
            raise ProblemError(422, "invalid_label", f"label {one[:80]!r}: it is name=value", field="label")
        labels[name] = value
    found = (
        view.summary()
        for view in api.live.model.living()
        if (tenant is None or view.tenant == tenant)
        and (not state or view.state in state)
        and labels.items() <= view.labels.items()
    )
    return page(list(islice(found, offset, offset + limit + 1)), limit, offset)


@router.get("/runs/{pipeline_id}/status", summary="A pipeline whole")
async def run_status(request: Request, pipeline_id: Id, after: After = None) -> PipelineView:
    """A pipeline with its tasks, agents and questions, whether it lives or is past."""
    api = loaded(request)
    await reach(api, after)
    return await pipeline_of(api, pipeline_id)


@router.get("/runs/{pipeline_id}/tasks", summary="A pipeline's tasks")
async def run_tasks(request: Request, pipeline_id: Id, after: After = None) -> list[TaskView]:
    """The tasks, in the order of the plan."""
    api = loaded(request)
    await reach(api, after)
    return list((await pipeline_of(api, pipeline_id)).tasks.values())


@router.get("/runs/{pipeline_id}/artifacts", summary="A pipeline's artifacts")
async def run_artifacts(request: Request, pipeline_id: Id, after: After = None) -> list[TaskArtifact]:
    """What the tasks that succeeded have left. The bytes are at /api/artifacts/{sha256}."""
    api = loaded(request)
    await reach(api, after)
    view = await pipeline_of(api, pipeline_id)
    return [TaskArtifact(task.task_id, one) for task in view.tasks.values() for one in task.artifacts]


@router.get("/runs/{pipeline_id}/events", summary="A pipeline's events")
async def run_events(
    request: Request,
    pipeline_id: Id,
    after: After = None,
    type: Annotated[list[Identifier] | None, Query(description="Of these types only.")] = None,
    limit: Limit = 200,
    offset: Offset = 0,
) -> Page[Row]:
    """The events from the log, each once, in order, with their data; fewer than `limit` where they are large."""
    api = of(request)
    await reach(api, after, in_log=True)
    rows, more = await api.history.events(pipeline_id, types=type or (), limit=limit, offset=offset)
    for row in rows:
        row["data"] = _json(row.pop("payload"))
    return Page(rows, offset + len(rows) if more else None)


@router.get("/api/pipeline/logs", summary="A pipeline's story")
async def pipeline_logs(
    request: Request, pipeline_id: PipelineId, after: After = None, limit: Limit = 200, offset: Offset = 0
) -> Page[Row]:
    """What happened in a pipeline, line by line."""
    api = of(request)
    await reach(api, after, in_log=True)
    return page(await api.history.story(pipeline_id, limit=limit + 1, offset=offset), limit, offset)


@router.get("/api/pipeline/errors", summary="A pipeline's problems")
async def pipeline_errors(
    request: Request, pipeline_id: PipelineId, after: After = None, limit: Limit = 100, offset: Offset = 0
) -> Page[Row]:
    """Events of a pipeline that carry a problem, newest first."""
    api = of(request)
    await reach(api, after, in_log=True)
    rows = await api.history.errors(pipeline_id=pipeline_id, tenant=None, code=None, limit=limit + 1, offset=offset)
    return page(rows, limit, offset)


@router.get("/api/observability/errors", summary="All problems")
async def all_errors(
    request: Request, tenant: Tenant = None, code: Text = None, limit: Limit = 100, offset: Offset = 0
) -> Page[Row]:
    """Events that carry a problem, newest first."""
    rows = await of(request).history.errors(pipeline_id=None, tenant=tenant, code=code, limit=limit + 1, offset=offset)
    return page(rows, limit, offset)


@router.get("/api/dead-letters", summary="Refused records")
async def dead_letters(
    request: Request, topic: Text = None, reason: Text = None, limit: Limit = 100, offset: Offset = 0
) -> Page[Row]:
    """Records that were refused, newest first, with the reason."""
    rows = await of(request).history.dead_letters(topic=topic, reason=reason, limit=limit + 1, offset=offset)
    return page(rows, limit, offset)


@router.get("/api/agents", summary="Agents of the pipelines that live")
async def agents(
    request: Request,
    after: After = None,
    tenant: Tenant = None,
    pipeline_id: Annotated[str | None, Query(pattern=IDENTIFIER_PATTERN)] = None,
    state: Annotated[list[AgentState] | None, Query(description="In one of these states.")] = None,
    limit: Limit = 100,
    offset: Offset = 0,
) -> Page[AgentView]:
    """Agents of the pipelines that did not reach their end; with `pipeline_id`, of that one, past or not."""
    api = loaded(request)
    await reach(api, after)
    pipelines = api.live.model.living() if pipeline_id is None else iter([await pipeline_of(api, pipeline_id)])
    found = (
        one
        for view in pipelines
        for one in view.agents.values()
        if (tenant is None or one.tenant == tenant) and (not state or one.state in state)
    )
    return page(list(islice(found, offset, offset + limit + 1)), limit, offset)


@router.get("/api/agents/{agent_id}/status", summary="An agent")
async def agent_status(request: Request, agent_id: Id, after: After = None) -> AgentView:
    """An agent, whether it lives or is past."""
    api = loaded(request)
    await reach(api, after)
    found = api.live.model.agent(agent_id) or await api.history.agent(agent_id)
    if found is None:
        raise not_found("agent", agent_id, "GET /api/agents lists those that live")
    return found


@router.get("/api/artifacts/{sha256}", summary="An artifact's bytes", response_class=Response)
async def artifact(request: Request, sha256: Annotated[str, Path(pattern="^[0-9a-f]{64}$")]) -> Response:
    """The body of an artifact. It is somebody else's work: it is never served as something that a browser runs."""
    try:
        body = await of(request).artifacts.get(sha256)
    except ArtifactMissing:
        raise not_found("artifact", sha256, "its pipeline's artifacts are at /runs/{id}/artifacts") from None
    except ArtifactCorrupt as error:
        raise ProblemError(500, "artifact_corrupt", str(error)) from None
    except ArtifactStoreUnavailable as error:
        raise away("artifact_store", error) from error
    headers = {
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "sandbox; default-src 'none'",
        "Cache-Control": "private, max-age=31536000, immutable",
        "ETag": f'"{sha256}"',
    }
    return Response(body, media_type=_media_type(body), headers=headers)


def _media_type(body: bytes) -> str:
    try:
        body.decode()
    except UnicodeDecodeError:
        return "application/octet-stream"
    return "text/plain; charset=utf-8"


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text  # an invalid record is shown as it is
