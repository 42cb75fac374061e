"""`watch`: a pipeline live, to its end."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from sluice_client.cli import options, output
from sluice_client.cli.exits import OUTCOMES, REFUSED

if TYPE_CHECKING:
    from sluice_client.client import Json, Sluice
    from sluice_client.stream import EventStream


def watch(
    pipeline_id: options.PipelineId,
    timeout_s: Annotated[float | None, typer.Option("--timeout-s", min=0, help="At most so long.")] = None,
    url: options.Url = None,
    data: options.Data = None,
    as_json: options.AsJson = False,
) -> None:
    """Watch a pipeline to its end: a panel on a terminal, else a line for each event.

    The exit code tells its outcome.
    """
    from sluice_client.stream import EventStream

    with options.client(url, data) as sluice:
        sluice.status(pipeline_id)  # an id that nobody knows is refused here, not waited for
        with EventStream(sluice.url, pipeline_id) as stream:
            raise typer.Exit(watched(sluice, stream, fresh=False, as_json=as_json, timeout_s=timeout_s))


def watched(sluice: Sluice, stream: EventStream, *, fresh: bool, as_json: bool, timeout_s: float | None) -> int:
    """Shows a pipeline until it has ended, and returns the exit code of its outcome.

    Raises:
        TimedOut: It has not ended in time.
        Unreachable: The api is away for too long.
    """
    from sluice_client.cli.sentences import line
    from sluice_client.errors import NotFound, TimedOut
    from sluice_client.following import follow

    pipeline_id = stream.pipeline_id
    until = None if timeout_s is None else time.monotonic() + timeout_s

    def look() -> Json | None:
        try:
            return sluice.status(pipeline_id)
        except NotFound:
            return None

    panel = None
    if output.on_terminal() and not as_json:
        from sluice_client.cli.panel import WatchPanel

        panel = WatchPanel(look)
        panel.__enter__()
    last: Json | None = None
    try:
        for event in follow(sluice, stream, fresh=fresh):
            last = event or last
            if panel is not None:
                panel.show(event)
            elif event is not None and as_json:
                output.data_line(event)
            elif event is not None:
                output.say(line(event))
            if until is not None and time.monotonic() > until:
                raise TimedOut(
                    f"pipeline {pipeline_id} has not ended after {timeout_s:g} s; go on: sluice watch {pipeline_id}"
                )
        if panel is not None:
            panel.show(None, last=True)
    finally:
        if panel is not None:
            panel.__exit__()
    return _outcome(last)


def _outcome(last: Json | None) -> int:
    assert last is not None
    return OUTCOMES.get(last["type"].rpartition(".")[2].upper(), REFUSED)


def add_to(app: typer.Typer) -> None:
    """Makes the command known."""
    app.command()(watch)
