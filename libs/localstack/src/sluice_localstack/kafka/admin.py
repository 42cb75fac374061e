"""The administrator's calls: topics, users and ACLs brought to what a table says."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar, cast

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialAlteration,
    UserScramCredentialUpsertion,
)

from sluice_localstack.errors import LoginRefused, NotReady, ProvisioningFailed, SettingInvalid
from sluice_localstack.kafka.login import SCRAM_ITERATIONS
from sluice_localstack.tables import AclRule, TopicSpec
from sluice_runtime.connection import KafkaConnection

CALL_TIMEOUT_S = 20.0
ANSWER_TIMEOUT_S = 2.0
VISIBLE_TIMEOUT_S = 60.0
"""Reading is behind writing by a moment: a change counts as made when it can be read."""
POLL_S = 0.02
BROKERS_REPLICATION = -1
"""Kafka's word for its own `default.replication.factor`: one on a single node, the owner's choice on a cluster."""

Result = TypeVar("Result")


class Admin:
    """A connection with the administrator's rights. Nothing it does removes data.

    All methods raise `LoginRefused` if the cluster refuses the login, `NotReady` if it does not answer, and
    `ProvisioningFailed` if it refuses the change.
    """

    def __init__(self, login: KafkaConnection) -> None:
        self._login = login
        self._refusal: str | None = None
        config: dict[str, Any] = {
            **login.confluent(),
            "error_cb": self._on_error,
            "log_level": 0,  # what goes wrong comes as an exception
            "reconnect.backoff.ms": 50,
            "reconnect.backoff.max.ms": 200,
            "socket.timeout.ms": int(CALL_TIMEOUT_S * 1_000),
        }
        self._client = AdminClient(config)

    def answers(self) -> bool:
        """Whether a broker answers within 2 s.

        Raises:
            LoginRefused: It answered that user name or password are wrong.
        """
        self._refusal = None
        with contextlib.suppress(KafkaException):
            return bool(self._client.list_topics(timeout=ANSWER_TIMEOUT_S).brokers)
        self._client.poll(0)
        if self._refusal is not None:
            raise self._login_refused()
        return False

    # -- topics

    def apply_topics(self, topics: Sequence[TopicSpec], *, replication: int = BROKERS_REPLICATION) -> list[str]:
        """Create the topics that are missing, and set the configurations that differ. No topic is ever deleted.

        Returns when the new topics can be seen and have leaders.

        Args:
            topics: As they shall be.
            replication: Copies of each new topic; those that exist keep theirs. Default: the cluster's own default.

        Returns:
            The names that were created or changed.

        Raises:
            ProvisioningFailed: A topic exists with another number of partitions.
        """
        existing = self._partitions()
        for topic in topics:
            found = existing.get(topic.name, topic.partitions)
            if found != topic.partitions:
                raise ProvisioningFailed(
                    f"topic {topic.name} has {found} partitions, the table says {topic.partitions}; the count of a "
                    "topic with data is fixed: change the table, or start with a new data directory"
                )
        new = [topic for topic in topics if topic.name not in existing]
        if new:
            rows = [NewTopic(topic.name, topic.partitions, replication, config=dict(topic.configs)) for topic in new]
            self._settle(self._client.create_topics(rows), "topic {}")
        changed = self._update_configs([topic for topic in topics if topic.name in existing])
        wanted = {topic.name: topic.partitions for topic in topics}
        self._until(lambda: wanted.items() <= self._partitions(led=True).items(), "topics")
        return [topic.name for topic in new] + changed

    def topics(self) -> set[str]:
        """The topics there are, internal ones too."""
        return set(self._partitions())

    def _partitions(self, *, led: bool = False) -> dict[str, int]:
        """The number of partitions of each topic; with `led` only of those that have a leader."""
        found = self._call(lambda: self._client.list_topics(timeout=CALL_TIMEOUT_S)).topics
        return {
            name: sum(partition.leader >= 0 or not led for partition in topic.partitions.values())
            for name, topic in found.items()
        }

    def _update_configs(self, topics: Sequence[TopicSpec]) -> list[str]:
        topics = [topic for topic in topics if topic.configs]
        if not topics:
            return []
        resources = [ConfigResource(ConfigResource.Type.TOPIC, topic.name) for topic in topics]
        described = self._client.describe_configs(resources)
        actual = {resource.name: self._result(future) for resource, future in described.items()}
        changes = []
        for topic in topics:
            found: Mapping[str, ConfigEntry] = actual[topic.name]
            entries = [
                ConfigEntry(key, value, incremental_operation=AlterConfigOpType.SET)
                for key, value in topic.configs.items()
                if key not in found or found[key].value != value
            ]
            if entries:
                changes.append(ConfigResource(ConfigResource.Type.TOPIC, topic.name, incremental_configs=entries))
        if changes:
            self._settle(self._client.incremental_alter_configs(changes), "configuration of {}")
        return [change.name for change in changes]

    # -- users

    def users(self) -> set[str]:
        """The SCRAM users there are."""
        answer = cast("Future[dict[str, object]]", self._client.describe_user_scram_credentials())
        users = self._result(answer)
        return set(users)

    def set_passwords(self, passwords: Mapping[str, str]) -> None:
        """Create users, or give them other passwords; returns when the broker knows the users."""
        if not passwords:
            return
        rows: list[UserScramCredentialAlteration] = [
            UserScramCredentialUpsertion(
                name, ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, SCRAM_ITERATIONS), password.encode()
            )
            for name, password in passwords.items()
        ]
        self._settle(self._client.alter_user_scram_credentials(rows), "user {}")
        self._until(lambda: passwords.keys() <= self.users(), f"users {', '.join(passwords)}")

    # -- ACLs

    def apply_acls(
        self, rules: Iterable[AclRule], *, principals: Collection[str] | None = None, prefix: str = ""
    ) -> tuple[int, int]:
        """Make the cluster's ACLs those of the table: create the missing ones, delete the others.

        Returns when the broker shows exactly those.

        Args:
            rules: The whole table.
            principals: Whose ACLs the table speaks for; ACLs of others are left alone. None: everybody's.
            prefix: The beginning of the names that the table speaks for; ACLs on others are left alone, so that two
                installations can share a cluster and its principals.

        Returns:
            How many were created and deleted.
        """
        wanted = {binding for rule in rules for binding in bindings(rule)}
        owners = None if principals is None else {f"User:{name}" for name in principals}

        def actual() -> set[AclBinding]:
            return {
                acl
                for acl in self._acls()
                if (owners is None or acl.principal in owners) and acl.name.startswith(prefix)
            }

        before = actual()
        missing, extra = wanted - before, before - wanted
        if missing:
            self._settle(self._client.create_acls(list(missing)), "{}")
        if extra:
            self._settle(self._client.delete_acls([_exactly(acl) for acl in extra]), "{}")
        if missing or extra:
            self._until(lambda: actual() == wanted, "ACLs")
        return len(missing), len(extra)

    def _acls(self) -> list[AclBinding]:
        every: Any = None  # the library's types do not allow the None that means any
        everything = AclBindingFilter(
            ResourceType.ANY, every, ResourcePatternType.ANY, every, every, AclOperation.ANY, AclPermissionType.ANY
        )
        return list(self._result(self._client.describe_acls(everything)))

    # -- calls and their errors

    def _settle(self, futures: Mapping[Any, Future[Any]], thing: str) -> None:
        for key, future in futures.items():
            self._result(future, thing.format(getattr(key, "name", key)))

    def _result(self, future: Future[Result], thing: str = "") -> Result:
        return self._call(lambda: future.result(CALL_TIMEOUT_S), thing)

    def _call(self, call: Callable[[], Result], thing: str = "") -> Result:
        try:
            return call()
        except (KafkaException, TimeoutError) as error:
            self._client.poll(0)
            if self._refusal is not None:
                raise self._login_refused() from error
            reason = error.args[0] if isinstance(error, KafkaException) else KafkaError(KafkaError._TIMED_OUT)
            where = f"Kafka at {self._login.bootstrap_servers}"
            if reason.retriable() or reason.code() in _SILENCE:
                raise NotReady(f"{where} does not answer ({reason.str()}); see whether it runs") from error
            raise ProvisioningFailed(
                f"{where} refused {thing or 'a call'} for {self._login.username}: {reason.str()} ({reason.name()}); "
                "correct the table or the administrator's rights"
            ) from error

    def _until(self, condition: Callable[[], bool], thing: str) -> None:
        deadline = time.monotonic() + VISIBLE_TIMEOUT_S
        while not condition():
            if time.monotonic() > deadline:
                raise NotReady(
                    f"Kafka took {thing} but did not show them within {VISIBLE_TIMEOUT_S:.0f} s; start again"
                )
            time.sleep(POLL_S)

    def _on_error(self, error: KafkaError) -> None:
        if error.code() == KafkaError._AUTHENTICATION:
            self._refusal = error.str()

    def _login_refused(self) -> LoginRefused:
        return LoginRefused(
            f"Kafka at {self._login.bootstrap_servers} refused the login of {self._login.username!r}: {self._refusal}; "
            "correct the user name or the password"
        )


_SILENCE = (
    KafkaError._TIMED_OUT,
    KafkaError._TRANSPORT,
    KafkaError._ALL_BROKERS_DOWN,
    KafkaError._TIMED_OUT_QUEUE,
)


def bindings(rule: AclRule) -> list[AclBinding]:
    """The rule as Kafka keeps it: one binding for each operation.

    Raises:
        SettingInvalid: A resource type, pattern or operation is not one of Kafka's.
    """
    try:
        resource_type = _RESOURCE_TYPES[rule.resource_type]
        pattern = ResourcePatternType[rule.pattern.upper()]
        operations = [AclOperation[operation.upper()] for operation in rule.operations]
    except KeyError as error:
        raise SettingInvalid(
            f"ACL of {rule.principal} on {rule.resource}: Kafka has no {error}; correct the rule"
        ) from error
    who = f"User:{rule.principal}"
    return [
        AclBinding(resource_type, rule.resource, pattern, who, "*", operation, AclPermissionType.ALLOW)
        for operation in operations
    ]


_RESOURCE_TYPES = {
    "topic": ResourceType.TOPIC,
    "group": ResourceType.GROUP,
    "transactional_id": ResourceType.TRANSACTIONAL_ID,
    "cluster": ResourceType.BROKER,  # librdkafka's name for it; its wire number is that of CLUSTER
}


def _exactly(acl: AclBinding) -> AclBindingFilter:
    return AclBindingFilter(
        acl.restype, acl.name, acl.resource_pattern_type, acl.principal, acl.host, acl.operation, acl.permission_type
    )
