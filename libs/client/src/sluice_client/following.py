"""Follows a pipeline to its end: what happened before, then what happens, each event once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from sluice_client.client import Json, Sluice
from sluice_client.errors import Unreachable
from sluice_client.stream import EventStream

SETTLE_S = 1.0
"""The log is behind the live stream by its flush interval, 0.2 s, and a query's time."""

QUIET_S = 0.3
"""The stream tells several topics: what came before the end may be told a moment after it."""

_ENDS = frozenset({"pipeline.completed", "pipeline.failed", "pipeline.cancelled"})
_TOLD = ("pipeline.events/", "agent.events.", "token.events/", "alerts/", "signals/", "reports/")
"""Where the stream's events stand. The log has more: commands, tasks for runners, inboxes."""

_NOT_TOLD = frozenset({"watch.changed", "progress.reported"})
"""Signals, one for each turn, that the stream leaves out."""


def ends(event: Json) -> bool:
    """Whether nothing more happens to the pipeline. A refused spawn is an end too: there is no pipeline."""
    refused = event["type"] == "pipeline.refused" and event["data"]["command_type"] == "pipeline.spawn"
    return refused or event["type"] in _ENDS


def follow(
    sluice: Sluice,
    stream: EventStream,
    *,
    fresh: bool,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Json | None]:
    """A pipeline's events, each once, nearly in order; the one that ends it is the last.

    The log, in which the past stands, is a moment behind the stream. So it is read once more when that moment has
    passed since the stream began, or began anew: what appeared meanwhile comes then. A log that does not answer is
    asked again later.

    Args:
        sluice: The client.
        stream: The pipeline's stream, opened before this is called.
        fresh: It was opened before the pipeline was asked for: there is no past.
        clock: Seconds that only grow.
        sleep: Waits.

    Yields:
        Events as `/runs/{id}/events` and `/ws/events` have them, and None where none came for `SETTLE_S`.

    Raises:
        Unreachable: The api is away for longer than the stream allows.
    """
    seen: set[str] = set()
    unread = unsettled = not fresh
    since = clock()
    coming: Json | None = None
    while True:
        arrived = [coming] if coming is not None else []
        if coming is not None and ends(coming):
            arrived += _late(stream)
            sleep(max(0.0, SETTLE_S - (clock() - since)) if unsettled else 0.0)
        if unread or (unsettled and clock() - since >= SETTLE_S):
            try:
                arrived = [*_past(sluice, stream.pipeline_id), *arrived]
                unread, unsettled = False, unread
            except Unreachable:
                pass  # asked again at the next turn
        news = list({one["id"]: one for one in arrived if one["id"] not in seen}.values())
        seen.update(one["id"] for one in news)
        if not news:
            yield None
        yield from sorted(news, key=ends)
        if any(ends(event) for event in news):
            return
        coming = stream.next(SETTLE_S)
        if stream.gap:
            unsettled, stream.gap, since = True, False, clock()


def _late(stream: EventStream) -> list[Json]:
    found = []
    while (event := stream.next(QUIET_S)) is not None:
        found.append(event)
    return found


def _past(sluice: Sluice, pipeline_id: str) -> list[Json]:
    found = sluice.events(pipeline_id)
    return [one for one in found if one["position"].startswith(_TOLD) and one["type"] not in _NOT_TOLD]
