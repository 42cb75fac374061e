"""A real HTTP server on loopback that speaks the chat-completions protocol, and misbehaves as it is told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Request:
    """What was asked."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]


Behaviour = Callable[["Connection"], Awaitable[None]]


@dataclass
class Connection:
    """One request's connection."""

    request: Request
    writer: asyncio.StreamWriter
    closed: asyncio.Event

    async def head(self, status: int = 200, kind: str = "text/event-stream", **headers: str) -> None:
        lines = [f"HTTP/1.1 {status} X", f"content-type: {kind}", "transfer-encoding: chunked"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
        await self.writer.drain()

    async def send(self, data: bytes) -> None:
        self.writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        await self.writer.drain()

    async def chunk(self, document: Any) -> None:
        await self.send(b"data: " + json.dumps(document).encode() + b"\n\n")

    async def end(self) -> None:
        self.writer.write(b"0\r\n\r\n")
        await self.writer.drain()

    async def answer(self, status: int, document: Any, kind: str = "application/json", **headers: str) -> None:
        await self.head(status, kind, **headers)
        await self.send(document if isinstance(document, bytes) else json.dumps(document).encode())
        await self.end()

    async def delta(self, finish_reason: str | None = None, **delta: Any) -> None:
        await self.chunk({"model": "real-model", "choices": [{"delta": delta, "finish_reason": finish_reason}]})

    async def done(self, **usage: Any) -> None:
        if usage:
            await self.chunk({"choices": [], "usage": usage})
        await self.send(b"data: [DONE]\n\n")
        await self.end()


@dataclass
class ModelServer:
    """Plays one behaviour for each request, the last one for all further ones."""

    behaviours: list[Behaviour]
    requests: list[Request] = field(default_factory=list)
    cut_off: int = 0
    port: int = 0

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = {
                name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)
            }
            body = json.loads(await reader.readexactly(int(headers["content-length"])))
            self.requests.append(Request(head[0].split()[1], headers, body))
            behave = self.behaviours[min(len(self.requests), len(self.behaviours)) - 1]
            closed = asyncio.Event()
            working = asyncio.ensure_future(behave(Connection(self.requests[-1], writer, closed)))
            gone = asyncio.ensure_future(reader.read())
            await asyncio.wait((working, gone), return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                self.cut_off += 1
                working.cancel()
            gone.cancel()
            with suppress(asyncio.CancelledError, ConnectionError):
                await working
        writer.close()


@asynccontextmanager
async def model_server(*behaviours: Behaviour) -> AsyncIterator[ModelServer]:
    server = ModelServer(list(behaviours))
    listening = await asyncio.start_server(server._serve, "127.0.0.1", 0)
    server.port = listening.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listening.close()
