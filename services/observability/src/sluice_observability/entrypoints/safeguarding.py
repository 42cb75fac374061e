"""Credentials, breaches, reports and diagnoses: what is asked of the vault-broker, and what the api makes itself."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field

from sluice_contracts.diagnosis import diagnostic_spawn
from sluice_contracts.limits import IDENTIFIER_PATTERN
from sluice_contracts.messages.base import ArtifactRef, Identifier, Summary
from sluice_contracts.messages.token import TokenRenew, TokenRevoke
from sluice_observability.bootstrap.api import Api
from sluice_observability.domain.reporting import report_on_end, why_failed
from sluice_observability.domain.views import HandoffView, PipelineView, TokenView
from sluice_observability.entrypoints.answers import (
    After,
    Limit,
    Offset,
    Page,
    PipelineId,
    Row,
    away,
    loaded,
    of,
    page,
    pipeline_of,
    reach,
    wait_asked_s,
)
from sluice_observability.entrypoints.commanding import (
    ANSWERS,
    AboutPipeline,
    Accepted,
    IdempotencyKey,
    Strict,
    answered,
    send,
    traceparent,
    written,
)
from sluice_runtime.artifacts import ArtifactStoreUnavailable
from sluice_runtime.http import ProblemError

router = APIRouter(tags=["safeguards"])

ON_DEMAND = "demand"
"""The reason of a report where the one who asks gives none."""


class RevokeRequest(AboutPipeline):
    """Whose credentials, and why."""

    agent_id: Identifier | None = Field(default=None, description="Default: the pipeline's, with all its agents'.")
    reason: Summary = Field(default="", description="For people; it stands in `token.revoked`.")


class RenewRequest(AboutPipeline):
    """Whose credentials."""


class HandoffRequest(Strict):
    """Which pipeline, and why."""

    pipeline_id: Identifier
    reason: Identifier = Field(default=ON_DEMAND, description="Why; it stands in the report.")


class DiagnosticRequest(Strict):
    """Which pipeline."""

    pipeline_id: Identifier


@dataclass(slots=True)
class Reported:
    """A report that is in the artifact store. `position` is its event's; null where the key's report was there."""

    pipeline_id: str
    report_id: str
    position: str | None
    summary: str
    report: ArtifactRef
    markdown: ArtifactRef


@router.post("/api/pipeline/revoke", status_code=202, responses=ANSWERS, summary="End a pipeline's credentials")
@router.post("/api/observability/revoke", status_code=202, responses=ANSWERS, summary="End a pipeline's credentials")
async def revoke(
    request: Request, response: Response, body: RevokeRequest, idempotency_key: IdempotencyKey = None
) -> Accepted:
    """Ends the credentials of a pipeline, which is then handed off and fails, or those of one agent."""
    await _exists(request, body.pipeline_id)
    data = TokenRevoke(agent_id=body.agent_id, reason="manual", detail=body.reason)
    return await send(request, response, body, data, idempotency_key)


@router.post("/api/pipeline/renew", status_code=202, responses=ANSWERS, summary="Renew a pipeline's credentials")
async def renew(
    request: Request, response: Response, body: RenewRequest, idempotency_key: IdempotencyKey = None
) -> Accepted:
    """Renews all credentials of a pipeline now, and not only when it is their time."""
    await _exists(request, body.pipeline_id)
    return await send(request, response, body, TokenRenew(), idempotency_key)


async def _exists(request: Request, pipeline_id: str) -> None:
    """A pipeline that the read model has is not looked up: its credentials can be ended while the log is away."""
    if of(request).live.model.pipeline(pipeline_id) is None:
        await pipeline_of(loaded(request), pipeline_id)


@router.get("/api/pipeline/token", summary="A pipeline's credentials")
async def tokens(
    request: Request, pipeline_id: PipelineId, after: After = None, limit: Limit = 100, offset: Offset = 0
) -> Page[TokenView]:
    """The credentials of a pipeline, by Vault's names of them; never a token."""
    api = loaded(request)
    await reach(api, after)
    found = (await pipeline_of(api, pipeline_id)).tokens.values()
    return page(list(islice(found, offset, offset + limit + 1)), limit, offset)


@router.get("/api/observability/alerts", summary="Breaches of error budgets")
async def alerts(
    request: Request,
    after: After = None,
    pipeline_id: Annotated[str | None, Query(pattern=IDENTIFIER_PATTERN)] = None,
    tenant: Annotated[str | None, Query(pattern=IDENTIFIER_PATTERN, description="Of this tenant only.")] = None,
    limit: Limit = 100,
    offset: Offset = 0,
) -> Page[Row]:
    """Breaches of error budgets, newest first, and when credentials were revoked for them."""
    api = of(request)
    await reach(api, after, in_log=True)
    rows = await api.history.alerts(pipeline_id=pipeline_id, tenant=tenant, limit=limit + 1, offset=offset)
    return page(rows, limit, offset)


@router.post("/api/observability/handoff", status_code=202, responses=ANSWERS, summary="Write a handoff report")
async def handoff(
    request: Request, response: Response, body: HandoffRequest, idempotency_key: IdempotencyKey = None
) -> Reported:
    """Writes a report on a pipeline as it is now, for whoever takes it over. The pipeline goes on."""
    api = loaded(request)
    view = await pipeline_of(api, body.pipeline_id)
    reported, is_new = await _report(api, request, view, body.reason, idempotency_key)
    response.headers["Location"] = f"/api/artifacts/{reported.report.sha256}"
    if reported.position is not None:
        response.headers["Sluice-Position"] = reported.position
    wait_s = wait_asked_s(request, api.settings.wait_max_s)
    if wait_s:
        response.headers["Preference-Applied"] = f"wait={wait_s}"
    live = api.live
    if not is_new or (wait_s and await live.wait_until(lambda: _known(api, reported.report_id, view), wait_s)):
        response.status_code = 200
    return reported


@router.post("/api/observability/diagnostic", status_code=202, responses=ANSWERS, summary="Diagnose a failed pipeline")
async def diagnostic(
    request: Request, response: Response, body: DiagnosticRequest, idempotency_key: IdempotencyKey = None
) -> Accepted:
    """Starts a pipeline that finds out why another one failed. It reads the last report on its end, or one made now."""
    api = loaded(request)
    view = await pipeline_of(api, body.pipeline_id)
    if view.state != "FAILED":
        raise ProblemError(
            422,
            "pipeline_not_failed",
            f"pipeline {view.pipeline_id} is {view.state}; only what has failed is diagnosed. A report on what "
            "lives is written by POST /api/observability/handoff",
            field="pipeline_id",
        )
    reason = why_failed(view)
    known: HandoffView | Reported | None = report_on_end(view)
    if known is None:
        known, _ = await _report(api, request, view, reason, idempotency_key)
    breaches = [one.alert_id for one in view.alerts if one.action == "revoke_pipeline"]
    diagnostic_id, data = diagnostic_spawn(
        pipeline_id=view.pipeline_id,
        tenant=view.tenant,
        objective=view.objective,
        cause_id=api.commands.request_id("diagnostic", view.tenant, view.pipeline_id, idempotency_key),
        alert_id=breaches[-1] if breaches else None,
        reason=reason,
        depth=1 if view.diagnosed is None else view.diagnosed.depth + 1,
        report=known.report,
        markdown=known.markdown,
        artifacts=[one for task in view.tasks.values() for one in task.artifacts],
        model=view.model,
    )
    work = api.commands.send(
        data, diagnostic_id, view.tenant, idempotency_key, traceparent(request), api.live.was_refused
    )
    return await answered(api, request, response, await written(work), may_be_past=idempotency_key is not None)


async def _report(
    api: Api, request: Request, view: PipelineView, reason: str, key: str | None
) -> tuple[Reported, bool]:
    """Writes a report, unless the key's is known; says whether it did."""
    request_id = api.commands.request_id("handoff", view.tenant, view.pipeline_id, key)
    there = next((one for one in view.handoffs if one.cause_id == request_id), None)
    if there is not None:
        return Reported(view.pipeline_id, there.event_id, None, there.summary, there.report, there.markdown), False
    try:
        made = await api.reports.on_demand(view, request_id, reason, traceparent(request))
    except ArtifactStoreUnavailable as error:
        raise away("artifact_store", error) from error
    position = await written(api.commands.append(made.record))
    data = made.event.data
    return Reported(view.pipeline_id, made.event.id, str(position), data.summary, data.report, data.markdown), True


def _known(api: Api, report_id: str, view: PipelineView) -> bool:
    found = api.live.model.heard_of(view.pipeline_id)
    return found is not None and any(one.event_id == report_id for one in found.handoffs)
