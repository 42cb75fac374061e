"""The one door to ClickHouse for writing: embedded (chdb) or a server, by the same client."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

import clickhouse_connect
import pyarrow as pa
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError

from sluice_observability.adapters.disk import DiskGuard
from sluice_observability.ports import StoreUnavailable
from sluice_runtime.connection import ClickHouseAddress

R = TypeVar("R")

INSERT_SETTINGS = {
    # With these, one insert is one block, and with one ingest_time one part: all of it is visible, or nothing.
    "max_insert_block_size": 10_000_000,
    "min_insert_block_size_rows": 10_000_000,
    "min_insert_block_size_bytes": 0,
    "async_insert": 0,
    # By token only: two equal batches can't exist, for their offsets differ.
    "insert_deduplicate": 0,
    "max_partitions_per_insert_block": 1,
}
INSERT_ROWS_MAX_COUNT = 1_000_000
"""Far below the block size above, so that a batch can't be cut in two."""

DEFECTS = frozenset({6, 16, 27, 36, 43, 47, 53, 57, 62, 70, 117, 349, 386, 457})
"""ClickHouse's codes for what it will refuse again: a defect of ours, which waiting does not mend."""

REQUEST_TIMEOUT_S = 60
"""After this long without an answer an insert's outcome is asked of the table."""


class ClickHouse:
    """A database. Calls of one instance are serialised; open another for work that must not wait."""

    def __init__(self, connect: Callable[[], Client], guard: DiskGuard | None = None) -> None:
        self._connect = connect
        self._guard = guard
        self._client: Client | None = None
        self._lock = threading.Lock()

    @classmethod
    def embedded(cls, directory: Path) -> ClickHouse:
        """The engine in this process. One process at a time may have the directory: chdb locks it."""
        return cls(lambda: clickhouse_connect.get_client(interface="chdb", path=str(directory)), DiskGuard(directory))

    @classmethod
    def server(cls, url: str, password: str | None) -> ClickHouse:
        """A server, by `http(s)://user@host:port/database`.

        Raises:
            ValueError: The URL holds a password, which belongs into a file, or is no HTTP URL.
        """
        address = ClickHouseAddress.parse(url, "SLUICE_CLICKHOUSE_URL")
        return cls(
            lambda: clickhouse_connect.get_client(
                host=address.host,
                port=address.port,
                secure=address.secure,
                username=address.user or "default",
                password=password or "",
                database=address.database or "default",
                send_receive_timeout=REQUEST_TIMEOUT_S,
                autogenerate_session_id=False,
            )
        )

    def insert(self, table: str, rows: Any, *, token: str | None = None) -> None:
        """See `ports.Database.insert`."""
        if rows.num_rows > INSERT_ROWS_MAX_COUNT:
            raise ValueError(
                f"{rows.num_rows} rows for {table}; at most {INSERT_ROWS_MAX_COUNT} are one block for sure"
            )
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, rows.schema) as writer:
            writer.write_table(rows)
        stream = sink.getvalue()
        with self._used() as client:
            once: dict[str, Any] = {}
            if token is not None:
                # The engine remembers the token of a part that was set aside since, so it must be another.
                life = 0 if self._guard is None else self._guard.reopened
                once = {"insert_deduplicate": 1, "insert_deduplication_token": f"{token}-{life}"}
            client.raw_insert(
                table,
                column_names=rows.column_names,
                insert_block=stream.to_pybytes(),
                fmt="ArrowStream",
                settings={**INSERT_SETTINGS, **once},
            )

    def rows(self, query: str, parameters: Mapping[str, Any] | None = None) -> list[tuple[Any, ...]]:
        """See `ports.Database.rows`."""
        with self._used() as client:
            return [tuple(row) for row in client.query(query, parameters=dict(parameters or {})).result_rows]

    def command(self, statement: str) -> None:
        """See `ports.Database.command`."""
        with self._used() as client:
            client.command(statement)

    def close(self) -> None:
        """See `ports.Database.close`."""
        with self._lock:
            client, self._client = self._client, None
            if self._guard is not None:
                self._guard.close()
            if client is not None:
                client.close()

    @contextmanager
    def _used(self) -> Iterator[Client]:
        with self._lock:
            try:
                if self._client is None:
                    self._client = self._connect()
                with self._guard.around(self._client) if self._guard is not None else nullcontext():
                    yield self._client
            except (ClickHouseError, OSError) as error:
                if getattr(error, "code", None) in DEFECTS:
                    raise
                raise StoreUnavailable(f"{type(error).__name__}: {str(error)[:500]}") from error
