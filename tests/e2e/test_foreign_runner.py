"""A queue whose runner is not ours: the example of docs/producing.md, as real processes, with what befalls a runner."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from sluice_contracts.envelope import OutgoingRecord
from sluice_contracts.messages.agent import AgentAttemptStarted, AgentTurnFinished
from sluice_contracts.messages.base import Message
from sluice_contracts.messages.pipeline import (
    PipelineCancel,
    PipelineCancelled,
    PipelineCompleted,
    PipelineFailed,
    TaskFailed,
    TaskSucceeded,
)
from sluice_contracts.messages.plan import Budget, Limits, Plan, TaskSpec
from tests.installation import Installation

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "producing"
QUEUE = "foreign"
SAID = f"agent.events.{QUEUE}"
ROLE = f"name: stranger\ndescription: Works elsewhere.\nqueue: {QUEUE}\nsystem_prompt: Yours.\ntools: [finish]\n"
TURNS = 3


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """An installation whose own runner leaves the foreign queue alone."""
    directory: Path = tmp_path_factory.mktemp("foreign")
    roles = directory / "roles"
    roles.mkdir()
    (roles / "stranger.yaml").write_text(ROLE)
    settings = {"spawner": {"SLUICE_LEASE_MS": "2500"}, "agent-runner": {"SLUICE_QUEUES": "default"}}
    with Installation(directory, settings, roles=(roles,)) as running:
        yield running


@contextlib.contextmanager
def runner(foreign: Installation) -> Iterator[subprocess.Popen[bytes]]:
    """The example, as it is told to be started."""
    credentials = foreign.stack.kafka.credentials_file("agent-runner")
    log = foreign.stack.logs_directory / "foreign.log"
    with log.open("ab") as output:
        command = [sys.executable, EXAMPLES / "runner.py", credentials, QUEUE, foreign.directory / "artifacts"]
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(30)
        process.kill()
        process.wait()


def plan(*tasks: TaskSpec, **given: object) -> Plan:
    return Plan.model_validate({"objective": "work elsewhere", "tasks": tasks, **given})


def task(name: str = "t0", **given: object) -> TaskSpec:
    return TaskSpec.model_validate({"id": name, "objective": "work", "role": "stranger", **given})


def turns(foreign: Installation, pipeline: str) -> list[tuple[str, int, int]]:
    """Runner, attempt and number of each turn, in their order."""
    found = foreign.events(pipeline, AgentTurnFinished, SAID)
    return [(one.data.runner_id, one.data.attempt, one.data.turn) for one in found]


def failure(foreign: Installation, pipeline: str) -> str:
    foreign.await_event(pipeline, PipelineFailed)
    return foreign.events(pipeline, TaskFailed)[0].data.problem.code


@pytest.mark.covers("W2", "W10", "P12")
def test_another_instance_goes_on_where_a_killed_one_was(foreign: Installation) -> None:
    pipeline = foreign.submit(plan(task(), task("t1", dependencies=["t0"])))
    with runner(foreign) as first:
        foreign.await_event(pipeline, AgentTurnFinished, topic=SAID)
        first.kill()
        with runner(foreign):
            foreign.await_event(pipeline, PipelineCompleted)
    told = turns(foreign, pipeline)
    assert len({name for name, _, _ in told}) == 2
    assert [turn for _, _, turn in told] == [1, 2, 3, 1, 2, 3], "no finished turn is run again"
    results = [one.data for one in foreign.events(pipeline, TaskSucceeded)]
    assert [one.turns for one in results] == [TURNS, TURNS]


@pytest.mark.covers("W2", "P13", "P9")
def test_limits_are_kept_and_a_stop_is_heard(foreign: Installation) -> None:
    with runner(foreign):
        short = foreign.submit(plan(task(), limits=Limits(max_iterations=2)))
        poor = foreign.submit(plan(task(budget=Budget(tokens=10))))
        assert failure(foreign, short) == "max_iterations"
        assert failure(foreign, poor) == "budget_exhausted"
        cancelled = foreign.submit(plan(task()))
        foreign.await_event(cancelled, AgentTurnFinished, topic=SAID)
        foreign.send(cancelled, PipelineCancel(reason="enough"))
        foreign.await_event(cancelled, PipelineCancelled)
        last = foreign.submit(plan(task()))
        foreign.await_event(last, PipelineCompleted)
    assert [turn for _, _, turn in turns(foreign, short)] == [1, 2]
    assert [turn for _, _, turn in turns(foreign, poor)] == [1]
    assert len(turns(foreign, cancelled)) < TURNS


@pytest.mark.covers("W2", "W10")
def test_a_task_that_is_older_than_a_minute_is_passed_over(foreign: Installation) -> None:
    with runner(foreign):
        pipeline = foreign.submit(plan(task()))
        foreign.await_event(pipeline, PipelineCompleted)
        foreign.log.catch_up()
        tasks = [one for one in foreign.log.records[f"agent.tasks.{QUEUE}"] if one.key is not None]
        again = [OutgoingRecord(one.topic, one.key, one.value, one.headers) for one in tasks]
        foreign.write(again, principal="admin", timestamp_ms=time.time_ns() // 1_000_000 - 10 * 60_000)
        started = count(foreign, AgentAttemptStarted)
        last = foreign.submit(plan(*(task(f"t{number}") for number in range(8))))
        foreign.await_event(last, PipelineCompleted)
        foreign.log.catch_up()
    assert count(foreign, AgentAttemptStarted) == started + count_of(foreign, last)


def count(foreign: Installation, of: type[Message]) -> int:
    wanted = of.type.encode()
    return sum(dict(one.headers).get("ce_type") == wanted for one in foreign.log.records[SAID])


def count_of(foreign: Installation, pipeline: str) -> int:
    return len(foreign.events(pipeline, AgentAttemptStarted, SAID))


@pytest.mark.covers("U5", "C1", "P3")
def test_the_program_that_spawns_starts_one_pipeline_for_one_key(foreign: Installation) -> None:
    credentials = foreign.stack.kafka.credentials_file("operator")
    command = [sys.executable, EXAMPLES / "spawn.py", credentials, str(uuid.uuid4())]
    told = [subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() for _ in range(2)]
    assert told[0] == told[1]
    foreign.await_event(told[0], PipelineCompleted)
