"""How to reach Kafka and ClickHouse: one description of each, for every client library."""

from __future__ import annotations

import json
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

SECURITY_PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
"""Kafka's; there are no others."""


class CredentialsError(Exception):
    """The credentials file can't be used. The message names the file, what is wrong, and what to do."""


@dataclass(frozen=True, slots=True)
class KafkaConnection:
    """Bootstrap servers and how to log in there.

    The password is left out of `repr`, so that no log can show it. Certificates and host names are always verified
    where the protocol is one with TLS.

    Attributes:
        username: None: the broker asks for no login, whatever the protocol says of SASL.
        security_protocol: One of Kafka's four.
        ssl_ca_file: PEM file of the authorities to trust; None: the system's.
    """

    bootstrap_servers: str
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    security_protocol: str = "SASL_PLAINTEXT"
    sasl_mechanism: str = "SCRAM-SHA-512"
    ssl_ca_file: str | None = None

    @classmethod
    def from_file(cls, path: Path) -> KafkaConnection:
        """Reads a JSON object with bootstrap_servers, username, password and what differs from the defaults.

        Those are security_protocol (SASL_PLAINTEXT), sasl_mechanism (SCRAM-SHA-512) and ssl_ca_file (the system's).

        Raises:
            CredentialsError: The file is missing, unreadable, not JSON, or lacks a member; or the protocol is none of
                Kafka's, or the file of authorities can't be used.
        """
        try:
            content = json.loads(path.read_text())
            found = cls(
                bootstrap_servers=content["bootstrap_servers"],
                username=content["username"],
                password=content["password"],
                security_protocol=content.get("security_protocol", "SASL_PLAINTEXT"),
                sasl_mechanism=content.get("sasl_mechanism", "SCRAM-SHA-512"),
                ssl_ca_file=content.get("ssl_ca_file"),
            )
        except OSError as error:
            raise CredentialsError(f"{path}: {error.strerror}; set SLUICE_KAFKA_CREDENTIALS_FILE") from None
        except (ValueError, KeyError, TypeError) as error:
            kind = f"member {error} is missing" if isinstance(error, KeyError) else "not a JSON object"
            raise CredentialsError(f"{path}: {kind}; it holds bootstrap_servers, username and password") from None
        fault = found.fault()
        if fault is not None:
            raise CredentialsError(f"{path}: {fault}")
        return found

    def fault(self) -> str | None:
        """What is wrong with the protocol or the authorities' file, and what to do; None where nothing is."""
        if self.security_protocol not in SECURITY_PROTOCOLS:
            return (
                f"security_protocol {self.security_protocol!r} is none of {', '.join(SECURITY_PROTOCOLS)}; correct it"
            )
        try:
            self._ssl_context()
        except (OSError, TypeError) as error:  # ssl.SSLError is an OSError
            why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            return f"ssl_ca_file {self.ssl_ca_file!r} can't be used ({why}); it is a PEM file of certificates"
        return None

    def aiokafka(self) -> dict[str, Any]:
        """Arguments for aiokafka's clients.

        Raises:
            OSError: The authorities' file can't be used.
        """
        arguments: dict[str, Any] = {"bootstrap_servers": self.bootstrap_servers, "security_protocol": self._protocol}
        if self.username is not None:
            arguments |= {
                "sasl_mechanism": self.sasl_mechanism,
                "sasl_plain_username": self.username,
                "sasl_plain_password": self.password,
            }
        context = self._ssl_context()
        return arguments if context is None else {**arguments, "ssl_context": context}

    def confluent(self) -> dict[str, str]:
        """Configuration for confluent-kafka's clients."""
        config = {"bootstrap.servers": self.bootstrap_servers, "security.protocol": self._protocol}
        if self.username is not None and self.password is not None:
            config |= {
                "sasl.mechanism": self.sasl_mechanism,
                "sasl.username": self.username,
                "sasl.password": self.password,
            }
        if self._protocol.endswith("SSL") and self.ssl_ca_file is not None:
            config["ssl.ca.location"] = self.ssl_ca_file
        return config

    @property
    def _protocol(self) -> str:
        return self.security_protocol if self.username is not None else self.security_protocol.removeprefix("SASL_")

    def _ssl_context(self) -> ssl.SSLContext | None:
        return ssl.create_default_context(cafile=self.ssl_ca_file) if self._protocol.endswith("SSL") else None


@dataclass(frozen=True, slots=True)
class ClickHouseAddress:
    """Where ClickHouse's HTTP interface is. It holds no password: that stands in a file.

    Attributes:
        user: None: the URL names none.
        database: None: the URL names none.
    """

    scheme: str
    host: str
    port: int
    user: str | None = None
    database: str | None = None

    @classmethod
    def parse(cls, url: str, variable: str) -> ClickHouseAddress:
        """Reads `http(s)://user@host:port/database`; all but scheme and host may be left out.

        The port is then ClickHouse's own, 8123, or 8443 with https: never that of the web.

        Args:
            url: What was given.
            variable: The setting that holds it, for the message.

        Raises:
            ValueError: It is none, or holds a password. The message shows no password.
        """
        form = "it must be http(s)://user@host:port/database"
        password_file = f"SLUICE_{variable.removeprefix('SLUICE_').removesuffix('_URL')}_PASSWORD_FILE"
        try:
            parts = urlsplit(url)
            port, password = parts.port, parts.password
        except ValueError:
            raise ValueError(f"{variable} is no URL of a server; {form}") from None
        if password is not None:
            raise ValueError(f"{variable} holds a password; put it into the file {password_file}")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{variable} {url.rpartition('@')[2]!r} is no URL of a server; {form}")
        database = unquote(parts.path.strip("/"))
        if "/" in database or parts.query or parts.fragment:
            raise ValueError(f"{variable} has more than one name behind the host; {form}")
        return cls(
            parts.scheme,
            parts.hostname,
            port or (8443 if parts.scheme == "https" else 8123),
            unquote(parts.username) if parts.username else None,
            database or None,
        )

    @property
    def secure(self) -> bool:
        """Whether it is spoken to by TLS."""
        return self.scheme == "https"

    @property
    def url(self) -> str:
        """Scheme, host and port."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"
