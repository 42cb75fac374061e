"""Commands that only read: status, list, events, logs, artifacts, sql."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sluice_client.cli import options, output

if TYPE_CHECKING:
    from sluice_client.client import Json

PAST_STATES = frozenset({"COMPLETED", "FAILED", "CANCELLED"})
OBJECTIVE_MAX_CHARACTERS = 60
CELL_MAX_CHARACTERS = 300
"""Of a value in a table; --format json or csv has it whole."""

PAST = """
SELECT p.pipeline_id AS pipeline_id, p.tenant AS tenant, p.objective AS objective, p.state AS state, p.reason AS reason,
    p.problem_code AS problem_code, toUnixTimestamp64Milli(p.spawned_at) AS spawned_at_ms, p.duration_ms AS duration_ms,
    p.tasks AS tasks_total, t.succeeded AS tasks_succeeded, p.input_tokens AS input_tokens,
    p.output_tokens AS output_tokens, p.cost_usd AS cost_usd
FROM pipelines AS p
LEFT JOIN (
    SELECT tenant, pipeline_id, countIf(status = 'succeeded') AS succeeded FROM tasks GROUP BY tenant, pipeline_id
) AS t USING (tenant, pipeline_id)
LEFT JOIN (
    SELECT tenant, pipeline_id, any(payload) AS payload FROM events WHERE type = 'pipeline.spawned'
    GROUP BY tenant, pipeline_id
) AS s USING (tenant, pipeline_id)
WHERE CONDITIONS ORDER BY p.spawned_at DESC LIMIT {limit:UInt32}
"""


def status(
    pipeline_id: options.PipelineId, url: options.Url = None, data: options.Data = None, as_json: options.AsJson = False
) -> None:
    """Show a pipeline: its state, tasks, agents, questions, and what it used."""
    with options.client(url, data) as sluice:
        view = sluice.status(pipeline_id)
    if as_json:
        output.data(view)
    else:
        from sluice_client.cli.panel import status_view

        output.render(status_view(view))


def list_pipelines(
    everything: Annotated[bool, typer.Option("--all", "-a", help="Those that have ended too, newest first.")] = False,
    state: Annotated[list[str] | None, typer.Option("--state", help="In this state; may be repeated.")] = None,
    tenant: Annotated[str | None, typer.Option("--tenant", help="Of this tenant only.")] = None,
    label: Annotated[list[str] | None, typer.Option("--label", help="With this label, name=value.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="At most so many.")] = 50,
    url: options.Url = None,
    data: options.Data = None,
    as_json: options.AsJson = False,
) -> None:
    """List the pipelines that live; with --all, or a state in which one has ended, from the log."""
    states = [one.upper() for one in state or ()]
    found = (
        _past(url, data, states, tenant, label or [], limit)
        if everything or PAST_STATES & set(states)
        else _living(url, data, states, tenant, label or [], limit)
    )
    if as_json:
        output.data(found)
    elif not found:
        output.say("no such pipelines" if everything or states else "no pipeline lives; those that have ended: --all")
    else:
        now_ms = time.time_ns() // 1_000_000
        output.show(
            ("pipeline", "state", "spawned", "tasks", "tenant", "objective"),
            [
                (
                    one["pipeline_id"],
                    one["state"],
                    output.ago(one["spawned_at_ms"], now_ms) + " ago",
                    f"{one['tasks_succeeded']}/{one['tasks_total']}",
                    one["tenant"],
                    output.shortened(one["objective"], OBJECTIVE_MAX_CHARACTERS),
                )
                for one in found
            ],
        )


def _living(
    url: str | None, data: Path | None, states: list[str], tenant: str | None, labels: list[str], limit: int
) -> list[Json]:
    from itertools import islice

    with options.client(url, data) as sluice:
        return list(islice(sluice.active(states=states, tenant=tenant, labels=labels), limit))


def _past(
    url: str | None, data: Path | None, states: list[str], tenant: str | None, labels: list[str], limit: int
) -> list[Json]:
    from sluice_client.errors import InputInvalid
    from sluice_client.sql import Sql

    conditions, parameters = ["1"], {"limit": str(limit)}
    if tenant is not None:
        conditions.append("p.tenant = {tenant:String}")
        parameters["tenant"] = tenant
    if states:
        conditions.append("has(splitByChar(',', {states:String}), p.state)")
        parameters["states"] = ",".join(states)
    for number, label in enumerate(labels):
        name, equals, value = label.partition("=")
        if not equals:
            raise InputInvalid(f"--label {label!r}: give it as name=value")
        conditions.append(
            f"JSONExtractString(s.payload, 'plan', 'labels', {{name{number}:String}}) = {{value{number}:String}}"
        )
        parameters |= {f"name{number}": name, f"value{number}": value}
    query = PAST.replace("CONDITIONS", " AND ".join(conditions))
    with Sql.of(options.installation(url, data)) as sql:
        return sql.rows(query, parameters)


def events(
    pipeline_id: options.PipelineId,
    kind: Annotated[list[str] | None, typer.Option("--type", help="Of this type only; may be repeated.")] = None,
    url: options.Url = None,
    data: options.Data = None,
    as_json: options.AsJson = False,
) -> None:
    """Print a pipeline's events from the log, in order; --json: one on a line."""
    from sluice_client.cli.sentences import line

    with options.client(url, data) as sluice:
        for event in sluice.events(pipeline_id, types=kind or ()):
            if as_json:
                output.data_line(event)
            else:
                output.say(line(event))


def logs(
    pipeline_id: options.PipelineId, url: options.Url = None, data: options.Data = None, as_json: options.AsJson = False
) -> None:
    """Tell a pipeline's story from the log, line by line."""
    with options.client(url, data) as sluice:
        for one in sluice.story(pipeline_id):
            if as_json:
                output.data_line(one)
            else:
                output.say(
                    f"{output.clock(one['time_ms'])}  {one['actor']:<24.24} {output.shortened(one['what'], 400)}"
                )


def artifacts(
    pipeline_id: options.PipelineId,
    save: Annotated[
        Path | None, typer.Option("--save", metavar="DIRECTORY", help="Write them there, as <task>/<name>.")
    ] = None,
    url: options.Url = None,
    data: options.Data = None,
    as_json: options.AsJson = False,
) -> None:
    """List what a pipeline's tasks have left; with --save, write it to files. A different file is never overwritten."""
    from sluice_client.saving import save_artifacts

    with options.client(url, data) as sluice:
        found = sluice.artifacts(pipeline_id)
        saved = [] if save is None else save_artifacts(found, save, sluice.artifact)
    if as_json:
        output.data({"artifacts": found, "saved": [str(path) for path in saved]} if save else found)
        return
    if not found:
        output.say(f"pipeline {pipeline_id} has no artifacts (yet)")
        return
    rows = [
        (one["task_id"], ref["name"], ref["kind"], f"{ref['size_bytes']:,}", ref["sha256"])
        for one in found
        for ref in (one["artifact"],)
    ]
    output.show(("task", "name", "kind", "bytes", "sha256"), rows)
    for path in saved:
        output.say(f"saved {path}")


def sql(
    query: Annotated[
        str, typer.Argument(metavar="QUERY", help="One statement that reads; - reads it from standard input.")
    ],
    format: Annotated[
        str, typer.Option("--format", "-f", help="table, json, csv, or a format of ClickHouse such as JSONEachRow.")
    ] = "table",
    param: Annotated[
        list[str] | None, typer.Option("--param", "-p", metavar="NAME=VALUE", help="For {name:Type} in the query.")
    ] = None,
    url: options.Url = None,
    data: options.Data = None,
    as_json: options.AsJson = False,
) -> None:
    """Ask the event log in ClickHouse's SQL.

    Its tables and views: SELECT name, comment FROM system.tables WHERE database = currentDatabase().
    A query that ends in FORMAT is printed as ClickHouse answers it.
    """
    from sluice_client.errors import InputInvalid
    from sluice_client.sql import OtherFormat, Sql

    text = sys.stdin.read() if query == "-" else query
    given = dict(one.partition("=")[::2] for one in param or ())
    if not all("=" in one for one in param or ()):
        raise InputInvalid(f"--param {next(one for one in param or () if '=' not in one)!r}: give it as NAME=VALUE")
    with Sql.of(options.installation(url, data)) as log:
        try:
            if as_json or format == "json":
                output.data(log.rows(text, given))
            elif format == "table":
                found = log.table(text, given)
                output.show(found.columns, [[_cell(value) for value in row] for row in found.rows])
                count = len(found.rows)
                output.note(f"{count:,} row{'' if count == 1 else 's'}")
            else:
                output.raw(log.raw(text, format="CSVWithNames" if format == "csv" else format, parameters=given))
        except OtherFormat as answer:
            output.raw(answer.body)


def _cell(value: Any) -> str:
    text = "" if value is None else value if isinstance(value, str) else str(value)
    return text if len(text) <= CELL_MAX_CHARACTERS else text[: CELL_MAX_CHARACTERS - 1] + "…"


def add_to(app: typer.Typer) -> None:
    """Makes the commands known."""
    app.command()(status)
    app.command("list")(list_pipelines)
    for command in (events, logs, artifacts, sql):
        app.command()(command)
