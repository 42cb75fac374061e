"""What the stack is given: topics, principals, ACLs, services."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

ResourceType = Literal["topic", "group", "transactional_id", "cluster"]
Pattern = Literal["literal", "prefixed"]


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """A topic as it shall be. Configurations that are not named keep the broker's value."""

    name: str
    partitions: int
    configs: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Principal:
    """A Kafka user (SCRAM)."""

    name: str


@dataclass(frozen=True, slots=True)
class AclRule:
    """A principal may do these operations on these resources, from every host.

    Attributes:
        principal: The name, without `User:`.
        resource: A name, or its beginning where `pattern` is "prefixed"; "kafka-cluster" for the cluster.
        operations: In Kafka's words, lower case: read, write, create, delete, alter, describe, cluster_action,
            describe_configs, alter_configs, idempotent_write, all.
    """

    principal: str
    resource_type: ResourceType
    pattern: Pattern
    resource: str
    operations: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ServiceSpec:
    """A process to run beside Kafka.

    Attributes:
        name: Unique; names its log, `<data>/logs/<name>.log`.
        argv: The program and its arguments. No secret belongs here: every user of the machine can read it.
        environment: All the variables it gets, beside PATH, HOME, LANG, LC_ALL, TZ, TMPDIR and USER. No secret belongs
            here either: name a file, as `LocalStack.credentials_file`.
        restart: Start it again when it ends by itself.
        ready_url: Answers 2xx when the service is ready; None: it is ready as soon as it runs.
        working_directory: Default: the stack's data directory.
    """

    name: str
    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    restart: bool = True
    ready_url: str | None = None
    working_directory: Path | None = None
