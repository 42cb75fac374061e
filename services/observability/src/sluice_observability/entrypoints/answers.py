"""What the routes have in common: parameters, problems, pages."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Generic, NoReturn, TypeVar

from fastapi import Query, Request

from sluice_contracts.limits import IDENTIFIER_PATTERN
from sluice_observability.bootstrap.api import Api
from sluice_observability.domain.effects import Position
from sluice_observability.domain.views import PipelineView
from sluice_runtime.http import PROBLEM_MEDIA_TYPE, PROBLEM_TYPE_PREFIX, ProblemError

RETRY_AFTER_S = 2
"""A broker or store that restarts is back in a few seconds."""

PAGE_MAX_COUNT = 1_000
"""Entries of one page."""

PROBLEMS: dict[int | str, dict[str, Any]] = {
    "default": {
        "description": "A problem (RFC 9457).",
        "content": {
            PROBLEM_MEDIA_TYPE: {
                "schema": {
                    "type": "object",
                    "required": ["type", "title", "status", "detail"],
                    "properties": {
                        "type": {"type": "string", "description": f"{PROBLEM_TYPE_PREFIX}<code>; the code is stable."},
                        "title": {"type": "string"},
                        "status": {"type": "integer"},
                        "detail": {"type": "string", "description": "The thing, its value and the next step."},
                        "field": {"type": ["string", "null"], "description": "Path of the field that is meant."},
                        "limit": {
                            "type": ["string", "null"],
                            "description": "The limit that was broken, with its unit.",
                        },
                        "errors": {"type": "array", "items": {"type": "object"}},
                    },
                }
            }
        },
    }
}
"""What every route may answer beside its success."""

_WAIT = re.compile(r"(?:^|,)\s*wait\s*=\s*\"?(\d{1,4})\"?\s*(?:$|[,;])", re.IGNORECASE)

T = TypeVar("T")

Limit = Annotated[int, Query(ge=1, le=PAGE_MAX_COUNT, description="Entries of the page.")]
Offset = Annotated[int, Query(ge=0, le=1_000_000, description="Entries before the page.")]
PipelineId = Annotated[str, Query(pattern=IDENTIFIER_PATTERN, description="The pipeline.")]
After = Annotated[
    str | None,
    Query(
        max_length=300,
        description="A `Sluice-Position`: answer once what happened there, and what a command there caused, is seen.",
    ),
]


@dataclass(slots=True)
class Page(Generic[T]):
    """A part of a list. `next_offset` is None at its end."""

    items: Sequence[T]
    next_offset: int | None


def page(items: Sequence[T], limit: int, offset: int) -> Page[T]:
    """Makes a page of a list that was asked for one entry more than the limit."""
    return Page(items[:limit], offset + limit if len(items) > limit else None)


def of(request: Request) -> Api:
    """The wired api of a request."""
    api: Api = request.app.state.api
    return api


def loaded(request: Request) -> Api:
    """The wired api of a request that needs the read model.

    Raises:
        ProblemError: The past is not in it yet: what it lacks would look as if it were not there.
    """
    return _loaded(of(request))


def _loaded(api: Api) -> Api:
    if not api.loaded.is_set():
        raise ProblemError(
            503,
            "loading",
            "the api has just started and reads what lives; try again",
            headers={"Retry-After": str(RETRY_AFTER_S)},
        )
    return api


def wait_asked_s(request: Request, limit_s: int) -> int:
    """What `Prefer: wait=N` asks for (RFC 7240 §4.3), bounded; 0 where it is not asked."""
    match = _WAIT.search(request.headers.get("prefer", ""))
    return 0 if match is None else min(int(match[1]), limit_s)


def position_of(text: str) -> Position:
    """A position from a request.

    Raises:
        ProblemError: It is none.
    """
    try:
        return Position.parse(text)
    except ValueError as error:
        raise ProblemError(422, "invalid_position", f"after: {error}", field="after") from None


async def reach(api: Api, after: str | None, *, in_log: bool = False) -> None:
    """Waits for a position, if one is given.

    Args:
        api: The api.
        after: The position.
        in_log: Whether the answer is read from the log, which has to come as far as the read model.

    Raises:
        ProblemError: It is not reached in time, or the past is not loaded.
    """
    if after is None:
        return
    position = position_of(after)
    _loaded(api)
    limit_s = api.settings.after_wait_max_s
    live = api.live
    if live.before_start(position) and not live.reached(position):
        found = await api.history.command(position)
        if found is not None:
            live.remember(position.topic, *found)
    reached = await live.wait_until(lambda: live.reached(position), limit_s)
    if reached and in_log:
        reached = await api.progress.wait_for(live.horizon(position), limit_s)
    if not reached:
        raise ProblemError(
            503,
            "position_not_reached",
            f"nothing tells yet that {position} took effect; ask again, or without after",
            headers={"Retry-After": str(RETRY_AFTER_S)},
            limit=f"{limit_s} s",
        )


def away(what: str, error: Exception) -> ProblemError:
    """The problem of a broker or store that does not answer."""
    return ProblemError(
        503,
        f"{what}_unavailable",
        f"the {what} did not answer; try again ({type(error).__name__})",
        headers={"Retry-After": str(RETRY_AFTER_S)},
    )


async def on_store_unavailable(request: Request, error: Exception) -> NoReturn:
    """Makes the problem of a question to the past that was not answered."""
    raise away("log", error)


async def on_query_too_large(request: Request, error: Exception) -> NoReturn:
    """Makes the problem of a question to the past that is too large for the store: asked again it would be so again."""
    raise ProblemError(500, "query_too_large", str(error)) from error


def not_found(thing: str, name: str, hint: str) -> ProblemError:
    """The problem of a thing that there is not."""
    return ProblemError(404, f"{thing}_not_found", f"{thing} {name[:128]!r} is not known; {hint}")


async def pipeline_of(api: Api, pipeline_id: str) -> PipelineView:
    """A pipeline, whether it lives or is past.

    Raises:
        ProblemError: There is none.
    """
    found = api.live.model.pipeline(pipeline_id)
    if found is None:
        found = await api.history.pipeline(pipeline_id)
        if found is not None and found.state == "FAILED":
            found.diagnostics = await api.history.diagnostics(found)
    if found is None:
        hint = "if it was asked for just now, give its Sluice-Position as ?after="
        raise not_found("pipeline", pipeline_id, hint)
    return found


Row = dict[str, Any]
