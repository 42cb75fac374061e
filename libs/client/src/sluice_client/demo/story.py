"""What the event log tells of the demonstration: the queries, and what must hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sluice_client.sql import Sql


@dataclass(frozen=True, slots=True)
class Question:
    """A query that people are shown with its answer. `{id:String}` in it is the pipeline."""

    title: str
    sql: str


STORY = Question(
    "The story",
    "SELECT formatDateTime(at, '%H:%i:%S') AS at, actor, what FROM pipeline_story\n"
    "WHERE pipeline_id = {id:String} AND type NOT IN ('agent.state_changed', 'agent.created') ORDER BY position",
)

QUESTIONS: Sequence[Question] = (
    Question(
        "Turns of each attempt, and what they used",
        "SELECT a.task_id AS task, t.attempt AS attempt, t.runner_id AS runner, count() AS turns,\n"
        "       sum(t.model_calls) AS calls, sum(t.input_tokens) AS tokens_in, sum(t.output_tokens) AS tokens_out,\n"
        "       round(sum(t.cost_usd), 4) AS cost_usd\n"
        "FROM turns AS t JOIN agents AS a USING (pipeline_id, agent_id)\n"
        "WHERE pipeline_id = {id:String} GROUP BY task, attempt, runner ORDER BY min(t.finished_at)",
    ),
    Question(
        "Tools that the agents used",
        "SELECT tool, count() AS calls, countIf(is_error) AS errors, sum(duration_ms) AS ms\n"
        "FROM tool_calls WHERE pipeline_id = {id:String} GROUP BY tool ORDER BY calls DESC, tool",
    ),
    Question(
        "What went wrong on the way",
        "SELECT formatDateTime(event_time, '%H:%i:%S') AS at, type, attempt, code, detail\n"
        "FROM errors WHERE pipeline_id = {id:String} ORDER BY event_time",
    ),
    Question(
        "The pipeline",
        "SELECT state, tasks, agents_used, duration_ms, input_tokens, output_tokens, round(cost_usd, 4) AS cost_usd\n"
        "FROM pipelines WHERE pipeline_id = {id:String}",
    ),
)

TERMINAL_EVENTS = (
    "SELECT count() AS found FROM log WHERE pipeline_id = {id:String}"
    " AND type IN ('pipeline.completed', 'pipeline.failed', 'pipeline.cancelled')"
)
TURNS = (
    "SELECT count() AS turns, countIf(events > 1) AS repeated FROM (SELECT uniqExact(event_id) AS events FROM log"
    " WHERE pipeline_id = {id:String} AND type = 'agent.turn_finished' GROUP BY agent_id, turn)"
)
REPEATED_ROWS = "SELECT sum(repeated_rows) AS repeated, sum(missing_offsets) AS missing FROM log_completeness"
LOST_ATTEMPTS = "SELECT count() AS found FROM events WHERE pipeline_id = {id:String} AND type = 'agent.attempt_lost'"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that must hold, whether it does, and what was found."""

    what: str
    holds: bool
    found: str


def findings_in_log(sql: Sql, pipeline_id: str, *, runner_was_killed: bool) -> list[Finding]:
    """What must hold of the log."""
    given: Mapping[str, str] = {"id": pipeline_id}
    ends = int(sql.rows(TERMINAL_EVENTS, given)[0]["found"])
    turns = sql.rows(TURNS, given)[0]
    rows = sql.rows(REPEATED_ROWS)[0]
    found = [
        Finding("the pipeline has one terminal event", ends == 1, f"{ends} in the log"),
        Finding(
            "no finished turn was run again",
            int(turns["turns"]) > 0 and int(turns["repeated"]) == 0,
            f"{turns['turns']} turns, {turns['repeated']} of them more than once",
        ),
        Finding(
            "the log has every record once",
            int(rows["repeated"]) == 0 and int(rows["missing"]) == 0,
            f"{rows['repeated']} rows repeated, {rows['missing']} records missing",
        ),
    ]
    if runner_was_killed:
        lost = int(sql.rows(LOST_ATTEMPTS, given)[0]["found"])
        found.append(Finding("what the killed runner held was assigned again", lost > 0, f"{lost} attempts lost"))
    return found
