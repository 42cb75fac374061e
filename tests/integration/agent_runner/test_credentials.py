"""The runner's process with a real Vault, Kafka and model endpoint: keys, canaries, a revocation, a sealed Vault."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from sluice_contracts import codec
from sluice_contracts.envelope import CloudEvent, Record
from sluice_contracts.messages import Message
from sluice_contracts.messages.agent import AgentGrantRefused
from sluice_contracts.messages.token import Grant
from sluice_runtime.broker import TopicPartition
from sluice_runtime.kafka.broker import KafkaBroker
from sluice_runtime.vault import names
from tests.integration.agent_runner.model_server import Connection, ModelServer, model_server
from tests.integration.agent_runner.real_vault import RealVault
from tests.kafka import TestKafka
from tests.unit.agent_runner.builders import agent_run, task

QUEUE = "q"
PARTITIONS = 2
KEY = "canary-of-the-provider's-key-in-no-known-form"
FILE_KEY = "canary-of-the-file's-key-in-no-known-form"
FOREVER_MS = 2**50

Said = list[tuple[str, CloudEvent[Message]]]


class There:
    """A runner's process, and what is around it."""

    def __init__(self, broker: KafkaBroker, vault: RealVault, models: ModelServer, directory: Path) -> None:
        self.broker = broker
        self.vault = vault
        self.models = models
        self.directory = directory
        self.pid = 0
        self.url = ""
        self.logs: list[bytes] = []
        self.planted: list[str] = [KEY]

    async def run(self, agent_id: str, *, grant: bool = True, **changes: Any) -> str:
        """Gives a task; returns its token."""
        token, given = "", None
        if grant:
            sealed, token = self.vault.grant(QUEUE, f"pipeline-{agent_id}/{agent_id}/1")
            given = Grant(sealed=sealed, accessor=f"accessor-{agent_id}", expires_at_ms=FOREVER_MS)
            self.planted.append(token)
        await self.take(agent_id, given, **changes)
        return token

    async def take(self, agent_id: str, grant: Grant | None, **changes: Any) -> None:
        """Gives a task with this grant."""
        spec = task(role="researcher", **changes)
        run = agent_run(spec, agent_id=agent_id, deadline_at_ms=FOREVER_MS, grant=grant)
        event: CloudEvent[Message] = CloudEvent(
            str(uuid.uuid4()), "spawner", "acme", f"pipeline-{agent_id}", 1_800_000_000_000, run
        )
        await self.broker.append(codec.encode(event, topic=f"agent.tasks.{QUEUE}", key=agent_id))

    async def records(self, *topics: str) -> list[Record]:
        found: list[Record] = []
        for topic in topics:
            count = await self.broker.partitions(topic)
            for at in [TopicPartition(topic, number) for number in range(count)]:
                bounds = (await self.broker.bounds([at]))[at]
                await self.broker.read(at, bounds.first, bounds.end, found.extend)
        return found

    async def said(self, agent_id: str, *topics: str) -> list[CloudEvent[Message]]:
        events = [codec.decode(one) for one in await self.records(*(topics or (f"agent.events.{QUEUE}",)))]
        return [event for event in events if event.subject == f"pipeline-{agent_id}"]

    async def until(self, agent_id: str, type_: str) -> list[CloudEvent[Message]]:
        async with asyncio.timeout(60):
            while True:
                events = await self.said(agent_id)
                if type_ in [event.type for event in events]:
                    return events

    async def ready(self, *, within_s: float = 60) -> Callable[[int], Awaitable[httpx.Response]]:
        async def until(status: int) -> httpx.Response:
            async with asyncio.timeout(within_s), httpx.AsyncClient(trust_env=False) as http:
                while (answer := await http.get(f"{self.url}/readyz")).status_code != status:
                    await asyncio.sleep(0.01)
            return answer

        return until


@asynccontextmanager
async def started(
    kafka: TestKafka, vault: RealVault, directory: Path, *behaviours: Any, **settings: str
) -> AsyncIterator[There]:
    prefix = f"credentials-{uuid.uuid4().hex[:8]}."
    kafka.create_topics(prefix, [QUEUE], PARTITIONS)
    files = vault.credentials.files(names.RUNNER)
    async with (
        model_server(*behaviours) as models,
        KafkaBroker(kafka.connection, prefix=prefix, client_id="test") as broker,
    ):
        there = There(broker, vault, models, directory)
        connection = kafka.connection
        (directory / "kafka.json").write_text(
            json.dumps(
                {
                    "bootstrap_servers": connection.bootstrap_servers, "username": connection.username,
                    "password": connection.password, "security_protocol": connection.security_protocol,
                }
            )
        )  # fmt: skip
        environment = {
            **{name: os.environ[name] for name in ("PATH", "PYTHONPATH", "HOME") if name in os.environ},
            "SLUICE_KAFKA_CREDENTIALS_FILE": str(directory / "kafka.json"),
            "SLUICE_TOPIC_PREFIX": prefix,
            "SLUICE_QUEUES": QUEUE,
            "SLUICE_ARTIFACTS_URL": f"file://{directory}/artifacts",
            "SLUICE_WORKSPACES_DIRECTORY": str(directory / "workspaces"),
            "SLUICE_LOG_LEVEL": "DEBUG",
            "SLUICE_MODEL_PROVIDER": "openrouter",
            "SLUICE_MODEL_BASE_URL": models.base_url,
            "SLUICE_MODEL_DEFAULT": "some/model",
            "SLUICE_MODEL_BACKOFF_MIN_S": "0.01",
            "SLUICE_VAULT_ADDR": vault.url,
            "SLUICE_VAULT_ROLE_ID_FILE": str(files.role_id_file),
            "SLUICE_VAULT_SECRET_ID_FILE": str(files.secret_id_file),
            "SLUICE_VAULT_LOOK_UP_INTERVAL_S": "0.2",
            **settings,
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "sluice_agent_runner", env=environment, stderr=asyncio.subprocess.PIPE
        )
        assert process.stderr is not None
        reading: asyncio.Task[None] | None = None
        try:
            async with asyncio.timeout(60):
                while not (found := re.search(rb'"port": ?(\d+)', there.logs[-1] if there.logs else b"")):
                    there.logs.append(await process.stderr.readline())
                    assert there.logs[-1], b"".join(there.logs)
            there.pid, there.url = process.pid, f"http://127.0.0.1:{int(found[1])}"
            reading = asyncio.create_task(_read(process.stderr, there.logs))
            await (await there.ready())(200)
            yield there
            process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(40):
                await process.wait()
                await reading
            assert process.returncode == 0, b"".join(there.logs)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


async def _read(stream: asyncio.StreamReader, lines: list[bytes]) -> None:
    while line := await stream.readline():
        lines.append(line)


def _of_process(pid: int, name: str) -> bytes:
    return Path(f"/proc/{pid}/{name}").read_bytes()


@pytest.fixture(scope="module")
def vault(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealVault]:
    directory: Path = tmp_path_factory.mktemp("vault")
    with RealVault(directory) as running:
        running.write_key("openrouter", api_key=KEY)
        yield running


def says(*calls: tuple[str, dict[str, Any]], text: str = "") -> Callable[[Connection], Awaitable[None]]:
    async def behave(connection: Connection) -> None:
        await connection.head()
        await connection.delta(content=text)
        for number, (name, arguments) in enumerate(calls):
            function = {"name": name, "arguments": json.dumps(arguments)}
            await connection.delta(tool_calls=[{"index": number, "id": f"c{number}", "function": function}])
        await connection.delta("tool_calls")
        await connection.done(prompt_tokens=10, completion_tokens=5)

    return behave


def echoes(there: list[There]) -> Callable[[Connection], Awaitable[None]]:
    """A model that tells all that it was given, and all that it should not know."""

    async def behave(connection: Connection) -> None:
        said = " and ".join([*there[0].planted, connection.request.headers["authorization"]])
        calls = (("write_artifact", {"name": "a.md", "kind": "report", "content": said}), (said, {}),
                 ("read_file", {"path": f"../{said}"}), ("finish", {"summary": said, "result": said}))  # fmt: skip
        await says(*calls, text=said)(connection)

    return behave


def refuses(status: int) -> Callable[[Connection], Awaitable[None]]:
    async def behave(connection: Connection) -> None:
        said = connection.request.headers.get("authorization")
        await connection.answer(status, {"error": {"message": f"not with {said}"}})

    return behave


async def drip(connection: Connection) -> None:
    await connection.head()
    while True:
        await connection.delta(content="I think ")
        await asyncio.sleep(0.05)


@pytest.mark.covers("V4", "W3", "V7", "O7", "W5")
def test_canaries_of_tokens_and_keys_are_found_nowhere(kafka: TestKafka, vault: RealVault, tmp_path: Path) -> None:
    async def scenario() -> None:
        known: list[There] = []
        behaviours = (refuses(500), refuses(401), echoes(known))
        async with started(kafka, vault, tmp_path, *behaviours) as there:
            known.append(there)
            await there.run("a")
            events = await there.until("a", "agent.failed")
            assert [one.type for one in events] == ["agent.attempt_started", "agent.grant_opened", "agent.failed"]
            assert events[1].data.accessor == "accessor-a"  # type: ignore[attr-defined]
            assert events[2].data.problem.code == "model_unauthorized"  # type: ignore[attr-defined]
            assert "the key was Vault's" in events[2].data.problem.detail  # type: ignore[attr-defined]
            await there.run("b")
            await there.until("b", "agent.succeeded")
            asked = [request.headers["authorization"] for request in there.models.requests]
            assert asked == [f"Bearer {KEY}"] * 3
            signals = await there.said("b", "signals")
            assert {"error.reported", "violation.reported", "progress.reported"} == {one.type for one in signals}
            topics = (f"agent.events.{QUEUE}", "signals", "runner.heartbeats", f"dlq.agent.tasks.{QUEUE}")
            said = b"".join(
                part for record in await there.records(*topics)
                for part in (record.key, record.value, *(value for _, value in record.headers)) if part
            )  # fmt: skip
            async with httpx.AsyncClient(trust_env=False) as http:
                metrics = (await http.get(f"{there.url}/metrics")).content
            of_process = [_of_process(there.pid, name) for name in ("environ", "cmdline")]
        assert b'sluice_vault_calls_total{operation="open_grant",outcome="ok"} 2.0' in metrics
        artifacts = b"".join(path.read_bytes() for path in (tmp_path / "artifacts").rglob("*") if path.is_file())
        assert b"[redacted:" in said
        assert b"[redacted:" in artifacts
        own = [vault.credentials.files(names.RUNNER).secret_id_file.read_text().strip()]
        for planted in (*there.planted, *own):
            for place in (said, metrics, artifacts, b"".join(there.logs), *of_process):
                assert planted.encode() not in place
        assert not list((tmp_path / "workspaces").glob("*/*"))

    asyncio.run(scenario())


@pytest.mark.covers("V4", "V7")
def test_a_grant_of_another_attempt_is_refused_and_told(kafka: TestKafka, vault: RealVault, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with started(kafka, vault, tmp_path) as there:
            sealed, token = vault.grant(QUEUE, "pipeline-a/a/2")
            await there.take("a", Grant(sealed=sealed, accessor="accessor-a", expires_at_ms=FOREVER_MS))
            started_, refused, failed = await there.until("a", "agent.failed")
            assert (started_.type, refused.type) == ("agent.attempt_started", "agent.grant_refused")
            assert isinstance(refused.data, AgentGrantRefused)
            assert refused.data.accessor == "accessor-a"
            assert refused.data.problem.code == "grant_refused"
            assert refused.data.problem == failed.data.problem  # type: ignore[attr-defined]
            said = b"".join(record.value or b"" for record in await there.records(f"agent.events.{QUEUE}"))
            for secret in (token, sealed):
                assert secret.encode() not in said

    asyncio.run(scenario())


@pytest.mark.covers("W3", "P3")
def test_one_rule_says_which_key_is_used(kafka: TestKafka, vault: RealVault, tmp_path: Path) -> None:
    (tmp_path / "key").write_text(FILE_KEY)
    finish = says(("finish", {"summary": "done"}))

    async def scenario() -> None:
        settings = {"SLUICE_MODEL_API_KEY_FILE": str(tmp_path / "key")}
        async with started(kafka, vault, tmp_path, finish, **settings) as there:
            await there.run("granted")
            await there.until("granted", "agent.succeeded")
            await there.run("ungranted", grant=False)
            await there.until("ungranted", "agent.succeeded")
            await there.run("forbidden", constraints=["no-secrets"])
            await there.until("forbidden", "agent.succeeded")
            used = [request.headers["authorization"] for request in there.models.requests]
            assert used == [f"Bearer {KEY}", f"Bearer {FILE_KEY}", f"Bearer {FILE_KEY}"]
            assert "agent.grant_opened" not in [one.type for one in await there.said("forbidden")]
        async with started(kafka, vault, tmp_path, finish) as there:
            await there.run("forbidden", constraints=["no-secrets"])
            (_, failed) = await there.until("forbidden", "agent.failed")
            assert failed.data.problem.code == "model_unauthorized"  # type: ignore[attr-defined]
            assert "no-secrets" in failed.data.problem.detail  # type: ignore[attr-defined]
            assert there.models.requests == []

    asyncio.run(scenario())


@pytest.mark.covers("W3")
def test_a_key_that_was_changed_in_vault_is_used_without_a_new_attempt(
    kafka: TestKafka, vault: RealVault, tmp_path: Path
) -> None:
    async def changes(connection: Connection) -> None:
        vault.write_key("openrouter", api_key=f"{KEY}-2")
        await refuses(401)(connection)

    async def scenario() -> None:
        behaviours = (says(("list_files", {})), changes, says(("finish", {"summary": "done"})))
        async with started(kafka, vault, tmp_path, *behaviours) as there:
            await there.run("a")
            await there.until("a", "agent.succeeded")
            used = [request.headers["authorization"] for request in there.models.requests]
            assert used == [f"Bearer {KEY}", f"Bearer {KEY}", f"Bearer {KEY}-2"]

    try:
        asyncio.run(scenario())
    finally:
        vault.write_key("openrouter", api_key=KEY)


@pytest.mark.covers("V5", "W10")
def test_a_revoked_token_cuts_the_model_call_off(kafka: TestKafka, vault: RealVault, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with started(kafka, vault, tmp_path, drip) as there:
            token = await there.run("a")
            async with asyncio.timeout(60):
                while not there.models.requests:
                    await asyncio.sleep(0.01)
            vault.revoke(token)
            events = await there.until("a", "agent.failed")
            problem = events[-1].data.problem  # type: ignore[attr-defined]
            assert problem.code == "credential_revoked"
            async with asyncio.timeout(10):
                while not there.models.cut_off:
                    await asyncio.sleep(0.01)

    asyncio.run(scenario())


@pytest.mark.covers("V8")
def test_a_sealed_vault_keeps_only_those_waiting_that_need_it(
    kafka: TestKafka, vault: RealVault, tmp_path: Path
) -> None:
    (tmp_path / "key").write_text(FILE_KEY)

    async def scenario() -> None:
        settings = {"SLUICE_MODEL_API_KEY_FILE": str(tmp_path / "key"), "SLUICE_RUNNER_SLOTS": "1"}
        async with started(kafka, vault, tmp_path, says(("finish", {"summary": "done"})), **settings) as there:
            until = await there.ready()
            await there.run("a")
            await there.until("a", "agent.succeeded")
            sealed, _ = vault.grant(QUEUE, "pipeline-b/b/1")
            vault.server.seal()
            try:
                await there.take("b", Grant(sealed=sealed, accessor="b", expires_at_ms=FOREVER_MS))
                assert "Vault is sealed" in (await until(503)).text
                await there.run("c", grant=False)
                await there.until("c", "agent.succeeded")
                assert [one.type for one in await there.said("b")] == ["agent.attempt_started"]
            finally:
                vault.server.unseal()
            await there.until("b", "agent.succeeded")
            await until(200)

    asyncio.run(scenario())
