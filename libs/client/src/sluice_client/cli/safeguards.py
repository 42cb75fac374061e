"""Commands about credentials, breaches, reports and diagnoses: revoke, renew, tokens, alerts, handoff, diagnose."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sluice_client.cli import options, output

if TYPE_CHECKING:
    from sluice_client.client import Json, Sluice

DETAIL_MAX_CHARACTERS = 120
USES_MAX_COUNT = 10_000
"""Who wants more asks by SQL."""


def revoke(
    pipeline_id: options.PipelineId,
    agent: Annotated[str | None, typer.Option("--agent", metavar="ID", help="Only this agent's.")] = None,
    reason: Annotated[str | None, typer.Option("--reason", help="Why; it stands in the event.")] = None,
    wait_s: options.WaitS = 10,
    url: options.Url = None,
    data: options.Data = None,
    as_json: options.AsJson = False,
) -> None:
    """End the credentials of a pipeline, which is then handed off and fails, or those of one agent."""
    with options.client(url, data) as sluice:
        accepted = sluice.revoke(pipeline_id, agent_id=agent, reason=reason, wait_s=wait_s)
    whose = "the credentials of" if agent is None else f"the credentials of agent {agent} in"
    output.told(accepted, f"{whose} pipeline {pipeline_id} {'are' if accepted.state else 'will be'} revoked", as_json)


def renew(
    pipeline_id: options.PipelineId,
    wait_s: options.WaitS = 10,
    url: options.Url = None,
    data: options.Data = None,
    as_json: options.AsJson = False,
) -> None:
    """Renew all credentials of a pipeline now, and not only when it is their time."""
    with options.client(url, data) as sluice:
        accepted = sluice.renew(pipeline_id, wait_s=wait_s)
    ends = "are" if accepted.state else "will be"
    output.told(accepted, f"the credentials of pipeline {pipeline_id} {ends} renewed", as_json)


def tokens(
    pipeline_id: options.PipelineId,
    uses: Annotated[
        bool, typer.Option("--uses", help="What they were used for, as Vault tells; also what it refused.")
    ] = False,
    url: options.Url = None,
    data: options.Data = None,
    as_json: options.AsJson = False,
) -> None:
    """List a pipeline's credentials, by Vault's names of them; never a token."""
    if uses:
        _uses(pipeline_id, url, data, as_json)
        return
    with options.client(url, data) as sluice:
        found = list(sluice.tokens(pipeline_id))
    if as_json:
        output.data(found)
    elif not found:
        output.say(f"pipeline {pipeline_id} has no credentials")
    else:
        columns = ("accessor", "agent", "attempt", "state", "granted", "renewals", "ended", "reason")
        rows = [
            (
                one["accessor"] or "", one["agent_id"] or "the pipeline's own", one["attempt"] or "", one["state"],
                _clock(one["granted_at_ms"]), one["renewals"], _clock(one["ended_at_ms"]), one["reason"] or "",
            )
            for one in found
        ]  # fmt: skip
        output.show(columns, rows)


def _uses(pipeline_id: str, url: str | None, data: Path | None, as_json: bool) -> None:
    from sluice_client.sql import Sql

    query = (
        "SELECT at, accessor, agent_id, attempt, operation, path, outcome, latency_ms, remote_address FROM vault_audit"
        f" WHERE pipeline_id = {{pipeline:String}} ORDER BY at DESC LIMIT {USES_MAX_COUNT}"
    )
    with Sql.of(options.installation(url, data)) as log:
        found = log.rows(query, {"pipeline": pipeline_id})[::-1]
    if len(found) == USES_MAX_COUNT:
        output.note(f"the newest {USES_MAX_COUNT} uses are shown; sluice sql has all, in view vault_audit")
    if as_json:
        output.data(found)
    elif not found:
        output.say(f"the log has no use of a credential of pipeline {pipeline_id}; is Vault's audit file followed?")
    else:
        columns = ("at", "accessor", "agent", "attempt", "operation", "path", "outcome", "ms")
        rows = [
            (
                one["at"], one["accessor"], one["agent_id"] or "the pipeline's own", one["attempt"] or "",
                one["operation"], one["path"], one["outcome"], one["latency_ms"],
            )
            for one in found
        ]  # fmt: skip
        output.show(columns, rows)


def alerts(
    pipeline: Annotated[str | None, typer.Option("--pipeline", metavar="ID", help="Of this one only.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="At most so many.")] = 50,
    url: options.Url = None,
    data: options.Data = None,
    as_json: options.AsJson = False,
) -> None:
    """List breaches of error budgets, the newest first."""
    from itertools import islice

    with options.client(url, data) as sluice:
        found = list(islice(sluice.alerts(pipeline), limit))
    if as_json:
        output.data(found)
    elif not found:
        output.say("no budget was broken")
    else:
        now_ms = time.time_ns() // 1_000_000
        rows = [
            (
                output.ago(one["raised_at_ms"], now_ms) + " ago", one["pipeline_id"], one["condition"], one["action"],
                one["agent_id"], "yes" if one["revoked_at_ms"] else "",
                output.shortened(one["detail"], DETAIL_MAX_CHARACTERS),
            )
            for one in found
        ]  # fmt: skip
        output.show(("raised", "pipeline", "condition", "action", "agent", "revoked", "detail"), rows)


def handoff(
    pipeline_id: options.PipelineId,
    new: Annotated[bool, typer.Option("--new", help="Have one written now; the pipeline goes on.")] = False,
    reason: Annotated[str | None, typer.Option("--reason", metavar="WORD", help="With --new: why.")] = None,
    url: options.Url = None,
    data: options.Data = None,
    as_json: options.AsJson = False,
) -> None:
    """Print the newest handoff report on a pipeline, in Markdown: what a stranger needs to take it over."""
    with options.client(url, data) as sluice:
        known = sluice.hand_off(pipeline_id, reason=reason) if new else _newest(sluice, pipeline_id)
        body = sluice.artifact(known["report" if as_json else "markdown"]["sha256"])
    if as_json:
        output.data(json.loads(body))
    else:
        output.say(body.decode().rstrip())


def diagnose(
    pipeline_id: options.PipelineId, url: options.Url = None, data: options.Data = None, as_json: options.AsJson = False
) -> None:
    """Start a pipeline that finds out why another one failed."""
    with options.client(url, data) as sluice:
        accepted = sluice.diagnose(pipeline_id)
    follow = f"pipeline {accepted.pipeline_id} diagnoses it; follow it: sluice watch {accepted.pipeline_id}"
    output.told(accepted, follow, as_json)


def _newest(sluice: Sluice, pipeline_id: str) -> Json:
    from sluice_client.errors import NotFound

    reports = sluice.status(pipeline_id)["handoffs"]
    if not reports:
        raise NotFound(
            f"pipeline {pipeline_id} was not handed off; have a report written now: sluice handoff {pipeline_id} --new",
            404,
            {},
        )
    newest: Json = reports[-1]
    return newest


def _clock(time_ms: int | None) -> str:
    return "" if time_ms is None else output.clock(time_ms)


def add_to(app: typer.Typer) -> None:
    """Makes the commands known."""
    for command in (revoke, renew, tokens, alerts, handoff, diagnose):
        app.command()(command)
