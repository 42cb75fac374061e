"""HTTP of a service: `/livez`, `/readyz`, `/metrics`, and errors as problem+json (RFC 9457).

`probes_app` serves the three routes and nothing else, without a framework. `build_app` makes a FastAPI application that
has them too, for a service with an interface of its own; FastAPI is imported there and not before, because it costs a
process 11 MB and half a second (measured on top of the contract and the server).
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, MutableMapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from sluice_runtime.metrics import HTTP_DURATION, HTTP_REQUESTS, Metrics
from sluice_runtime.redaction import redact

if TYPE_CHECKING:
    from fastapi import FastAPI, Request, Response

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]

BODY_MAX_BYTES = 1024 * 1024
"""A request holds one command, and a command's message has at most 256 KiB."""

LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})
"""A page in a browser on this machine may have its own name lead here (DNS rebinding), and calls by that name."""

PROBES = frozenset({"/livez", "/readyz", "/metrics"})
"""They tell nothing that a page may not know, and whoever watches a service calls it by any address."""

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
"""A metric's label; any other is `other`, or each word that a client makes up would be a metric."""

PROBLEM_TYPE_PREFIX = "urn:sluice:problem:"
_CODES = {400: "bad_request", 404: "not_found", 405: "method_not_allowed", 413: "body_too_large"}
"""Of the framework's own errors. Not from Python's phrases: those change from version to version."""

PROBLEM_MEDIA_TYPE = "application/problem+json"

_log = logging.getLogger(__name__)


class ProblemError(Exception):
    """An answer to the caller that is no success, as RFC 9457 writes it.

    Args:
        status: The HTTP status, 400 to 599.
        code: snake_case and stable; the problem's `type` is `urn:sluice:problem:<code>`.
        detail: For people: the thing, its value, the next step.
        headers: More headers, such as Retry-After.
        **members: More members of the document, such as `field` or `limit`.
    """

    def __init__(
        self, status: int, code: str, detail: str, *, headers: Mapping[str, str] | None = None, **members: Any
    ) -> None:
        super().__init__(f"{status} {code}: {detail}")
        self.status = status
        self.code = code
        self.detail = detail
        self.headers = dict(headers or {})
        self.members = members

    def document(self) -> dict[str, Any]:
        """The problem as a JSON object."""
        return {
            **self.members,
            "type": PROBLEM_TYPE_PREFIX + self.code,
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": redact(self.detail),
        }


class Readiness:
    """What a service waits for before it can do its work, by name, each with the reason.

    Args:
        *waiting_for: The conditions that do not hold yet.
    """

    def __init__(self, *waiting_for: str) -> None:
        self._missing = dict.fromkeys(waiting_for, "not yet")

    def met(self, name: str) -> None:
        """The condition holds."""
        self._missing.pop(name, None)

    def missing(self, name: str, reason: str) -> None:
        """The condition does not hold, or no longer."""
        self._missing[name] = reason

    @property
    def reasons(self) -> Mapping[str, str]:
        """Why the service is not ready, by condition; empty when it is."""
        return dict(self._missing)


def probe(path: str, readiness: Readiness, metrics: Metrics) -> tuple[int, bytes, str] | None:
    """Answers one of the three routes: status, body, media type. None: the path is another one."""
    match path:
        case "/livez":
            return 200, b'{"status":"alive"}', "application/json"
        case "/readyz":
            reasons = readiness.reasons
            if not reasons:
                return 200, b'{"status":"ready"}', "application/json"
            detail = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
            problem = ProblemError(503, "not_ready", detail, waiting_for=sorted(reasons))
            return 503, json.dumps(problem.document()).encode(), PROBLEM_MEDIA_TYPE
        case "/metrics":
            body, media_type = metrics.exposition()
            return 200, body, media_type
    return None


def probes_app(readiness: Readiness, metrics: Metrics) -> AsgiApp:
    """An ASGI application with `/livez`, `/readyz` and `/metrics`, and nothing else."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"this application serves HTTP only, not {scope['type']}")
        answer = probe(scope["path"], readiness, metrics)
        if answer is None:
            problem = ProblemError(404, "not_found", "served here: /livez, /readyz, /metrics")
        elif scope["method"] not in ("GET", "HEAD"):
            problem = ProblemError(405, "method_not_allowed", "GET it", headers={"allow": "GET, HEAD"})
        else:
            await _send(send, scope["method"], *answer)
            return
        body = json.dumps(problem.document()).encode()
        await _send(send, scope["method"], problem.status, body, PROBLEM_MEDIA_TYPE, problem.headers)

    return app


async def _send(
    send: Send, method: str, status: int, body: bytes, media_type: str, more: Mapping[str, str] | None = None
) -> None:
    headers = {
        "content-type": media_type,
        "content-length": str(len(body)),
        "cache-control": "no-store",
        **(more or {}),
    }
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": b"" if method == "HEAD" else body})


def build_app(
    service: str, readiness: Readiness, metrics: Metrics, *, hosts: Collection[str] | None = (), **options: Any
) -> FastAPI:
    """A FastAPI application with the three routes, problem+json for every error, limits and metrics.

    Guarantee: but for the three routes, whoever calls it by another name than those of loopback and `hosts` gets a 421.

    Args:
        service: The title in the OpenAPI document.
        readiness: For `/readyz`.
        metrics: For `/metrics`; requests are counted into it by route.
        hosts: By what other names than loopback's it may be called, without ports; None: by any.
        **options: For FastAPI: `version`, `lifespan`, …
    """
    from fastapi import FastAPI, Response
    from fastapi.exceptions import RequestValidationError
    from starlette.exceptions import HTTPException

    app = FastAPI(title=service, **options)
    app.add_middleware(_Guard, metrics=metrics, hosts=None if hosts is None else LOOPBACK_HOSTS.union(hosts))

    def answer_probe(path: str) -> Callable[[], Awaitable[Response]]:
        async def answer() -> Response:
            found = probe(path, readiness, metrics)
            assert found is not None
            status, body, media_type = found
            return Response(body, status, {"cache-control": "no-store"}, media_type)

        return answer

    for path in ("/livez", "/readyz", "/metrics"):
        app.add_api_route(path, answer_probe(path), methods=["GET", "HEAD"], include_in_schema=False)

    async def on_problem(request: Request, error: Exception) -> Response:
        assert isinstance(error, ProblemError)
        return _response(error)

    async def on_invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        # Without the input: it may hold a secret.
        faults = [{"field": ".".join(map(str, one["loc"])), "detail": one["msg"]} for one in error.errors()]
        first = f"{faults[0]['field']}: {faults[0]['detail']}" if faults else "the request"
        return _response(ProblemError(422, "invalid_request", first, errors=faults))

    async def on_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        code = _CODES.get(error.status_code, f"http_{error.status_code}")
        return _response(ProblemError(error.status_code, code, str(error.detail), headers=error.headers))

    app.add_exception_handler(ProblemError, on_problem)
    app.add_exception_handler(RequestValidationError, on_invalid)
    app.add_exception_handler(HTTPException, on_http)
    return app


def _response(problem: ProblemError) -> Response:
    from fastapi import Response

    body = json.dumps(problem.document()).encode()
    return Response(body, problem.status, problem.headers, PROBLEM_MEDIA_TYPE)


class _Guard:
    """ASGI middleware: hears only to its names, bounds the body, makes of an unforeseen error a 500 without its text,
    counts and times.
    """

    def __init__(self, app: AsgiApp, metrics: Metrics, hosts: Collection[str] | None) -> None:
        self._app = app
        self._metrics = metrics
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        host = _host(scope)
        misdirected = self._hosts is not None and host not in self._hosts and scope["path"] not in PROBES
        if scope["type"] != "http":
            if misdirected:
                await send({"type": "websocket.close", "code": 1008})  # before it was accepted: the server answers 403
            else:
                await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 0

        async def watched_send(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            if misdirected:
                detail = f"this service is not called {host[:100]!r}; if it is, add that to SLUICE_HTTP_HOSTS"
                raise ProblemError(421, "unknown_host", detail)
            await self._app(scope, _bounded(scope, receive), watched_send)
        except Exception as error:
            problem = error if isinstance(error, ProblemError) else _unforeseen(scope, error)
            if status:
                raise  # half an answer is out: only closing the connection tells the caller
            body = json.dumps(problem.document()).encode()
            await _send(watched_send, scope["method"], problem.status, body, PROBLEM_MEDIA_TYPE, problem.headers)
        finally:
            # The route as it was declared: a path with ids in it would make a metric for each of them.
            route = getattr(scope.get("route"), "path", "unknown")
            labels = {"method": scope["method"] if scope["method"] in _METHODS else "other", "route": route}
            self._metrics.counter(HTTP_REQUESTS, **labels, status=str(status)).inc()
            self._metrics.histogram(HTTP_DURATION, **labels).observe(time.perf_counter() - started)


def _host(scope: Scope) -> str:
    """The name by which the service is called, without its port; empty where none is given, or none that is one."""
    given = next((value for name, value in scope["headers"] if name == b"host"), b"")
    try:
        return urlsplit(f"//{given.decode()}").hostname or ""
    except ValueError:
        return ""


def _unforeseen(scope: Scope, error: Exception) -> ProblemError:
    _log.error("a request failed", exc_info=error, extra={"method": scope["method"], "path": scope["path"]})
    return ProblemError(500, "internal_error", "the service failed at this request; its log says why")


def _bounded(scope: Scope, receive: Receive) -> Receive:
    from starlette.exceptions import HTTPException

    # This class, because FastAPI makes a 400 of any other one that is raised while it reads the body.
    too_large = HTTPException(413, f"the body has more than {BODY_MAX_BYTES} bytes; send less")
    received = 0

    async def bounded() -> MutableMapping[str, Any]:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > BODY_MAX_BYTES:
            raise too_large
        return message

    return bounded
