"""The views analysts read, the examples in the documentation, and the migrations that make them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sluice_contracts import codec, topics
from sluice_contracts.dead_letters import dead_letter
from sluice_contracts.envelope import CloudEvent, Record
from sluice_contracts.errors import Refusal
from sluice_contracts.messages import Message as ContractMessage
from sluice_contracts.messages import agent, pipeline
from sluice_contracts.messages.admission import AdmissionGranted, AdmissionRequested
from sluice_contracts.messages.base import Body, Problem
from sluice_contracts.messages.blackboard import BlackboardConflictDetected
from sluice_contracts.messages.plan import Plan, TaskSpec
from sluice_observability.adapters.clickhouse import ClickHouse
from sluice_observability.adapters.migrations import Migration, MigrationChanged, migrate, shipped
from sluice_observability.adapters.read_only import EmbeddedReadOnly
from tests.unit.observability.breaches import Safeguard, breach, diagnosing, handed_off, uses_of_vault
from tests.unit.observability.doubles import MemorySource, Message
from tests.unit.observability.events import (
    START_MS,
    Teller,
    failing,
    finishing,
    losing,
    plan,
    spawning,
    turn,
    whole_life,
)
from tests.unit.observability.test_sink import filled

DOCUMENT = Path(__file__).parents[3] / "docs" / "analytics.md"
EXAMPLES = re.findall(r"```sql\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
VIEWS = (
    "events", "duplicates", "dead_letters", "pipelines", "tasks", "agents", "attempts", "questions", "artifacts",
    "admission_waiting", "turns", "model_calls", "tool_calls", "errors", "pipeline_story", "log_completeness", "log",
    "positions", "gaps", "pipeline_marks", "credentials", "token_lives", "alerts", "signals", "handoff_reports",
    "diagnoses", "vault_audit", "vault_audit_faults", "blackboard", "conflicts",
)  # fmt: skip


def messages_of(events: Sequence[CloudEvent[ContractMessage]]) -> list[Message]:
    """Records in the log's order, one partition for each topic."""
    found = []
    offsets: dict[str, int] = {}
    for event in events:
        topic = topics.topic_of(type(event.data)).for_queue("default")
        record = codec.encode(event, topic=topic, key=event.subject)
        at = offsets[topic] = offsets.get(topic, -1) + 1
        found.append(Message(topic, 0, at, record.value, record.headers, record.key, event.time_ms))
    return found


def stored(engine: ClickHouse, events: Sequence[CloudEvent[ContractMessage]], *more: Message) -> None:
    messages = [*messages_of(events), *more]
    asyncio.run(filled(MemorySource(messages), engine, len(messages)))


def lost_attempt(teller: Teller) -> list[CloudEvent[ContractMessage]]:
    """A second attempt after a lost one, whose last turn is refused."""
    zombie = turn(teller, 2, attempt=1, tokens=9_999)
    problem = Problem(code="older_attempt", detail="attempt 1; 2 is current")
    return [
        *losing(teller),
        zombie,
        teller.spawner(
            pipeline.AgentAttemptRefused(
                agent_id=teller.agent_id, attempt=1, refused_id=zombie.id, refused_type=zombie.type, problem=problem
            )
        ),
        turn(teller, 2, attempt=2),
    ]


def dead(offset: int = 3) -> Message:
    record = Record("pipeline.commands", 1, 9, 1_790_000_000_000, b"p1", b"\xff\x00", (("ce_type", b"pipeline.spawn"),))
    letter = dead_letter(record, Refusal.NOT_UTF8, "byte 0 is not UTF-8", "spawner", 1_790_000_000_500)
    return Message(letter.topic, 0, offset, letter.value, letter.headers, letter.key)


def all_of(engine: ClickHouse, query: str) -> list[tuple[Any, ...]]:
    return engine.rows(query)


@pytest.mark.covers("O2")
def test_a_pipelines_state_tasks_agents_and_turns(engine: ClickHouse) -> None:
    failed = Teller("p2", tenant="other")
    stored(engine, [*whole_life("p1"), *spawning(failed), turn(failed, 1), *lost_attempt(failed), *failing(failed)])
    assert all_of(
        engine,
        "SELECT tenant, pipeline_id, state, reason, problem_code, duration_ms, tasks, agents_used, cost_usd, objective"
        " FROM pipelines ORDER BY pipeline_id",
    ) == [
        ("acme", "p1", "COMPLETED", "all tasks succeeded", "", 42, 1, 1, 1.0, "find the first error"),
        ("other", "p2", "FAILED", "task look failed", "agent_timeout", 42, 1, 1, 0.0, "find the first error"),
    ]
    columns = "pipeline_id, task_id, role, queue, status, attempts, turns, problem_code"
    query = f"SELECT {columns} FROM tasks ORDER BY pipeline_id"
    assert all_of(engine, query) == [
        ("p1", "look", "researcher", "default", "succeeded", 1, 2, ""),
        ("p2", "look", "researcher", "default", "failed", 2, 2, "agent_timeout"),
    ]
    query = (
        "SELECT pipeline_id, task_id, state, attempts, attempts_lost, messages_refused FROM agents ORDER BY pipeline_id"
    )
    assert all_of(engine, query) == [("p1", "look", "SUCCEEDED", 1, 0, 0), ("p2", "look", "BUSY", 2, 1, 1)]
    # The zombie's second turn was refused: it is in the log, and nobody's turn.
    query = "SELECT pipeline_id, turn, attempt, input_tokens FROM turns ORDER BY pipeline_id, turn"
    assert all_of(engine, query) == [("p1", 1, 1, 100), ("p1", 2, 1, 100), ("p2", 1, 1, 100), ("p2", 2, 2, 100)]
    assert all_of(engine, "SELECT count() FROM events WHERE type = 'agent.turn_finished'") == [(5,)]
    query = "SELECT tool, arguments, result, is_error, ordinal FROM tool_calls WHERE pipeline_id = 'p1' AND turn = 1"
    assert all_of(engine, query) == [("read", '{"path":"a.log"}', "line 1", False, 1)]
    assert all_of(engine, "SELECT sum(cost_usd), sum(calls) FROM model_calls") == [(2.0, 4)]
    query = "SELECT type, code FROM errors WHERE pipeline_id = 'p2' ORDER BY event_time"
    assert all_of(engine, query) == [
        ("agent.attempt_lost", "lease_lost"), ("task.failed", "agent_timeout"), ("pipeline.failed", "agent_timeout"),
    ]  # fmt: skip


@pytest.mark.covers("O2")
def test_a_pipeline_that_lives_and_one_that_just_began(engine: ClickHouse) -> None:
    running, begun = Teller("p1"), Teller("p2")
    stored(engine, [*spawning(running), next(spawning(begun))])
    query = "SELECT pipeline_id, state, finished_at, duration_ms FROM pipelines ORDER BY pipeline_id"
    assert all_of(engine, query) == [("p1", "RUNNING", None, None), ("p2", "SPAWNED", None, None)]
    query = "SELECT status, assigned_at IS NULL, finished_at FROM tasks ORDER BY pipeline_id"
    assert all_of(engine, query) == [("running", 0, None), ("pending", 1, None)]


@pytest.mark.covers("O2")
def test_of_an_id_that_was_used_again_pipelines_and_tasks_show_the_last_life_and_the_others_both(
    engine: ClickHouse,
) -> None:
    again = Teller("p1", start_ms=START_MS + 60_000)
    stored(engine, [*whole_life("p1"), *whole_life("p2"), *spawning(again)])
    query = (
        "SELECT pipeline_id, state, finished_at IS NULL, tasks, agents_used, toUnixTimestamp64Milli(spawned_at)"
        " FROM pipelines ORDER BY pipeline_id"
    )
    assert all_of(engine, query) == [
        ("p1", "RUNNING", 1, 1, 1, START_MS + 60_001), ("p2", "COMPLETED", 0, 1, 1, START_MS + 1)
    ]  # fmt: skip
    query = "SELECT pipeline_id, status, agent_id, turns, finished_at IS NULL FROM tasks ORDER BY pipeline_id"
    assert all_of(engine, query) == [
        ("p1", "running", again.agent_id, 0, 1), ("p2", "succeeded", Teller("p2").agent_id, 2, 0)
    ]  # fmt: skip
    query = "SELECT agent_id, state FROM agents WHERE pipeline_id = 'p1' ORDER BY created_at"
    assert all_of(engine, query) == [(Teller("p1").agent_id, "SUCCEEDED"), (again.agent_id, "BUSY")]
    assert all_of(engine, "SELECT count() FROM turns WHERE pipeline_id = 'p1'") == [(2,)]
    query = "SELECT countIf(type = 'pipeline.spawned') FROM events WHERE pipeline_id = 'p1'"
    assert all_of(engine, query) == [(2,)]


@pytest.mark.covers("O2")
def test_what_a_plan_says_of_a_pipeline_and_its_tasks(engine: ClickHouse) -> None:
    task = TaskSpec(id="look", objective="look at it", role="researcher", type="review")
    said = Plan(objective="o", tasks=(task,), labels={"team": "red"}, on_failure="carry_on", model="m9")
    teller = Teller("p1")
    bare = Teller("p2").spawner(pipeline.PipelineSpawned(plan=plan().model_copy(update={"model": None})))
    stored(engine, [teller.spawner(pipeline.PipelineSpawned(plan=said)), bare])
    query = "SELECT labels, labels['team'], on_failure, model FROM pipelines ORDER BY pipeline_id"
    assert all_of(engine, query) == [({"team": "red"}, "red", "carry_on", "m9"), ({}, "", "fail_fast", "")]
    assert all_of(engine, "SELECT type FROM tasks ORDER BY pipeline_id") == [("review",), ("task",)]


@pytest.mark.covers("O2")
def test_what_a_task_has_used_whether_it_succeeded_failed_or_runs(engine: ClickHouse) -> None:
    failed, runs = Teller("p2"), Teller("p3")
    told = [*whole_life("p1"), *spawning(failed), turn(failed, 1), *lost_attempt(failed), *failing(failed)]
    stored(engine, [*told, *spawning(runs), turn(runs, 1)])
    query = "SELECT status, turns, input_tokens, output_tokens, cost_usd FROM tasks ORDER BY pipeline_id"
    used = [("succeeded", 2, 200, 20, 1.0), ("failed", 2, 200, 20, 1.0), ("running", 1, 100, 10, 0.5)]
    assert all_of(engine, query) == used


@pytest.mark.covers("O2")
def test_attempts_where_they_ran_and_how_they_ended(engine: ClickHouse) -> None:
    teller, done = Teller("p1"), Teller("p2")
    zombie = teller.runner(
        agent.AgentSucceeded(agent_id=teller.agent_id, attempt=1, runner_id="r1", summary="", result=Body(text=""))
    )
    problem = Problem(code="older_attempt", detail="attempt 1; 2 is current")
    refused = pipeline.AgentAttemptRefused(
        agent_id=teller.agent_id, attempt=1, refused_id=zombie.id, refused_type=zombie.type, problem=problem
    )
    success = agent.AgentSucceeded(
        agent_id=done.agent_id, attempt=1, runner_id="r1", summary="", result=Body(text="")
    )  # fmt: skip
    told = [*spawning(teller), turn(teller, 1), zombie, *losing(teller), teller.spawner(refused)]
    stored(engine, [*told, turn(teller, 2, attempt=2), *spawning(done), done.runner(success)])
    query = (
        "SELECT pipeline_id, task_id, attempt, runner_id, outcome, problem_code, turns, input_tokens, messages_refused,"
        " started_at IS NULL, ended_at IS NULL FROM attempts ORDER BY pipeline_id, attempt"
    )
    assert all_of(engine, query) == [
        ("p1", "look", 1, "r1", "lost", "lease_lost", 1, 100, 1, 0, 0),
        ("p1", "look", 2, "", "", "", 1, 100, 0, 1, 1),
        ("p2", "look", 1, "r1", "succeeded", "", 0, 0, 0, 0, 0),
    ]


@pytest.mark.covers("O2", "P10")
def test_questions_and_their_answers(engine: ClickHouse) -> None:
    teller = Teller("p1")

    def asked(name: str, default: str | None = None) -> pipeline.QuestionAsked:
        return pipeline.QuestionAsked(
            question_id=name, agent_id=teller.agent_id, question=f"{name}?", options=("yes", "no"), default=default,
            deadline_at_ms=START_MS + 60_000,
        )  # fmt: skip

    answered = pipeline.QuestionAnswered(
        question_id="q1", agent_id=teller.agent_id, answer="yes", answered_by="command"
    )  # fmt: skip
    stored(engine, [teller.spawner(asked("q1")), teller.spawner(asked("q2", "no")), teller.spawner(answered)])
    query = (
        "SELECT question_id, question, options, default_answer, answer, answered_by, waited_ms,"
        " toUnixTimestamp64Milli(deadline_at) FROM questions ORDER BY question_id"
    )
    assert all_of(engine, query) == [
        ("q1", "q1?", ["yes", "no"], "", "yes", "command", 2, START_MS + 60_000),
        ("q2", "q2?", ["yes", "no"], "no", "", "", None, START_MS + 60_000),
    ]
    assert all_of(engine, "SELECT question_id FROM questions WHERE answered_at IS NULL") == [("q2",)]


@pytest.mark.covers("O2")
def test_artifacts_that_tasks_have_left(engine: ClickHouse) -> None:
    stored(engine, whole_life("p1"))
    query = "SELECT pipeline_id, task_id, name, kind, media_type, size_bytes, sha256 FROM artifacts"
    assert all_of(engine, query) == [
        ("p1", "look", "report.md", "report", "text/plain; charset=utf-8", 5, "b" * 64)
    ]  # fmt: skip


@pytest.mark.covers("O2", "P13")
def test_who_waits_for_agents(engine: ClickHouse) -> None:
    arbiter, one = Teller("installation"), Teller("p1")
    stored(
        engine,
        [
            arbiter.command(AdmissionRequested(pipeline_id="p1", slots=3, number=1)),
            arbiter.command(AdmissionRequested(pipeline_id="p2", slots=2, number=1)),
            one.command(AdmissionGranted(slots=1, number=1)),
            Teller("p2").command(AdmissionGranted(slots=2, number=1)),
        ],
    )
    query = "SELECT pipeline_id, wanted, granted FROM admission_waiting"
    assert all_of(engine, query) == [("p1", 3, 1)]


@pytest.mark.covers("O1")
def test_an_event_told_twice_is_seen_once_and_counted(engine: ClickHouse) -> None:
    event = whole_life("p1")[0]
    other_instance = replace(event, source="spawner/2")
    elsewhere = replace(event, source="stranger", data=pipeline.PipelineTick())  # ids are unique for their source
    stored(engine, [event, other_instance, elsewhere])
    assert all_of(engine, "SELECT source FROM events ORDER BY source") == [("spawner",), ("stranger",)]
    query = "SELECT service, event_id, copies, differing_copies FROM duplicates"
    assert all_of(engine, query) == [("spawner", event.id, 1, 0)]


@pytest.mark.covers("C3", "O2")
def test_a_dead_letter_is_listed_once_with_the_original_bytes(engine: ClickHouse) -> None:
    stored(engine, [], dead(3), dead(4))
    query = (
        "SELECT topic, partition, offset, reason, detail, refused_by, original_type, key, hex(raw), value_bytes,"
        " letter_topic, letter_offset FROM dead_letters"
    )
    letter = ("pipeline.commands", 1, 9, "not_utf8", "byte 0 is not UTF-8", "spawner", "pipeline.spawn", "p1", "FF00")
    assert all_of(engine, query) == [(*letter, 2, "dlq.pipeline.commands", 3)]


@pytest.mark.covers("O2")
def test_the_story_has_a_sentence_for_every_type_of_the_spawner_and_the_runner(engine: ClickHouse) -> None:
    named = {
        message.type
        for row in (
            topics.PIPELINE_COMMANDS, topics.PIPELINE_EVENTS, topics.AGENT_EVENTS, topics.TOKEN_COMMANDS,
            topics.TOKEN_EVENTS, topics.ALERTS, topics.REPORTS,
        )
        for message in row.messages
    }  # fmt: skip
    [(definition,)] = all_of(engine, "SELECT create_table_query FROM system.tables WHERE name = 'pipeline_story'")
    assert {name for name in named if f"'{name}'" not in definition} == set()


@pytest.mark.covers("O2")
@pytest.mark.parametrize("name", VIEWS)
def test_every_column_has_a_comment(engine: ClickHouse, name: str) -> None:
    rows = all_of(
        engine, f"SELECT name FROM system.columns WHERE database = 'default' AND table = '{name}' AND comment = ''"
    )
    assert rows == []
    assert all_of(
        engine, f"SELECT count() > 0 FROM system.columns WHERE database = 'default' AND table = '{name}'"
    ) == [(1,)]


@pytest.mark.covers("O2", "O3")
@pytest.mark.parametrize("query", EXAMPLES)
def test_the_documents_examples_answer(engine: ClickHouse, engine_directory: Path, query: str) -> None:
    now_ms = int(engine.rows("SELECT toUnixTimestamp64Milli(now64(3))")[0][0])
    lately = Teller("p1", start_ms=now_ms)
    failed = Teller("p2", start_ms=now_ms)
    command = lately.command(pipeline.PipelineSpawn(plan=plan()))
    asked = Teller("installation", start_ms=now_ms).command(AdmissionRequested(pipeline_id="p3", slots=2, number=1))
    question = pipeline.QuestionAsked(
        question_id="q1", agent_id=lately.agent_id, question="which?", deadline_at_ms=now_ms + 60_000
    )
    conflict = BlackboardConflictDetected(
        key="plan", key_version=1, agent_id=lately.agent_id, conflict_id="c1", action="set", expected_version=0,
        written_by=lately.agent_id,
    )  # fmt: skip
    asking = [lately.spawner(question), lately.spawner(conflict)]
    told = [command, *spawning(lately), turn(lately, 1), *asking, *finishing(lately)]
    told += [*spawning(failed), *failing(failed), asked, *Safeguard(lately).granted()]
    broken = Teller("p4", start_ms=now_ms)
    told += breach(broken)
    told += [handed_off(broken, told[-1]), *failing(broken), *diagnosing("p4")[1]]
    told += uses_of_vault("p1", Safeguard(lately).child, now_ms)
    stored(engine, told, dead())
    parameters = {"pipeline": "p1"} if "{pipeline:String}" in query else {}
    answer = EmbeddedReadOnly(engine_directory).query(
        query, default_format="JSONEachRow", parameters=parameters, database=None
    )
    assert len(answer.body.splitlines()) > 0


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 8


@pytest.mark.covers("O2")
def test_a_condition_on_the_pipeline_reaches_the_tables_order(engine: ClickHouse) -> None:
    """The views stay quick however long the log is: the primary key is used below the search for repetitions."""
    stored(engine, whole_life("p1"))
    views = (
        "events", "pipelines", "tasks", "agents", "attempts", "questions", "artifacts", "turns", "pipeline_story",
        "credentials", "token_lives", "alerts", "signals", "handoff_reports",
    )  # fmt: skip
    for view in views:
        plan_rows = all_of(
            engine, f"EXPLAIN indexes = 1 SELECT * FROM {view} WHERE tenant = 'acme' AND pipeline_id = 'p1'"
        )
        text = "\n".join(row[0] for row in plan_rows)
        condition = text[text.index("PrimaryKey") :]
        assert "tenant in" in condition, view
        assert "pipeline_id in" in condition, view


@pytest.mark.covers("O2")
class TestMigrations:
    def test_they_are_applied_once(self, engine: ClickHouse) -> None:
        assert migrate(engine, shipped()) == []
        assert all_of(engine, "SELECT count() FROM schema_migrations") == [(len(shipped()),)]

    def test_pipelines_of_a_log_that_is_there_already_are_marked(self, engine: ClickHouse) -> None:
        living = Teller("p1", start_ms=START_MS + 9_000_000)
        stored(engine, [*whole_life("p1"), *spawning(living), *whole_life("p2")])
        query = "SELECT pipeline_id, type FROM pipeline_marks FINAL ORDER BY pipeline_id"
        marks = all_of(engine, query)
        assert marks == [("p1", "pipeline.spawned"), ("p2", "pipeline.completed")]
        engine.command("DROP TABLE pipeline_marks")
        marking = next(one for one in shipped() if one.name.endswith("_pipeline_marks.sql"))
        engine.command(
            f"ALTER TABLE schema_migrations DELETE WHERE number = {marking.number} SETTINGS mutations_sync = 1"
        )
        assert migrate(engine, shipped()) == [marking.name]
        assert all_of(engine, query) == marks

    def test_a_changed_one_is_refused(self, engine: ClickHouse) -> None:
        first, *others = shipped()
        with pytest.raises(MigrationChanged, match=r"0001_log\.sql was applied with checksum"):
            migrate(engine, [replace(first, text=first.text + "\n"), *others])

    def test_an_older_release_does_not_touch_a_newer_schema(self, engine: ClickHouse) -> None:
        with pytest.raises(MigrationChanged, match="run a newer release"):
            migrate(engine, shipped()[:1])

    def test_one_that_was_cut_off_is_finished(self, engine: ClickHouse) -> None:
        new = Migration(
            9_001, "9001_two.sql", "CREATE TABLE a (x UInt8) ENGINE = Memory;\nCREATE VIEW b AS SELECT 1;\n"
        )
        engine.command(new.statements[0])
        assert migrate(engine, [*shipped(), new]) == ["9001_two.sql"]
        assert all_of(engine, "SELECT * FROM b") == [(1,)]
