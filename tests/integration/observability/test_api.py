"""The api as it runs, on real Kafka and the real store; the test is the spawner."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Origin

from sluice_contracts import codec
from sluice_contracts.envelope import CloudEvent
from sluice_contracts.messages import Message, pipeline
from sluice_contracts.messages.base import Problem
from sluice_runtime.artifact_files import FileArtifactStore
from tests.integration.observability.conftest import StartService
from tests.integration.observability.spawner import Spawner
from tests.integration.observability.support import Service, Writer, wait_for
from tests.kafka import TestKafka
from tests.unit.observability.events import Teller, failing, plan, spawning, turn, whole_life

BODY = {"tenant": "acme", "plan": plan().model_dump(mode="json", exclude_defaults=True)}


@pytest.fixture
def api(start: StartService, store: Service) -> Service:
    service = start("api", SLUICE_SQL_URL=store.url, SLUICE_AFTER_WAIT_MAX_S="5")
    service.ready()
    return service


@pytest.fixture
def http(api: Service) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=api.url, timeout=60) as client:
        yield client


@pytest.fixture
def spawner(kafka: TestKafka, prefix: str, writer: Writer) -> Iterator[Spawner]:
    one = Spawner(kafka, prefix, writer)
    yield one
    one.end()


def begins(command: CloudEvent[Message]) -> list[CloudEvent[Message]]:
    """Spawns what is asked for, in the tenant's name, and goes no further."""
    return [next(spawning(Teller(command.subject, command.tenant), cause=command.id))]


def refuses(command: CloudEvent[Message]) -> list[CloudEvent[Message]]:
    problem = Problem(code="unknown_role", detail="role nobody is unknown", field="plan.tasks.0.role", limit="4 roles")
    data = pipeline.PipelineRefused(command_id=command.id, command_type=command.type, problem=problem)
    return [Teller(command.subject, command.tenant).spawner(data, command.id)]


@pytest.mark.covers("U1", "P3")
def test_a_spawn_is_a_command_and_its_position(http: httpx.Client, spawner: Spawner) -> None:
    sent = http.post("/api/spawn", json=BODY, headers={"Idempotency-Key": "k1"})
    assert sent.status_code == 202
    accepted = sent.json()
    assert sent.headers["Sluice-Position"] == accepted["position"]
    assert sent.headers["Location"] == f"/runs/{accepted['pipeline_id']}/status"
    again = http.post("/runs", json={**BODY, "dedupe_key": "k1"}).json()
    assert again["pipeline_id"] == accepted["pipeline_id"]
    assert again["command_id"] == accepted["command_id"]
    other = http.post("/runs", json=BODY).json()
    assert other["pipeline_id"] != accepted["pipeline_id"]
    wait_for("the commands", lambda: len(spawner.commands) == 3)
    first = next(one for one in spawner.commands if one.id == accepted["command_id"])
    assert (first.type, first.tenant, first.subject) == ("pipeline.spawn", "acme", accepted["pipeline_id"])
    assert first.source.startswith("observability/")
    assert isinstance(first.data, pipeline.PipelineSpawn)
    assert (first.data.dedupe_key, first.data.plan) == ("k1", plan())


@pytest.mark.covers("U1")
def test_prefer_wait_answers_with_what_happened(http: httpx.Client, spawner: Spawner) -> None:
    spawner.answers(begins)
    sent = http.post("/api/spawn", json={**BODY, "dedupe_key": "k1"}, headers={"Prefer": "wait=30"})
    assert (sent.status_code, sent.json()["state"]) == (200, "SPAWNED")
    assert sent.headers["Preference-Applied"] == "wait=30"
    spawner.answers(refuses)
    refused = http.post("/api/spawn", json=BODY, headers={"Prefer": "respond-async, wait=30"})
    assert refused.status_code == 422
    assert refused.headers["content-type"] == "application/problem+json"
    problem = refused.json()
    assert (problem["type"], problem["detail"]) == ("urn:sluice:problem:unknown_role", "role nobody is unknown")
    assert (problem["field"], problem["limit"]) == ("plan.tasks.0.role", "4 roles")
    spawner.answers(lambda command: [])
    timed_out = http.post("/api/spawn", json=BODY, headers={"Prefer": "wait=1"})
    assert timed_out.status_code == 202
    # The key's pipeline is there already: there is nothing to wait for.
    second = http.post("/api/spawn", json={**BODY, "dedupe_key": "k1"}, headers={"Prefer": "wait=30"})
    assert (second.status_code, second.json()["pipeline_id"]) == (200, sent.json()["pipeline_id"])


@pytest.mark.covers("U1", "P3")
def test_what_was_refused_may_be_asked_again_with_its_key(http: httpx.Client, spawner: Spawner) -> None:
    asked = {**BODY, "dedupe_key": "k1"}
    waits = {"Prefer": "wait=30"}
    spawner.answers(refuses)
    first, again = (http.post("/api/spawn", json=asked, headers=waits) for _ in range(2))
    assert (first.status_code, again.status_code) == (422, 422)
    spawner.answers(begins)  # the role is there now
    taken, once_more = (http.post("/api/spawn", json=asked, headers=waits) for _ in range(2))
    assert [(one.status_code, one.json()["state"]) for one in (taken, once_more)] == [(200, "SPAWNED")] * 2
    assert taken.json()["pipeline_id"] == first.json()["pipeline_id"]
    status = http.get(f"/runs/{taken.json()['pipeline_id']}/status", params={"after": once_more.json()["position"]})
    assert status.json()["state"] == "SPAWNED"


@pytest.mark.covers("U1")
def test_after_reads_ones_own_writes(http: httpx.Client, spawner: Spawner) -> None:
    spawner.answers(begins)

    def spawn_and_look(number: int) -> tuple[int, str, list[str], int]:
        sent = http.post("/runs", json={**BODY, "dedupe_key": f"k{number}"})
        run, after = sent.json()["pipeline_id"], {"after": sent.headers["Sluice-Position"]}
        status = http.get(f"/runs/{run}/status", params=after)
        events = http.get(f"/runs/{run}/events", params=after).json()["items"]
        listed = http.get("/api/active-pipelines", params={**after, "limit": 1_000}).json()["items"]
        return (
            status.status_code, status.json()["state"], [one["type"] for one in events][:2],
            sum(one["pipeline_id"] == run for one in listed),
        )  # fmt: skip

    with ThreadPoolExecutor(4) as threads:
        seen = list(threads.map(spawn_and_look, range(12)))
    assert set(map(repr, seen)) == {repr((200, "SPAWNED", ["pipeline.spawn", "pipeline.spawned"], 1))}


@pytest.mark.covers("U1")
def test_a_position_without_an_effect_is_said_to_be_missing(http: httpx.Client, spawner: Spawner) -> None:
    sent = http.post("/api/pipeline/tick", json={"pipeline_id": "p1"})
    late = http.get("/api/active-pipelines", params={"after": sent.headers["Sluice-Position"]})
    assert (late.status_code, late.headers["Retry-After"]) == (503, "2")
    assert late.json()["type"] == "urn:sluice:problem:position_not_reached"


@pytest.mark.covers("U1")
@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/api/spawn", {}, "body.plan"),
        ("/api/spawn", {**BODY, "tenant": "a b"}, "body.tenant"),
        ("/api/spawn", {**BODY, "tennant": "acme"}, "body.tennant"),
        ("/api/spawn", {**BODY, "dedupe_key": "x" * 256}, "body.dedupe_key"),
        ("/api/spawn", {**BODY, "diagnosed": {"pipeline_id": "p1", "depth": 1}}, "body.diagnosed"),
        ("/api/spawn", {"plan": {"objective": "x", "tasks": []}}, "body.plan.tasks"),
        ("/api/pipeline/cancel", {"pipeline_id": "../x"}, "body.pipeline_id"),
        ("/api/pipeline/answer", {"pipeline_id": "p1", "answer": "yes"}, "body.question_id"),
    ],
)
def test_a_wrong_request_names_the_field(shared_http: httpx.Client, path: str, body: Any, field: str) -> None:
    wrong = shared_http.post(path, json=body)
    assert (wrong.status_code, wrong.headers["content-type"]) == (422, "application/problem+json")
    assert field in [one["field"] for one in wrong.json()["errors"]]


@pytest.mark.covers("U1", "P3")
def test_a_misspelt_key_of_a_plan_is_refused(shared_http: httpx.Client) -> None:
    task = {"id": "a", "objective": "x", "role": "researcher", "dependancies": ["b"], "output_schema": {"any": 1}}
    wrong = shared_http.post("/api/spawn", json={"plan": {"objective": "x", "tasks": [task]}})
    assert (wrong.status_code, wrong.json()["field"]) == (422, "plan.tasks.0.dependancies")


@pytest.mark.covers("U1")
def test_commands_about_a_pipeline(http: httpx.Client, spawner: Spawner, writer: Writer) -> None:
    http.post("/api/pipeline/cancel", json={"pipeline_id": "p1", "reason": "enough", "tenant": "acme"})
    http.post("/api/pipeline/answer", json={"pipeline_id": "p1", "question_id": "q1", "answer": "yes"})
    http.post("/api/pipeline/tick", json={"pipeline_id": "p1"}, headers={"Idempotency-Key": "t"})
    http.post("/api/pipeline/tick", json={"pipeline_id": "p1"}, headers={"Idempotency-Key": "t"})
    wait_for("the commands", lambda: len(spawner.commands) == 4)
    cancel, answer, *ticks = spawner.commands
    assert (cancel.data, cancel.tenant) == (pipeline.PipelineCancel(reason="enough"), "acme")
    assert answer.data == pipeline.PipelineAnswer(question_id="q1", answer="yes")
    assert len({tick.id for tick in ticks}) == 1


@pytest.mark.covers("U1")
def test_too_large_a_plan_is_refused(shared_http: httpx.Client) -> None:
    tasks = [{"id": f"t{number}", "objective": "x" * 30_000, "role": "researcher"} for number in range(10)]
    answer = shared_http.post("/api/spawn", json={"plan": {"objective": "x", "tasks": tasks}})
    assert answer.status_code == 413
    assert "262144" in answer.text or "256" in answer.text


@pytest.mark.covers("U1", "P12")
def test_what_lives_and_what_is_past_after_a_restart(
    http: httpx.Client, api: Service, store: Service, writer: Writer, start: StartService
) -> None:
    living, failed = Teller("living", "other"), Teller("failed")
    writer.tell(*whole_life("finished"))
    writer.tell(*spawning(living, team="red"), turn(living, 1))
    writer.tell(*spawning(failed), *failing(failed))
    wait_for("the log", lambda: store.count("SELECT count() FROM log") == 26)

    def look(client: httpx.Client) -> list[Any]:
        def get(path: str, **parameters: Any) -> Any:
            answer = client.get(path, params=parameters)
            assert answer.status_code == 200, answer.text
            return answer.json()

        return [
            [one["pipeline_id"] for one in get("/api/active-pipelines")["items"]],
            [one["pipeline_id"] for one in get("/api/active-pipelines", tenant="acme")["items"]],
            [one["pipeline_id"] for one in get("/api/active-pipelines", label="team=red", state="RUNNING")["items"]],
            [one["pipeline_id"] for one in get("/api/active-pipelines", label="team=blue")["items"]],
            [(one["agent_id"], one["turns"]) for one in get("/api/agents", tenant="other")["items"]],
            get("/api/agents", pipeline_id="finished")["items"],
            get(f"/api/agents/{living.agent_id}/status"),
            get(f"/api/agents/{failed.agent_id}/status"),
            get("/runs/finished/status"),
            get("/runs/failed/status")["problem"]["code"],
            [(one["task_id"], one["status"]) for one in get("/runs/failed/tasks")],
            [(one["task_id"], one["artifact"]["name"]) for one in get("/runs/finished/artifacts")],
            [one["type"] for one in get("/runs/failed/events")["items"]][-2:],
            [one["type"] for one in get("/runs/finished/events", type="agent.turn_finished")["items"]],
            get("/runs/finished/events", limit=2, offset=10)["next_offset"],
            get("/runs/finished/events", limit=2, offset=8)["next_offset"],
            [one["what"] for one in get("/api/pipeline/logs", pipeline_id="failed")["items"]][-1],
            [one["code"] for one in get("/api/pipeline/errors", pipeline_id="failed")["items"]],
            [one["pipeline_id"] for one in get("/api/observability/errors", code="agent_timeout")["items"]],
            get("/api/observability/errors", tenant="other")["items"],
        ]

    def told(pipeline_id: str) -> list[Any]:
        items = http.get("/api/agents", params={"pipeline_id": pipeline_id}).json()["items"]
        return [(one["turns"], one["model"], one["state"]) for one in items]

    wait_for("what lives", lambda: told("living") == [(1, "m1", "BUSY")])
    wait_for("what has finished", lambda: told("finished") == [(2, "m1", "SUCCEEDED")])
    wait_for("what has failed", lambda: http.get("/runs/failed/status").json().get("state") == "FAILED")
    before = look(http)
    assert before[0] == ["living"]
    assert before[1] == []
    assert before[2] == ["living"]
    assert before[3] == []
    assert before[4] == [(living.agent_id, 1)]
    assert before[8]["state"] == "COMPLETED"
    assert before[9:13] == [
        "agent_timeout", [("look", "failed")], [("look", "report.md")], ["task.failed", "pipeline.failed"],
    ]  # fmt: skip
    assert before[13:16] == [["agent.turn_finished"] * 2, None, 10]
    assert before[16:] == [
        "FAILED after 42 ms: task look failed", ["agent_timeout"] * 2, ["failed"] * 2, [],
    ]  # fmt: skip
    api.kill()
    anew = start("api", SLUICE_SQL_URL=store.url)
    anew.ready()
    with httpx.Client(base_url=anew.url, timeout=60) as client:
        assert look(client) == before


@pytest.mark.covers("U1")
@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/runs/nobody/status", "pipeline_not_found"),
        ("/runs/nobody/tasks", "pipeline_not_found"),
        ("/api/agents/nobody/status", "agent_not_found"),
        (f"/api/artifacts/{'0' * 64}", "artifact_not_found"),
    ],
)
def test_what_is_not_there_is_a_problem(shared_http: httpx.Client, path: str, code: str) -> None:
    answer = shared_http.get(path)
    assert (answer.status_code, answer.json()["type"]) == (404, f"urn:sluice:problem:{code}")


@pytest.mark.covers("U1", "W7")
def test_an_artifact_is_served_as_something_no_browser_runs(shared_http: httpx.Client, shared_directory: Path) -> None:
    body = b"<script>alert(1)</script>"
    kept = asyncio.run(FileArtifactStore(shared_directory / "artifacts").put(body, media_type="text/html"))
    answer = shared_http.get(f"/api/artifacts/{kept.sha256}")
    assert answer.content == body
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert shared_http.get("/api/artifacts/../../etc/passwd").status_code == 404
    assert shared_http.get("/api/artifacts/" + "A" * 64).status_code == 422


@pytest.mark.covers("C2", "C3")
def test_dead_letters_are_listed_and_filtered(http: httpx.Client, store: Service, writer: Writer) -> None:
    good = codec.encode(whole_life("p1")[0], topic="pipeline.events", key="p1")
    writer.write([replace(good, value=b"no json"), replace(good, value=b"\xff")])
    wait_for("the letters", lambda: store.count("SELECT count() FROM dead_letters") == 2)
    items = http.get("/api/dead-letters", params={"reason": "not_json"}).json()["items"]
    assert [(one["topic"], one["refused_by"], one["payload"]) for one in items] == [
        ("pipeline.events", "observability", "no json")
    ]
    assert len(http.get("/api/dead-letters", params={"topic": "pipeline.events"}).json()["items"]) == 2
    assert http.get("/api/dead-letters", params={"topic": "agent.tasks.default"}).json()["items"] == []


@pytest.mark.covers("O8")
def test_a_page_of_another_site_does_not_hear_the_stream(api: Service) -> None:
    address = f"ws://127.0.0.1:{api.port}/ws/events"
    with pytest.raises(InvalidStatus) as refused:
        connect(address, origin=Origin("http://elsewhere.example"))
    assert refused.value.response.status_code == 403
    with connect(address, origin=Origin(f"http://127.0.0.1:{api.port}")):
        pass


@pytest.mark.covers("O8")
def test_the_stream_shows_filters_and_resumes(api: Service, writer: Writer) -> None:
    address = f"ws://127.0.0.1:{api.port}/ws/events"
    with connect(f"{address}?pipeline_id=p1&type=agent.*&type=pipeline.completed") as socket:
        writer.tell(*whole_life("p0"))
        writer.tell(*whole_life("p1"))
        got = [json.loads(socket.recv(30)) for _ in range(6)]
    assert {one["pipeline_id"] for one in got} == {"p1"}
    assert sorted(one["type"] for one in got) == [
        "agent.created", "agent.state_changed", "agent.state_changed", "agent.turn_finished", "agent.turn_finished",
        "pipeline.completed",
    ]  # fmt: skip
    assert next(one for one in got if one["type"] == "agent.turn_finished")["data"]["model"] == "m1"
    with connect(f"{address}?pipeline_id=p1&type=agent.*&type=pipeline.completed&after={got[2]['position']}") as socket:
        again = [json.loads(socket.recv(30)) for _ in range(3)]
    assert again == got[3:]
    for after, code in (("nonsense", 4400), ("pipeline.events/0/999999", 4410)):
        with connect(f"{address}?after={after}") as socket, pytest.raises(ConnectionClosed) as closed:
            socket.recv(30)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == code


@pytest.mark.covers("U1", "D1")
def test_a_broker_or_store_that_is_away_is_503(
    http: httpx.Client, store: Service, start: StartService, tmp_path: Path
) -> None:
    store.stop()
    answer = http.get("/runs/old/status")
    assert (answer.status_code, answer.json()["type"]) == (503, "urn:sluice:problem:log_unavailable")
    assert answer.headers["Retry-After"] == "2"
    away = tmp_path / "away.json"
    away.write_text(json.dumps({"bootstrap_servers": "127.0.0.1:1", "username": "nobody", "password": "none-at-all"}))
    lonely = start("api", SLUICE_SQL_URL=store.url, SLUICE_KAFKA_CREDENTIALS_FILE=str(away))
    wait_for("its HTTP", lambda: "HTTP is served" in lonely.log())
    assert httpx.get(f"{lonely.url}/livez").status_code == 200
    assert httpx.get(f"{lonely.url}/readyz").status_code == 503
    answer = httpx.post(f"{lonely.url}/api/spawn", json=BODY, timeout=60)
    assert (answer.status_code, answer.json()["type"]) == (503, "urn:sluice:problem:broker_unavailable")
    assert lonely.stop() == 0


@pytest.mark.covers("U1")
def test_one_openapi_describes_it(shared_http: httpx.Client) -> None:
    document = shared_http.get("/openapi.json").json()
    paths = set(document["paths"])
    assert {
        "/api/spawn", "/api/pipeline/cancel", "/api/pipeline/answer", "/api/pipeline/tick", "/runs",
        "/runs/{pipeline_id}/status", "/runs/{pipeline_id}/tasks", "/runs/{pipeline_id}/events",
        "/runs/{pipeline_id}/artifacts", "/api/active-pipelines", "/api/agents", "/api/agents/{agent_id}/status",
        "/api/pipeline/logs", "/api/pipeline/errors", "/api/observability/errors", "/api/artifacts/{sha256}",
        "/api/dead-letters",
    } <= paths  # fmt: skip
    assert "PipelineView" in document["components"]["schemas"]


def test_other_than_loopback_is_refused(start: StartService) -> None:
    service = start("api", SLUICE_HTTP_HOST="0.0.0.0")
    wait_for("its end", lambda: "listens on loopback only" in service.log())
    assert "0.0.0.0" in service.log()
