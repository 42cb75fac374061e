"""The routes without network: what they answer while the past is loaded, and what of a request goes into a command."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from sluice_contracts import codec, ids, topics
from sluice_contracts.envelope import CloudEvent
from sluice_contracts.messages import Message
from sluice_contracts.topics import PIPELINE_COMMANDS
from sluice_observability.adapters.clickhouse import ClickHouse
from sluice_observability.bootstrap.api import Api, open_api
from sluice_observability.domain.effects import Position
from sluice_observability.entrypoints.api import build
from sluice_observability.handlers.live import Told
from sluice_observability.ports import QueryTooLarge, Sql, StoreUnavailable
from sluice_observability.settings import ApiSettings
from sluice_runtime.broker import TopicPartition
from sluice_runtime.http import Readiness
from sluice_runtime.memory import MemoryBroker, MemoryGroups, MemoryLog
from sluice_runtime.metrics import Metrics
from tests.doubles import ManualClock
from tests.unit.observability.doubles import MemorySource
from tests.unit.observability.events import Teller, plan, spawning, whole_life
from tests.unit.observability.test_history import Endpoint
from tests.unit.observability.test_views import stored

BODY = {"tenant": "acme", "plan": plan().model_dump(mode="json", exclude_defaults=True)}
LAWFUL = f"00-{'c' * 32}-{'d' * 16}-01"


class NoSql:
    """A log that has nothing, or does not answer."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.asked = 0

    async def rows(
        self, query: str, parameters: Mapping[str, str] | None = None, *, timeout_s: float | None = None
    ) -> list[dict[str, Any]]:
        self.asked += 1
        if self.error is not None:
            raise self.error
        return []


class Running:
    """An api with a client, and what it has written."""

    def __init__(self, api: Api, log: MemoryLog, http: httpx.AsyncClient) -> None:
        self.api = api
        self.http = http
        self._log = log

    def commands(self) -> list[CloudEvent[Message]]:
        return [codec.decode(one) for one in self._log.read(TopicPartition(PIPELINE_COMMANDS.name, 0), 0)]


@asynccontextmanager
async def running(directory: Path, sql: Sql) -> AsyncIterator[Running]:
    """An api that has not loaded yet."""
    settings = ApiSettings(kafka_bootstrap_servers="h:1", artifacts_url=directory.as_uri())
    log = MemoryLog({PIPELINE_COMMANDS.name: 1}, ManualClock())
    broker = MemoryBroker(log, MemoryGroups())
    async with open_api(settings, broker, sql=sql, source=lambda begin: MemorySource([])) as api:
        app = build(api, Readiness(), Metrics("test", "i1"))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as http:
            yield Running(api, log, http)


@pytest.mark.covers("U1")
def test_nothing_is_said_not_to_be_there_before_the_past_is_loaded(tmp_path: Path) -> None:
    paths = (
        "/api/active-pipelines", "/api/agents", "/runs/p1/status", "/runs/p1/tasks", "/runs/p1/artifacts",
        "/api/agents/a1/status", "/runs/p1/events?after=pipeline.events/0/1",
    )  # fmt: skip

    async def run() -> None:
        async with running(tmp_path, NoSql()) as one:
            for path in paths:
                answer = await one.http.get(path)
                assert (answer.status_code, answer.headers["Retry-After"]) == (503, "2"), path
                assert answer.json()["type"] == "urn:sluice:problem:loading"
            assert (await one.http.get("/runs/p1/events")).json() == {"items": [], "next_offset": None}
            stop = asyncio.Event()
            following = asyncio.create_task(one.api.follow(stop))
            await one.api.loaded.wait()
            assert (await one.http.get("/api/active-pipelines")).json() == {"items": [], "next_offset": None}
            stop.set()
            await following

    asyncio.run(run())


@pytest.mark.covers("U1")
def test_a_past_that_breaks_a_limit_ends_the_start_and_is_said(tmp_path: Path) -> None:
    sql = NoSql(QueryTooLarge(241, "memory; raise SLUICE_QUERY_MEMORY_MAX_BYTES"))

    async def run() -> None:
        async with running(tmp_path, sql) as one:
            with pytest.raises(QueryTooLarge, match="raise SLUICE_QUERY_MEMORY_MAX_BYTES"):
                await one.api.follow(asyncio.Event())
            answer = await one.http.get("/runs/p1/events")
            assert (answer.status_code, answer.json()["type"]) == (500, "urn:sluice:problem:query_too_large")

    asyncio.run(run())
    assert sql.asked == 2


@pytest.mark.covers("U1")
def test_a_command_has_its_pipelines_tenant_whether_the_read_model_knows_it_or_not(
    engine: ClickHouse, engine_directory: Path, tmp_path: Path
) -> None:
    stored(engine, whole_life("past", tenant="theirs"))

    async def run() -> list[str]:
        async with running(tmp_path, Endpoint(engine_directory)) as one:
            one.api.live.load(next(spawning(Teller("present", tenant="ours"))))
            for name in ("past", "present", "nobody"):
                assert (await one.http.post("/api/pipeline/cancel", json={"pipeline_id": name})).status_code == 202
            return [command.tenant for command in one.commands()]

    assert asyncio.run(run()) == ["theirs", "ours", "default"]


@pytest.mark.covers("U1")
def test_a_command_is_not_given_a_tenant_by_guess(tmp_path: Path) -> None:
    async def run() -> None:
        async with running(tmp_path, NoSql(StoreUnavailable("away"))) as one:
            answer = await one.http.post("/api/pipeline/cancel", json={"pipeline_id": "p1"})
            assert (answer.status_code, answer.json()["type"]) == (503, "urn:sluice:problem:log_unavailable")
            assert one.commands() == []
            named = {"pipeline_id": "p1", "tenant": "acme"}
            assert (await one.http.post("/api/pipeline/cancel", json=named)).status_code == 202

    asyncio.run(run())


@pytest.mark.covers("O7")
@pytest.mark.parametrize(
    ("given", "passed_on"),
    [(LAWFUL, LAWFUL), ("x" * 2_000, None), (f"{LAWFUL}\x07", None), ("00-0-0-00", None), (None, None)],
)
def test_only_a_lawful_traceparent_goes_into_a_command(
    tmp_path: Path, given: str | None, passed_on: str | None
) -> None:
    async def run() -> list[str | None]:
        async with running(tmp_path, NoSql()) as one:
            headers = {} if given is None else {"traceparent": given}
            assert (await one.http.post("/api/spawn", json=BODY, headers=headers)).status_code == 202
            return [command.traceparent for command in one.commands()]

    assert asyncio.run(run()) == [passed_on]


@pytest.mark.covers("U1", "P3")
def test_a_spawn_with_a_key_asks_the_log_only_where_it_waits_in_vain(tmp_path: Path) -> None:
    asked = {**BODY, "dedupe_key": "k1"}
    sql = NoSql(StoreUnavailable("away"))

    async def run() -> None:
        async with running(tmp_path, sql) as one:
            assert (await one.http.post("/api/spawn", json=asked)).status_code == 202
            assert sql.asked == 0
            vain = await one.http.post("/api/spawn", json=asked, headers={"Prefer": "wait=2"})
            assert (vain.status_code, sql.asked) == (202, 1)

            async def spawn() -> httpx.Response:
                return await one.http.post("/api/spawn", json=asked, headers={"Prefer": "wait=30"})

            spawned = asyncio.create_task(spawn())
            while len(one.commands()) < 3:
                await asyncio.sleep(0)
            command = one.commands()[-1]
            event = next(spawning(Teller(command.subject), cause=command.id))
            one.api.live.tell([Told(Position(topics.PIPELINE_EVENTS.name, 0, 0), event)])
            assert ((await spawned).status_code, (await spawned).json()["state"]) == (200, "SPAWNED")

    asyncio.run(run())


@pytest.mark.covers("U1", "P3")
def test_a_key_of_the_past_is_answered_from_the_log(engine: ClickHouse, engine_directory: Path, tmp_path: Path) -> None:
    stored(engine, whole_life(ids.pipeline_id("acme", "k1")))

    async def run() -> httpx.Response:
        async with running(tmp_path, Endpoint(engine_directory)) as one:
            asked = {**BODY, "dedupe_key": "k1"}
            return await one.http.post("/api/spawn", json=asked, headers={"Prefer": "wait=30"})

    answer = asyncio.run(run())
    assert (answer.status_code, answer.json()["state"]) == (200, "COMPLETED")
