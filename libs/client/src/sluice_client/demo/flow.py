"""The demonstration, step by step."""

from __future__ import annotations

import shutil
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from sluice_client.client import Json, Sluice
from sluice_client.demo.breach import break_a_budget
from sluice_client.demo.incident import FirstError, first_error
from sluice_client.demo.story import QUESTIONS, STORY, Finding, findings_in_log
from sluice_client.demo.telling import TENANT, Teller, in_time, plan_of
from sluice_client.environment import stack_settings
from sluice_client.errors import InputInvalid
from sluice_client.following import follow
from sluice_client.installation import Installation, holder
from sluice_client.running import running_stack
from sluice_client.sql import Sql
from sluice_client.stream import EventStream
from sluice_client.wiring import RUNNER, SPAWNER, Settings
from sluice_contracts.ids import pipeline_id
from sluice_localstack import LocalStack, OnProgress

Victim = Literal["spawner", "agent-runner", "store", "none"]
VICTIMS: tuple[Victim, ...] = ("agent-runner", "spawner", "store", "none")

LEASE_MS = 3_000
"""Half of the default: whoever watches waits for the killed runner's lease to run out."""

BACK_TIMEOUT_S = 60.0
"""A killed service is back within seconds."""
MARKER = ".sluice-demo"
"""Lies in a folder that a demonstration made: the next one may empty it."""

REPORT = "report.md"


@dataclass
class Outcome:
    """What came out.

    Attributes:
        killed: The service that was killed, and its pid then.
        findings: What must hold, and whether it does.
        seconds: From the spawn to the terminal event.
        broken_id: The pipeline that broke its error budget afterwards.
    """

    pipeline_id: str
    state: str
    seconds: float
    truth: FirstError
    killed: tuple[str, int] | None
    findings: list[Finding] = field(default_factory=list)
    broken_id: str = ""

    @property
    def holds(self) -> bool:
        """Whether all of it does."""
        return all(finding.holds for finding in self.findings)


def demonstrate(
    directory: Path, incident: Path, victim: Victim, teller: Teller, progress: OnProgress, *, timeout_s: float
) -> Outcome:
    """Brings a stack up in a directory of its own, runs the pipeline, kills, tells, and verifies.

    The stack is ended when this returns; its data stays until the next demonstration.

    Args:
        directory: A folder that is not there, or is empty, or an earlier demonstration's, which is emptied first.
        incident: The incident's folder.
        victim: Which service is killed in the middle.
        teller: Shows it.
        progress: Is told of the start's steps.
        timeout_s: For the pipeline.

    Raises:
        InputInvalid: A stack runs in the directory, or it holds what no demonstration has put there.
        TimedOut: The pipeline has not ended in time.
    """
    truth = first_error(incident)
    emptied(directory)
    began = time.monotonic()
    teller.chapter("A stack of its own: Kafka, Vault, ClickHouse and the services")
    with running_stack(_settings(directory), progress) as (stack, installation):
        teller.remark(f"ready after {time.monotonic() - began:.1f} s; api {installation.api_url}")
        with Sluice(installation.needed_api_url(), tenant=TENANT) as sluice, Sql.of(installation) as sql:
            outcome, last = _run(stack, installation, sluice, incident, truth, victim, teller, timeout_s)
            if outcome.killed is not None:
                stack.wait_ready(outcome.killed[0], BACK_TIMEOUT_S)
            for _ in sluice.story(outcome.pipeline_id, after=last["position"]):
                break  # now the log has come as far as the end
            _tell(sql, outcome, teller)
            report = _report(sluice, outcome.pipeline_id)
            teller.chapter(f"The report, as the agents wrote it ({REPORT})")
            teller.document(report)
            outcome.findings = [
                Finding("the pipeline is COMPLETED", outcome.state == "COMPLETED", outcome.state),
                Finding(
                    "the report names the first error, as grep finds it",
                    truth.is_named_in(report),
                    f"{truth.place} at {truth.at}",
                ),
                *findings_in_log(sql, outcome.pipeline_id, runner_was_killed=victim == RUNNER),
            ]
            if outcome.killed is not None:
                name, pid = outcome.killed
                back = stack.restarts(name) > 0 and stack.pid(name) not in (None, pid)
                found = f"pid {pid}, now {stack.pid(name)}"
                outcome.findings.append(Finding(f"{name} was killed with -9, and is back", back, found))
            elif victim != "none":
                outcome.findings.append(
                    Finding(f"{victim} was killed in the middle", False, "the pipeline was too short")
                )
            outcome.broken_id, findings = break_a_budget(stack, installation, sluice, sql, teller, timeout_s=timeout_s)
            outcome.findings += findings
    return outcome


def _settings(directory: Path) -> Settings:
    settings = stack_settings(directory)
    own = {SPAWNER: {"SLUICE_LEASE_MS": settings.environment.get("SLUICE_LEASE_MS", str(LEASE_MS))}}
    return replace(settings, service_environment={**settings.service_environment, **own})


def emptied(directory: Path) -> None:
    """Makes a folder for a demonstration, or empties an earlier demonstration's. The marker stays, whatever happens.

    Raises:
        InputInvalid: A stack runs there, or it is no folder, or not empty and no demonstration's: nothing was touched.
    """
    running = holder(directory)
    if running is not None:
        raise InputInvalid(f"a stack runs in {directory} with pid {running}; end it: sluice down --data {directory}")
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = [path for path in directory.iterdir() if path.name != MARKER]
        marker = directory / MARKER
        if found and not marker.is_file():
            raise InputInvalid(
                f"{directory} is not empty and was not made by a demonstration, which would delete what is in it; "
                "give another folder with --data, or empty it yourself"
            )
        marker.touch(mode=0o600)
        for path in found:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
    except OSError as error:
        raise InputInvalid(f"{directory} can't be used for the demonstration's data: {error}") from error


def _run(
    stack: LocalStack, installation: Installation, sluice: Sluice, incident: Path, truth: FirstError,
    victim: Victim, teller: Teller, timeout_s: float,
) -> tuple[Outcome, Json]:  # fmt: skip
    plan = plan_of(installation, incident)
    who = "a scenario in place of a model" if "model" in plan else f"a live model ({installation.model_provider})"
    teller.chapter(f"Three agents on {len(plan['inputs'])} files of an incident; answers come from {who}")
    key = str(uuid.uuid4())
    killer = _Killer(stack, victim, teller)
    began = time.monotonic()
    last: Json = {}
    with EventStream(sluice.url, pipeline_id(TENANT, key)) as stream:
        accepted = sluice.spawn(plan, dedupe_key=key)
        for event in in_time(follow(sluice, stream, fresh=True), accepted.pipeline_id, timeout_s):
            teller.event(event)
            killer.saw(event)
            last = event
    seconds = time.monotonic() - began
    state = sluice.wait(accepted.pipeline_id, timeout_s=BACK_TIMEOUT_S)["state"]
    return Outcome(accepted.pipeline_id, state, seconds, truth, killer.killed), last


class _Killer:
    """Kills its victim once: when the second task's agent has finished a turn, so that there is something to lose."""

    def __init__(self, stack: LocalStack, victim: Victim, teller: Teller) -> None:
        self._stack, self._victim, self._teller = stack, victim, teller
        self._started: list[str] = []
        self.killed: tuple[str, int] | None = None

    def saw(self, event: Mapping[str, Any]) -> None:
        """Takes note of an event, and strikes when it is time."""
        data = event["data"]
        if event["type"] == "task.started" and data["agent_id"] not in self._started:
            self._started.append(data["agent_id"])
        second = self._started[1] if len(self._started) > 1 else None
        if event["type"] != "agent.turn_finished" or data["agent_id"] != second:
            return
        pid = None if self._victim == "none" or self.killed else self._stack.pid(self._victim)
        if pid is not None:
            self._teller.remark(f"kill -9 {pid}: the {self._victim} dies, with the second task at work")
            self._stack.kill_service(self._victim)
            self.killed = (self._victim, pid)


def _tell(sql: Sql, outcome: Outcome, teller: Teller) -> None:
    teller.chapter("What the event log says, in SQL")
    for question in (STORY, *QUESTIONS):
        teller.answer(question, sql.table(question.sql, {"id": outcome.pipeline_id}))


def _report(sluice: Sluice, pipeline: str) -> str:
    for one in sluice.artifacts(pipeline):
        if one["artifact"]["name"] == REPORT:
            return sluice.artifact(one["artifact"]["sha256"]).decode("utf-8", "replace")
    return f"(there is no {REPORT})"
