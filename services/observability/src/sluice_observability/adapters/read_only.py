"""SQL for analysts on the embedded engine: read-only, each query in a session of its own, within limits."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import chdb
from chdb import ChdbError

from sluice_observability.domain.policy import QueryLimits
from sluice_observability.domain.statements import escaped, refusal
from sluice_observability.ports import Answer, QueryRefused

READONLY, UNKNOWN_ERROR, SYNTAX_ERROR = 164, 1002, 62
"""ClickHouse's error codes."""

_CODE = re.compile(r"Code: (\d+)\. ")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
"""Parameters, databases and formats: they stand in statements of ours."""


class EmbeddedReadOnly:
    """Runs queries on the engine that this process has open. Safe for use from several threads at once."""

    def __init__(self, directory: Path, limits: QueryLimits = QueryLimits()) -> None:
        self._directory = str(directory)
        self._limits = _imposing(limits)

    def query(self, sql: str, *, default_format: str, parameters: Mapping[str, str], database: str | None) -> Answer:
        """See `ports.ReadOnlyDatabase.query`."""
        names = [*parameters, database or "default", default_format]
        for name in names:
            if not _NAME.fullmatch(name):
                raise QueryRefused(SYNTAX_ERROR, _told(SYNTAX_ERROR, f"{name[:80]!r} is no name", "SYNTAX_ERROR"))
        with self._session() as session:
            if database:
                session.query(f"USE `{database}`")
            self._examine(session, sql, parameters)
            answer = session.query(sql, default_format, params=dict(parameters))
            return Answer(answer.bytes(), default_format)

    def _examine(self, session: Any, sql: str, parameters: Mapping[str, str]) -> None:
        formatted = _text(session.query("SELECT formatQuery({sql:String})", "TSVRaw", params={"sql": escaped(sql)}))
        fault = refusal(formatted, None)
        if fault is None:
            explained = session.query(f"EXPLAIN AST {formatted}", "TSVRaw", params=dict(parameters))
            fault = refusal(formatted, _text(explained))
        if fault is not None:
            raise QueryRefused(READONLY, _told(READONLY, fault, "READONLY"))

    @contextmanager
    def _session(self) -> Iterator[Any]:
        session = None
        try:
            session = chdb.connect(self._directory)
            session.query(self._limits)
            session.query("SET readonly = 1")
            yield session
        except (ChdbError, RuntimeError) as error:
            message = str(error)
            code = _CODE.search(message)
            raise QueryRefused(int(code[1]) if code else UNKNOWN_ERROR, message) from None
        finally:
            if session is not None:
                session.close()


def _imposing(limits: QueryLimits) -> str:
    return (
        f"SET max_execution_time = {limits.time_s}, timeout_overflow_mode = 'throw',"
        f" max_result_rows = {limits.result_max_rows}, max_result_bytes = {limits.result_max_bytes},"
        f" result_overflow_mode = 'throw', max_memory_usage = {limits.memory_max_bytes},"
        f" max_threads = {limits.threads},"
        " output_format_json_validate_utf8 = 1, output_format_json_quote_64bit_integers = 0,"
        " allow_introspection_functions = 0, max_query_size = 1048576, max_ast_depth = 500,"
        " max_ast_elements = 20000"
    )


def _told(code: int, message: str, name: str) -> str:
    return f"Code: {code}. DB::Exception: {message}. ({name})"


def _text(answer: Any) -> str:
    return str(answer.bytes().decode("utf-8", "replace"))
