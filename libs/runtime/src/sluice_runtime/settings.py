"""Settings: environment variables with the prefix `SLUICE_`; secrets only as files that a variable names."""

from __future__ import annotations

import re
import secrets
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BeforeValidator, Field, ValidationError, field_validator, model_validator
from pydantic_core import PydanticUndefined
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from sluice_contracts.limits import IDENTIFIER_PATTERN
from sluice_contracts.messages.base import Identifier
from sluice_runtime.artifacts import ArtifactStore, open_artifact_store
from sluice_runtime.connection import KafkaConnection
from sluice_runtime.redaction import redact

PREFIX = "SLUICE_"

_SHOWN_VALUE_MAX_CHARACTERS = 200
"""Enough to recognise a value by; an error stays one line."""


class SettingsError(Exception):
    """The settings can't be used: correct the variables that the message names, and start again."""


def split_commas(value: Any) -> Any:
    """What a variable lists, separated by commas; anything but a text as it is."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


Directories = Annotated[tuple[Path, ...], NoDecode, BeforeValidator(split_commas)]
"""Directories, separated by commas."""


def _instance_id() -> str:
    host = re.sub(r"[^A-Za-z0-9_.\-]", "-", socket.gethostname())[:80].strip("-.") or "host"
    return f"{host}-{secrets.token_hex(3)}"


class ServiceSettings(BaseSettings):
    """What every service can be told. A service adds its own fields in a subclass, and takes those below that it needs.

    A field whose name ends in `_file` holds the path of a file, never a secret itself.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore", env_ignore_empty=True)

    kafka_credentials_file: Path | None = Field(
        default=None,
        description="JSON file {bootstrap_servers, username, password, security_protocol?, sasl_mechanism?, "
        "ssl_ca_file?}; this, or the next.",
    )
    kafka_bootstrap_servers: str | None = Field(
        default=None, description="host:port,… of a broker that asks for no credentials."
    )
    topic_prefix: str = Field(
        default="sluice.", pattern=r"^[A-Za-z0-9_.\-]{0,64}$", description="Before every topic's and group's name."
    )
    http_host: str = Field(default="127.0.0.1", description="Address to listen on.")
    http_port: int = Field(default=0, ge=0, le=65_535, description="Port to listen on; 0 takes a free one and logs it.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = Field(
        default="INFO", description="Lines below it are not written."
    )
    instance_id: str = Field(
        default_factory=_instance_id,
        pattern=IDENTIFIER_PATTERN,
        description="Name of this process among its like; default: the host's name and a random part.",
    )

    @field_validator("log_level", mode="before")
    @classmethod
    def _upper(cls, value: Any) -> Any:
        return value.upper() if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_way_to_kafka(self) -> ServiceSettings:
        if (self.kafka_credentials_file is None) == (self.kafka_bootstrap_servers is None):
            raise ValueError(
                f"set {PREFIX}KAFKA_CREDENTIALS_FILE, or {PREFIX}KAFKA_BOOTSTRAP_SERVERS for a broker without "
                f"credentials; one of both, not both"
            )
        return self

    def kafka(self) -> KafkaConnection:
        """How to reach Kafka.

        Raises:
            CredentialsError: The credentials file can't be used.
        """
        if self.kafka_credentials_file is not None:
            return KafkaConnection.from_file(self.kafka_credentials_file)
        assert self.kafka_bootstrap_servers is not None
        return KafkaConnection(self.kafka_bootstrap_servers)

    def known_secrets(self) -> Iterable[str]:
        """Secret values that this process was given, for its redactor. A subclass adds its own.

        Raises:
            CredentialsError: The Kafka credentials file can't be used.
        """
        password = self.kafka().password
        return [password] if password else []


class QueueSettings(ServiceSettings):
    """For services that have to know the queues."""

    queues: Annotated[tuple[Identifier, ...], NoDecode, BeforeValidator(split_commas)] = Field(
        default=("default",), min_length=1, max_length=256, description="Queues of agents, separated by commas."
    )


class ArtifactSettings(ServiceSettings):
    """For services that read or write artifacts."""

    artifacts_url: str = Field(
        default="file:///var/lib/sluice/artifacts",
        description="file:///directory, or s3://bucket/prefix?endpoint=<URL>&region=<name>.",
    )
    artifacts_credentials_file: Path | None = Field(
        default=None, description="JSON file {access_key_id, secret_access_key, session_token?} for S3."
    )
    artifacts_durable: bool = Field(
        default=False, description="Whether each artifact file is flushed to the disk: survives a power loss, slower."
    )

    def artifacts(self) -> ArtifactStore:
        """Opens the artifact store.

        Raises:
            ValueError: The URL or the credentials file is of another form.
            ArtifactStoreUnavailable: The directory can't be used.
        """
        return open_artifact_store(
            self.artifacts_url, credentials_file=self.artifacts_credentials_file, durable=self.artifacts_durable
        )

    def known_secrets(self) -> Iterable[str]:
        """See `ServiceSettings.known_secrets`.

        Raises:
            CredentialsError: The Kafka credentials file can't be used.
            ValueError: The artifacts' credentials file can't be used.
        """
        yield from super().known_secrets()
        if self.artifacts_credentials_file is not None and self.artifacts_url.startswith("s3:"):
            from sluice_runtime.artifact_s3 import S3Credentials  # only where S3 is used: it loads the SDK

            keys = S3Credentials.from_file(self.artifacts_credentials_file)
            yield keys.secret_access_key
            if keys.session_token:
                yield keys.session_token


S = TypeVar("S", bound=BaseSettings)


def load_settings(settings: type[S]) -> S:
    """Reads the settings from the environment.

    Raises:
        SettingsError: One line for each variable that can't be used: its name, its value, and what is expected.
    """
    try:
        return settings()
    except ValidationError as error:
        raise SettingsError("\n".join(_explain(settings, fault) for fault in error.errors(include_url=False))) from None


def settings_table(settings: type[BaseSettings]) -> str:
    """A service's settings as a Markdown table: variable, default, meaning."""
    rows = ["| variable | default | meaning |", "|---|---|---|"]
    for name, field in settings.model_fields.items():
        if field.default_factory is not None or field.default in (None, ()):
            default = "–"
        elif field.default is PydanticUndefined:
            default = "required"
        else:
            value = field.default
            shown = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
            default = f"`{shown.lower() if isinstance(value, bool) else shown}`"
        meaning = (field.description or "").replace("|", "\\|")
        rows.append(f"| `{PREFIX}{name.upper()}` | {default} | {meaning} |")
    return "\n".join(rows) + "\n"


def _explain(settings: type[BaseSettings], fault: Mapping[str, Any]) -> str:
    message = str(fault["msg"]).removeprefix("Value error, ")
    if not fault["loc"]:
        return message
    name = str(fault["loc"][0])
    variable = f"{PREFIX}{name.upper()}"
    field = settings.model_fields.get(name)
    meaning = f" ({field.description})" if field and field.description else ""
    if fault["type"] == "missing":
        return f"{variable} is not set; set it{meaning}"
    return f"{variable}={_shown(name, fault['input'])}: {message}; correct it{meaning}"


def _shown(name: str, value: Any) -> str:
    text = str(value)
    if name.endswith("_file") and not re.fullmatch(r"[\w./~\-]+", text):
        return "<no path>"  # perhaps the secret itself
    return repr(redact(text)[:_SHOWN_VALUE_MAX_CHARACTERS])
