"""Who logs in to Kafka, and how clients are told."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
from collections.abc import Sequence
from pathlib import Path

from sluice_localstack.errors import SettingInvalid
from sluice_localstack.files import private_directory, read_json, write_private
from sluice_localstack.processes import checked_name
from sluice_runtime.connection import KafkaConnection

ADMIN = "admin"
"""The one super user. No service has it."""
PASSWORD_BYTES = 32
SCRAM_ITERATIONS = 4096
"""Kafka's least. More would only cost time at each login: the passwords are random, so guessing is hopeless anyway."""
SASL_PLAINTEXT = "SASL_PLAINTEXT"
SCRAM_SHA_512 = "SCRAM-SHA-512"


class Credentials:
    """One file for each principal: `<directory>/<principal>.json`, mode 0600, in a directory of mode 0700.

    `{"bootstrap_servers", "username", "password"}`; where the cluster does not speak SASL_PLAINTEXT with SCRAM-SHA-512,
    also `security_protocol`, `sasl_mechanism` and `ssl_ca_file`. Services read them; a password stands nowhere else.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def file(self, principal: str) -> Path:
        """Where the principal's file is, or will be."""
        return self.directory / f"{checked_name(principal)}.json"

    def password(self, principal: str) -> str | None:
        """The password of the user with the principal's name; None if there is no file, or it names another user."""
        row = read_json(self.file(principal))
        return None if row is None or row.get("username") != principal else str(row["password"])

    def make(self, principals: Sequence[str]) -> list[str]:
        """Give each principal without a file a new random password; return those."""
        new = [name for name in principals if self.password(name) is None]
        for name in new:
            self.write(name, KafkaConnection("", name, secrets.token_urlsafe(PASSWORD_BYTES)))
        return new

    def write(self, principal: str, login: KafkaConnection) -> None:
        """Write the principal's file, if its content would change."""
        row: dict[str, str | None] = {
            "bootstrap_servers": login.bootstrap_servers,
            "username": login.username,
            "password": login.password,
        }
        if (login.security_protocol, login.sasl_mechanism) != (SASL_PLAINTEXT, SCRAM_SHA_512):
            row |= {"security_protocol": login.security_protocol, "sasl_mechanism": login.sasl_mechanism}
        if login.ssl_ca_file is not None:
            row["ssl_ca_file"] = login.ssl_ca_file
        private_directory(self.directory)
        if read_json(self.file(principal)) != row:
            write_private(self.file(principal), json.dumps(row))

    def login(self, principal: str, bootstrap_servers: str) -> KafkaConnection:
        """How the principal logs in to the stack's own broker.

        Raises:
            SettingInvalid: No such principal.
        """
        password = self.password(principal)
        if password is None:
            raise SettingInvalid(f"principal {principal!r} has no credentials; name it among the stack's principals")
        return KafkaConnection(bootstrap_servers, principal, password)


def scram_argument(name: str, password: str) -> str:
    """What `kafka-storage format --add-scram` takes, salted (RFC 5802 §3).

    Still as good as a password for whoever reads it: it belongs into a private file, not onto a command line.
    """
    salt = secrets.token_bytes(24)
    salted = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, SCRAM_ITERATIONS)
    encoded = [base64.b64encode(part).decode() for part in (salt, salted)]
    fields = f'name={name},iterations={SCRAM_ITERATIONS},salt="{encoded[0]}",saltedpassword="{encoded[1]}"'
    return f"{SCRAM_SHA_512}=[{fields}]"
