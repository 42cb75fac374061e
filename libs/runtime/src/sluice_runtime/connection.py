"""How to reach Kafka: one description, for both client libraries."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


class CredentialsError(Exception):
    """The credentials file can't be used. The message names the file, what is wrong, and what to do."""


@dataclass(frozen=True, slots=True)
class KafkaConnection:
    """Bootstrap servers and, where the broker asks for it, SASL/SCRAM credentials.

    The password is left out of `repr`, so that no log can show it.
    """

    bootstrap_servers: str
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    security_protocol: str = "SASL_PLAINTEXT"
    sasl_mechanism: str = "SCRAM-SHA-512"

    @classmethod
    def from_file(cls, path: Path) -> KafkaConnection:
        """Reads a JSON object with bootstrap_servers, username, password and, optionally, security_protocol.

        Raises:
            CredentialsError: The file is missing, unreadable, not JSON, or lacks a member.
        """
        try:
            content = json.loads(path.read_text())
            return cls(
                bootstrap_servers=content["bootstrap_servers"],
                username=content["username"],
                password=content["password"],
                security_protocol=content.get("security_protocol", "SASL_PLAINTEXT"),
                sasl_mechanism=content.get("sasl_mechanism", "SCRAM-SHA-512"),
            )
        except OSError as error:
            raise CredentialsError(f"{path}: {error.strerror}; set SLUICE_KAFKA_CREDENTIALS_FILE") from None
        except (ValueError, KeyError, TypeError) as error:
            kind = f"member {error} is missing" if isinstance(error, KeyError) else "not a JSON object"
            raise CredentialsError(f"{path}: {kind}; it holds bootstrap_servers, username and password") from None

    def aiokafka(self) -> dict[str, Any]:
        """Arguments for aiokafka's clients."""
        if self.username is None:
            return {"bootstrap_servers": self.bootstrap_servers}
        return {
            "bootstrap_servers": self.bootstrap_servers,
            "security_protocol": self.security_protocol,
            "sasl_mechanism": self.sasl_mechanism,
            "sasl_plain_username": self.username,
            "sasl_plain_password": self.password,
        }

    def confluent(self) -> dict[str, str]:
        """Configuration for confluent-kafka's clients."""
        if self.username is None or self.password is None:
            return {"bootstrap.servers": self.bootstrap_servers}
        return {
            "bootstrap.servers": self.bootstrap_servers,
            "security.protocol": self.security_protocol,
            "sasl.mechanism": self.sasl_mechanism,
            "sasl.username": self.username,
            "sasl.password": self.password,
        }
