"""The runner as a process: started by its environment, probed, given work, and asked to stop."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
import uuid
from pathlib import Path

import httpx
import pytest

from sluice_agent_runner.settings import RunnerSettings
from sluice_contracts import codec
from sluice_contracts.envelope import CloudEvent, Record
from sluice_runtime.broker import TopicPartition
from sluice_runtime.kafka.broker import KafkaBroker
from sluice_runtime.settings import SettingsError, load_settings
from tests.kafka import TestKafka
from tests.unit.agent_runner.builders import agent_run, task

CANARY = "sk-canary-0123456789abcdef0123456789"


@pytest.mark.covers("D1", "O7")
def test_a_process_from_its_start_to_its_end(kafka: TestKafka, tmp_path: Path) -> None:
    prefix = f"process-{uuid.uuid4().hex[:8]}."
    kafka.create_topics(prefix, ["q"], 2)
    (tmp_path / "one.yaml").write_text(
        f"agents: [{{turns: [{{text: 'the key is {CANARY}', "
        "tool_calls: [{name: finish, arguments: {summary: done}}]}]}]"
    )
    connection = kafka.connection
    (tmp_path / "kafka.json").write_text(
        json.dumps(
            {
                "bootstrap_servers": connection.bootstrap_servers, "username": connection.username,
                "password": connection.password, "security_protocol": connection.security_protocol,
            }
        )
    )  # fmt: skip
    environment = {
        **{name: os.environ[name] for name in ("PATH", "PYTHONPATH", "HOME") if name in os.environ},
        "SLUICE_KAFKA_CREDENTIALS_FILE": str(tmp_path / "kafka.json"),
        "SLUICE_TOPIC_PREFIX": prefix,
        "SLUICE_QUEUES": "q",
        "SLUICE_ARTIFACTS_URL": f"file://{tmp_path}/artifacts",
        "SLUICE_WORKSPACES_DIRECTORY": str(tmp_path / "workspaces"),
        "SLUICE_SCENARIOS_DIRECTORY": str(tmp_path),
    }

    async def scenario() -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "sluice_agent_runner", env=environment, stderr=asyncio.subprocess.PIPE
        )
        assert process.stderr is not None
        try:
            async with asyncio.timeout(60):
                lines: list[bytes] = []
                while not (found := re.search(rb'"port": ?(\d+)', lines[-1] if lines else b"")):
                    lines.append(await process.stderr.readline())
                    assert lines[-1], b"".join(lines)
                url = f"http://127.0.0.1:{int(found[1])}"
                async with httpx.AsyncClient(trust_env=False) as http:
                    while (await http.get(f"{url}/readyz")).status_code != 200:
                        pass
                    assert (await http.get(f"{url}/livez")).status_code == 200
                    async with KafkaBroker(kafka.connection, prefix=prefix, client_id="test") as broker:
                        spec = task(role="researcher", model="scripted:one")
                        run = agent_run(spec, agent_id="agent-1", deadline_at_ms=2**50)
                        event = CloudEvent(str(uuid.uuid4()), "spawner", "acme", "pipeline-1", 1, run)
                        await broker.append(codec.encode(event, topic="agent.tasks.q", key="agent-1"))
                        while "agent.succeeded" not in (types := [one.type for one in await events(broker)]):
                            pass
                        assert types == ["agent.attempt_started", "agent.turn_finished", "agent.succeeded"]
                        turn = (await events(broker))[1]
                        assert CANARY not in repr(turn)
                        assert "[redacted:" in repr(turn.data)
                    metrics = (await http.get(f"{url}/metrics")).text
                    assert 'sluice_turns_finished_total{provider="scripted"} 1.0' in metrics
                    assert 'sluice_tool_calls_total{outcome="ok",tool="finish"} 1.0' in metrics
                process.send_signal(signal.SIGTERM)
                _, rest = await process.communicate()
            assert process.returncode == 0, rest
            logs = [json.loads(line) for line in (b"".join(lines) + rest).splitlines()]
            assert {line["service"] for line in logs} == {"agent-runner"}
            assert not [line for line in logs if line["level"] in ("ERROR", "CRITICAL")]
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    asyncio.run(scenario())
    for path in tmp_path.rglob("*"):
        if path.is_file() and path.name != "one.yaml":
            assert CANARY.encode() not in path.read_bytes()


async def events(broker: KafkaBroker) -> list[CloudEvent]:  # type: ignore[type-arg]
    found: list[Record] = []
    for at in [TopicPartition("agent.events.q", number) for number in range(2)]:
        bounds = (await broker.bounds([at]))[at]
        await broker.read(at, bounds.first, bounds.end, found.extend)
    return [codec.decode(record) for record in found]


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"SLUICE_MODEL_PROVIDER": "openrouter"}, "SLUICE_MODEL_API_KEY_FILE"),
        ({"SLUICE_MODEL_PROVIDER": "llama"}, "SLUICE_MODEL_PROVIDER='llama'"),
        ({"SLUICE_RUNNER_SLOTS": "0"}, "SLUICE_RUNNER_SLOTS='0'"),
        ({"SLUICE_MODEL_BASE_URL": "example.org"}, "SLUICE_MODEL_BASE_URL"),
    ],
)
def test_wrong_settings_are_told_by_their_variables(variables: dict[str, str], says: str) -> None:
    before = dict(os.environ)
    os.environ.update({"SLUICE_KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1", **variables})
    try:
        with pytest.raises(SettingsError) as caught:
            load_settings(RunnerSettings)
    finally:
        os.environ.clear()
        os.environ.update(before)
    assert says in str(caught.value)
