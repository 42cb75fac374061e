"""Where an installation keeps, tells or shows anything: every byte of it, for a search."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from sluice_localstack.errors import ProvisioningFailed
from tests.gate import COMMANDS, JOURNAL
from tests.installation import OWN_STORES, PREFIX, SERVICES, Installation
from tests.integration.client.sluice import Sluice
from tests.log import Log

FILE_PIECE_BYTES, OVERLAP_BYTES = 16 << 20, 4 << 10
"""Files are looked at in pieces, which overlap by more than a secret is long."""

COMMANDS_AT_ONCE = 4


@dataclass(frozen=True)
class Place:
    """Something that can be looked at.

    Attributes:
        kind: topic, segment (of Kafka), file, row, http, cli, process.
        name: Which one.
    """

    kind: str
    name: str
    body: bytes


def everywhere(installation: Installation, pipelines: list[str]) -> Iterator[Place]:
    """All that there is. Files of mode 0600 whose purpose is to hold a secret are left out."""
    yield from _topics(installation)
    yield from _files(installation.directory)
    yield from _rows(installation)
    yield from _answers(installation, pipelines)
    yield from _commands(installation, pipelines)
    yield from _processes(installation)


def _topics(installation: Installation) -> Iterator[Place]:
    """Every record of every topic, dead letters and our own stores too, as a client gets it: compressed or not."""
    installation.log.catch_up()
    stores = Log(installation.connection(), PREFIX, without=installation.log.topics)
    stores.catch_up()
    assert set(stores.topics) == set(OWN_STORES)
    for topic, records in {**installation.log.records, **stores.records}.items():
        for record in records:
            parts = [record.key, record.value]
            for name, value in record.headers:
                parts += [name.encode(), value]
            yield Place("topic", topic, b"\n".join(part for part in parts if part))
    stores.close()


def _files(directory: Path) -> Iterator[Place]:
    """Logs, artifacts, workspaces, ClickHouse's parts, Kafka's segments, Vault's storage and audit, cores."""
    for folder, _, names in os.walk(directory):  # which does not mind what is taken away meanwhile
        for path in (Path(folder) / name for name in names):
            with contextlib.suppress(OSError):  # gone, or a socket
                holds = path.name in ("server.properties", "keys.json") or "credentials" in path.parts
                if holds and stat.S_IMODE(path.stat().st_mode) == 0o600:
                    continue
                kind = (
                    "segment" if path.suffix == ".log" and path.is_relative_to(directory / "kafka" / "data") else "file"
                )
                with path.open("rb") as file:
                    tail = b""
                    while piece := file.read(FILE_PIECE_BYTES):
                        if piece.count(0) < len(piece):  # an index that was made at its full size
                            yield Place(kind, str(path.relative_to(directory)), tail + piece)
                        tail = piece[-OVERLAP_BYTES:]


def _rows(installation: Installation) -> Iterator[Place]:
    """Every row of every table, as it is answered: on disk it is compressed."""
    tables = installation.sql("SELECT name FROM system.tables WHERE database = currentDatabase() AND engine != 'View'")
    assert {"log", "positions", "gaps"} <= {table["name"] for table in tables}
    for table in tables:
        for row in installation.sql(f"SELECT * FROM {table['name']}"):
            yield Place("row", table["name"], "\n".join(map(str, row.values())).encode())


def _answers(installation: Installation, pipelines: list[str]) -> Iterator[Place]:
    """Every GET of the api, for each pipeline, agent and artifact, and for names of nothing; and each service's own."""
    for service in SERVICES:
        for path in ("/livez", "/readyz", "/metrics"):
            yield Place("http", f"{service}{path}", installation.get(service, path).body)
    agents, artifacts = set[str](), set[str]()
    for pipeline in pipelines:
        told = installation.get("api", f"/runs/{pipeline}/status").json
        agents |= set(told.get("agents", {}))
        artifacts |= set(re.findall(r'"sha256":"([0-9a-f]{64})"', json.dumps(told, separators=(",", ":"))))
        events = installation.get("api", f"/runs/{pipeline}/events?limit=1000").body.decode()
        artifacts |= set(re.findall(r'"sha256":\s*"([0-9a-f]{64})"', events))
    values: dict[str, list[str]] = {
        "pipeline_id": [*pipelines, "nothing"], "agent_id": [*sorted(agents), "nothing"],
        "sha256": [*sorted(artifacts), "0" * 64],
    }  # fmt: skip
    routes = installation.get("api", "/openapi.json").json["paths"]
    asked = 0
    for route, methods in routes.items():
        if "get" not in methods:
            continue
        needed = [one["name"] for one in methods["get"].get("parameters", ()) if one["name"] in values]
        for value in values[needed[0]] if needed else [""]:
            path = route.replace(f"{{{needed[0]}}}", value) if needed else route
            query = "" if not needed or path != route else f"?{needed[0]}={value}"
            answer = installation.get("api", path + query)
            assert answer.status < 500, (path, answer)
            asked += 1
            yield Place("http", path + query, answer.body)
    assert asked >= sum("get" in methods for methods in routes.values()) > 10


def _commands(installation: Installation, pipelines: list[str]) -> Iterator[Place]:
    """What the command prints, for people or as JSON, and where it fails."""
    sluice = Sluice(installation.directory)
    lines = [["list", "--all"], ["alerts"], ["dlq", "list"], ["topics", "list"], ["budgets", "list"], ["doctor"],
             ["status", "nothing"], ["sql", "SELECT * FROM nothing"], ["vault", "apply"]]  # fmt: skip
    for number, pipeline in enumerate(pipelines):
        form = ["--json"] if number % 2 else []
        lines += [[name, pipeline, *form] for name in ("status", "events", "logs", "artifacts", "tokens", "handoff")]
    with ThreadPoolExecutor(COMMANDS_AT_ONCE) as pool:
        for line, ran in zip(lines, pool.map(lambda line: sluice(*line), lines), strict=True):
            yield Place("cli", " ".join(line), f"{ran.out}\n{ran.err}".encode())


def _processes(installation: Installation) -> Iterator[Place]:
    """The environment and the command line of every process of the installation, and of this one's other children."""
    found = {process.pid for process in psutil.Process().children(recursive=True)}
    assert {installation.stack.pid(service) for service in SERVICES} <= found
    for pid in found:
        with contextlib.suppress(OSError):
            for name in ("environ", "cmdline"):
                yield Place("process", f"{pid}/{name}", Path(f"/proc/{pid}/{name}").read_bytes())


def sealed_tokens(installation: Installation) -> dict[str, str]:
    """Every token of the log and the journal, by a name: grants as runners open them, others as the broker does.

    Whoever has Vault's root token may open them all; nobody else may open more than his own.
    """
    vault, found = installation.stack.vault, dict[str, str]()
    assert vault is not None
    admin = vault.admin()

    def opened(key: str, sealed: str, context: str) -> str:
        body = {"ciphertext": sealed, "context": base64.b64encode(context.encode()).decode()}
        return base64.b64decode(admin.write(f"transit/decrypt/{key}", body)["data"]["plaintext"]).decode()

    history = installation.history()
    for event in history.events("token.events"):
        data: Any = event.data
        if getattr(data, "grant", None) is not None:
            context = f"{event.subject}/{data.agent_id}/{data.attempt}"
            name = f"token of agent {data.agent_id}, attempt {data.attempt}"
            found[name] = opened(f"sluice-queue-{data.queue}", data.grant.sealed, context)
    stores = Log(installation.connection(), PREFIX, without=installation.log.topics)
    stores.catch_up()
    kept = {
        text.decode()
        for record in stores.records[JOURNAL]
        for text in re.findall(rb"vault:v\d+:[A-Za-z0-9+/=]+", record.value or b"")
    }
    stores.close()
    subjects = {event.subject for event in history.events(COMMANDS)}
    for number, sealed in enumerate(sorted(kept)):
        for subject in subjects:
            with contextlib.suppress(ProvisioningFailed):  # another pipeline's, or a grant: opened above
                found[f"kept token {number} of {subject}"] = opened("sluice-broker", sealed, subject)
                break
    return found
