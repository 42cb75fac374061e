"""The handoff report for people, in Markdown. What agents and tools said is shown as text that makes no markup."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timezone

from sluice_contracts import handoff
from sluice_contracts.messages.base import Problem

CELL_MAX_CHARACTERS = 300
"""Of a value in a table; the JSON report has more of it."""

ROWS_MAX_COUNT = 200
"""Of a table; the JSON report has all."""

_MARKUP = re.compile(r"([\\`*\[\]<>#|~]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9]))")
"""What could become markup; an underscore within a word does not (CommonMark 0.31 §6.2)."""


def markdown_of(report: handoff.HandoffReport) -> str:
    """The report as a document that can be read from its top."""
    return "\n".join(_lines(report)) + "\n"


def _lines(report: handoff.HandoffReport) -> Iterator[str]:
    summary, context = report.summary, report.context
    yield f"# Handoff of pipeline {_text(report.pipeline_id)}"
    yield ""
    yield _text(summary.text) + "."
    if not report.complete:
        yield ""
        yield f"**Not complete:** {_text(report.incomplete_because)}."
    if report.recommended_actions:
        yield from _part("Recommended actions")
    for number, action in enumerate(report.recommended_actions, 1):
        yield f"{number}. {_text(action.text)} Because: {_text(action.because)}"
    yield from _part("What happened")
    yield f"- Reason: {_text(report.reason)}"
    yield from (f"- {_clock(time_ms)} {told}" for time_ms, told in sorted(_told(summary)))
    for title, errors in (("Errors", summary.errors_by_type), ("What followed from them", summary.consequences)):
        yield from _table(
            title,
            ("count", "code", "told by", "agent", "first", "last", "detail"),
            (
                (
                    str(one.count), one.code, one.type, one.agent_id or "", _clock(one.first_at_ms),
                    _clock(one.last_at_ms), one.detail,
                )
                for one in errors
            ),
            len(errors),
        )  # fmt: skip
    said = [(one, detail) for one in summary.errors_by_type for detail in one.details if len(one.details) > 1]
    yield from _table(
        "What the errors said",
        ("count", "code", "detail"),
        ((str(detail.count), one.code, detail.detail) for one, detail in said),
        len(said),
    )
    yield from _part("What was to be done")
    yield _text(context.objective)
    yield ""
    progress = context.progress
    counted = ", ".join(f"{count} {status}" for status, count in sorted(progress.by_status.items()))
    used = progress.usage
    done = f"{_count(progress.tasks, 'task')} ({counted}), {_count(progress.turns, 'turn')}"
    yield (
        f"{done}, {used.input_tokens} tokens in, {used.output_tokens} out, {used.cost_usd:.4f} US dollars. "
        f"The pipeline was {context.state}" + (f" ({_text(context.state_reason)})." if context.state_reason else ".")
    )
    yield from _table(
        "Tasks",
        ("task", "role", "objective", "status", "attempt", "turns", "outcome"),
        (
            (
                one.task_id, one.role, one.objective, one.status, str(one.attempt), str(one.turns),
                one.summary or _said(one.problem),
            )
            for one in context.tasks
        ),
        len(context.tasks),
    )  # fmt: skip
    yield from _table(
        "Agents",
        ("agent", "task", "state", "attempt", "lost", "turns", "last transcript", "last problem"),
        (
            (
                one.agent_id, one.task_id, one.state, str(one.attempt), str(one.attempts_lost), str(one.turns),
                _hash(one.checkpoint), _said(one.last_problem),
            )
            for one in context.agents
        ),
        len(context.agents),
    )  # fmt: skip
    yield from _table(
        "Questions that are open",
        ("question", "agent", "text"),
        ((one.question_id, one.agent_id, one.question) for one in context.questions),
        len(context.questions),
    )
    artifacts = [(task.task_id, one) for task in context.tasks for one in task.artifacts]
    yield from _table(
        "Artifacts",
        ("task", "name", "kind", "bytes", "sha256"),
        ((task, one.name or "", one.kind or "", str(one.size_bytes), one.sha256) for task, one in artifacts),
        len(artifacts),
    )
    yield from _table(
        "Credentials",
        ("accessor", "agent", "attempt", "state", "ended", "reason"),
        (
            (
                one.accessor, one.agent_id or "the pipeline's own", str(one.attempt or ""), one.state,
                _clock(one.ended_at_ms), one.reason or "",
            )
            for one in context.credentials
        ),
        len(context.credentials),
    )  # fmt: skip
    if report.commands:
        yield from _part("Commands")
        yield "```sh"
        for command in report.commands:
            yield f"# {command.purpose}"
            yield command.command
        yield "```"
    yield ""
    yield (
        f"Reported at {_clock(report.reported_at_ms)}. Times are UTC. Artifacts and transcripts are read by hash: "
        "GET /api/artifacts/SHA256."
    )


def _told(summary: handoff.HandoffSummary) -> Iterator[tuple[int, str]]:
    for alert in summary.alerts:
        yield alert.breached_at_ms, f"breach: {_text(alert.detail)}"
    if summary.revocation is not None:
        one = summary.revocation
        more = f"; {_text(one.detail)}" if one.detail else ""
        yield (
            one.revoked_at_ms,
            f"{_count(len(one.accessors), 'credential')} revoked ({_text(one.reason)}){more}",
        )
    if summary.last_checkpoint is not None:
        made, agent_id = summary.last_checkpoint, summary.last_checkpoint_agent_id or ""
        yield made.finished_at_ms, f"last checkpoint: turn {made.turn} of agent {_text(agent_id)}"


def _part(title: str) -> Iterator[str]:
    yield ""
    yield f"## {title}"
    yield ""


def _table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], count: int) -> Iterator[str]:
    if not count:
        return
    yield from _part(title)
    yield f"| {' | '.join(columns)} |"
    yield f"|{'---|' * len(columns)}"
    for number, row in enumerate(rows):
        if number == ROWS_MAX_COUNT:
            yield ""
            yield f"{count - ROWS_MAX_COUNT} more stand in the JSON report."
            return
        yield f"| {' | '.join(_text(value, CELL_MAX_CHARACTERS) for value in row)} |"


def _text(value: str, most: int | None = None) -> str:
    line = " ".join(value.split())
    if most is not None and len(line) > most:
        line = line[: most - 1] + "…"
    return _MARKUP.sub(r"\\\1", line)


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def _said(problem: Problem | None) -> str:
    return "" if problem is None else f"{problem.code}: {problem.detail}"


def _hash(checkpoint: handoff.Checkpoint | None) -> str:
    return "" if checkpoint is None or checkpoint.transcript is None else checkpoint.transcript.sha256


def _clock(time_ms: int | None) -> str:
    """Date and time; empty for none."""
    if time_ms is None:
        return ""
    moment = datetime.fromtimestamp(time_ms / 1_000, timezone.utc)
    return moment.strftime("%Y-%m-%d %H:%M:%S.") + f"{time_ms % 1_000:03}"
