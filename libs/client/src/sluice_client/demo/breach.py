"""The second act: a pipeline breaks its error budget, loses its credentials, is handed off and diagnosed."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from pathlib import Path

from sluice_client.client import Json, Sluice
from sluice_client.demo.incident import shipped_directory
from sluice_client.demo.story import Finding, Question
from sluice_client.demo.telling import TENANT, Teller, in_time, plan_of
from sluice_client.errors import InputInvalid, NotFound
from sluice_client.following import follow
from sluice_client.installation import Installation
from sluice_client.sql import Sql
from sluice_client.stream import EventStream
from sluice_contracts.diagnosis import diagnostic_id
from sluice_contracts.ids import pipeline_id
from sluice_localstack import LocalStack

FOLDER = Path("examples/reconciliation")

DIAGNOSTIC_TIMEOUT_S = 60.0
"""Three turns of a scenario, after its spawn and its credentials."""

LOOK_S = 0.1

QUESTIONS: Sequence[Question] = (
    Question(
        "What broke, and what was allowed",
        "SELECT formatDateTime(raised_at, '%H:%i:%S.%f') AS at, condition, observed, allowed, action, detail\n"
        "FROM alerts WHERE pipeline_id = {id:String}",
    ),
    Question(
        "What was revoked, when, and why",
        "SELECT if(agent_id = '', 'the pipeline', concat('agent ', left(agent_id, 8))) AS whose, accessor, state,\n"
        "       formatDateTime(granted_at, '%H:%i:%S.%f') AS granted,\n"
        "       formatDateTime(revoked_at, '%H:%i:%S.%f') AS revoked, revoke_ms, reason\n"
        "FROM token_lives WHERE pipeline_id = {id:String} ORDER BY granted_at",
    ),
    Question(
        "The handoff report",
        "SELECT formatDateTime(reported_at, '%H:%i:%S.%f') AS at, summary, left(markdown_sha256, 12) AS markdown\n"
        "FROM handoff_reports WHERE pipeline_id = {id:String}",
    ),
    Question(
        "What the diagnostic found",
        "SELECT cause, evidence, recommendations FROM diagnoses WHERE pipeline_id = {id:String}",
    ),
)

COUNTS = (
    "SELECT countIf(type = 'alert.raised') AS alerts, countIf(type = 'handoff.reported') AS reports,"
    " countIf(type = 'pipeline.failed') AS ends, minIf(append_time, type = 'token.revoked') AS revoked_at,"
    " minIf(append_time, type = 'handoff.reported') AS reported_at,"
    " minIf(append_time, type = 'pipeline.failed') AS failed_at"
    " FROM events WHERE pipeline_id = {id:String}"
)
ACCESSORS = "SELECT accessor FROM token_lives WHERE pipeline_id = {id:String}"
DIAGNOSIS = "SELECT cause FROM diagnoses WHERE pipeline_id = {id:String} AND cause != ''"


def break_a_budget(
    stack: LocalStack,
    installation: Installation,
    sluice: Sluice,
    sql: Sql,
    teller: Teller,
    *,
    timeout_s: float,
) -> tuple[str, list[Finding]]:
    """Runs the pipeline that is meant to fail, and its diagnostic; tells what the log says.

    Returns its id, and what must hold.

    A scenario answers, whatever model the installation has: a live one might notice in time.

    Raises:
        InputInvalid: The shipped example is not there.
        NotFound: No diagnostic was spawned in time.
        TimedOut: One of both has not ended in time.
    """
    teller.chapter("A second pipeline breaks its error budget: more than five errors within a minute")
    folder = shipped_directory(FOLDER)
    if folder is None:
        raise InputInvalid(f"{FOLDER} is not here, nor above: run the demo where Sluice's sources are")
    plan = plan_of(installation, folder, scripted=True)
    key = str(uuid.uuid4())
    began = time.monotonic()
    reported: Json = {}
    with EventStream(sluice.url, pipeline_id(TENANT, key)) as stream:
        accepted = sluice.spawn(plan, dedupe_key=key)
        for event in in_time(follow(sluice, stream, fresh=True), accepted.pipeline_id, timeout_s):
            teller.event(event)
            reported = event if event["type"] == "handoff.reported" else reported
    teller.remark(f"revoked, handed off and FAILED after {time.monotonic() - began:.1f} s; a diagnostic finds out why")
    ended = _await_diagnostic(sluice, diagnostic_id(TENANT, reported.get("id", "")))
    _await_in_log(sql, accepted.pipeline_id)
    for question in QUESTIONS:
        teller.answer(question, sql.table(question.sql, {"id": accepted.pipeline_id}))
    return accepted.pipeline_id, _findings(stack, sql, accepted.pipeline_id, ended["state"])


def _await_diagnostic(sluice: Sluice, pipeline: str) -> Json:
    """The spawner spawns it behind the end of the pipeline that it is about: for a moment it is not known."""
    until = time.monotonic() + DIAGNOSTIC_TIMEOUT_S
    while True:
        try:
            return sluice.wait(pipeline, timeout_s=DIAGNOSTIC_TIMEOUT_S)
        except NotFound:
            if time.monotonic() > until:
                raise
        time.sleep(LOOK_S)


def _await_in_log(sql: Sql, pipeline: str) -> None:
    """The log is behind the topics by its flush interval, 0.2 s: waits for the diagnosis to stand there."""
    until = time.monotonic() + DIAGNOSTIC_TIMEOUT_S
    while not sql.rows(DIAGNOSIS, {"id": pipeline}) and time.monotonic() < until:
        time.sleep(LOOK_S)


def _findings(stack: LocalStack, sql: Sql, pipeline: str, diagnosed: str) -> list[Finding]:
    given = {"id": pipeline}
    counts = sql.rows(COUNTS, given)[0]
    found = {name: int(counts[name]) for name in ("alerts", "reports", "ends")}
    accessors = {str(row["accessor"]) for row in sql.rows(ACCESSORS, given)}
    causes = [str(row["cause"]) for row in sql.rows(DIAGNOSIS, given)]
    moments = [str(counts[name]) for name in ("revoked_at", "reported_at", "failed_at")]
    findings = [
        Finding(
            "the budget broke once: one alert, one report, one end",
            set(found.values()) == {1},
            ", ".join(f"{count} {name}" for name, count in found.items()),
        ),
        Finding("it was revoked, then handed off, then failed", moments == sorted(moments), ", ".join(moments)),
        Finding("its diagnostic has found a cause", diagnosed == "COMPLETED" and bool(causes), "; ".join(causes)),
    ]
    if stack.vault is not None:
        living = set(stack.vault.admin().list("auth/token/accessors")) & accessors
        asked = f"{len(accessors)} granted, {len(living)} live in Vault"
        findings.append(Finding("Vault knows none of its tokens any more", bool(accessors) and not living, asked))
    return findings
