"""Planted secrets are found nowhere where they do not belong."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import stat
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from sluice_contracts import codec
from sluice_contracts.envelope import CloudEvent, OutgoingRecord
from sluice_contracts.messages.agent import AgentTurnFinished
from sluice_contracts.messages.base import ArtifactRef
from sluice_contracts.messages.pipeline import PipelineAnswer, PipelineCompleted, PipelineTick, QuestionAsked
from sluice_contracts.messages.plan import Plan, TaskSpec
from sluice_localstack import KafkaBroker, VaultServer
from tests.installation import OWN_STORES, PREFIX, SERVICES, TENANT, Installation, owned_environment
from tests.log import Log

READS = """
agents:
  - turns:
      - text: "I remember the key {said}, and look."
        tool_calls:
          - {{name: read_file, arguments: {{path: app.env}}}}
          - {{name: search_files, arguments: {{pattern: "."}}}}
      - assert: [{{tool: read_file, pattern: 'DB_PASSWORD=\\[redacted:'}}]
        tool_calls:
          - {{name: write_artifact, arguments: {{name: notes.md, kind: report, content: "token: {said}"}}}}
          - {{name: ask_human, arguments: {{question: "May I use {said}?"}}}}
      - tool_calls: [{{name: finish, arguments: {{summary: "password={said}", result: "{said}"}}}}]
"""


class Canaries:
    """Secrets that are like no other text, by where they were planted."""

    def __init__(self) -> None:
        self.file = f"canary{secrets.token_hex(12)}"
        self.said = f"sk-canary-{secrets.token_hex(16)}9"
        self.objective = f"canary{secrets.token_hex(12)}"
        self.answer = f"canary{secrets.token_hex(12)}"
        self.stranger = f"canary{secrets.token_hex(12)}"
        self.token = f"sk-canary-{secrets.token_hex(16)}9"


@pytest.mark.covers("V4", "O1", "O7", "W5", "D2")
def test_canaries(installation: Installation) -> None:
    """In an input, a model's words, a plan, an answer, a stranger's record; and the passwords of Kafka's users."""
    canaries = Canaries()
    body = f"# settings\nDB_PASSWORD={canaries.file}\n".encode()
    digest = hashlib.sha256(body).hexdigest()
    own = _lay(installation.directory / "artifacts", digest, body)
    secret = TaskSpec(
        id="look", role="researcher", objective=f"Log in with password: {canaries.objective}",
        success_criteria=(f"api_key={canaries.objective}",),
        inputs=(ArtifactRef(sha256=digest, size_bytes=len(body), name="app.env"),),
    )  # fmt: skip
    model = installation.scenario("canaries", READS.format(said=canaries.said))
    objective = f"Look with the token: {canaries.objective}"
    pipeline = installation.submit(Plan(objective=objective, tasks=(secret,), model=model))
    asked = installation.await_event(pipeline, QuestionAsked)
    answer = PipelineAnswer(question_id=asked.data.question_id, answer=f"yes, with password={canaries.answer}")
    installation.send(pipeline, answer)
    installation.await_event(pipeline, PipelineCompleted)
    turns = installation.events(pipeline, AgentTurnFinished, "agent.events.default")
    assert len(turns) == 3
    assert "[redacted:" in (turns[0].data.prompt.text or ""), "the agent is told, but for the secret"
    query = f"SELECT count() AS n FROM log WHERE pipeline_id = '{pipeline}' AND type = 'pipeline.completed'"
    installation.until(lambda: installation.sql(query)[0]["n"], what="all of it is in the log")
    written = installation.write(_by_a_stranger(pipeline, canaries))
    places = ", ".join(f"({partition}, {offset})" for partition, offset in written)
    for table, expected in (("log", len(written)), ("dead_letters", len(written) - 1)):
        query = (
            f"SELECT count() AS n FROM {table} WHERE topic = 'pipeline.commands' AND (partition, offset) IN ({places})"
        )
        installation.until(lambda: installation.sql(query)[0]["n"] == expected, what=f"{expected} rows of {table}")  # noqa: B023

    passwords = [*_passwords(installation.directory), *_vault_secrets(installation)]
    strangers = {canaries.stranger, canaries.token}
    planted = [canaries.file, canaries.said, canaries.objective, canaries.answer, *strangers, *passwords]
    assert len(passwords) > len(SERVICES)
    # What a person writes into a command stands on that topic as he wrote it, and nowhere behind it; what is refused
    # stands on the dead letters' as well, so that it can be replayed, and in the journal until the next checkpoint: the
    # letter is written from there.
    theirs = {
        "pipeline.commands": {canaries.objective, canaries.answer, *strangers},
        "dlq.pipeline.commands": strangers,
        "pipeline.journal": strangers,
    }
    for topic, found in _on_topics(installation, planted).items():
        assert found <= theirs.get(topic, set()), topic
    assert set(_in_files(installation, planted, {own, installation.scenarios / "canaries.yaml"})) == set()
    assert _in_sql(installation, planted) == {}
    for service in SERVICES:
        pid = installation.stack.pid(service)
        assert pid is not None
        assert [one for one in planted if one.encode() in owned_environment(pid)] == [], service
    kafka, vault = installation.stack.kafka, installation.stack.vault
    assert isinstance(kafka, KafkaBroker)
    assert isinstance(vault, VaultServer)
    for process in (kafka, vault):
        assert [one for one in planted if one.encode() in owned_environment(process.pid or 0)] == []


@pytest.mark.covers("D2")
def test_only_the_owner_can_read_the_data_directory(installation: Installation) -> None:
    """Files and folders of the installation, but for what this test has laid in itself, are nobody else's."""
    for name in ("credentials", "credentials/vault", "vault", "kafka", "clickhouse", "artifacts", "workspaces", "logs"):
        root = installation.directory / name
        assert stat.S_IMODE(root.stat().st_mode) & 0o077 == 0, name
    files = [path for path in (installation.directory / "credentials").rglob("*") if path.is_file()]
    for file in [
        *files,
        installation.directory / "vault" / "keys.json",
        installation.directory / "vault" / "audit.log",
    ]:
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file.name


def _by_a_stranger(pipeline: str, canaries: Canaries) -> list[OutgoingRecord]:
    """A lawful command with a header too many, and invalid ones with a secret in each part."""
    event = CloudEvent(str(uuid.uuid4()), "test", TENANT, pipeline, time.time_ns() // 1_000_000, PipelineTick())
    good = codec.encode(event, topic="pipeline.commands", key=pipeline)
    secret, token = f"password={canaries.stranger}".encode(), canaries.token.encode()
    authorization = ("authorization", f"Bearer {canaries.stranger}".encode())
    texts = dict.fromkeys(("ce_id", "ce_source", "ce_type", "ce_tenant", "ce_causationid", "ce_time"), secret)
    bad = {**dict(good.headers), **texts, "ce_subject": token, "traceparent": token}
    body = b'{"password": "%s", "note": "\xff"}' % canaries.stranger.encode()
    return [
        replace(good, headers=(*good.headers, authorization)),
        replace(good, value=body, headers=(*good.headers, authorization)),
        replace(good, key=secret, headers=tuple(bad.items())),
        *(replace(good, key=secret, headers=tuple({**dict(good.headers), name: bad[name]}.items())) for name in bad),
    ]


def _passwords(directory: Path) -> Iterator[str]:
    for file in (directory / "credentials").glob("*.json"):
        yield json.loads(file.read_text())["password"]


def _vault_secrets(installation: Installation) -> Iterator[str]:
    vault = installation.stack.vault
    assert isinstance(vault, VaultServer)
    keys = vault.keys.needed()
    yield from (keys.unseal_key, keys.root_token)
    for role in ("vault-broker", "agent-runner"):
        credentials = installation.stack.vault_credentials.read(role)
        assert credentials is not None
        yield credentials[1]


def _on_topics(installation: Installation, planted: list[str]) -> dict[str, set[str]]:
    """By topic, what of the planted stands in any key, value or header."""
    installation.log.catch_up()
    stores = Log(installation.connection(), PREFIX, without=installation.log.topics)
    stores.catch_up()
    assert set(stores.topics) == set(OWN_STORES)
    records = {**installation.log.records, **stores.records}
    found = {
        topic: {
            one for record in those
            for part in (record.key, record.value, *(value for _, value in record.headers)) if part
            for one in planted if one.encode() in part
        }
        for topic, those in records.items()
    }  # fmt: skip
    stores.close()
    return found


def _in_files(installation: Installation, planted: list[str], own: set[Path]) -> Iterator[tuple[Path, str]]:
    """Files of the installation that hold something planted, where it does not belong.

    Kafka's segments are looked at by topic, above. A file of credentials, and the broker's own settings, hold passwords
    and are their owner's alone; so are Vault's keys, and the services' SecretIDs.
    """
    pattern = re.compile(b"|".join(re.escape(one.encode()) for one in planted))
    for folder, _, names in os.walk(installation.directory):  # which does not mind what ClickHouse takes away meanwhile
        for path in (Path(folder) / name for name in names):
            if path in own or path.is_relative_to(installation.directory / "kafka" / "data"):
                continue
            try:
                body, mode = path.read_bytes(), path.stat().st_mode
            except OSError:  # gone, or a socket
                continue
            keeps_passwords = path.name in ("server.properties", "keys.json") or "credentials" in path.parts
            if not (keeps_passwords and stat.S_IMODE(mode) == 0o600):
                yield from ((path, match.decode()) for match in pattern.findall(body))


def _in_sql(installation: Installation, planted: list[str]) -> dict[str, int]:
    """Columns of any table that hold something planted: files of ClickHouse are compressed."""
    columns = installation.sql(
        "SELECT table, name, type FROM system.columns WHERE database = currentDatabase() AND type LIKE '%String%'"
        " AND table IN ('log', 'positions', 'gaps')"
    )
    assert len(columns) > 15
    found = {}
    for column in columns:
        text = f"toString({column['name']})"
        where = " OR ".join(f"position({text}, '{one}') > 0" for one in planted)
        [counted] = installation.sql(f"SELECT count() AS n FROM {column['table']} WHERE {where}")
        if counted["n"]:
            found[f"{column['table']}.{column['name']}"] = counted["n"]
    return found


def _lay(artifacts: Path, digest: str, body: bytes) -> Path:
    """Lays a body into the artifact store, as a client does."""
    folder = artifacts / digest[:2]
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    (folder / digest).write_bytes(body)
    os.chmod(folder / digest, 0o600)
    return folder / digest
