"""What the processes can be told."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field, model_validator
from pydantic_settings import NoDecode

from sluice_observability.domain.budget_limits import Limits
from sluice_observability.domain.policy import QueryLimits, SinkPolicy, StreamLimits
from sluice_runtime.connection import ClickHouseAddress
from sluice_runtime.settings import PREFIX, ArtifactSettings, ServiceSettings, split_commas

Positive = Annotated[int, Field(gt=0)]
_SINK, _QUERY, _STREAM, _LIMITS = SinkPolicy(), QueryLimits(), StreamLimits(), Limits()


class ObservabilitySettings(ServiceSettings):
    """What store and api share."""

    allow_remote: bool = Field(
        default=False, description="Whether the HTTP address may be other than loopback. There are no keys yet."
    )

    http_hosts: Annotated[tuple[str, ...], NoDecode, BeforeValidator(split_commas)] = Field(
        default=(),
        description="More names by which HTTP may be called, separated by commas, beside those of loopback and "
        "SLUICE_HTTP_HOST; with SLUICE_ALLOW_REMOTE and none given, any.",
    )

    def hosts(self) -> tuple[str, ...] | None:
        """By what names, but those of loopback, HTTP may be called; None: by any."""
        if self.allow_remote and not self.http_hosts:
            return None
        return (self.http_host, *(host.lower() for host in self.http_hosts))

    @model_validator(mode="after")
    def _loopback_only(self) -> ObservabilitySettings:
        if not self.allow_remote and not _is_loopback(self.http_host):
            raise ValueError(
                f"{PREFIX}HTTP_HOST={self.http_host}: HTTP has no keys yet, so it listens on loopback only; set"
                f" {PREFIX}ALLOW_REMOTE=true where something else keeps strangers away"
            )
        return self


class StoreSettings(ObservabilitySettings):
    """The store: the sink, and the SQL endpoint where the engine is embedded."""

    clickhouse_directory: Path = Field(
        default=Path("/var/lib/sluice/clickhouse"), description="Of the embedded engine; one process may have it."
    )
    clickhouse_url: str | None = Field(
        default=None,
        description="http(s)://user@host:port/database of a ClickHouse server, instead of the embedded engine.",
    )
    clickhouse_password_file: Path | None = Field(default=None, description="File with that user's password.")
    flush_interval_ms: Positive = Field(
        default=_SINK.flush_interval_ms, le=10_000, description="A record waits at most so long for its batch."
    )
    batch_max_rows: Positive = Field(default=_SINK.batch_max_rows, le=500_000, description="Rows of one insert.")
    query_time_max_s: Positive = Field(default=_QUERY.time_s, le=3_600, description="Time of one query.")
    query_result_max_rows: Positive = Field(default=_QUERY.result_max_rows, description="Rows that a query returns.")
    query_result_max_bytes: Positive = Field(default=_QUERY.result_max_bytes, description="Bytes that it returns.")
    query_memory_max_bytes: Positive = Field(default=_QUERY.memory_max_bytes, description="Memory of one query.")
    query_threads: Positive = Field(default=_QUERY.threads, le=64, description="Threads of one query.")

    @model_validator(mode="after")
    def _clickhouse_is_a_server(self) -> StoreSettings:
        if self.clickhouse_url is not None:
            ClickHouseAddress.parse(self.clickhouse_url, f"{PREFIX}CLICKHOUSE_URL")
        return self

    def sink_policy(self) -> SinkPolicy:
        """The sink's limits."""
        return SinkPolicy(flush_interval_ms=self.flush_interval_ms, batch_max_rows=self.batch_max_rows)

    def query_limits(self) -> QueryLimits:
        """The limits of queries."""
        return QueryLimits(
            time_s=self.query_time_max_s,
            result_max_rows=self.query_result_max_rows,
            result_max_bytes=self.query_result_max_bytes,
            memory_max_bytes=self.query_memory_max_bytes,
            threads=self.query_threads,
        )

    def clickhouse_password(self) -> str | None:
        """The password of the server's user.

        Raises:
            ValueError: The file can't be read.
        """
        if self.clickhouse_password_file is None:
            return None
        try:
            return self.clickhouse_password_file.read_text().strip()
        except OSError as error:
            raise ValueError(
                f"{self.clickhouse_password_file}: {os.strerror(error.errno or 0)}; correct"
                f" {PREFIX}CLICKHOUSE_PASSWORD_FILE"
            ) from None

    def known_secrets(self) -> Iterable[str]:
        """See `ServiceSettings.known_secrets`."""
        password = self.clickhouse_password()
        return [*super().known_secrets(), *([password] if password else [])]


class ApiSettings(ObservabilitySettings, ArtifactSettings):
    """The api: read model, HTTP, live stream."""

    sql_url: str = Field(
        default="http://127.0.0.1:8123",
        description="The store's SQL endpoint, or a server: http(s)://user@host:port/database.",
    )
    sql_user: str | None = Field(
        default=None, description="A user that may only read, where a server asks for one; default: the URL's."
    )
    sql_password_file: Path | None = Field(default=None, description="File with that user's password.")
    sql_database: str | None = Field(default=None, description="Where the log is; default: the URL's.")
    sql_readonly: bool = Field(
        default=True,
        description="Whether each query is sent with `readonly=1`; false for a user whose profile forbids to set it.",
    )
    finished_max_count: Positive = Field(
        default=1_000, le=100_000, description="Finished pipelines kept in memory; older ones are read by SQL."
    )
    wait_max_s: Positive = Field(default=30, le=300, description="Longest wait that a request may ask for.")
    after_wait_max_s: Positive = Field(default=10, le=300, description="Longest wait for a position (?after=).")
    stream_buffer_max_count: Positive = Field(
        default=_STREAM.buffer_max_count,
        le=1_000_000,
        description="Events kept for clients of /ws/events that come back.",
    )
    stream_buffer_max_bytes: Positive = Field(default=_STREAM.buffer_max_bytes, description="Bytes of those events.")
    stream_client_max_count: Positive = Field(
        default=_STREAM.client_max_count,
        le=100_000,
        description="Events that wait for one client; a slower one is dropped.",
    )
    stream_client_max_bytes: Positive = Field(default=_STREAM.client_max_bytes, description="Bytes of those events.")

    @model_validator(mode="after")
    def _sql_is_at_an_address(self) -> ApiSettings:
        self.sql_address()
        return self

    def sql_address(self) -> ClickHouseAddress:
        """Where the past is asked, as whom, in which database.

        Raises:
            ValueError: The URL is none, or holds a password.
        """
        given = ClickHouseAddress.parse(self.sql_url, f"{PREFIX}SQL_URL")
        return replace(given, user=self.sql_user or given.user, database=self.sql_database or given.database)

    def stream_limits(self) -> StreamLimits:
        """The limits of the live stream."""
        return StreamLimits(
            buffer_max_count=self.stream_buffer_max_count,
            buffer_max_bytes=self.stream_buffer_max_bytes,
            client_max_count=self.stream_client_max_count,
            client_max_bytes=self.stream_client_max_bytes,
        )

    def sql_password(self) -> str | None:
        """The password of the SQL user.

        Raises:
            ValueError: The file can't be read.
        """
        if self.sql_password_file is None:
            return None
        try:
            return self.sql_password_file.read_text().strip()
        except OSError as error:
            raise ValueError(
                f"{self.sql_password_file}: {os.strerror(error.errno or 0)}; correct {PREFIX}SQL_PASSWORD_FILE"
            ) from None

    def known_secrets(self) -> Iterable[str]:
        """See `ServiceSettings.known_secrets`."""
        password = self.sql_password()
        return [*super().known_secrets(), *([password] if password else [])]


class MonitorSettings(ServiceSettings):
    """The monitor: error budgets. The limits are those of the installation, where no `budget.set` says otherwise."""

    errors_per_minute: int = Field(
        default=_LIMITS.errors_per_minute, ge=0, description="More errors of a pipeline end all its credentials."
    )
    api_calls_per_minute: int = Field(
        default=_LIMITS.api_calls_per_minute,
        ge=0,
        description="More API calls of a pipeline throttle it, and end its credentials if that goes on.",
    )
    progress_timeout_s: Positive = Field(
        default=_LIMITS.progress_timeout_ms // 1_000,
        le=86_400,
        description="Longer without progress ends an agent's credentials.",
    )
    session_timeout_ms: int = Field(
        default=10_000, ge=1_000, le=60_000, description="A monitor that Kafka does not hear of loses its partitions."
    )

    def limits(self) -> Limits:
        """The installation's limits."""
        return Limits(self.errors_per_minute, self.api_calls_per_minute, self.progress_timeout_s * 1_000)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
