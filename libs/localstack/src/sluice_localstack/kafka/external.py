"""A Kafka cluster that somebody else runs, with the broker's surface."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from sluice_localstack.component import Check
from sluice_localstack.doctor import login_check
from sluice_localstack.errors import LocalStackError, NotReady, SettingInvalid
from sluice_localstack.kafka.admin import Admin
from sluice_localstack.kafka.login import ADMIN, SASL_PLAINTEXT, SCRAM_SHA_512, Credentials
from sluice_runtime.connection import CredentialsError, KafkaConnection


def external_login(environment: Mapping[str, str] | None = None) -> KafkaConnection | None:
    """The login that the settings give; None if no cluster is given.

    `KAFKA_BOOTSTRAP_SERVERS`; `KAFKA_USERNAME` with `KAFKA_PASSWORD_FILE`; `KAFKA_SECURITY_PROTOCOL` (default
    SASL_PLAINTEXT with a user name, else PLAINTEXT); `KAFKA_SASL_MECHANISM` (default SCRAM-SHA-512);
    `KAFKA_SSL_CA_FILE`. The password itself is never a setting.

    Raises:
        SettingInvalid: The settings do not fit together, or a file that they name cannot be used.
    """
    settings = os.environ if environment is None else environment
    servers = settings.get("KAFKA_BOOTSTRAP_SERVERS")
    if not servers:
        return None
    username, password_file = settings.get("KAFKA_USERNAME"), settings.get("KAFKA_PASSWORD_FILE")
    if bool(username) != bool(password_file):
        raise SettingInvalid("KAFKA_USERNAME and KAFKA_PASSWORD_FILE go together; set both or neither")
    password = None
    if password_file:
        try:
            password = Path(password_file).read_text(encoding="utf-8").strip()
        except OSError as error:
            raise SettingInvalid(
                f"KAFKA_PASSWORD_FILE {password_file} cannot be read: {error.strerror}; correct the path"
            ) from error
    ca_file = settings.get("KAFKA_SSL_CA_FILE")
    login = KafkaConnection(
        servers,
        username or None,
        password,
        settings.get("KAFKA_SECURITY_PROTOCOL") or (SASL_PLAINTEXT if username else "PLAINTEXT"),
        settings.get("KAFKA_SASL_MECHANISM") or SCRAM_SHA_512,
        str(Path(ca_file).expanduser().absolute()) if ca_file else None,  # the services work in another directory
    )
    fault = login.fault()
    if fault is not None:
        raise SettingInvalid(f"KAFKA_SECURITY_PROTOCOL, KAFKA_SSL_CA_FILE: {fault}")
    return login


def external_credentials(environment: Mapping[str, str] | None = None) -> Path | None:
    """The directory with the principals' own files, `KAFKA_CREDENTIALS_DIRECTORY`; None if none is given."""
    given = (os.environ if environment is None else environment).get("KAFKA_CREDENTIALS_DIRECTORY")
    return Path(given).expanduser().absolute() if given else None


class ExternalKafka:
    """A given cluster. Nothing of it is started or stopped.

    With `provision` the given login is an administrator's: each principal becomes a SCRAM-SHA-512 user with a random
    password of its own. With `given_credentials` each principal has the file that the owner made there. With neither
    all principals use the given login, and its owner has to see to the rights.

    Args:
        login: From `external_login`.
        principals: Who needs a credentials file.
        credentials_directory: Where those are written.
        provision: Whether users may be created (and, by the stack, topics and ACLs).
        given_credentials: A directory with `<principal>.json` for each principal, instead of one login for all.

    Raises:
        SettingInvalid: Users are to be created, and their credentials are given.
    """

    name = "kafka"

    def __init__(
        self,
        login: KafkaConnection,
        *,
        principals: Sequence[str],
        credentials_directory: Path,
        provision: bool,
        given_credentials: Path | None = None,
    ) -> None:
        if provision and given_credentials is not None:
            raise SettingInvalid(
                f"KAFKA_CREDENTIALS_DIRECTORY {given_credentials}: users that are created here get files of our own; "
                "leave it out"
            )
        self.credentials = Credentials(given_credentials or credentials_directory)
        self._given = given_credentials is not None
        self.provision = provision
        self._login = login
        self._principals = tuple(principals)

    @property
    def bootstrap_servers(self) -> str:
        """As given."""
        return self._login.bootstrap_servers

    def login(self, principal: str = ADMIN) -> KafkaConnection:
        """How a principal logs in; `admin` is the given login.

        Raises:
            SettingInvalid: No such principal, or its given file can't be used.
        """
        if self._given and principal in self._principals:
            try:
                return KafkaConnection.from_file(self.credentials_file(principal))
            except CredentialsError as error:
                raise SettingInvalid(f"KAFKA_CREDENTIALS_DIRECTORY: {error}") from None
        if principal == ADMIN or (not self.provision and principal in self._principals):
            return self._login
        own = self.credentials.login(principal, self.bootstrap_servers)
        protocol, ca_file = self._login.security_protocol, self._login.ssl_ca_file
        return dataclasses.replace(own, security_protocol=protocol, ssl_ca_file=ca_file)

    def client_config(self, principal: str = ADMIN) -> dict[str, str]:
        """Settings for a confluent-kafka client that logs in as the principal."""
        return self.login(principal).confluent()

    def credentials_file(self, principal: str) -> Path:
        """The file a service reads to log in as the principal."""
        return self.credentials.file(principal)

    def admin(self) -> Admin:
        """Topics, users and ACLs, with the rights of the given login."""
        return Admin(self._login)

    def start(self) -> None:
        """Log in, create the users if that was asked, and write the credentials files; given ones are only read.

        Raises:
            SettingInvalid: A given credentials file can't be used.
            LoginRefused: The cluster refuses the given login.
            NotReady: It does not answer.
            ProvisioningFailed: The given login may not create users.
        """
        if not self.admin().answers():
            raise NotReady(
                f"Kafka at {self.bootstrap_servers} does not answer as {self._login.security_protocol}; "
                "correct KAFKA_BOOTSTRAP_SERVERS or KAFKA_SECURITY_PROTOCOL"
            )
        if self.provision:
            self.credentials.make(self._principals)
            self.admin().set_passwords({name: self.credentials.password(name) or "" for name in self._principals})
        for name in self._principals:
            login = self.login(name)
            if not self._given:
                self.credentials.write(name, login)

    def ready(self) -> bool:
        """Whether the given login works now."""
        try:
            return self.admin().answers()
        except LocalStackError:
            return False

    def stop(self) -> None:
        """Nothing: the cluster is somebody else's."""

    def doctor(self) -> list[Check]:
        """Whether the cluster answers and takes the login."""
        return [login_check(self.admin(), self.bootstrap_servers)]
