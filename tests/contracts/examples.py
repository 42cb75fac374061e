"""The examples kept by hand in schemas/examples, as records."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sluice_contracts import codec, topics
from sluice_contracts.envelope import Record
from sluice_contracts.messages import Message, registry

SCHEMAS = Path(__file__).resolve().parents[2] / "schemas"


@dataclass(frozen=True)
class Example:
    """One file: a CloudEvent in structured mode."""

    path: Path
    name: str
    version: int
    document: dict[str, Any]

    @property
    def message(self) -> type[Message]:
        return registry()[self.name, self.version]

    @property
    def topic(self) -> str:
        return topics.topic_of(self.message).for_queue("default")

    @property
    def key(self) -> bytes:
        row = topics.topic_of(self.message)
        data: dict[str, Any] = self.document["data"]
        key: str = data["agent_id"] if row.key == "agent_id" else self.document["subject"]
        if row.key == "scope":
            key = "/".join(data[name] for name in ("scope", "name") if name in data)
        return key.encode()

    def structured(self) -> Record:
        value = json.dumps(self.document).encode()
        return Record(self.topic, 0, 0, 1, self.key, value, (("content-type", codec.STRUCTURED_CONTENT_TYPE),))

    def binary(self) -> Record:
        attributes = {name: value for name, value in self.document.items() if name not in ("data", "datacontenttype")}
        headers = [(f"ce_{name}", value.encode()) for name, value in attributes.items()]
        value = json.dumps(self.document["data"]).encode()
        return Record(self.topic, 0, 0, 1, self.key, value, (*headers, ("content-type", codec.JSON_CONTENT_TYPE)))


def load() -> list[Example]:
    found = []
    for path in sorted((SCHEMAS / "examples").glob("*/v*/*.json")):
        version = int(path.parent.name.removeprefix("v"))
        found.append(Example(path, path.parent.parent.name, version, json.loads(path.read_text())))
    return found


EXAMPLES = load()
NAMES = [f"{one.name}-v{one.version}-{one.path.stem}" for one in EXAMPLES]
