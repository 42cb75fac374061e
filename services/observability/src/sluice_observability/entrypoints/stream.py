"""`/ws/events`: events as they happen, one JSON object per message (O8, plain)."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import APIRouter, Query, WebSocket, WebSocketDisconnect

from sluice_observability.bootstrap.api import Api
from sluice_observability.domain.effects import Position
from sluice_observability.handlers.live import PositionGone, SlowClient, Told

router = APIRouter(tags=["stream"])

CLOSE_INVALID, CLOSE_SLOW, CLOSE_GONE, CLOSE_BUSY = 4400, 4408, 4410, 4429
"""Close codes of our own (RFC 6455 §7.4.2): wrong parameter, slow client, position not kept, too many clients."""

CLIENTS_MAX_COUNT = 200
"""Each may hold a queue of events."""

CLOSE_FORBIDDEN = 1008

_OPEN = "stream_clients"


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
    state = socket.app.state
    if getattr(state, _OPEN, 0) >= CLIENTS_MAX_COUNT:
        await socket.close(CLOSE_BUSY, f"{CLIENTS_MAX_COUNT} clients are served at a time; come again later")
        return
    try:
        position = None if after is None else Position.parse(after)
        client = api.live.subscribe(_matcher(pipeline_id, type, tenant), position)
    except ValueError:
        await socket.close(CLOSE_INVALID, "after is no position: <topic>/<partition>/<offset>")
        return
    except PositionGone:
        await socket.close(CLOSE_GONE, "after is not kept any more: read /runs/{id}/events, then begin without it")
        return
    setattr(state, _OPEN, getattr(state, _OPEN, 0) + 1)
    gone = asyncio.create_task(_until_gone(socket))
    last = after
    try:
        while True:
            coming = asyncio.create_task(client.next())
            await asyncio.wait({coming, gone}, return_when=asyncio.FIRST_COMPLETED)
            if gone.done():
                coming.cancel()
                return
            told = coming.result()
            await socket.send_text(json.dumps(_shown(told), ensure_ascii=False))
            last = str(told.position)
    except SlowClient:
        with contextlib.suppress(RuntimeError, WebSocketDisconnect):
            await socket.close(CLOSE_SLOW, f"too slow; come back with after={last}"[:120])
    except WebSocketDisconnect:
        pass
    finally:
        gone.cancel()
        api.live.unsubscribe(client)
        setattr(state, _OPEN, getattr(state, _OPEN) - 1)


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
            and (not wanted_types or event.type in wanted_types or event.type.startswith(prefixes))
            and (tenant is None or event.tenant == tenant)
        )

    return matches


def _shown(told: Told) -> dict[str, Any]:
    event = told.event
    return {
        "position": str(told.position),
        "id": event.id,
        "type": event.type,
        "source": event.source,
        "tenant": event.tenant,
        "pipeline_id": event.subject,
        "time_ms": event.time_ms,
        "sequence": event.sequence,
        "causation_id": event.causation_id,
        "data": event.data.model_dump(mode="json"),
    }
