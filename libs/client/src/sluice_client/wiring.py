"""The one place that composes an installation on one machine: topics, principals, rights, services."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sluice_client.installation import Installation
from sluice_contracts import topics
from sluice_localstack import (
    AclRule,
    LocalStack,
    OnProgress,
    Principal,
    ServiceSpec,
    StartFailed,
    TopicSpec,
    vault_table,
)
from sluice_localstack.progress import silent
from sluice_localstack.vault.table import PIPELINE_MAX_TTL
from sluice_runtime.connection import ClickHouseAddress
from sluice_runtime.roles import load_roles, queues_by_role
from sluice_runtime.vault import names as vault_names

API, STORE, MONITOR, SPAWNER, RUNNER, BROKER = "api", "store", "monitor", "spawner", "agent-runner", "vault-broker"
AUDIT = "vault-audit"
"""The names of the services in the stack, as in `sluice up`'s output, the logs and the tests."""


@dataclass(frozen=True)
class Settings:
    """What one installation on this machine is to be.

    Attributes:
        partitions: Of co-partitioned topics; fixed when the topics are created.
        roles_directories: Roles of one's own, beside the shipped ones.
        scenarios_directory: Where the scripted model finds scenarios.
        clickhouse_url: `http(s)://user@host:port/database` of a server, instead of the embedded engine.
        clickhouse_password_file: That user's password.
        sql_user: Another user of that server, who may only read: the api and `sluice sql` ask as him. None: they ask as
            the one who writes, and have the server refuse whatever does not only read.
        sql_password_file: That reader's password.
        sql_readonly: Whether queries are sent with `readonly=1`; False for a reader who may not set it.
        model_provider: Who answers for tasks that name no model; what it needs stands in the runner's environment.
        vault_pipeline_max_ttl: The explicit maximum of a pipeline's token in Vault, such as `24h`.
        environment: Further settings for all services; what is wired here wins over them.
        service_environment: Settings for single services, by service name; they win over what is wired here.
    """

    data_directory: Path
    partitions: int = 8
    topic_prefix: str = "sluice."
    roles_directories: tuple[Path, ...] = ()
    scenarios_directory: Path | None = None
    clickhouse_url: str | None = None
    clickhouse_password_file: Path | None = None
    sql_user: str | None = None
    sql_password_file: Path | None = None
    sql_readonly: bool = True
    model_provider: str = "scripted"
    vault_pipeline_max_ttl: str = PIPELINE_MAX_TTL
    environment: Mapping[str, str] = field(default_factory=dict)
    service_environment: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @property
    def queues(self) -> list[str]:
        """The queues of all roles."""
        return sorted(set(queues_by_role(load_roles(self.roles_directories)).values()))


def compose(settings: Settings, progress: OnProgress = silent, **options: object) -> LocalStack:
    """The stack of an installation; not started.

    Args:
        settings: What it is to be.
        progress: Is told what happens.
        **options: For `LocalStack`.
    """
    wanted = topics.concrete_topics(queues=settings.queues, partitions=settings.partitions)
    prefix = settings.topic_prefix

    def services(stack: LocalStack) -> list[ServiceSpec]:
        _expect_topics(stack, [prefix + one.name for one in wanted])
        return services_of(settings, stack)

    return LocalStack(
        settings.data_directory,
        topics=[TopicSpec(prefix + one.name, one.partitions, one.configs) for one in wanted],
        principals=[Principal(one) for one in topics.Principal],
        acls=[
            AclRule(rule.principal, rule.resource_type, rule.pattern, rule.resource, rule.operations)
            for rule in topics.acls(wanted, prefix=prefix)
        ],
        services=services,
        progress=progress,
        vault=vault_table(settings.queues, settings.vault_pipeline_max_ttl),
        **options,  # type: ignore[arg-type]
    )


def _expect_topics(stack: LocalStack, wanted: Sequence[str]) -> None:
    """A given cluster is its owner's: nothing is created there unasked, and services would wait for ever.

    Raises:
        StartFailed: A topic is missing.
    """
    missing = sorted(set(wanted) - stack.kafka.admin().topics())
    if missing:
        raise StartFailed(
            f"Kafka at {stack.bootstrap_servers} lacks {len(missing)} topics, such as {missing[0]}; create them: "
            "sluice topics apply"
        )


def installation_of(settings: Settings, stack: LocalStack) -> Installation:
    """What clients of a stack that runs have to know."""
    server = _server_settings(settings)
    return Installation(
        api_url=_url(stack, API),
        sql_url=server.get("sql_url") or _url(stack, STORE),
        sql_user=server.get("sql_user"),
        sql_password_file=server.get("sql_password_file") or None,
        sql_database=server.get("sql_database"),
        sql_readonly=settings.sql_readonly,
        kafka=stack.bootstrap_servers,
        credentials_directory=str(stack.credentials_file(topics.Principal.OPERATOR).parent),
        artifacts_url=_artifacts_url(settings),
        scenarios_directory=None if settings.scenarios_directory is None else str(settings.scenarios_directory),
        topic_prefix=settings.topic_prefix,
        queues=tuple(settings.queues),
        partitions=settings.partitions,
        model_provider=settings.model_provider,
        vault_addr=None if stack.vault is None else stack.vault.address.url,
        vault_ca_file=None if stack.vault is None else stack.vault.address.ca_file,
        vault_credentials_directory=str(stack.vault_credentials.directory),
        vault_pipeline_max_ttl=settings.vault_pipeline_max_ttl,
        data_directory=str(stack.directory),
    )


def vault_settings(stack: LocalStack, role: str) -> dict[str, str]:
    """How a service is told where Vault is and by which files it logs in, as `SLUICE_VAULT_…`; for `service(**…)`."""
    if stack.vault is None:
        return {}
    files = stack.vault_credentials.files(role)
    return {
        "vault_addr": stack.vault.address.url,
        "vault_ca_file": stack.vault.address.ca_file or "",
        "vault_role_id_file": str(files.role_id_file),
        "vault_secret_id_file": str(files.secret_id_file),
    }


def _url(stack: LocalStack, service: str) -> str:
    return f"http://127.0.0.1:{stack.port(service)}"


def _artifacts_url(settings: Settings) -> str:
    return (settings.data_directory.absolute() / "artifacts").as_uri()


def _server_settings(settings: Settings) -> dict[str, str]:
    """How the api and clients ask a given ClickHouse server; empty where the store's own endpoint answers.

    The names are the store's own where the URL has none, so that both mean one database.
    """
    if settings.clickhouse_url is None:
        return {}
    address = ClickHouseAddress.parse(settings.clickhouse_url, "CLICKHOUSE_URL")
    password_file = settings.sql_password_file if settings.sql_user else settings.clickhouse_password_file
    return {
        "sql_url": address.url,
        "sql_user": settings.sql_user or address.user or "default",
        "sql_password_file": str(password_file or ""),
        "sql_database": address.database or "default",
        "sql_readonly": str(settings.sql_readonly).lower(),
    }


def services_of(settings: Settings, stack: LocalStack) -> list[ServiceSpec]:
    """The services of an installation, as processes of its stack."""
    directory = settings.data_directory.absolute()

    def service(name: str, principal: topics.Principal, *arguments: str, **own: str) -> ServiceSpec:
        common = {
            "kafka_credentials_file": str(stack.credentials_file(principal)),
            "topic_prefix": settings.topic_prefix,
            "http_port": str(stack.port(name)),
        }
        wired = {f"SLUICE_{key.upper()}": value for key, value in {**common, **own}.items() if value}
        return ServiceSpec(
            name,
            (sys.executable, "-m", *arguments),
            {**settings.environment, **wired, **settings.service_environment.get(name, {})},
            restart=True,
            ready_url=f"{_url(stack, name)}/readyz",
        )

    queues, artifacts_url = ",".join(settings.queues), _artifacts_url(settings)
    roles = ",".join(map(str, settings.roles_directories))
    audit_file = None if stack.vault is None else stack.vault.audit_file
    audited = [] if audit_file is None else [
        service(
            AUDIT, topics.Principal.VAULT_AUDIT, "sluice_vault_broker", "audit", vault_audit_file=str(audit_file)
        )
    ]  # fmt: skip
    return [
        service(SPAWNER, topics.Principal.SPAWNER, "sluice_spawner", queues=queues, roles_directories=roles),
        service(
            BROKER, topics.Principal.VAULT_BROKER, "sluice_vault_broker",
            queues=queues,
            **vault_settings(stack, vault_names.BROKER),
        ),
        *audited,
        service(
            RUNNER, topics.Principal.AGENT_RUNNER, "sluice_agent_runner",
            queues=queues,
            artifacts_url=artifacts_url,
            roles_directories=roles,
            workspaces_directory=str(directory / "workspaces"),
            scenarios_directory=str(settings.scenarios_directory or ""),
            model_provider=settings.model_provider,
            **vault_settings(stack, vault_names.RUNNER),
        ),
        service(
            STORE, topics.Principal.OBSERVABILITY, "sluice_observability", "store",
            clickhouse_directory=str(directory / "clickhouse"),
            clickhouse_url=settings.clickhouse_url or "",
            clickhouse_password_file=str(settings.clickhouse_password_file or ""),
        ),
        service(MONITOR, topics.Principal.MONITOR, "sluice_observability", "monitor"),
        service(
            API, topics.Principal.OBSERVABILITY, "sluice_observability", "api",
            artifacts_url=artifacts_url,
            **(_server_settings(settings) or {"sql_url": _url(stack, STORE)}),
        ),
    ]  # fmt: skip
