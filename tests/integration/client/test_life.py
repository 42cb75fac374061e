"""up and down: in the foreground, in the background, killed, beside another stack; with a live model's key."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from sluice_client.installation import STATE_FILE, holder
from tests.integration.agent_runner.model_server import Connection, model_server
from tests.integration.client.sluice import INCIDENT, Sluice, until

CANARY = "sk-or-canary-7d1f0c55a1"


def vault_pid(sluice: Sluice) -> int:
    """As its supervisor has noted it."""
    return int(json.loads((sluice.data / "vault" / "processes.json").read_text()).get("vault", {}).get("pid", 0))


def vault_is_well(sluice: Sluice) -> bool:
    return any(check["ok"] for check in sluice("doctor", "--json").json if check["name"] == "vault")


@pytest.mark.covers("U2", "D4")
@pytest.mark.timeout(300)
def test_in_the_foreground_ctrl_c_ends_all_of_it(tmp_path: Path) -> None:
    sluice = Sluice(tmp_path / "stack")
    up = subprocess.Popen(
        sluice.argv("up", "--json"), env=sluice.variables(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        until(lambda: (sluice.data / STATE_FILE).exists() or up.poll() is not None, "the stack", 120)
        assert holder(sluice.data) == up.pid
        assert sluice("list").code == 0
        up.send_signal(signal.SIGINT)
        out, err = up.communicate(timeout=60)
    finally:
        up.kill()
    assert up.returncode == 0, err
    assert json.loads(out)["data_directory"] == str(sluice.data)
    assert sluice.processes() == []
    assert not (sluice.data / STATE_FILE).exists()
    assert sluice("list").code == 6
    assert "nothing ran" in sluice.ok("down").out


@pytest.mark.covers("U2", "D4")
@pytest.mark.timeout(300)
def test_a_killed_stack_leaves_nothing_and_comes_back_with_its_data(tmp_path: Path) -> None:
    sluice = Sluice(tmp_path / "stack")
    sluice.ok("up", "--detach")
    ran = sluice("run", "--objective", "x", "--model", "scripted:none", "--wait", "--json")
    key = tmp_path / "key"
    key.write_text(CANARY)
    put_key = ("vault", "put-key", "openrouter", "--from-file", str(key), "--json")
    assert sluice.ok(*put_key).json["state"] == "created"
    first = vault_pid(sluice)
    os.kill(first, signal.SIGKILL)
    until(lambda: vault_pid(sluice) != first and vault_is_well(sluice), "Vault is started again, and unsealed")
    assert sluice.ok(*put_key).json["state"] == "unchanged"
    pid = holder(sluice.data)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    until(lambda: not sluice.processes(), "the kernel ends the services")
    assert sluice("status", ran.json["pipeline_id"]).code == 6
    with sluice.running():
        assert sluice.ok("status", ran.json["pipeline_id"], "--json").json["state"] == "FAILED"
        assert sluice.ok(*put_key).json["state"] == "unchanged"
        changes = sluice.ok("vault", "apply", "--json").json["changes"]
        assert {change["state"] for change in changes} == {"unchanged"}, "it was applied at the start"
    assert sluice.processes() == []


@pytest.mark.covers("W3", "U2")
@pytest.mark.timeout(300)
def test_a_models_key_reaches_the_provider_and_nobody_else(tmp_path: Path) -> None:
    async def finishes(connection: Connection) -> None:
        call = {"name": "finish", "arguments": json.dumps({"summary": "a live model answered"})}
        await connection.head()
        await connection.delta(
            role="assistant", tool_calls=[{"index": 0, "id": "c1", "type": "function", "function": call}]
        )
        await connection.delta(finish_reason="tool_calls")
        await connection.done(prompt_tokens=10, completion_tokens=5)

    async def scene() -> None:
        async with model_server(finishes) as server:
            given = {
                "OPENROUTER_API_KEY": CANARY,
                "SLUICE_MODEL_BASE_URL": server.base_url,
                "SLUICE_MODEL_DEFAULT": "m/1",
            }
            sluice = Sluice(tmp_path / "stack", given)
            await asyncio.to_thread(sluice.ok, "up", "--detach")
            try:
                ran = await asyncio.to_thread(sluice, "run", "--objective", "x", "--wait", "--json")
                assert ran.json["tasks"]["task"]["summary"] == "a live model answered"
                assert server.requests[0].headers["authorization"] == f"Bearer {CANARY}"
                assert server.requests[0].body["model"] == "m/1"
                # A plan that brings a scenario leaves it aside where a model answers.
                incident = await asyncio.to_thread(sluice, "run", str(INCIDENT / "plan.yaml"), "--json")
                spawned = await asyncio.to_thread(
                    sluice.ok, "events", incident.json["pipeline_id"], "--type", "pipeline.spawned", "--json"
                )
                assert "model" not in json.loads(spawned.out)["data"]["plan"]
                await asyncio.to_thread(check_secrecy, sluice)
            finally:
                await asyncio.to_thread(sluice, "down")

    asyncio.run(scene())


def check_secrecy(sluice: Sluice) -> None:
    holders = [path for path in sluice.data.rglob("*") if path.is_file() and CANARY.encode() in path.read_bytes()]
    assert holders == [sluice.data / "credentials" / "openrouter.key"]
    assert holders[0].stat().st_mode & 0o777 == 0o600
    for process in sluice.processes():
        assert CANARY not in " ".join([*process.environ().values(), *process.cmdline()]), process
