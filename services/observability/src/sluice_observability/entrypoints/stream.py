"""`/ws/events`: events as they happen, one JSON object per message (O8, plain)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import APIRouter, Query, WebSocket, WebSocketDisconnect

from sluice_observability.bootstrap.api import Api
from sluice_observability.domain import stream_names
from sluice_observability.domain.effects import Position
from sluice_observability.handlers.live import PositionGone, SlowClient, Told, TooManyClients

router = APIRouter(tags=["stream"])

CLOSE_INVALID, CLOSE_SLOW, CLOSE_GONE, CLOSE_BUSY = 4400, 4408, 4410, 4429
"""Close codes of our own (RFC 6455 §7.4.2): wrong parameter, slow client, position not kept, too many clients."""

CLOSE_FORBIDDEN = 1008


@router.websocket("/ws/events")
async def events(
    socket: WebSocket,
    pipeline_id: Annotated[list[str] | None, Query()] = None,
    type: Annotated[list[str] | None, Query()] = None,
    tenant: Annotated[str | None, Query()] = None,
    after: Annotated[str | None, Query(max_length=300)] = None,
) -> None:
    """Sends events from now on, or those that follow a position; a client that is too slow is told so and dropped."""
    api: Api = socket.app.state.api
    if not _same_origin(socket):
        await socket.close(CLOSE_FORBIDDEN)  # before the handshake: HTTP 403
        return
    await socket.accept()
    try:
        position = None if after is None else Position.parse(after)
        client = api.live.subscribe(_matcher(pipeline_id, type, tenant), position)
    except ValueError:
        await socket.close(CLOSE_INVALID, "after is no position: <topic>/<partition>/<offset>")
        return
    except TooManyClients as busy:
        await socket.close(CLOSE_BUSY, str(busy))
        return
    except PositionGone:
        await socket.close(CLOSE_GONE, "after is not kept any more: read /runs/{id}/events, then begin without it")
        return
    gone = asyncio.create_task(_until_gone(socket))
    gone.add_done_callback(lambda _: client.close())
    last = after
    try:
        while taken := await client.take():
            for told in taken:
                await socket.send_text(told.text)
            last = str(taken[-1].position)
    except SlowClient:
        with contextlib.suppress(RuntimeError, WebSocketDisconnect):
            await socket.close(CLOSE_SLOW, f"too slow; come back with after={last}"[:120])
    except WebSocketDisconnect:
        pass
    finally:
        gone.cancel()
        api.live.unsubscribe(client)


def _same_origin(socket: WebSocket) -> bool:
    """Whether a page of another site asks: a browser would let it, since web sockets know no same-origin rule.

    Source: RFC 6455 §10.2. Programs that are no browsers send no Origin.
    """
    origin = socket.headers.get("origin")
    return origin is None or urlsplit(origin).netloc == socket.headers.get("host")


async def _until_gone(socket: WebSocket) -> None:
    """Reads, and drops, what a client says; returns when it leaves."""
    with contextlib.suppress(WebSocketDisconnect, RuntimeError):
        while True:
            await socket.receive_text()


def _matcher(pipelines: list[str] | None, types: list[str] | None, tenant: str | None) -> Callable[[Told], bool]:
    wanted_pipelines, wanted_types = frozenset(pipelines or ()), frozenset(types or ())
    prefixes = tuple(one[:-1] for one in wanted_types if one.endswith(".*"))

    def matches(told: Told) -> bool:
        event = told.event
        return (
            (not wanted_pipelines or event.subject in wanted_pipelines)
            and (
                not wanted_types
                or event.type in wanted_types
                or event.type.startswith(prefixes)
                or stream_names.name_of(event) in wanted_types
            )
            and (tenant is None or event.tenant == tenant)
        )

    return matches
