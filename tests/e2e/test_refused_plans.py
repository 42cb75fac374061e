"""Plans that make no sense, models that fail, names that are hostile: each ends as documented, with its problem."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sluice_agent_runner.domain.limits import ARTIFACT_CONTENT_MAX_CHARACTERS
from sluice_contracts.messages.agent import AgentAttemptStarted, AgentSucceeded, AgentTurnFinished
from sluice_contracts.messages.base import ArtifactRef
from sluice_contracts.messages.pipeline import (
    PipelineCompleted,
    PipelineFailed,
    PipelineRefused,
    PipelineResult,
    PipelineSpawned,
    TaskFailed,
    TaskRetried,
)
from sluice_contracts.messages.plan import Dependency, Limits, Plan, TaskSpec
from tests.installation import Installation


def task(name: str = "a", *after: str, **given: Any) -> TaskSpec:
    edges = tuple(Dependency(task=one) for one in after)
    return TaskSpec(**{"id": name, "objective": "work", "role": "researcher", "dependencies": edges, **given})


def plan(*tasks: TaskSpec, **given: Any) -> Plan:
    return Plan(**{"objective": "work", "tasks": tasks, "model": "scripted:done", **given})


LARGE = "x" * 31_000
CONTRADICTORY = (Dependency(task="a", on="succeeded"), Dependency(task="a", on="failed"))
REFUSED: dict[str, tuple[Plan, str, str, str]] = {
    # The plan, the problem's code and field, and a word that its detail must have.
    "unknown role": (plan(task(role="wizard")), "unknown_role", "plan.tasks.0.role", "wizard"),
    "unprovisioned queue": (plan(task(role="lost")), "unprovisioned_queue", "plan.tasks.0.role", "nowhere"),
    "unknown constraint": (
        plan(task(), task("b", constraints=("no-mercy",))), "unknown_constraint", "plan.tasks.1.constraints", "mercy",
    ),
    "cycle": (plan(task("a", "c"), task("b", "a"), task("c", "b")), "dependency_cycle", "plan.tasks", "a → b → c → a"),
    "depends on itself": (plan(task("a", "a")), "dependency_cycle", "plan.tasks", "a → a"),
    "unknown dependency": (plan(task("a", "z")), "unknown_dependency", "plan.tasks.0.dependencies", "z"),
    "two tasks of one id": (plan(task("a"), task("a")), "duplicate_task", "plan.tasks.1.id", "a"),
    "unreachable": (plan(task("a"), task("b", dependencies=CONTRADICTORY)), "unreachable_task", "plan.tasks", "b"),
    "oversized task": (
        plan(task(success_criteria=(LARGE, LARGE))), "task_too_large", "plan.tasks.0", "artifacts",
    ),
    "oversized plan": (
        plan(*(task(f"t{number}", objective=LARGE) for number in range(7))), "plan_too_large", "plan", "artifacts",
    ),
    "too deep": (
        plan(task("a"), task("b", "a"), task("c", "b"), limits=Limits(max_depth=2)), "spawn_limit_exceeded",
        "plan.limits.max_depth", "3",
    ),
    "too wide": (
        plan(task("a"), task("b", "a"), task("c", "a"), limits=Limits(max_fan_out=1)), "spawn_limit_exceeded",
        "plan.limits.max_fan_out", "a",
    ),
}  # fmt: skip


@pytest.mark.covers("P3", "P4", "P13", "W1", "W2")
def test_a_plan_that_makes_no_sense_is_refused_by_name(installation: Installation) -> None:
    sent = {name: installation.submit(refused[0]) for name, refused in REFUSED.items()}
    for name, (_, code, field, word) in REFUSED.items():
        event = installation.await_event(sent[name], PipelineRefused)
        problem = event.data.problem
        assert (problem.code, problem.field) == (code, field), name
        assert word in problem.detail, name
        assert event.causation_id == event.data.command_id
        assert (problem.limit is not None) == (
            problem.code in {"spawn_limit_exceeded", "plan_too_large", "task_too_large"}
        )
        assert not installation.events(sent[name], PipelineSpawned)
    ids = ", ".join(f"'{one}'" for one in sent.values())
    query = f"SELECT pipeline_id, code FROM errors WHERE pipeline_id IN ({ids})"
    rows = installation.until(
        lambda: len(found := installation.sql(query)) == len(sent) and found, what="SQL tells them"
    )
    codes = {row["pipeline_id"]: row["code"] for row in rows}
    assert codes == {sent[name]: code for name, (_, code, _, _) in REFUSED.items()}


def script(turn: str) -> str:
    return f"agents:\n  - turns:\n      - {turn}\n"


FINISH = "tool_calls: [{name: finish, arguments: {summary: done}}]"
HOSTILE = ("../escape", "/etc/passwd", "a/../../b", "..", "nul\\0byte", "x" * 256)


@dataclass(frozen=True)
class Fault:
    """What a model does, and how the task ends.

    Attributes:
        code: Of the task's problem; None if it succeeds.
        calls: Model calls of the finished turn, where there is one.
        retries: Of the task.
    """

    scenario: str
    code: str | None = None
    calls: int = 1
    retries: int = 0


FAULTS: dict[str, Fault] = {
    "unauthorized": Fault(script(f"{{faults: [401], {FINISH}}}"), "model_unauthorized"),
    "rate-limited-once": Fault(script(f"{{faults: [{{fault: 429, retry_after_s: 0.1}}], {FINISH}}}"), calls=2),
    "rate-limited-long": Fault(
        script(f"{{faults: [{{fault: 429, retry_after_s: 3000}}], {FINISH}}}"), "rate_limited", retries=1
    ),
    "three-kinds": Fault(script(f"{{faults: [500, cut_stream, malformed], {FINISH}}}"), calls=4),
    "timeout-once": Fault(script(f"{{faults: [timeout], {FINISH}}}"), calls=2),
    "always-500": Fault(script(f"{{faults: [500, 500, 500, 500], {FINISH}}}"), "model_server_error", retries=1),
    "always-cut": Fault(script(f"{{faults: {['cut_stream'] * 4}, {FINISH}}}"), "model_stream_cut", retries=1),
    "always-malformed": Fault(script(f"{{faults: {['malformed'] * 4}, {FINISH}}}"), "model_malformed", retries=1),
    "always-late": Fault(script(f"{{faults: {['timeout'] * 4}, {FINISH}}}"), "model_timeout", retries=1),
    "first-attempt-fails": Fault(
        script(f"{{faults: [500, 500, 500, 500], faults_through_attempt: 1, {FINISH}}}"), retries=1
    ),
    "unmet-assertion": Fault(
        script(f"{{assert: [{{from: prompt, pattern: 'no such words'}}], {FINISH}}}"), "scenario_assertion_failed"
    ),
    "no-more-turns": Fault(script("{tool_calls: [{name: list_files}]}"), "scenario_exhausted"),
    "no-scenario": Fault("agents: 17\n", "scenario_invalid"),
}  # fmt: skip


@pytest.mark.covers("W3", "P12")
def test_a_model_that_fails_is_asked_again_or_not_as_documented(installation: Installation) -> None:
    sent = {
        name: installation.submit(plan(task(retries=1), model=installation.scenario(name, fault.scenario)))
        for name, fault in FAULTS.items()
    }
    for name, fault in FAULTS.items():
        ended: type[PipelineResult] = PipelineCompleted if fault.code is None else PipelineFailed
        installation.await_event(sent[name], ended)
        problems = [one.data.problem.code for one in installation.events(sent[name], TaskFailed)]
        assert problems == ([] if fault.code is None else [fault.code]), name
        assert len(installation.events(sent[name], TaskRetried)) == fault.retries, name
        attempts = {one.data.attempt for one in installation.events(sent[name], AgentAttemptStarted, SAID)}
        assert attempts == set(range(1, 2 + fault.retries)), name
        turns = installation.events(sent[name], AgentTurnFinished, SAID)
        if fault.code is None:
            assert [one.data.model_calls for one in turns] == [fault.calls], name


@pytest.mark.covers("W1", "W3")
def test_what_only_a_runner_can_know_fails_the_task(installation: Installation) -> None:
    installation.scenario("done", script(f"{{{FINISH}}}"))
    body = b"a file"
    digest = hashlib.sha256(body).hexdigest()
    _lay(installation.directory / "artifacts", digest, body)
    missing = ArtifactRef(sha256="0" * 64, size_bytes=1, name="gone.txt")

    def named(name: str) -> TaskSpec:
        return task(inputs=(ArtifactRef(sha256=digest, size_bytes=len(body), name=name),))

    failing = {
        "unknown_role": plan(task(role="ghost")),
        "scenario_invalid": plan(task(), model="scripted:nobody-wrote-it"),
        "unknown_model": plan(task(), model="nobody/has-it"),
        "input_missing": plan(task(inputs=(missing,))),
        "contradictory_task": plan(task(constraints=("read-only",), expected_artifacts=({"name": "report.md"},))),
        "invalid_output_schema": plan(task(output_schema={"type": "no-such-type"})),
        "conflicting_inputs": plan(named("artifacts")),
    }
    hostile = [plan(named(name)) for name in ("../escape", "/etc/passwd", "a/../../b", "..")]
    sent = [(code, installation.submit(one)) for code, one in failing.items()]
    sent += [("hostile_artifact_name", installation.submit(one)) for one in hostile]
    for code, pipeline in sent:
        installation.await_event(pipeline, PipelineFailed)
        assert [one.data.problem.code for one in installation.events(pipeline, TaskFailed)] == [code]
        assert not installation.events(pipeline, AgentTurnFinished, SAID), f"{code}: no turn is paid"
    assert not (installation.directory / "escape").exists()


@pytest.mark.covers("W4", "W6", "W7")
def test_hostile_names_of_artifacts_are_told_to_the_agent(installation: Installation) -> None:
    """A tool that refuses is no failure of the task: the agent reads why, and goes on."""
    calls = ", ".join(
        f'{{name: write_artifact, arguments: {{name: "{name}", kind: report, content: escaped}}}}' for name in HOSTILE
    )
    scenario = f"{script(f'{{tool_calls: [{calls}]}}')}      - {{{FINISH}}}\n"
    before = set(installation.directory.rglob("*escape*"))
    pipeline = installation.submit(plan(task(), model=installation.scenario("hostile", scenario)))
    installation.await_event(pipeline, PipelineCompleted)
    first = installation.events(pipeline, AgentTurnFinished, SAID)[0].data
    assert [call.is_error for call in first.tool_calls] == [True] * len(HOSTILE)
    assert set(installation.directory.rglob("*escape*")) == before
    assert installation.until(lambda: installation.get("api", f"/runs/{pipeline}/status").json["state"] == "COMPLETED")
    assert installation.get("api", f"/runs/{pipeline}/artifacts").json == []


@pytest.mark.covers("W4", "W7", "P13")
def test_an_artifact_too_large_and_one_too_many_are_told_to_the_agent(installation: Installation) -> None:
    def written(number: int, content: str = "x") -> str:
        return f'{{name: write_artifact, arguments: {{name: "{number:03}.md", kind: report, content: "{content}"}}}}'

    turns = [
        f"{{tool_calls: [{', '.join(written(n) for n in range(first, first + 10))}]}}" for first in range(0, 100, 10)
    ]
    turns += [f"{{tool_calls: [{written(100)}, {written(7)}]}}"]
    turns += [f"{{tool_calls: [{written(8, 'x' * (ARTIFACT_CONTENT_MAX_CHARACTERS + 1))}]}}", f"{{{FINISH}}}"]
    scenario = "agents:\n  - turns:\n" + "".join(f"      - {turn}\n" for turn in turns)
    pipeline = installation.submit(plan(task(), model=installation.scenario("many", scenario)))
    installation.await_event(pipeline, PipelineCompleted)
    finished = installation.events(pipeline, AgentTurnFinished, SAID)
    many, large = finished[10].data.tool_calls, finished[11].data.tool_calls
    assert [call.is_error for call in many] == [True, False]
    assert "100 artifacts are written already" in str(many[0].result.text)
    assert [call.is_error for call in large] == [True]
    assert "length <= 524288" in str(large[0].result.text)
    left = installation.events(pipeline, AgentSucceeded, SAID)[0].data.artifacts
    assert [one.name for one in left] == [f"{number:03}.md" for number in range(100)]


SAID = "agent.events.default"


def _lay(artifacts: Path, digest: str, body: bytes) -> None:
    """Lays a body into the artifact store, as a client does."""
    folder = artifacts / digest[:2]
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    (folder / digest).write_bytes(body)
