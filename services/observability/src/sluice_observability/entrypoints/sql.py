"""ClickHouse's HTTP interface, as far as readers need it: curl, clickhouse-connect, Grafana, DBeaver.

Source: ClickHouse's documentation, "HTTP Interface": `query` in the URL, in the body, or both; `default_format`,
`database`, `param_<name>`; `/ping`; errors as text with `X-ClickHouse-Exception-Code`.
"""

from __future__ import annotations

import asyncio
import functools
import re
import time
import uuid
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from sluice_observability.ports import QueryRefused, ReadOnlyDatabase
from sluice_runtime.metrics import QUERY_DURATION, Metrics

QUERY_MAX_BYTES = 1024 * 1024
"""ClickHouse's own limit for a query's text is 256 KiB; parameters ride in the URL."""

CONCURRENT_MAX_COUNT = 4
"""Queries at a time: each may take its share of the memory."""

WAITING_MAX_COUNT = 32
"""Queries that wait for a place; more are told to come again, so that none waits for minutes."""

TOO_MANY_QUERIES, TOO_LARGE, NO_SUCH_PATH = 202, 307, 47

_STATUS = {
    62: 400, 47: 404, 60: 404, 81: 404, 164: 403, 497: 403, 516: 401, 159: 408, 202: 503, 307: 413, 241: 500,
}  # fmt: skip
"""HTTP status by ClickHouse's error code, as the server answers it; 400 where none is given."""

_FORMAT = re.compile(r"\bFORMAT\s+([A-Za-z0-9]+)\s*;?\s*(?:SETTINGS\b.*)?\Z", re.IGNORECASE | re.DOTALL)
_MEDIA_TYPES = {
    "json": "application/json; charset=UTF-8",
    "jsoncompact": "application/json; charset=UTF-8",
    "jsoneachrow": "application/x-ndjson; charset=UTF-8",
    "csv": "text/csv; charset=UTF-8; header=absent",
    "csvwithnames": "text/csv; charset=UTF-8; header=present",
    "tabseparated": "text/tab-separated-values; charset=UTF-8",
    "tsv": "text/tab-separated-values; charset=UTF-8",
}


class SqlEndpoint:
    """Answers queries in threads, so that neither the sink nor the probes wait for them."""

    def __init__(self, database: ReadOnlyDatabase, metrics: Metrics) -> None:
        self._database = database
        self._duration = metrics.histogram(QUERY_DURATION)
        self._threads = ThreadPoolExecutor(CONCURRENT_MAX_COUNT, thread_name_prefix="sql")
        self._open = 0
        self.routes = [
            Route("/ping", self._ping, methods=["GET", "HEAD"]),
            Route("/", self._query, methods=["GET", "POST"]),
        ]

    def close(self) -> None:
        """Waits for the queries that run."""
        self._threads.shutdown(cancel_futures=True)

    async def _ping(self, request: Request) -> Response:
        return PlainTextResponse("Ok.\n")

    async def _query(self, request: Request) -> Response:
        started = time.monotonic()
        identity = request.query_params.get("query_id") or str(uuid.uuid4())
        headers = {"X-ClickHouse-Query-Id": identity[:64].encode("ascii", "replace").decode()}
        try:
            sql = await self._statement(request)
            if not sql.strip():
                return PlainTextResponse("Ok.\n")
            default = request.query_params.get("default_format") or request.headers.get("x-clickhouse-format")
            body, format_ = await self._run(sql, default or "TabSeparated", request.query_params)
        except QueryRefused as refused:
            headers["X-ClickHouse-Exception-Code"] = str(refused.code)
            return PlainTextResponse(refused.message + "\n", _STATUS.get(refused.code, 400), headers)
        finally:
            self._duration.observe(time.monotonic() - started)
        headers["X-ClickHouse-Format"] = format_
        headers["X-ClickHouse-Timezone"] = "UTC"
        media_type = _MEDIA_TYPES.get(format_.lower(), "text/plain; charset=UTF-8")
        return Response(body, headers=headers | {"Content-Type": media_type})

    async def _statement(self, request: Request) -> str:
        parts = [request.query_params.get("query", "")]
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > QUERY_MAX_BYTES:
                raise QueryRefused(
                    TOO_LARGE,
                    f"Code: {TOO_LARGE}. DB::Exception: a query has at most {QUERY_MAX_BYTES} bytes. (TOO_MANY_BYTES)",
                )
        try:
            parts.append(body.decode())
        except UnicodeDecodeError as error:
            raise QueryRefused(
                62, f"Code: 62. DB::Exception: byte {error.start} is not UTF-8. (SYNTAX_ERROR)"
            ) from None
        return "\n".join(part for part in parts if part)

    async def _run(self, sql: str, default_format: str, given: Mapping[str, str]) -> tuple[bytes, str]:
        if self._open >= CONCURRENT_MAX_COUNT + WAITING_MAX_COUNT:
            raise QueryRefused(
                TOO_MANY_QUERIES,
                f"Code: {TOO_MANY_QUERIES}. DB::Exception: {self._open} queries are running or waiting; come again"
                " later. (TOO_MANY_SIMULTANEOUS_QUERIES)",
            )
        self._open += 1
        try:
            work = functools.partial(
                self._database.query,
                sql,
                default_format=default_format,
                parameters={name[6:]: value for name, value in given.items() if name.startswith("param_")},
                database=given.get("database") or None,
            )
            answer = await asyncio.get_running_loop().run_in_executor(self._threads, work)
        finally:
            self._open -= 1
        named = _FORMAT.search(sql)
        return answer.body, named[1] if named else answer.format
