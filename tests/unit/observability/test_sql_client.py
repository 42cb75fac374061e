"""As whom, where and with which rights the api asks the past."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest

from sluice_observability.adapters.sql_client import SqlClient
from sluice_observability.ports import QueryRefused, QueryTooLarge, StoreUnavailable
from sluice_observability.settings import ApiSettings
from sluice_runtime.connection import ClickHouseAddress


def asked(address: ClickHouseAddress, password: str | None = None, *, readonly: bool = True) -> httpx.Request:
    """The request that a query makes."""
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, content=b'{"n":1}\n')

    async def ask() -> None:
        async with SqlClient(address, password, readonly=readonly, transport=httpx.MockTransport(answer)) as client:
            assert await client.rows("SELECT {n:UInt8} AS n", {"n": "1"}) == [{"n": 1}]

    asyncio.run(ask())
    return seen[0]


@pytest.mark.covers("O3")
def test_a_query_may_only_read_whoever_asks() -> None:
    request = asked(ClickHouseAddress("https", "h", 8443, "writer", "sluice"), "secret")
    assert str(request.url.copy_with(query=None)) == "https://h:8443/"
    assert request.url.params["readonly"] == "1"
    assert request.headers["X-ClickHouse-User"] == "writer"
    assert request.headers["X-ClickHouse-Key"] == "secret"
    assert request.headers["X-ClickHouse-Database"] == "sluice"


def test_what_is_not_known_is_left_to_the_server() -> None:
    request = asked(ClickHouseAddress("http", "h", 8123), readonly=False)
    assert "readonly" not in request.url.params
    assert not [name for name in request.headers if name.startswith("x-clickhouse")]


def settings(tmp_path: Path, **given: object) -> ApiSettings:
    return ApiSettings(kafka_bootstrap_servers="h:1", artifacts_url=tmp_path.as_uri(), **given)  # type: ignore[arg-type]


def test_the_settings_name_the_reader_and_the_database_by_the_url_or_beside_it(tmp_path: Path) -> None:
    url = "http://reader@clickhouse/sluice"
    whole = ClickHouseAddress("http", "clickhouse", 8123, "reader", "sluice")
    assert settings(tmp_path, sql_url=url).sql_address() == whole
    beside = settings(tmp_path, sql_url="http://writer@clickhouse:8123/x", sql_user="reader", sql_database="sluice")
    assert beside.sql_address() == whole
    assert settings(tmp_path).sql_readonly
    with pytest.raises(ValueError, match="SLUICE_SQL_URL holds a password; put it into the file SLUICE_SQL_PASSWORD_F"):
        settings(tmp_path, sql_url="http://reader:canary@clickhouse")


def refused_with(status: int, code: int | None) -> type[Exception]:
    """What an answer of the endpoint becomes."""

    def answer(request: httpx.Request) -> httpx.Response:
        headers = {} if code is None else {"X-ClickHouse-Exception-Code": str(code)}
        return httpx.Response(status, headers=headers, content=b"Code: 241. DB::Exception: memory limit exceeded")

    async def ask() -> None:
        transport = httpx.MockTransport(answer)
        async with SqlClient(ClickHouseAddress("http", "h", 8123), transport=transport) as client:
            await client.rows("SELECT 1")

    with pytest.raises((StoreUnavailable, QueryRefused)) as raised:
        asyncio.run(ask())
    return raised.type


@pytest.mark.covers("O3")
def test_a_broken_limit_is_said_and_an_absence_waited_for() -> None:
    assert refused_with(500, 241) is QueryTooLarge
    assert refused_with(408, 159) is QueryTooLarge
    assert refused_with(400, 62) is QueryRefused
    assert refused_with(503, 202) is StoreUnavailable, "too many queries"
    assert refused_with(502, None) is StoreUnavailable
