"""The commands on a real installation."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import psutil
import pytest

from sluice_client.client import Sluice as Client
from sluice_client.demo.incident import first_error
from sluice_client.installation import saved
from sluice_contracts import ids
from tests.installation import SERVICES
from tests.integration.client.sluice import INCIDENT, ROOT, Sluice, until

QUICK = "agents: [{turns: [{tool_calls: [{name: finish, arguments: {summary: done}}]}]}]"
SLOW = """
agents:
  - turns:
      - {text: I look, tool_calls: [{name: list_files}], delay_ms: 200, repeat: 40}
      - {tool_calls: [{name: finish, arguments: {summary: done}}]}
"""
PATIENT = SLOW.replace("delay_ms: 200", "delay_ms: 5000")
"""Longer than any test looks at it."""
FAILING = "agents: [{turns: [{tool_calls: [{name: list_files}]}, {assert: [{pattern: never}]}]}]"
ASKING = """
agents:
  - turns:
      - {tool_calls: [{name: ask_human, arguments: {question: "Which colour?", options: [red, blue]}}]}
      - {assert: [{pattern: blue}], tool_calls: [{name: finish, arguments: {summary: chosen}}]}
"""


def objective(sluice: Sluice, scenario: str, *options: str) -> list[str]:
    name = f"scenario-{uuid.uuid4().hex[:8]}"
    return ["run", "--objective", "work", "--scenario", str(sluice.scenario(name, scenario)), *options]


@pytest.mark.covers("U2", "D4")
def test_the_stack_is_found_and_well(sluice: Sluice) -> None:
    checks = sluice.ok("doctor", "--json").json
    assert {check["name"] for check in checks} >= {
        "service spawner",
        "service agent-runner",
        "service store",
        "service api",
        "vault",
        "vault program",
    }
    assert all(check["ok"] for check in checks)
    again = sluice("up", "--detach")
    assert again.code == 2
    assert "sluice down" in again.err


@pytest.mark.covers("U2", "W7")
def test_the_shipped_incident_by_hand(sluice: Sluice, tmp_path: Path) -> None:
    ran = sluice.ok("run", str(INCIDENT / "plan.yaml"), "--wait", "--json")
    view = ran.json
    assert view["state"] == "COMPLETED"
    assert [task["status"] for task in view["tasks"].values()] == ["succeeded"] * 3
    pipeline = view["pipeline_id"]
    assert pipeline in sluice.ok("list", "--all", "--label", "incident=checkout").out
    assert "COMPLETED" in sluice.ok("status", pipeline).out
    sluice.ok("artifacts", pipeline, "--save", str(tmp_path))
    assert first_error(INCIDENT).is_named_in((tmp_path / "write-report" / "report.md").read_text())
    events = [json.loads(line) for line in sluice.ok("events", pipeline, "--json").out.splitlines()]
    assert [event["type"] for event in events if event["type"] == "pipeline.completed"] == ["pipeline.completed"]
    assert "3 of 3 tasks succeeded" in sluice.ok("logs", pipeline).out
    watched = sluice.ok("watch", pipeline, "--json").out.splitlines()
    all_is_told({json.loads(line)["id"] for line in watched}, events)


@pytest.mark.covers("U2", "P4")
def test_the_plan_of_the_documents(sluice: Sluice) -> None:
    view = sluice.ok("run", str(ROOT / "examples" / "plans" / "cache" / "plan.yaml"), "--wait", "--json").json
    assert {name: task["status"] for name, task in view["tasks"].items()} == {
        "measure": "succeeded", "note": "succeeded", "excuse": "skipped", "check": "succeeded",
    }  # fmt: skip


@pytest.mark.covers("U2", "W3")
def test_without_a_model_it_is_said_plainly(sluice: Sluice) -> None:
    ran = sluice.ok("run", "--objective", "work", "--wait", "--json")
    assert ran.json["tasks"]["task"]["summary"].startswith("No model is configured")
    assert "no model is configured" in sluice.ok("run", "--objective", "work").err
    credentials = sluice.data / "credentials" / "operator.json"
    program = [sys.executable, str(ROOT / "examples" / "producing" / "spawn.py"), str(credentials), str(uuid.uuid4())]
    ids_told = [subprocess.run(program, capture_output=True, text=True, check=True).stdout.strip() for _ in range(2)]
    assert ids_told[0] == ids_told[1]
    until(lambda: sluice("status", ids_told[0], "--json").code == 0, "the pipeline of another program")
    sluice.ok("watch", ids_told[0])


@pytest.mark.covers("U2", "O3")
def test_sql(sluice: Sluice) -> None:
    query = "SELECT number AS n, concat('a', {x:String}) AS text FROM numbers(2)"
    assert sluice.ok("sql", query, "-p", "x=1\t2", "--json").json == [
        {"n": 0, "text": "a1\t2"},
        {"n": 1, "text": "a1\t2"},
    ]
    assert sluice.ok("sql", query, "-p", "x=,", "-f", "csv").out == '"n","text"\n0,"a,"\n1,"a,"\n'
    assert sluice("sql", "-", input="SELECT 41 + 1 AS answer").out.split() == ["answer", "42"]
    assert sluice.ok("sql", "SELECT 1 AS n, 'x' AS text FORMAT CSV").out == '1,"x"\n'
    refused = sluice("sql", "DROP TABLE log")
    assert (refused.code, "READONLY" in refused.err) == (5, True)
    assert sluice("sql", "SELECT nonsense").code == 5


@pytest.mark.covers("U2", "U5")
@pytest.mark.parametrize(("scenario", "code", "state"), [(QUICK, 0, "COMPLETED"), (FAILING, 3, "FAILED")])
def test_the_exit_code_tells_the_outcome(sluice: Sluice, scenario: str, code: int, state: str) -> None:
    ran = sluice(*objective(sluice, scenario, "--wait", "--json"))
    assert (ran.code, ran.json["state"]) == (code, state)
    watched = sluice(*objective(sluice, scenario, "--watch"))
    assert watched.code == code
    assert f"pipeline.{state.lower()}" in watched.out


@pytest.mark.covers("U2", "P3")
def test_a_dedupe_key_names_one_pipeline(sluice: Sluice) -> None:
    key = str(uuid.uuid4())
    first = sluice.ok(*objective(sluice, QUICK, "--dedupe-key", key, "--wait", "--json")).json
    again = sluice.ok(*objective(sluice, SLOW, "--dedupe-key", key, "--watch"))
    assert first["pipeline_id"] == ids.pipeline_id("default", key)
    assert first["pipeline_id"] in again.err
    assert "pipeline.completed" in again.out


@pytest.mark.covers("U2")
def test_what_is_refused(sluice: Sluice) -> None:
    unknown_role = sluice("run", "--objective", "x", "--role", "nobody", "--json")
    assert unknown_role.code == 5
    assert json.loads(unknown_role.err)["detail"].startswith("unknown_role: ")
    assert sluice("status", "no-such-pipeline").code == 5
    assert sluice("cancel", "no-such-pipeline").code == 5
    assert sluice("watch", "no-such-pipeline").code == 5


@pytest.mark.covers("U2", "P10")
def test_a_question_is_shown_and_answered(sluice: Sluice) -> None:
    pipeline = sluice.ok(*objective(sluice, ASKING, "--json")).json["pipeline_id"]
    assert sluice("answer", pipeline, "blue", "--question", "no-such-question").code == 5
    until(lambda: "Which colour?" in sluice("status", pipeline).out, "the question")
    assert pipeline in sluice.ok("list", "--state", "NEEDS_INPUT").out
    sluice.ok("answer", pipeline, "blue")
    assert "pipeline.completed" in sluice.ok("watch", pipeline).out
    late = sluice("answer", pipeline, "red")
    assert (late.code, "nothing to answer" in late.err) == (2, True)


@pytest.mark.covers("U2")
def test_cancel_tick_and_time(sluice: Sluice) -> None:
    timed_out = sluice(
        *objective(sluice, PATIENT, "--wait", "--timeout-s", "0.5", "--dedupe-key", (key := str(uuid.uuid4())))
    )
    assert timed_out.code == 7
    pipeline = ids.pipeline_id("default", key)
    sluice.ok("tick", pipeline)
    assert sluice("watch", pipeline, "--timeout-s", "0.5").code == 7
    watching = subprocess.Popen(
        sluice.argv("watch", pipeline), env=sluice.variables(), stdout=subprocess.PIPE, text=True
    )
    assert watching.stdout is not None
    assert watching.stdout.readline()
    assert "CANCELLED" in sluice.ok("cancel", pipeline, "--reason", "enough").out
    rest = watching.stdout.read()
    assert watching.wait(60) == 4
    assert "pipeline.cancelled" in rest


def all_is_told(told: set[str], logged: list[dict[str, Any]]) -> None:
    """What the pipeline did is told to its end; of its credentials, breaches and reports, what came until then."""
    needed = {one["id"] for one in logged if one["position"].startswith(("pipeline.events/", "agent.events."))}
    assert needed <= told
    others = ("token.events/", "alerts/", "signals/", "reports/")
    assert told - needed <= {one["id"] for one in logged if one["position"].startswith(others)}


@pytest.mark.covers("U2", "O8")
def test_watching_goes_on_when_the_api_is_killed(sluice: Sluice) -> None:
    pipeline = sluice.ok(*objective(sluice, SLOW, "--json")).json["pipeline_id"]
    watching = subprocess.Popen(
        sluice.argv("watch", pipeline, "--json"), env=sluice.variables(), stdout=subprocess.PIPE, text=True
    )
    assert watching.stdout is not None
    first = watching.stdout.readline()
    os.kill(sluice.pid("api"), signal.SIGKILL)
    rest = watching.stdout.read()
    assert watching.wait(60) == 0
    told = [json.loads(line)["id"] for line in (first + rest).splitlines()]
    logged = [json.loads(line) for line in sluice.ok("events", pipeline, "--json").out.splitlines()]
    assert len(told) == len(set(told))
    all_is_told(set(told), logged)


@pytest.mark.covers("U2", "D2")
def test_topics(sluice: Sluice) -> None:
    rows = sluice.ok("topics", "list", "--json").json
    assert all(row["exists"] for row in rows)
    commands = next(row for row in rows if row["topic"] == "sluice.pipeline.commands")
    assert commands["readers"] == ["spawner", "observability"]
    applied = sluice.ok("topics", "apply", "--json").json
    assert applied == {"topics": len(rows), "changed": [], "rules_created": 0, "rules_deleted": 0}
    away = sluice("topics", "apply", "--partitions", "3", "--bootstrap", "127.0.0.1:9", "--json")
    assert away.code == 1
    assert "does not answer" in json.loads(away.err)["detail"]


@pytest.mark.covers("U2", "D2", "D4")
@pytest.mark.timeout(300)
def test_a_second_installation_on_a_given_cluster(sluice: Sluice, tmp_path: Path) -> None:
    """Beside the first, under a prefix of its own: its rights leave the first one's alone."""
    admin = json.loads((sluice.data / "credentials" / "admin.json").read_text())
    (tmp_path / "password").write_text(admin["password"])
    given = {
        "KAFKA_BOOTSTRAP_SERVERS": admin["bootstrap_servers"],
        "KAFKA_USERNAME": "admin",
        "KAFKA_PASSWORD_FILE": str(tmp_path / "password"),
        "SLUICE_TOPIC_PREFIX": "second.",
    }
    second = Sluice(tmp_path / "stack", given)
    lacking = second("up", "--detach")
    assert lacking.code == 1
    assert "sluice topics apply" in (second.data / "logs" / "up.log").read_text()
    applied = second.ok("topics", "apply", "--json").json
    assert applied["rules_deleted"] == 0
    assert sluice.ok("topics", "apply", "--json").json["rules_created"] == 0
    with second.running():
        assert second(*objective(second, QUICK, "--wait")).code == 0
        assert sluice(*objective(sluice, QUICK, "--wait")).code == 0


def test_no_secret_is_said_or_saved(sluice: Sluice) -> None:
    passwords = [json.loads(file.read_text())["password"] for file in (sluice.data / "credentials").glob("*.json")]
    passwords += [file.read_text() for file in (sluice.data / "credentials" / "vault").glob("*/secret-id")]
    passwords += json.loads((sluice.data / "vault" / "keys.json").read_text()).values()
    assert len(passwords) >= 6 + 2 + 2
    places = [sluice.data / "installation.json", *(sluice.data / "logs").glob("*.log")]
    texts = [path.read_text(errors="replace") for path in places]
    texts += [sluice.ok("doctor").out, " ".join(" ".join(process.cmdline()) for process in sluice.processes())]
    texts += [" ".join(process.environ().values()) for process in sluice.processes()]
    assert not [password for password in passwords for text in texts if password in text]


@pytest.mark.covers("U5")
def test_the_python_client(sluice: Sluice) -> None:
    sluice.ok(*objective(sluice, QUICK, "--wait"))
    with Client(saved(sluice.data).needed_api_url()) as client:
        plan = {
            "objective": "o",
            "tasks": [{"id": "t", "objective": "o", "role": "researcher"}],
            "model": "scripted:none",
        }
        accepted = client.spawn(plan)
        view = client.wait(accepted.pipeline_id, timeout_s=60, after=accepted.position)
        assert (view["state"], view["problem"]["code"]) == ("FAILED", "scenario_invalid")
        errors = until(lambda: list(client.errors(accepted.pipeline_id)), "the log shows what the api knows")
        assert errors[0]["code"] == "scenario_invalid"
        assert [agent["pipeline_id"] for agent in client.agents(pipeline_id=accepted.pipeline_id)] == [
            accepted.pipeline_id
        ]
        assert list(client.story(accepted.pipeline_id, after=accepted.position))


def test_the_stack_is_the_only_thing_that_runs(sluice: Sluice) -> None:
    names = {" ".join(process.cmdline()) for process in sluice.processes() if process.status() != psutil.STATUS_ZOMBIE}
    assert len([name for name in names if "sluice_" in name]) == len(SERVICES)
