"""The generated documents are current, lawful, and say what the topic table says."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from sluice_contracts import topics
from sluice_contracts.messages import registry
from tests.contracts.examples import SCHEMAS


def generate(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(directory / "generate.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((SCHEMAS / "asyncapi.yaml").read_text())
    return loaded


@pytest.mark.covers("C1")
def test_the_generated_files_are_current() -> None:
    checked = generate(SCHEMAS, "--check")
    assert checked.returncode == 0, checked.stderr


def test_the_check_sees_what_is_changed_stale_or_missing(tmp_path: Path) -> None:
    copy = tmp_path / "schemas"
    shutil.copytree(SCHEMAS, copy)
    (copy / "asyncapi.yaml").write_text("asyncapi: 2.0.0\n")
    (copy / "openapi.json").write_text("{}")
    (copy / "pipeline.spawn.v1.schema.json").unlink()
    (copy / "pipeline.gone.v1.schema.json").write_text("{}")
    checked = generate(copy, "--check")
    assert checked.returncode == 1
    for name in ("asyncapi.yaml", "openapi.json", "pipeline.spawn.v1.schema.json", "pipeline.gone.v1.schema.json"):
        assert f"schemas/{name} is not current" in checked.stderr
    assert generate(copy).returncode == 0
    assert generate(copy, "--check").returncode == 0
    assert not (copy / "pipeline.gone.v1.schema.json").exists()


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        for name, value in node.items():
            if name == "$ref":
                yield value
            else:
                yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


@pytest.mark.covers("C1")
def test_every_reference_resolves(document: dict[str, Any]) -> None:
    found = set(references(document))
    assert len(found) > len(registry())
    for reference in found:
        file, _, pointer = reference.partition("#")
        node: Any = json.loads((SCHEMAS / file).read_text()) if file else document
        for part in pointer.strip("/").split("/") if pointer else []:
            assert part in node, f"{reference} leads nowhere"
            node = node[part]


@pytest.mark.covers("C1")
def test_it_has_the_form_of_asyncapi_3(document: dict[str, Any]) -> None:
    assert document["asyncapi"] == "3.0.0"
    assert {"title", "version"} <= document["info"].keys()
    lawful = re.compile(r"^[A-Za-z0-9.\-_]+$")
    for section in (document["channels"], document["operations"], *document["components"].values()):
        assert all(lawful.match(name) for name in section)
    for channel in document["channels"].values():
        placeholders = set(re.findall(r"\{(\w+)\}", channel["address"]))
        assert placeholders == set(channel.get("parameters", {}))
        kafka = channel["bindings"]["kafka"]
        assert kafka["topic"] == channel["address"]
        assert kafka["partitions"] >= 1
    for name, operation in document["operations"].items():
        assert operation["action"] in ("send", "receive"), name
        assert operation["channel"]["$ref"].startswith("#/channels/")


@pytest.mark.covers("C1")
def test_it_names_all_topics_messages_and_rights(document: dict[str, Any]) -> None:
    for row in topics.TOPICS:
        name = row.for_queue("queue")
        channel = document["channels"][name]
        assert set(channel["messages"]) == {f"{message.type}.v{message.version}" for message in row.messages}
        operations = document["operations"]
        assert {one.split(".send.")[0] for one in operations if one.endswith(f".send.{name}") and "dlq" not in one} >= {
            str(writer) for writer in row.writers
        }
        for principal in topics.Principal:
            reads = f"{principal}.receive.{name}" in operations
            looking = (topics.Principal.SPAWNER, topics.Principal.VAULT_BROKER, topics.Principal.MONITOR)
            looks_back = principal in looking and principal in row.writers
            assert reads == (principal in row.readers or looks_back), f"{principal} on {name}"
        if row.refused_by is not None:
            assert f"{row.refused_by}.send.dlq.{name}" in operations
    assert document["components"]["messages"].keys() - {"record.refused"} == {f"{t}.v{v}" for t, v in registry()}


@pytest.mark.covers("U1")
def test_every_route_of_http_has_a_place_in_its_page() -> None:
    page = (SCHEMAS.parent / "docs" / "http.md").read_text()
    paths = json.loads((SCHEMAS / "openapi.json").read_text())["paths"]
    assert len(paths) > 15
    assert [path for path in paths if path not in page] == []
    blocks = "".join(re.findall(r"```bash\n(.*?)```", page, re.DOTALL))
    called = re.findall(r"\$URL(/[^\s?\"]+)", blocks)
    patterns = {path: re.sub(r"\{\w+\}", "[^/]+", path) for path in paths}
    assert [path for path, one in patterns.items() if not any(re.fullmatch(one, call) for call in called)] == []
