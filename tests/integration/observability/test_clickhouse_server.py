"""The event log on a ClickHouse server, where the environment names one to the tests: a database is made and dropped.

`SLUICE_TEST_CLICKHOUSE_URL` (http(s)://user@host:port, a user who may make databases) and, if he has a password,
`SLUICE_TEST_CLICKHOUSE_PASSWORD_FILE`.
"""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import pytest

from sluice_client.errors import Refused
from sluice_client.sql import Sql
from sluice_observability.adapters.clickhouse import ClickHouse
from sluice_observability.adapters.migrations import migrate, shipped
from sluice_observability.adapters.sql_client import SqlClient
from sluice_observability.handlers.history import History
from sluice_observability.ports import QueryRefused, StoreUnavailable
from sluice_runtime.connection import ClickHouseAddress
from tests.unit.observability.events import Teller, spawning, turn, whole_life
from tests.unit.observability.test_views import stored

URL = os.environ.get("SLUICE_TEST_CLICKHOUSE_URL")
PASSWORD_FILE = os.environ.get("SLUICE_TEST_CLICKHOUSE_PASSWORD_FILE")

pytestmark = [
    pytest.mark.needs("clickhouse_server"),
    pytest.mark.skipif(URL is None, reason="SLUICE_TEST_CLICKHOUSE_URL names no ClickHouse server"),
]

Server = tuple[ClickHouse, ClickHouseAddress]


def password() -> str | None:
    return None if PASSWORD_FILE is None else Path(PASSWORD_FILE).read_text().strip()


def url_of(address: ClickHouseAddress) -> str:
    """Scheme, user, host and port."""
    return address.url.replace("://", f"://{quote(address.user or 'default')}@", 1)


@pytest.fixture
def server() -> Iterator[Server]:
    """A database of one's own with the log's tables, and where it is."""
    given = ClickHouseAddress.parse(URL or "", "SLUICE_TEST_CLICKHOUSE_URL")
    name = f"sluice_test_{uuid.uuid4().hex[:12]}"
    user = given.user or "default"
    url = url_of(replace(given, user=user))
    administrator = ClickHouse.server(url, password())
    administrator.command(f"CREATE DATABASE {name}")
    address = replace(given, user=user, database=name)
    database = ClickHouse.server(f"{url}/{name}", password())
    try:
        migrate(database, shipped())
        yield database, address
    finally:
        database.close()
        administrator.command(f"DROP DATABASE {name} SYNC")
        administrator.close()


@pytest.mark.covers("O1")
def test_the_log_and_the_api_s_past_are_the_same_on_a_server(server: Server) -> None:
    database, address = server
    teller = Teller("living")
    stored(database, [*whole_life("finished"), *spawning(teller), turn(teller, 1)])
    assert database.rows("SELECT count() FROM log")[0][0] == len(whole_life("finished")) + 7

    async def read() -> tuple[list[str], str]:
        async with SqlClient(address, password()) as sql:
            history = History(sql)
            living = {event.subject async for page in history.living_events() for event in page}
            finished = await history.pipeline("finished")
            assert finished is not None
            return sorted(living), finished.state

    assert asyncio.run(read()) == (["living"], "COMPLETED")


@pytest.mark.covers("O3")
def test_who_may_write_can_t_do_so_by_the_api_and_the_command(server: Server) -> None:
    database, address = server
    password_file = None if PASSWORD_FILE is None else Path(PASSWORD_FILE)
    with Sql(f"{url_of(address)}/{address.database}", password_file=password_file) as sql:
        for statement in ("DROP TABLE log", "INSERT INTO gaps (topic) VALUES ('x')", "SET readonly = 0"):
            with pytest.raises(Refused, match="readonly"):
                sql.raw(statement, format="TSV")
        assert sql.raw("SELECT count() FROM log", format="TSV") == b"0\n"

    async def drop() -> None:
        async with SqlClient(address, password()) as client:
            await client.rows("DROP TABLE log")

    with pytest.raises((QueryRefused, StoreUnavailable), match="readonly"):
        asyncio.run(drop())
    assert database.rows("SELECT count() FROM log") == [(0,)]
