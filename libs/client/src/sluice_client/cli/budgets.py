"""`budgets`: the limits of error budgets – list, set."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from sluice_client.cli import options, output

app = typer.Typer(help="Limits of error budgets: list, set.", no_args_is_help=True)

LIMITS = ("errors_per_minute", "api_calls_per_minute", "progress_timeout_s")


@app.command("list")
def list_all(url: options.Url = None, data: options.Data = None, as_json: options.AsJson = False) -> None:
    """List the scopes that set limits; where none does, the monitor's settings count."""
    from sluice_client.budgets import list_budgets
    from sluice_client.sql import Sql

    with Sql.of(options.installation(url, data)) as sql:
        found = list_budgets(sql)
    if as_json:
        output.data([asdict(one) for one in found])
    elif not found:
        output.say("no limits are set; the monitor's settings count")
    else:
        rows = [
            (one.scope, *(_shown(getattr(one, name)) for name in LIMITS), output.moment(one.set_at_ms)) for one in found
        ]
        output.show(("scope", "errors/min", "API calls/min", "progress s", "set (UTC)"), rows)


@app.command("set")
def set_one(
    tenant: Annotated[str | None, typer.Option("--tenant", help="For this tenant's pipelines.")] = None,
    pipeline: Annotated[str | None, typer.Option("--pipeline", metavar="ID", help="For this pipeline.")] = None,
    errors_per_minute: Annotated[int | None, typer.Option(min=0, help="More of them end all credentials.")] = None,
    api_calls_per_minute: Annotated[int | None, typer.Option(min=0, help="More throttle, then end all.")] = None,
    progress_timeout_s: Annotated[int | None, typer.Option(min=1, help="Longer without ends the agent's.")] = None,
    clear: Annotated[bool, typer.Option("--clear", help="Take this scope's limits away: it inherits all.")] = False,
    url: options.Url = None,
    data: options.Data = None,
    as_json: options.AsJson = False,
) -> None:
    """Set all limits of a scope: of the installation, a tenant or a pipeline. What is not given is inherited."""
    from pydantic import ValidationError

    from sluice_client.errors import InputInvalid
    from sluice_contracts.messages.alert import BudgetSet

    given: dict[str, Any] = dict(
        zip(LIMITS, (errors_per_minute, api_calls_per_minute, progress_timeout_s), strict=True)
    )
    if tenant is not None and pipeline is not None:
        raise InputInvalid("give --tenant or --pipeline, not both")
    if clear == any(value is not None for value in given.values()):
        raise InputInvalid("give at least one limit, or --clear and none")
    scope = "tenant" if tenant is not None else "pipeline" if pipeline is not None else "installation"
    try:
        budget = BudgetSet(scope=scope, name=tenant or pipeline, **given)
    except ValidationError as error:
        raise InputInvalid(str(error.errors()[0]["msg"])) from None
    _write(url, data, budget, clear=clear)
    if as_json:
        output.data({"scope": budget.key, **({} if clear else given)})
    else:
        output.say(f"{budget.key}: " + ("inherits all limits" if clear else "the limits are set"))


def _write(url: str | None, data: Any, budget: Any, *, clear: bool) -> None:
    import asyncio

    from sluice_client.budgets import clear_budget, set_budget
    from sluice_client.kafka import kafka_as
    from sluice_contracts.topics import Principal

    async def work() -> None:
        async with kafka_as(options.installation(url, data), Principal.OPERATOR, "sluice-budgets") as broker:
            await (clear_budget if clear else set_budget)(broker, budget)

    asyncio.run(work())


def _shown(limit: int | None) -> str:
    return "–" if limit is None else str(limit)
