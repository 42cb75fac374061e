"""From Vault's audit file to SQL: who used which credential for what, and who was refused after its end."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import time
import uuid

import pytest
import requests

from sluice_contracts import codec
from sluice_contracts.envelope import CloudEvent
from sluice_contracts.messages.agent import AgentRun, AgentTurnFinished
from sluice_contracts.messages.pipeline import PipelineFailed
from sluice_contracts.messages.signal import ViolationReported
from sluice_localstack import VaultServer
from tests.e2e.test_breach import WORKS
from tests.installation import QUEUE, TENANT, Installation

PATH = "secret/data/api-keys/openrouter"
CANARY = "canary-of-the-audit-0123456789"


def opened(installation: Installation, run: CloudEvent[AgentRun], pipeline: str) -> tuple[str, str]:
    """The accessor and the token of an attempt's grant, as Vault's administrator opens it."""
    vault, grant = installation.stack.vault, run.data.grant
    assert isinstance(vault, VaultServer)
    assert grant is not None
    context = base64.b64encode(f"{pipeline}/{run.data.agent_id}/{run.data.attempt}".encode()).decode()
    body = {"ciphertext": grant.sealed, "context": context}
    found = vault.admin().write(f"transit/decrypt/sluice-queue-{QUEUE}", body)
    return grant.accessor, base64.b64decode(found["data"]["plaintext"]).decode()


def use(installation: Installation, token: str) -> int:
    vault = installation.stack.vault
    assert vault is not None
    headers = {"X-Vault-Token": token}
    return requests.get(f"{vault.address.url}/v1/{PATH}", headers=headers, timeout=20).status_code


@pytest.mark.covers("V4", "V5", "V7", "O2", "U2")
def test_the_refused_use_of_a_revoked_token_stands_in_sql(installation: Installation) -> None:
    vault = installation.stack.vault
    assert isinstance(vault, VaultServer)
    vault.admin().write(PATH, {"data": {"key": CANARY}})
    pipeline = installation.spawn(installation.scenario("audited", WORKS))
    installation.await_event(pipeline, AgentTurnFinished, topic=f"agent.events.{QUEUE}")
    [run] = installation.events(pipeline, AgentRun, f"agent.tasks.{QUEUE}")
    accessor, token = opened(installation, run, pipeline)
    assert use(installation, token) == 200
    violation = ViolationReported(policy="no-customer-data", severity="CRITICAL", detail="an address in a prompt")
    event = CloudEvent(str(uuid.uuid4()), "dlp-scanner", TENANT, pipeline, time.time_ns() // 1_000_000, violation)
    installation.write([codec.encode(event, topic="signals", key=pipeline)])
    installation.await_event(pipeline, PipelineFailed)
    assert use(installation, token) == 403

    where = f"FROM vault_audit WHERE accessor = '{accessor}' AND path = '{PATH}'"
    query = f"SELECT outcome, known_by, pipeline_id, tenant, agent_id, attempt, operation {where} ORDER BY at"
    installation.until(
        lambda: any(row["outcome"] == "refused" for row in installation.sql(query)), what="the refused use is in SQL"
    )
    rows = installation.sql(query)
    whose = {
        "pipeline_id": pipeline, "tenant": TENANT, "agent_id": run.data.agent_id, "attempt": run.data.attempt,
        "operation": "read",
    }  # fmt: skip
    assert {"outcome": "done", "known_by": "token", **whose} in rows
    assert rows[-1] == {"outcome": "refused", "known_by": "earlier_use", **whose}
    query = (
        "SELECT l.state AS state, l.reason AS reason, v.outcome AS outcome FROM vault_audit AS v"
        " JOIN token_lives AS l ON l.accessor = v.accessor"
        f" WHERE l.pipeline_id = '{pipeline}' AND l.agent_id != '' AND v.outcome = 'refused'"
    )
    assert installation.sql(query) == [{"state": "revoked", "reason": "policy_violation", "outcome": "refused"}]
    assert installation.sql("SELECT * FROM vault_audit_faults WHERE file NOT LIKE '0000%'") == []
    hidden = f"SELECT count() AS n FROM log WHERE position(payload, '{CANARY}') > 0 OR position(payload, '{token}') > 0"
    assert installation.sql(hidden) == [{"n": 0}]

    addresses = {name: f"http://127.0.0.1:{installation.stack.port(name)}" for name in ("api", "store")}
    environment = {**os.environ, "SLUICE_URL": addresses["api"], "SLUICE_SQL_URL": addresses["store"]}
    command = [sys.executable, "-m", "sluice_client", "tokens", pipeline, "--uses"]
    told = subprocess.run([*command, "--json"], env=environment, capture_output=True, text=True, check=True, timeout=60)
    assert [one for one in json.loads(told.stdout) if one["accessor"] == accessor and one["outcome"] == "refused"]
    shown = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60).stdout
    assert accessor in shown
    assert "refused" in shown
    assert [check for check in installation.stack.doctor() if check.name == "service vault-audit" and check.ok]
