"""POST: what people ask of the spawner. Each route writes one command and answers 202 with its position."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Header, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from sluice_contracts.messages import Message
from sluice_contracts.messages.base import Identifier
from sluice_contracts.messages.pipeline import PipelineAnswer, PipelineCancel, PipelineSpawn, PipelineTick
from sluice_contracts.messages.plan import Plan
from sluice_contracts.unknown_keys import unknown_keys
from sluice_observability.bootstrap.api import Api
from sluice_observability.domain.views import PipelineView
from sluice_observability.entrypoints.answers import away, of, wait_asked_s
from sluice_observability.handlers.commands import Sent
from sluice_observability.ports import StoreUnavailable
from sluice_runtime import tracing
from sluice_runtime.broker import BrokerUnavailable
from sluice_runtime.http import ProblemError

router = APIRouter(tags=["commands"])

W = TypeVar("W")

SOON_S = 1.0
"""The spawner decides within some ten milliseconds. Where nothing is heard for so long, nothing may come."""

IdempotencyKey = Annotated[
    str | None,
    Header(alias="Idempotency-Key", min_length=1, max_length=255, description="Sent again, it asks for the same."),
]


class Strict(BaseModel):
    """A request's body: a key that it does not have is refused, so that a typing error is not a default."""

    model_config = ConfigDict(extra="forbid")


class SpawnRequest(Strict):
    """A plan, and whose it is. Not `diagnosed`: diagnostics are made by the spawner, and by their own route."""

    plan: Plan
    dedupe_key: str | None = Field(default=None, min_length=1, max_length=255)
    parent_pipeline_id: Identifier | None = None
    tenant: Identifier = "default"


class AboutPipeline(Strict):
    """Names a pipeline."""

    pipeline_id: Identifier
    tenant: Identifier | None = Field(default=None, description="Default: the pipeline's own.")


class CancelRequest(AboutPipeline, PipelineCancel):
    """Which pipeline, and why."""


class AnswerRequest(AboutPipeline, PipelineAnswer):
    """Which question, and the answer."""


class TickRequest(AboutPipeline):
    """Which pipeline."""


@dataclass(slots=True)
class Accepted:
    """The command is durable. `state` is the pipeline's, where the command's effect was waited for and came."""

    pipeline_id: str
    command_id: str
    position: str
    state: str | None = None


ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"description": "It was waited for, and it happened; or its key names a pipeline that there is already."},
    422: {
        "description": "It breaks the contract, or the spawner or the vault-broker refused it: the problem says why."
    },
    503: {"description": "Kafka is away: whether the command was written is not known. Send it again with its key."},
}


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


async def send(request: Request, response: Response, about: AboutPipeline, data: Message, key: str | None) -> Accepted:
    """Writes a command about a pipeline, and answers."""
    api = of(request)
    tenant = about.tenant or await tenant_of(api, about.pipeline_id)
    work = api.commands.send(data, about.pipeline_id, tenant, key, traceparent(request), api.live.was_refused)
    return await answered(api, request, response, await written(work))


async def tenant_of(api: Api, pipeline_id: str) -> str:
    """Whose a pipeline is; of one that is not known, which the spawner will refuse, nobody's in particular."""
    view = api.live.model.pipeline(pipeline_id)
    return view.tenant if view is not None else await api.history.tenant(pipeline_id) or "default"


def traceparent(request: Request) -> str | None:
    """The caller's place in a trace. What is none is dropped, as the standard has it: it would spoil the command."""
    context = tracing.parse(request.headers.get("traceparent"))
    return None if context is None else context.traceparent


async def written(work: Awaitable[W]) -> W:
    """Waits for something to be written, and makes a problem of what keeps it from that."""
    try:
        return await work
    except BrokerUnavailable as error:
        raise away("broker", error) from error
    except ValueError as error:
        raise ProblemError(413, "message_too_large", f"{error}; put large texts into artifacts", field="body") from None


async def answered(
    api: Api, request: Request, response: Response, sent: Sent, *, may_be_past: bool = False
) -> Accepted:
    """Answers with the command's position, and if it is asked for, with what came of it."""
    position = str(sent.position)
    response.headers["Sluice-Position"] = position
    response.headers["Location"] = f"/runs/{sent.pipeline_id}/status"
    accepted = Accepted(sent.pipeline_id, sent.command_id, position)
    wait_s = wait_asked_s(request, api.settings.wait_max_s)
    if not wait_s:
        return accepted
    response.headers["Preference-Applied"] = f"wait={wait_s}"
    live = api.live
    is_answered, past = await _heard(api, sent, wait_s, may_be_past)
    if not is_answered:
        return accepted
    problem = live.problem_of(sent.command_id)
    if problem is not None:
        raise ProblemError(
            422,
            problem.code,
            problem.detail,
            headers={"Sluice-Position": position},
            field=problem.field,
            limit=problem.limit,
            pipeline_id=sent.pipeline_id,
            command_id=sent.command_id,
        )
    view = live.model.pipeline(sent.pipeline_id) or past
    accepted.state = None if view is None else view.state
    response.status_code = 200
    return accepted


async def _heard(api: Api, sent: Sent, wait_s: float, may_be_past: bool) -> tuple[bool, PipelineView | None]:
    """Waits for what a command causes; says whether it is known, and the pipeline where only the log knows it.

    A key may name a pipeline of the past: then nothing will happen, and the log is asked instead.
    """
    live, now_s = api.live, asyncio.get_running_loop().time
    until_s = now_s() + wait_s

    def is_answered() -> bool:
        return live.answered(sent.command_id, sent.position)

    if await live.wait_until(is_answered, min(SOON_S, wait_s) if may_be_past else wait_s):
        return True, None
    if may_be_past:
        with contextlib.suppress(StoreUnavailable, TimeoutError):
            async with asyncio.timeout_at(until_s):
                past = await api.history.pipeline(sent.pipeline_id)
            if past is not None:
                return True, past
    return await live.wait_until(is_answered, until_s - now_s()), None
