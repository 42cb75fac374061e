"""`dlq`: refused records – list, show, replay (C3)."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sluice_client.cli import options, output

if TYPE_CHECKING:
    from sluice_client.replay import Choice, Letter, Outcome

app = typer.Typer(help="Refused records: list, show, replay.", no_args_is_help=True)

DETAIL_MAX_CHARACTERS = 80
LIST_DEFAULT_COUNT = 100
RATE_MAX_PER_S = 10_000

Topic = Annotated[str | None, typer.Option("--topic", help="Refused on this topic (without prefix).")]
Reason = Annotated[str | None, typer.Option("--reason", help="For this reason, such as invalid_body.")]
Kind = Annotated[str | None, typer.Option("--type", help="Claimed to be of this type.")]


@app.command("list")
def list_letters(
    topic: Topic = None,
    reason: Reason = None,
    kind: Kind = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="At most so many.")] = LIST_DEFAULT_COUNT,
    url: options.Url = None,
    data: options.Data = None,
    as_json: options.AsJson = False,
) -> None:
    """List refused records, oldest first, and whether they were replayed."""
    from sluice_client.replay import Choice, find_letters
    from sluice_client.sql import Sql

    with Sql.of(options.installation(url, data)) as sql:
        found = find_letters(sql, Choice(topic=topic, reason=reason, type=kind, limit=limit))
    if as_json:
        output.data([asdict(one) for one in found])
    elif not found:
        output.say("no record was refused" if not (topic or reason or kind) else "no such dead letters")
    else:
        _table(found)


@app.command()
def show(
    letter: Annotated[
        str, typer.Argument(metavar="ID", help="The letter's id, or its first eight characters or more.")
    ],
    url: options.Url = None,
    data: options.Data = None,
    as_json: options.AsJson = False,
) -> None:
    """Show one refused record whole: reason, headers, value."""
    from sluice_client.replay import Choice, find_letters, letter_body
    from sluice_client.sql import Sql

    with Sql.of(options.installation(url, data)) as sql:
        found = find_letters(sql, Choice(ids=[letter]))[0]
        body = letter_body(sql, found)
    if as_json:
        output.data({**asdict(found), **body})
        return
    for name, value in {**asdict(found), "headers": "", **_headers(body)}.items():
        output.say(f"{name:<18} {_value(name, value)}")
    output.say()
    output.say(body.get("payload") or f"(no text) {body.get('raw_hex', '')}")


@app.command()
def replay(
    ids: Annotated[
        list[str] | None, typer.Argument(metavar="[ID]...", help="These letters.", show_default=False)
    ] = None,
    topic: Topic = None,
    reason: Reason = None,
    kind: Kind = None,
    everything: Annotated[bool, typer.Option("--all", help="All letters that were not replayed yet.")] = False,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="At most so many.")] = 10_000,
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Only say what would be written.")] = False,
    again: Annotated[bool, typer.Option("--again", help="Also those that were replayed before.")] = False,
    rate_per_s: Annotated[
        float, typer.Option("--rate-per-s", min=0.01, max=RATE_MAX_PER_S, help="At most so many in a second.")
    ] = 50.0,
    url: options.Url = None,
    data: options.Data = None,
    as_json: options.AsJson = False,
) -> None:
    """Write refused records again to their topic, each once, after the cause is mended.

    What is still wrong is refused again, and is a new letter.
    """
    from sluice_client.errors import InputInvalid
    from sluice_client.replay import Choice

    if not (ids or topic or reason or kind or everything):
        raise InputInvalid("say which: ids, --topic, --reason, --type, or --all")
    choice = Choice(ids=ids or (), topic=topic, reason=reason, type=kind, limit=limit)
    outcome = _replayed(url, data, choice, again=again, dry_run=dry_run, rate_per_s=rate_per_s)
    if as_json:
        output.data({
            "dry_run": dry_run,
            "replayed": [{**asdict(one.letter), "written_offset": one.offset} for one in outcome.written],
            "left_alone": [asdict(one) for one in outcome.left],
            "incomplete": [asdict(one) for one in outcome.incomplete],
        })  # fmt: skip
    else:
        if outcome.written:
            _table([one.letter for one in outcome.written])
        verb = "would be written again" if dry_run else "written again"
        output.say(
            f"{len(outcome.written)} {verb}; {len(outcome.left)} left alone: replayed before"
            + ("" if not outcome.left else " (--again does it)")
        )
        if outcome.incomplete:
            count = len(outcome.incomplete)
            output.say(f"{count} left alone: too many headers to keep all, so they can't be written again as they were")
    if (outcome.left or outcome.incomplete) and not outcome.written and ids:
        raise typer.Exit(5)


def _replayed(url: str | None, data: Any, choice: Choice, *, again: bool, dry_run: bool, rate_per_s: float) -> Outcome:
    import asyncio

    from sluice_client.kafka import kafka_as
    from sluice_client.replay import alone, replay
    from sluice_client.sql import Sql
    from sluice_contracts.topics import Principal

    installation = options.installation(url, data)

    async def work() -> Outcome:
        async with kafka_as(installation, Principal.DLQ_OPERATOR, "sluice-dlq") as broker:
            return await replay(broker, sql, choice, again=again, dry_run=dry_run, rate_per_s=rate_per_s)

    with Sql.of(installation) as sql, alone(installation):
        return asyncio.run(work())


def _table(letters: list[Letter]) -> None:
    rows = [
        (
            one.letter_id[:8],
            output.moment(one.refused_at_ms),
            f"{one.topic}/{one.partition}/{one.offset}",
            one.reason,
            one.original_type,
            "" if one.replayed_at_ms is None else output.moment(one.replayed_at_ms),
            output.shortened(one.detail, DETAIL_MAX_CHARACTERS),
        )
        for one in letters
    ]
    output.show(("id", "refused (UTC)", "stood at", "reason", "type", "replayed", "detail"), rows)


def _headers(body: dict[str, Any]) -> dict[str, Any]:
    return {f"  {name}": value for name, value in sorted((body.get("headers") or {}).items())}


def _value(name: str, value: Any) -> str:
    if name.endswith("_at_ms"):
        return "never" if value is None else f"{output.moment(value)} UTC"
    return str(value)
