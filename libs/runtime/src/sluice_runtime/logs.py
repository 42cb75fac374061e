"""JSON logs on stderr, one object per line, with secrets taken out (O7).

Every line has `time` (RFC 3339, UTC), `level`, `service`, `message`, `logger`; `pipeline_id`, `agent_id` and `trace_id`
where they are known; `error` with type, message and stack; and what the caller gave as `extra`.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from types import MappingProxyType, TracebackType
from typing import Any, TextIO

from sluice_contracts.codec import format_time
from sluice_runtime.redaction import Redactor, names_secret

MESSAGE_MAX_CHARACTERS = 16_000
"""A longer text in a line is cut: log collectors drop lines of more than a few ten thousand characters."""

STACK_MAX_CHARACTERS = 32_000
"""Of a longer stack the end stays: it names the place."""

_READ_MAX_CHARACTERS = 1_000_000
"""Redaction reads no more of one text than this: 1 MB takes a fifth of a second at worst."""

_EXTRA_MAX_DEPTH = 6
"""Values given as `extra` are flat, or nearly so."""

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_NO_IDS: Mapping[str, str] = MappingProxyType({})
_context: ContextVar[Mapping[str, str]] = ContextVar("log_context")


@contextlib.contextmanager
def log_context(
    *, pipeline_id: str | None = None, agent_id: str | None = None, trace_id: str | None = None
) -> Iterator[None]:
    """Adds ids to every line that this task, and the tasks it starts meanwhile, write inside."""
    given = {"pipeline_id": pipeline_id, "agent_id": agent_id, "trace_id": trace_id}
    token = _context.set(
        {**_context.get(_NO_IDS), **{name: value for name, value in given.items() if value is not None}}
    )
    try:
        yield
    finally:
        _context.reset(token)


def configure_logging(
    service: str, level: str = "INFO", *, redactor: Redactor | None = None, stream: TextIO | None = None
) -> None:
    """Sends all of this process's logs, warnings and uncaught errors to stderr as JSON. It may be called again.

    Args:
        service: The name in every line.
        level: `DEBUG`, `INFO`, `WARNING`, `ERROR` or `CRITICAL`. Libraries stay at INFO where this is DEBUG.
        redactor: With the secrets that the process knows.
        stream: Instead of stderr.

    Raises:
        ValueError: The level is none of these.
    """
    handler = JsonHandler(service, redactor or Redactor(), stream or sys.stderr)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "aiokafka", "botocore", "httpx", "httpcore"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(logging.WARNING if name in _CHATTY else max(logging.INFO, root.level))
    logging.captureWarnings(True)
    sys.excepthook = _log_uncaught


_CHATTY = frozenset({"uvicorn.access", "botocore", "httpx", "httpcore"})
"""They write a line for every request, probes included."""


def _log_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    logging.getLogger("uncaught").critical("an error reached the top of the process", exc_info=(kind, error, trace))


class JsonHandler(logging.Handler):
    """Writes records as JSON lines. It never raises, and never writes a record's raw arguments."""

    def __init__(self, service: str, redactor: Redactor, stream: TextIO) -> None:
        super().__init__()
        self._service = service
        self._redactor = redactor
        self._stream = stream

    def emit(self, record: logging.LogRecord) -> None:
        """Writes one line, in one call, so that lines of several threads and processes do not mix."""
        try:
            line = self.format(record)
        except Exception as error:
            # logging's own way out would print the arguments as they are.
            line = json.dumps(
                self._head(record) | {"message": f"a log call failed with {type(error).__name__}; correct it"}
                | {"where": f"{record.pathname}:{record.lineno}"}
            )  # fmt: skip
        try:
            self._stream.write(line + "\n")
            self._stream.flush()
        except (OSError, ValueError):
            pass  # stderr is closed or full: there is nobody left to tell

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line of JSON, without the line end."""
        line = self._head(record)
        line["message"] = self._text(record.getMessage())
        line.update(_context.get(_NO_IDS))
        for name, value in vars(record).items():
            if name not in _STANDARD and name not in line:
                line[name] = self._value(name, value)
        if record.exc_info and record.exc_info[1] is not None:
            line["error"] = self._error(record.exc_info[1])
        return json.dumps(line, ensure_ascii=False)

    def _head(self, record: logging.LogRecord) -> dict[str, Any]:
        return {
            "time": format_time(int(record.created * 1_000)),
            "level": record.levelname.lower(),
            "service": self._service,
            "message": "",
            "logger": record.name,
        }

    def _error(self, error: BaseException) -> dict[str, str]:
        stack = self._redactor.redact("".join(traceback.format_exception(error))[-_READ_MAX_CHARACTERS:])
        return {
            "type": f"{type(error).__module__}.{type(error).__qualname__}",
            "message": self._text(str(error)),
            "stack": stack[-STACK_MAX_CHARACTERS:],
        }

    def _text(self, text: str) -> str:
        # Redacted before it is cut, so that no half of a secret is left over at the cut.
        clean = self._redactor.redact(text[:_READ_MAX_CHARACTERS])
        if len(clean) <= MESSAGE_MAX_CHARACTERS:
            return clean
        return f"{clean[:MESSAGE_MAX_CHARACTERS]}… [{len(text)} characters]"

    def _value(self, name: str, value: Any, depth: int = 0) -> Any:
        if value is None:
            return None
        if names_secret(name):
            return "[redacted:secret]"
        if isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
            return value
        if depth < _EXTRA_MAX_DEPTH:
            if isinstance(value, Mapping):
                return {self._text(str(key)): self._value(str(key), each, depth + 1) for key, each in value.items()}
            if isinstance(value, list | tuple | set | frozenset):
                return [self._value(name, each, depth + 1) for each in value]
        return self._text(str(value))
