"""What people ask of the spawner. Each route writes one command and answers 202 with its position."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from pydantic import Field

from sluice_contracts.messages.base import Identifier
from sluice_contracts.messages.pipeline import PipelineAnswer, PipelineCancel, PipelineSpawn, PipelineTick
from sluice_contracts.messages.plan import Plan
from sluice_contracts.unknown_keys import unknown_keys
from sluice_observability.entrypoints.answers import of
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
from sluice_runtime.http import ProblemError

router = APIRouter(tags=["commands"])


class SpawnRequest(Strict):
    """A plan, and whose it is. Not `diagnosed`: diagnostics are made by the spawner, and by their own route."""

    plan: Plan
    dedupe_key: str | None = Field(default=None, min_length=1, max_length=255)
    parent_pipeline_id: Identifier | None = None
    tenant: Identifier = "default"


class CancelRequest(AboutPipeline, PipelineCancel):
    """Which pipeline, and why."""


class AnswerRequest(AboutPipeline, PipelineAnswer):
    """Which question, and the answer."""


class TickRequest(AboutPipeline):
    """Which pipeline."""


@router.post("/api/spawn", status_code=202, responses=ANSWERS, summary="Start a pipeline")
@router.post("/runs", status_code=202, responses=ANSWERS, summary="Start a pipeline")
async def spawn(
    request: Request, response: Response, body: SpawnRequest, idempotency_key: IdempotencyKey = None
) -> Accepted:
    """Starts a pipeline. The same tenant and key (in the body or as Idempotency-Key) name the same pipeline."""
    if idempotency_key is not None and body.dedupe_key not in (None, idempotency_key):
        raise ProblemError(
            422, "two_keys", "dedupe_key and Idempotency-Key differ; give one of them", field="dedupe_key"
        )
    for place in unknown_keys(Plan, (await request.json())["plan"], ("plan",)):
        where = ".".join(map(str, place))
        raise ProblemError(422, "unknown_key", f"no plan has {where}; correct its spelling, or remove it", field=where)
    given = body.model_dump(exclude={"tenant"}, exclude_unset=True)
    data = PipelineSpawn.model_validate({**given, "dedupe_key": body.dedupe_key or idempotency_key})
    api = of(request)
    accepted = await written(api.commands.spawn(data, body.tenant, traceparent(request), api.live.was_refused))
    return await answered(api, request, response, accepted, may_be_past=data.dedupe_key is not None)


@router.post("/api/pipeline/cancel", status_code=202, responses=ANSWERS, summary="End a pipeline")
async def cancel(
    request: Request, response: Response, body: CancelRequest, idempotency_key: IdempotencyKey = None
) -> Accepted:
    """Ends a pipeline; its agents are stopped."""
    return await send(request, response, body, PipelineCancel(reason=body.reason), idempotency_key)


@router.post("/api/pipeline/answer", status_code=202, responses=ANSWERS, summary="Answer a question")
async def answer(
    request: Request, response: Response, body: AnswerRequest, idempotency_key: IdempotencyKey = None
) -> Accepted:
    """Answers a pending question. The first answer counts."""
    data = PipelineAnswer(question_id=body.question_id, answer=body.answer)
    return await send(request, response, body, data, idempotency_key)


@router.post("/api/pipeline/tick", status_code=202, responses=ANSWERS, summary="Look at a pipeline again")
async def tick(
    request: Request, response: Response, body: TickRequest, idempotency_key: IdempotencyKey = None
) -> Accepted:
    """Has a pipeline looked at again now. Where nothing is due there is nothing to wait for."""
    return await send(request, response, body, PipelineTick(), idempotency_key)
