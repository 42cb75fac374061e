"""The three routes, problems, limits and the server, over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import pytest
from fastapi import WebSocket
from pydantic import BaseModel
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from sluice_runtime import http
from sluice_runtime.http import AsgiApp, ProblemError, Readiness, build_app, probes_app
from sluice_runtime.http_server import AddressUnavailable, serve
from sluice_runtime.metrics import Metrics


class Parts:
    """An application's parts."""

    def __init__(self) -> None:
        self.readiness = Readiness("kafka", "state")
        self.metrics = Metrics("example", "example-0")


class Command(BaseModel):
    name: str
    count: int = 0


def full_app(parts: Parts) -> AsgiApp:
    app = build_app("example", parts.readiness, parts.metrics)

    @app.get("/things/{thing_id}")
    async def thing(thing_id: str) -> dict[str, str]:
        if thing_id == "missing":
            detail = "no thing 'missing', password=hunter2; list them with GET /things"
            raise ProblemError(404, "unknown_thing", detail, headers={"retry-after": "7"}, field="thing_id")
        if thing_id == "broken":
            raise RuntimeError("hunter2")
        return {"id": thing_id}

    @app.post("/things")
    async def make(command: Command) -> Command:
        return command

    return app


def named_app(parts: Parts, hosts: tuple[str, ...] | None) -> AsgiApp:
    app = build_app("example", parts.readiness, parts.metrics, hosts=hosts)

    @app.get("/things")
    async def things() -> list[str]:
        return []

    @app.websocket("/stream")
    async def stream(socket: WebSocket) -> None:
        await socket.accept()
        await socket.close()

    return app


def plain_app(parts: Parts) -> AsgiApp:
    return probes_app(parts.readiness, parts.metrics)


@contextlib.asynccontextmanager
async def served(app: AsgiApp) -> AsyncIterator[httpx.AsyncClient]:
    async with (
        serve(app, host="127.0.0.1", port=0) as server,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}", trust_env=False) as client,
    ):
        yield client


def run(app: AsgiApp, test: Callable[[httpx.AsyncClient], Awaitable[None]]) -> None:
    async def main() -> None:
        async with served(app) as client:
            await test(client)

    asyncio.run(main())


def problem(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = response.json()
    assert document["type"] == f"urn:sluice:problem:{code}"
    assert document["status"] == status
    assert document["title"]
    return document


both = pytest.mark.parametrize("make", [plain_app, full_app], ids=["plain", "FastAPI"])


@pytest.mark.covers("D1")
@both
def test_a_service_lives_before_it_is_ready(make: Callable[[Parts], AsgiApp]) -> None:
    parts = Parts()

    async def test(client: httpx.AsyncClient) -> None:
        assert (await client.get("/livez")).status_code == 200
        document = problem(await client.get("/readyz"), 503, "not_ready")
        assert document["waiting_for"] == ["kafka", "state"]
        parts.readiness.met("kafka")
        parts.readiness.missing("state", "restoring partition 3")
        assert problem(await client.get("/readyz"), 503, "not_ready")["detail"] == "state: restoring partition 3"
        parts.readiness.met("state")
        assert (await client.get("/readyz")).json() == {"status": "ready"}
        parts.readiness.missing("kafka", "the broker is away")
        assert (await client.get("/readyz")).status_code == 503

    run(make(parts), test)


@pytest.mark.covers("O7")
@both
def test_metrics_are_shown(make: Callable[[Parts], AsgiApp]) -> None:
    async def test(client: httpx.AsyncClient) -> None:
        response = await client.get("/metrics")
        assert response.headers["content-type"].startswith("text/plain")
        assert 'sluice_service_info{instance="example-0",service="example"} 1.0' in response.text

    run(make(Parts()), test)


@both
def test_other_paths_and_methods_are_problems(make: Callable[[Parts], AsgiApp]) -> None:
    async def test(client: httpx.AsyncClient) -> None:
        problem(await client.get("/nothing"), 404, "not_found")
        response = await client.post("/livez")
        problem(response, 405, "method_not_allowed")
        assert "GET" in response.headers["allow"]
        head = await client.head("/livez")
        assert (head.status_code, head.content) == (200, b"")

    run(make(Parts()), test)


def test_problems_have_their_members_and_no_secrets() -> None:
    async def test(client: httpx.AsyncClient) -> None:
        response = await client.get("/things/missing")
        document = problem(response, 404, "unknown_thing")
        assert (document["field"], response.headers["retry-after"]) == ("thing_id", "7")
        assert "GET /things" in document["detail"]
        assert "hunter2" not in response.text

    run(full_app(Parts()), test)


def test_an_invalid_request_names_the_field_and_not_the_value() -> None:
    async def test(client: httpx.AsyncClient) -> None:
        response = await client.post("/things", json={"name": "x", "count": "hunter2"})
        document = problem(response, 422, "invalid_request")
        assert document["errors"][0]["field"] == "body.count"
        assert "hunter2" not in response.text
        problem(await client.post("/things", content=b"{"), 422, "invalid_request")

    run(full_app(Parts()), test)


def test_an_unforeseen_error_is_500_without_its_text(caplog: pytest.LogCaptureFixture) -> None:
    async def test(client: httpx.AsyncClient) -> None:
        response = await client.get("/things/broken")
        problem(response, 500, "internal_error")
        assert "hunter2" not in response.text

    run(full_app(Parts()), test)
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == ["a request failed"]


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_over_the_limit_is_refused(chunked: bool) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(http.BODY_MAX_BYTES // 65_536 + 1):
            yield b" " * 65_536

    async def test(client: httpx.AsyncClient) -> None:
        content = chunks() if chunked else b" " * (http.BODY_MAX_BYTES + 1)
        response = await client.post("/things", content=content)
        assert str(http.BODY_MAX_BYTES) in problem(response, 413, "body_too_large")["detail"]

    run(full_app(Parts()), test)


def test_requests_are_counted_by_route_and_not_by_path() -> None:
    async def test(client: httpx.AsyncClient) -> None:
        for name in ("a", "b", "missing", "broken"):
            await client.get(f"/things/{name}")
        await client.get("/nothing")
        text = (await client.get("/metrics")).text
        labels = 'sluice_http_requests_total{method="GET",route="%s",status="%s"} %s'
        for route, status, count in [
            ("/things/{thing_id}", 200, 2.0), ("/things/{thing_id}", 404, 1.0), ("/things/{thing_id}", 500, 1.0),
            ("unknown", 404, 1.0),
        ]:  # fmt: skip
            assert labels % (route, status, count) in text
        assert 'sluice_http_request_duration_seconds_count{method="GET",route="/things/{thing_id}"} 4.0' in text

    run(full_app(Parts()), test)


def test_the_three_routes_are_no_part_of_the_interface() -> None:
    async def test(client: httpx.AsyncClient) -> None:
        assert set((await client.get("/openapi.json")).json()["paths"]) == {"/things", "/things/{thing_id}"}

    run(full_app(Parts()), test)


def test_an_address_in_use_is_said_with_the_next_step() -> None:
    async def main() -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            with pytest.raises(AddressUnavailable, match=r"127\.0\.0\.1:\d+: Address already in use; set SLUICE_HTTP"):
                async with serve(plain_app(Parts()), host="127.0.0.1", port=taken.getsockname()[1]):
                    pass

    asyncio.run(main())


async def until_closed(client: httpx.AsyncClient, address: str) -> None:
    with contextlib.suppress(httpx.TransportError):
        while True:
            await client.get(f"{address}/livez")


@pytest.mark.covers("D1")
def test_a_request_under_way_is_answered_when_the_server_stops() -> None:
    async def main() -> None:
        begun, go_on = asyncio.Event(), asyncio.Event()
        parts = Parts()
        app = build_app("example", parts.readiness, parts.metrics)

        @app.get("/slow")
        async def slow() -> str:
            begun.set()
            await go_on.wait()
            return "done"

        async with httpx.AsyncClient(trust_env=False) as client:
            stopped = asyncio.Event()

            async def server_life(address: asyncio.Future[str]) -> None:
                async with serve(app, host="127.0.0.1", port=0) as server:
                    address.set_result(f"http://127.0.0.1:{server.port}")
                    await begun.wait()
                stopped.set()

            address: asyncio.Future[str] = asyncio.get_running_loop().create_future()
            life = asyncio.create_task(server_life(address))
            request = asyncio.create_task(client.get(f"{await address}/slow"))
            await begun.wait()
            await until_closed(client, await address)
            assert not stopped.is_set()
            go_on.set()
            assert (await request).json() == "done"
            await life

    asyncio.run(main())


def test_the_three_routes_alone_do_not_load_a_framework() -> None:
    code = (
        "import sys; from sluice_runtime.http import *; from sluice_runtime.metrics import Metrics;"
        "probes_app(Readiness(), Metrics('a', 'b')); sys.exit('fastapi' in sys.modules or 'starlette' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.covers("O3", "O8")
def test_a_name_that_leads_here_from_elsewhere_is_refused() -> None:
    """DNS rebinding: a page of evil.example has that name lead to 127.0.0.1, and calls with it."""

    async def test(client: httpx.AsyncClient) -> None:
        port = client.base_url.port

        async def called(host: str) -> httpx.Response:
            return await client.get("/things", headers={"host": host})

        for host in (f"127.0.0.1:{port}", "localhost", f"LOCALHOST:{port}", f"[::1]:{port}", "api:8080"):
            assert (await called(host)).status_code == 200, host
        for host in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", "[::1", "", "store"):
            refused = problem(await called(host), 421, "unknown_host")
            assert "SLUICE_HTTP_HOSTS" in refused["detail"], host
        for path in ("/livez", "/metrics"):
            assert (await client.get(path, headers={"host": "10.0.0.7:8080"})).status_code == 200
        async with connect(f"ws://127.0.0.1:{port}/stream", proxy=None):
            pass
        with pytest.raises(InvalidStatus, match="403"):
            await connect("ws://evil.example/stream", proxy=None, host="127.0.0.1", port=port)

    run(named_app(Parts(), ("api",)), test)


def test_any_name_will_do_where_the_application_says_so() -> None:
    async def test(client: httpx.AsyncClient) -> None:
        assert (await client.get("/things", headers={"host": "agents.example"})).status_code == 200

    run(named_app(Parts(), None), test)


@pytest.mark.covers("O7")
def test_words_that_clients_make_up_are_one_metric() -> None:
    parts = Parts()

    async def test(client: httpx.AsyncClient) -> None:
        for method in ("BREW", "WHEN", "get"):
            assert (await client.request(method, "/things/1")).status_code in (200, 405)
        metrics = (await client.get("/metrics")).text
        assert 'method="other"' in metrics
        assert "BREW" not in metrics
        assert "WHEN" not in metrics

    run(full_app(parts), test)
