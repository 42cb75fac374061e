"""Serving an application of `http` in the running loop, by uvicorn."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Iterator

import uvicorn

from sluice_runtime.http import AsgiApp

CONNECTIONS_MAX_COUNT = 512
"""More than a dashboard and its probes open; beyond it a request is answered 503 at once."""

KEEP_ALIVE_S = 5
"""An idle connection is closed after it; probes come every few seconds and may open a new one."""

STOP_GRACE_S = 10
"""Requests that are under way may finish for this long; Kubernetes kills thirty seconds after it asked."""

_log = logging.getLogger(__name__)


class AddressUnavailable(Exception):
    """The HTTP address can't be listened on: choose another one by `SLUICE_HTTP_HOST` and `SLUICE_HTTP_PORT`."""


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Starts to listen, and says so."""
        await super().startup(sockets=sockets)
        self.listening.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves the signals to `lifecycle`."""
        yield


class HttpServer:
    """A server that listens.

    Attributes:
        port: Where, also when port 0 was asked for.
    """

    def __init__(self, port: int, server: uvicorn.Server, task: asyncio.Task[None]) -> None:
        self.port = port
        self._server = server
        self._task = task

    async def wait_closed(self) -> None:
        """Returns when the server ended; for a supervisor that must hear of its end.

        Raises:
            Exception: What ended it.
        """
        await asyncio.shield(self._task)


@contextlib.asynccontextmanager
async def serve(app: AsgiApp, *, host: str, port: int) -> AsyncIterator[HttpServer]:
    """Serves an application as a task of the running loop.

    Guarantee: inside the block connections are accepted. At its end no new ones are, requests that are under way get
    `STOP_GRACE_S` seconds, and then the port is free.

    Raises:
        AddressUnavailable: Somebody else listens there, or the address is not this machine's.
    """
    listener = _listen(host, port)
    config = uvicorn.Config(
        app,
        log_config=None,  # `logs` has the say
        access_log=False,
        server_header=False,
        limit_concurrency=CONNECTIONS_MAX_COUNT,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=STOP_GRACE_S,
    )
    server = _Server(config)
    with listener:
        task = asyncio.create_task(server.serve(sockets=[listener]), name="http")
        try:
            listening = asyncio.create_task(server.listening.wait())
            await asyncio.wait((task, listening), return_when=asyncio.FIRST_COMPLETED)
            listening.cancel()
            if task.done():
                await task
                raise RuntimeError("the HTTP server ended while it started; the line before says why")
            bound: int = listener.getsockname()[1]
            _log.info("HTTP is served", extra={"host": host, "port": bound})
            yield HttpServer(bound, server, task)
        finally:
            server.should_exit = True
            await task


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(128)
            listener.setblocking(False)
        except BaseException:
            listener.close()
            raise
    except OSError as error:
        raise AddressUnavailable(
            f"{host}:{port}: {error.strerror}; set SLUICE_HTTP_HOST and SLUICE_HTTP_PORT to a free address, or port 0"
        ) from None
    return listener
