"""The contract as documents, for whoever is not Python: JSON Schema for each message, AsyncAPI 3 for the topics (C1).

Pure functions of the messages and the topic table; `schemas/generate.py` writes what they return.

Sources: JSON Schema 2020-12; AsyncAPI 3.0.0 with its Kafka bindings 0.5.0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sluice_contracts import handoff, topics
from sluice_contracts.codec import SPEC_VERSION, schema_id
from sluice_contracts.dead_letters import HEADERS_DROPPED, RECORD_REFUSED
from sluice_contracts.errors import Refusal
from sluice_contracts.ids import INSTALLATION_ID
from sluice_contracts.limits import ATTRIBUTE_MAX_CHARACTERS, HEADERS_MAX_COUNT
from sluice_contracts.messages import Message

Document = dict[str, Any]

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_SCHEMA_FORMAT = "application/schema+json;version=2020-12"
_BINDING_VERSION = "0.5.0"
_QUEUE = "{queue}"
_LOGIN = "scramSha512"
_KEYS = {
    "pipeline_id": "The pipeline's id: the attribute subject.",
    "pipeline_id/entity": "The pipeline's id, a slash, and the entity's name.",
    "pipeline_id/installation": f"The attribute subject: the pipeline's id, or {INSTALLATION_ID}.",
    "agent_id": "The agent's id: the member agent_id of the data.",
    "runner_id": "The runner's id: the attribute subject.",
    "partition": "The partition's number.",
    "scope": "`installation`, `tenant/<tenant>` or `pipeline/<pipeline_id>`.",
}


def schema_file(message: type[Message]) -> str:
    """The name of the file that holds a message's JSON Schema."""
    return f"{message.type}.v{message.version}.schema.json"


def message_schema(message: type[Message], examples: Sequence[Any] = ()) -> Document:
    """The JSON Schema of a message's data. Members that it does not name are lawful: a newer writer may add some.

    Args:
        message: The class.
        examples: Data of the message that are shown in the schema.
    """
    generated = message.model_json_schema(mode="validation")
    generated.pop("title", None)
    head: Document = {"$schema": DIALECT, "$id": schema_id(message), "title": message.type}
    if message.__doc__:
        head["description"] = _one_paragraph(generated.pop("description", message.__doc__))
    document = {**head, **generated}
    if examples:
        document["examples"] = list(examples)
    return document


def handoff_report_schema() -> Document:
    """The JSON Schema of the handoff report, a document in the artifact store."""
    generated = handoff.HandoffReport.model_json_schema(mode="serialization")
    generated.pop("title", None)
    description = _one_paragraph(generated.pop("description"))
    return {
        "$schema": DIALECT,
        "$id": handoff.SCHEMA_ID,
        "title": "handoff-report",
        "description": description,
    } | generated


def asyncapi(*, prefix: str, partitions: int) -> Document:
    """The AsyncAPI document of all topics: what stands on them, with which key, and who may write and read.

    Args:
        prefix: Before every topic's name.
        partitions: The count of partitions shown for co-partitioned topics.
    """
    concrete = topics.concrete_topics(queues=[_QUEUE], partitions=partitions)
    messages = {_message_id(message): message for row in topics.TOPICS for message in row.messages}
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Sluice",
            "version": "1.0.0",
            "description": (
                f"Teams of LLM agents as pipelines of events. Every message is a CloudEvent {SPEC_VERSION}: in binary "
                "mode its attributes are headers with the prefix ce_ and its data are the value, plain JSON; in "
                "structured mode (content-type application/cloudevents+json) the value is the whole event. Services "
                "write binary mode and read both.\n\n"
                f"Topics stand behind the prefix {prefix!r}, a setting of the installation. {{queue}} stands for the "
                "name of a queue of agents. Who may write and read a topic is enforced by the broker's ACLs, which "
                "are generated from the same table as the operations here."
            ),
        },
        "defaultContentType": "application/json",
        "servers": {
            "kafka": _server("kafka", "security_protocol SASL_PLAINTEXT, the default: for one machine."),
            "kafka-tls": _server("kafka-secure", "security_protocol SASL_SSL: what leaves a machine."),
        },
        "channels": {one.name.replace(_QUEUE, "queue"): _channel(one, prefix) for one in concrete},
        "operations": _operations(concrete),
        "components": {
            "securitySchemes": {
                _LOGIN: {
                    "type": _LOGIN,
                    "description": "sasl.mechanism SCRAM-SHA-512. A credentials file holds bootstrap_servers, username "
                    "and password, and where they differ from the defaults security_protocol (SASL_PLAINTEXT), "
                    "sasl_mechanism, and ssl_ca_file (the system's authorities).",
                }
            },
            "schemas": {"CloudEventHeaders": _headers_schema(), "DeadLetterHeaders": _dead_letter_headers_schema()},
            "messages": {
                **{name: _message(name, message) for name, message in sorted(messages.items())},
                RECORD_REFUSED: _dead_letter_message(),
            },
        },
    }


def _server(protocol: str, description: str) -> Document:
    return {
        "host": "{bootstrap_servers}",
        "protocol": protocol,
        "description": description,
        "variables": {"bootstrap_servers": {"description": "As the credentials file says."}},
        "security": [{"$ref": f"#/components/securitySchemes/{_LOGIN}"}],
    }


def _message_id(message: type[Message]) -> str:
    return f"{message.type}.v{message.version}"


def _one_paragraph(text: str) -> str:
    return "\n\n".join(" ".join(part.split()) for part in text.strip().split("\n\n"))


def _is_dead_letters(concrete: topics.ConcreteTopic) -> bool:
    return concrete.name == topics.dead_letter_topic(concrete.row.for_queue(_QUEUE))


def _channel(concrete: topics.ConcreteTopic, prefix: str) -> Document:
    row = concrete.row
    dead = _is_dead_letters(concrete)
    original = row.for_queue(_QUEUE)
    messages = [RECORD_REFUSED] if dead else [_message_id(message) for message in row.messages]
    description = f"What {row.refused_by} refused of {original}, with the reason." if dead else row.doc
    if row.internal and not dead:
        description += " One service's own store: the format is its own and may change."
    channel: Document = {
        "address": prefix + concrete.name,
        "title": concrete.name,
        "description": description,
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in messages},
        "bindings": {
            "kafka": {
                "topic": prefix + concrete.name,
                "partitions": concrete.partitions,
                "topicConfiguration": _configuration(concrete.configs),
                "bindingVersion": _BINDING_VERSION,
            }
        },
        "x-key": "As in the refused record." if dead else _KEYS[row.key],
        "x-partitioning": "single" if dead else row.partitioning,
    }
    if row.per_queue:
        channel["parameters"] = {"queue": {"description": "The queue of agents, such as default."}}
    return channel


def _configuration(configs: dict[str, str]) -> Document:
    found: Document = {}
    for name, value in configs.items():
        found[name] = [value] if name == "cleanup.policy" else int(value) if value.lstrip("-").isdigit() else value
    return found


def _operations(concrete: Sequence[topics.ConcreteTopic]) -> Document:
    """One operation for each right that the ACLs give a principal on a topic."""
    by_name = {one.name: one for one in concrete}
    found: Document = {}
    for rule in topics.acls(concrete, prefix=""):
        if rule.resource_type != "topic":
            continue
        channel = rule.resource.replace(_QUEUE, "queue")
        names = list(_channel(by_name[rule.resource], "")["messages"])
        for operation, action, verb in (("write", "send", "writes"), ("read", "receive", "reads")):
            if operation in rule.operations:
                found[f"{rule.principal}.{action}.{channel}"] = {
                    "action": action,
                    "channel": {"$ref": f"#/channels/{channel}"},
                    "title": f"{rule.principal} {verb} {rule.resource}",
                    "messages": [{"$ref": f"#/channels/{channel}/messages/{name}"} for name in names],
                    "tags": [{"name": str(rule.principal)}],
                }
    return found


def _message(name: str, message: type[Message]) -> Document:
    row = topics.topic_of(message)
    constants = {"ce_type": {"const": message.type}, "ce_dataschema": {"const": schema_id(message)}}
    return {
        "name": message.type,
        "title": message.type,
        "summary": _one_paragraph(message.__doc__ or message.type).split("\n\n")[0],
        "contentType": "application/json",
        "headers": {
            "allOf": [{"$ref": "#/components/schemas/CloudEventHeaders"}, {"type": "object", "properties": constants}]
        },
        "payload": {"schemaFormat": _SCHEMA_FORMAT, "schema": {"$ref": f"./{schema_file(message)}"}},
        "bindings": {
            "kafka": {
                "key": {"type": "string", "description": _KEYS[row.key]},
                "bindingVersion": _BINDING_VERSION,
            }
        },
    }


def _text(description: str, **more: Any) -> Document:
    return {"type": "string", "description": description, **more}


def _headers_schema() -> Document:
    properties = {
        "ce_specversion": {"const": SPEC_VERSION},
        "ce_id": _text("Unique for each source; a repeated message has the id of the first."),
        "ce_source": _text("<service>/<instance>. The names of services are theirs alone; choose another one."),
        "ce_type": _text("The message's type."),
        "ce_dataschema": _text("urn:sluice:<type>:v<version>. Without it, version 1."),
        "ce_time": _text("RFC 3339. Without it, the record's timestamp.", format="date-time"),
        "ce_subject": _text("The pipeline's id; the runner's for heartbeats. Without it, the record's key."),
        "ce_tenant": _text("Whose it is. Without it, the installation's own."),
        "ce_causationid": _text("The id of the message that caused this one."),
        "ce_sequence": _text("Grows with each message of one source about one subject.", pattern="^[0-9]{1,18}$"),
        "traceparent": _text("W3C Trace Context."),
        "content-type": _text("application/json, or application/cloudevents+json for structured mode."),
    }
    for schema in properties.values():
        if "const" not in schema:
            schema["maxLength"] = ATTRIBUTE_MAX_CHARACTERS
    required = ["ce_specversion", "ce_id", "ce_source", "ce_type"]
    return {"type": "object", "description": "In binary mode.", "properties": properties, "required": required}


def _dead_letter_headers_schema() -> Document:
    number = {"type": "string", "pattern": "^-?[0-9]+$"}
    properties = {
        "ce_id": _text("Derived from the refused record's place: refusing it again gives the same id."),
        "ce_type": {"const": RECORD_REFUSED},
        "dlq_reason": _text("The class of the fault.", enum=[str(reason) for reason in Refusal]),
        "dlq_detail": _text("What was found, and what was expected."),
        "dlq_topic": _text("Where the refused record stands, without the prefix."),
        "dlq_partition": number,
        "dlq_offset": number,
        "dlq_timestamp_ms": number,
        "dlq_refused_by": _text("Who refused it."),
    }
    dropped = {**number, "description": "How many headers of the record are left out; only where some are."}
    return {
        "type": "object",
        "description": f"The refused record's own headers, the first {HEADERS_MAX_COUNT} of them, stand under their "
        "names with the prefix dlq_original_.",
        "properties": {**properties, HEADERS_DROPPED: dropped},
        "required": sorted(properties),
    }


def _dead_letter_message() -> Document:
    return {
        "name": RECORD_REFUSED,
        "title": RECORD_REFUSED,
        "summary": "A record that breaks the contract: its original key and bytes, with the reason in the headers.",
        "contentType": "application/octet-stream",
        "headers": {"$ref": "#/components/schemas/DeadLetterHeaders"},
    }
