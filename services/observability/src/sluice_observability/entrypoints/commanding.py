"""What the routes that write a command have in common: the body, the answer, and how it is waited for."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from fastapi import Header, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from sluice_contracts.messages import Message
from sluice_contracts.messages.base import Identifier
from sluice_observability.bootstrap.api import Api
from sluice_observability.domain.views import PipelineView
from sluice_observability.entrypoints.answers import away, of, wait_asked_s
from sluice_observability.handlers.commands import Sent
from sluice_observability.ports import StoreUnavailable
from sluice_runtime import tracing
from sluice_runtime.broker import BrokerUnavailable
from sluice_runtime.http import ProblemError

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


class AboutPipeline(Strict):
    """Names a pipeline."""

    pipeline_id: Identifier
    tenant: Identifier | None = Field(default=None, description="Default: the pipeline's own.")


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
