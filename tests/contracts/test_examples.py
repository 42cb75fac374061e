"""Every example that was ever written still means what it meant (style, rule 5)."""

from __future__ import annotations

import json

import pytest
from jsonschema import Draft202012Validator, ValidationError

from sluice_contracts import codec
from sluice_contracts.envelope import Record
from sluice_contracts.messages import registry
from tests.contracts.examples import EXAMPLES, NAMES, SCHEMAS, Example

examples = pytest.mark.parametrize("example", EXAMPLES, ids=NAMES)


def test_every_message_has_an_example() -> None:
    missing = registry().keys() - {(one.name, one.version) for one in EXAMPLES}
    assert not missing, f"write schemas/examples/<type>/v<version>/<name>.json for {sorted(missing)}"


def test_no_example_lost_its_message() -> None:
    unknown = {(one.name, one.version) for one in EXAMPLES} - registry().keys()
    assert not unknown, f"a message that was published must stay readable: {sorted(unknown)}"


@pytest.mark.covers("C1")
@examples
def test_an_example_means_the_same_in_both_modes(example: Example) -> None:
    structured = codec.decode(example.structured())
    assert codec.decode(example.binary()) == structured
    assert (structured.type, structured.data.version) == (example.name, example.version)
    for name, found in [
        ("id", structured.id),
        ("source", structured.source),
        ("subject", structured.subject),
        ("tenant", structured.tenant),
        ("time", codec.format_time(structured.time_ms)),
        ("causationid", structured.causation_id),
        ("traceparent", structured.traceparent),
    ]:
        assert found == example.document.get(name), name
    assert structured.sequence == (int(example.document["sequence"]) if "sequence" in example.document else None)


@pytest.mark.covers("C1")
@examples
def test_an_example_is_written_as_it_was_read(example: Example) -> None:
    event = codec.decode(example.structured())
    written = codec.encode(event, topic=example.topic, key=example.key.decode())
    assert written.value is not None
    assert json.loads(written.value) == example.document["data"]
    assert codec.decode(Record(written.topic, 0, 0, 1, written.key, written.value, written.headers)) == event


@pytest.mark.covers("C1")
@examples
def test_an_example_satisfies_its_schema(example: Example) -> None:
    schema = json.loads((SCHEMAS / f"{example.name}.v{example.version}.schema.json").read_text())
    Draft202012Validator.check_schema(schema)
    assert schema["$id"] == example.document["dataschema"]
    Draft202012Validator(schema).validate(example.document["data"])


@pytest.mark.covers("C1")
def test_the_schemas_refuse_what_the_codec_refuses() -> None:
    schema = json.loads((SCHEMAS / "agent.attempt_started.v1.schema.json").read_text())
    for data in (
        {},
        {"agent_id": "a", "attempt": 0, "runner_id": "r"},
        {"agent_id": "/", "attempt": 1, "runner_id": "r"},
    ):
        with pytest.raises(ValidationError):
            Draft202012Validator(schema).validate(data)
