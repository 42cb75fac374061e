"""`topics`: what the contract says of them, and making them so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sluice_client.cli import options, output

if TYPE_CHECKING:
    from sluice_client.installation import Installation
    from sluice_contracts.topics import ConcreteTopic
    from sluice_localstack import Admin

app = typer.Typer(help="Topics: list them, and create what is missing.", no_args_is_help=True)

DAY_MS = 86_400_000

Queues = Annotated[
    list[str] | None, typer.Option("--queue", help="A queue; may be repeated. Default: those of the roles.")
]
Roles = Annotated[
    Path | None, typer.Option("--roles", metavar="DIRECTORY", help="Roles of your own, for their queues.")
]
Partitions = Annotated[
    int, typer.Option("--partitions", min=1, max=1_000, help="Of co-partitioned topics; fixed at creation.")
]
Prefix = Annotated[str, typer.Option("--prefix", help="Before every topic's name.", envvar="SLUICE_TOPIC_PREFIX")]
Replication = Annotated[
    int | None,
    typer.Option("--replication", min=1, max=100, help="Copies of each new topic; default: what the cluster says."),
]
Bootstrap = Annotated[str | None, typer.Option("--bootstrap", metavar="HOST:PORT", help="Of a given cluster.")]
Credentials = Annotated[
    Path | None,
    typer.Option(
        "--credentials", metavar="FILE", help="Of that cluster's administrator: JSON with username and password."
    ),
]


@app.command("list")
def list_topics(
    queues: Queues = None,
    roles: Roles = None,
    partitions: Partitions = 8,
    prefix: Prefix = "sluice.",
    bootstrap: Bootstrap = None,
    credentials: Credentials = None,
    data: options.Data = None,
    as_json: options.AsJson = False,
) -> None:
    """List the contract's topics; with a cluster at hand, whether they exist there."""
    installation = _installation(data)
    if installation is not None and bootstrap is None:
        prefix, partitions = installation.topic_prefix, installation.partitions
        queues = queues or list(installation.queues)
    wanted = _wanted(queues, roles, partitions)
    existing = _existing(installation, bootstrap, credentials)
    rows = [_row(topic, prefix, existing) for topic in wanted]
    if as_json:
        output.data(rows)
    else:
        output.show(
            ("topic", "exists", "parts", "key", "retention", "written by", "read by", "what"),
            [
                (row["topic"], {True: "yes", False: "NO", None: "?"}[row["exists"]], row["partitions"], row["key"],
                 row["retention"], " ".join(row["writers"]), " ".join(row["readers"]), row["doc"])
                for row in rows
            ],
        )  # fmt: skip


@app.command("apply")
def apply_topics(
    queues: Queues = None,
    roles: Roles = None,
    partitions: Partitions = 8,
    prefix: Prefix = "sluice.",
    replication: Replication = None,
    bootstrap: Bootstrap = None,
    credentials: Credentials = None,
    data: options.Data = None,
    as_json: options.AsJson = False,
) -> None:
    """Create the topics that are missing, set configurations and access rules that differ. Deletes no topic.

    The cluster is that of --bootstrap and --credentials, else of KAFKA_BOOTSTRAP_SERVERS, else the local stack's. The
    principals' users are not made here: their names and passwords are the cluster's owner's.
    """
    from sluice_client.errors import NotRunning
    from sluice_contracts.topics import Principal, acls
    from sluice_localstack import AclRule, TopicSpec
    from sluice_localstack.kafka.admin import BROKERS_REPLICATION

    installation = _installation(data)
    admin = _admin(installation, bootstrap, credentials)
    if admin is None:
        raise NotRunning("no cluster is at hand; give --bootstrap and --credentials, or start a stack: sluice up")
    if installation is not None and bootstrap is None:
        prefix, partitions = installation.topic_prefix, installation.partitions
        queues = queues or list(installation.queues)
    wanted = _wanted(queues, roles, partitions)
    changed = admin.apply_topics(
        [TopicSpec(prefix + one.name, one.partitions, one.configs) for one in wanted],
        replication=replication or BROKERS_REPLICATION,
    )
    rules = [
        AclRule(rule.principal, rule.resource_type, rule.pattern, rule.resource, rule.operations)
        for rule in acls(wanted, prefix=prefix)
    ]
    created, deleted = admin.apply_acls(rules, principals=[str(one) for one in Principal], prefix=prefix)
    if as_json:
        output.data({"topics": len(wanted), "changed": changed, "rules_created": created, "rules_deleted": deleted})
        return
    for name in changed:
        output.say(f"made {name}")
    output.say(
        f"{len(wanted)} topics stand as the table says, {len(changed)} changed; "
        f"{created} rules created, {deleted} deleted"
    )


def _wanted(queues: list[str] | None, roles: Path | None, partitions: int) -> list[ConcreteTopic]:
    from sluice_client.errors import InputInvalid
    from sluice_contracts.topics import concrete_topics
    from sluice_runtime.roles import load_roles, queues_by_role
    from sluice_runtime.yaml_files import InvalidFile

    try:
        known = queues or sorted(set(queues_by_role(load_roles([roles] if roles else [])).values()))
    except InvalidFile as error:
        raise InputInvalid(str(error)) from None
    return concrete_topics(queues=known, partitions=partitions)


def _installation(data: Path | None) -> Installation | None:
    from sluice_client.errors import NotRunning
    from sluice_client.installation import data_directory, saved

    try:
        return saved(data_directory(data))
    except NotRunning:
        return None


def _admin(installation: Installation | None, bootstrap: str | None, credentials: Path | None) -> Admin | None:
    from sluice_client.errors import InputInvalid
    from sluice_localstack import Admin, external_login
    from sluice_runtime.connection import CredentialsError, KafkaConnection

    if bootstrap is not None and credentials is None:
        return Admin(KafkaConnection(bootstrap))
    if credentials is None:
        given = external_login()
        if given is not None:
            return Admin(given)
        if installation is None:
            return None
        credentials = installation.credentials_file("admin")
    try:
        found = KafkaConnection.from_file(credentials)
    except CredentialsError as error:
        raise InputInvalid(str(error)) from None
    return Admin(found if bootstrap is None else replace(found, bootstrap_servers=bootstrap))


def _existing(installation: Installation | None, bootstrap: str | None, credentials: Path | None) -> set[str] | None:
    admin = _admin(installation, bootstrap, credentials)
    return None if admin is None else admin.topics()


def _row(topic: ConcreteTopic, prefix: str, existing: set[str] | None) -> dict[str, Any]:
    from sluice_contracts.topics import Principal, acls

    rules = [rule for rule in acls([topic], prefix=prefix) if rule.resource_type == "topic"]

    def who(operation: str) -> list[str]:
        return [
            str(one)
            for one in Principal
            if any(rule.principal is one and operation in rule.operations for rule in rules)
        ]

    retention = topic.configs.get("retention.ms")
    dead = topic.name.startswith("dlq.")
    return {
        "topic": prefix + topic.name,
        "exists": None if existing is None else prefix + topic.name in existing,
        "partitions": topic.partitions,
        "key": "the original's" if dead else topic.row.key,
        "retention": "latest"
        if retention is None
        else "for ever"
        if retention == "-1"
        else f"{int(retention) // DAY_MS} d",
        "writers": who("write"),
        "readers": who("read"),
        "doc": f"Refused on {topic.name.removeprefix('dlq.')}." if dead else topic.row.doc,
    }
