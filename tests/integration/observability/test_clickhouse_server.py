"""The event log on a ClickHouse server: one that the environment names, else that of Compose, in a container.

`SLUICE_TEST_CLICKHOUSE_URL` (http(s)://user@host:port, a user who may make databases) and, if he has a password,
`SLUICE_TEST_CLICKHOUSE_PASSWORD_FILE`. A database is made in it and dropped. Without a server and without Docker these
tests are skipped.
"""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote

import pytest
import yaml
from docker.errors import DockerException
from testcontainers.core.container import DockerContainer
from testcontainers.core.wait_strategies import HttpWaitStrategy

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

VARIABLE = "SLUICE_TEST_CLICKHOUSE_URL"
COMPOSE = Path(__file__).resolve().parents[3] / "docker-compose.yml"
HTTP_PORT = 8123

pytestmark = pytest.mark.needs("clickhouse_server")


@dataclass(frozen=True)
class Given:
    """A server, as a user who may make databases."""

    address: ClickHouseAddress
    password_file: Path | None

    @property
    def password(self) -> str | None:
        return None if self.password_file is None else self.password_file.read_text().strip()


@dataclass(frozen=True)
class Server:
    """A database of one's own with the log's tables, and where it is."""

    database: ClickHouse
    address: ClickHouseAddress
    given: Given


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Given]:
    """The server that the environment names, or one in a container."""
    if url := os.environ.get(VARIABLE):
        file = os.environ.get("SLUICE_TEST_CLICKHOUSE_PASSWORD_FILE")
        yield Given(ClickHouseAddress.parse(url, VARIABLE), None if file is None else Path(file))
        return
    password_file: Path = tmp_path_factory.mktemp("clickhouse") / "password"
    password_file.write_text(uuid.uuid4().hex)
    try:
        container = DockerContainer(yaml.safe_load(COMPOSE.read_text())["services"]["clickhouse"]["image"])
    except DockerException:
        pytest.skip(f"{VARIABLE} names no ClickHouse server, and there is no Docker to start one")
    container.with_env("CLICKHOUSE_USER", "tests").with_env("CLICKHOUSE_PASSWORD", password_file.read_text())
    container.with_env("CLICKHOUSE_DEFAULT_ACCESS_MANAGEMENT", "1").with_exposed_ports(HTTP_PORT)
    with container.waiting_for(HttpWaitStrategy(HTTP_PORT, "/ping")):
        url = f"http://tests@{container.get_container_host_ip()}:{container.get_exposed_port(HTTP_PORT)}"
        yield Given(ClickHouseAddress.parse(url, VARIABLE), password_file)


def url_of(address: ClickHouseAddress) -> str:
    """Scheme, user, host and port."""
    return address.url.replace("://", f"://{quote(address.user or 'default')}@", 1)


@pytest.fixture
def server(given: Given) -> Iterator[Server]:
    name = f"sluice_test_{uuid.uuid4().hex[:12]}"
    user = given.address.user or "default"
    url = url_of(replace(given.address, user=user))
    administrator = ClickHouse.server(url, given.password)
    administrator.command(f"CREATE DATABASE {name}")
    address = replace(given.address, user=user, database=name)
    database = ClickHouse.server(f"{url}/{name}", given.password)
    try:
        migrate(database, shipped())
        yield Server(database, address, given)
    finally:
        database.close()
        administrator.command(f"DROP DATABASE {name} SYNC")
        administrator.close()


@pytest.mark.covers("O1")
def test_the_log_and_the_api_s_past_are_the_same_on_a_server(server: Server) -> None:
    database, address = server.database, server.address
    teller = Teller("living")
    stored(database, [*whole_life("finished"), *spawning(teller), turn(teller, 1)])
    assert database.rows("SELECT count() FROM log")[0][0] == len(whole_life("finished")) + 7

    async def read() -> tuple[list[str], str]:
        async with SqlClient(address, server.given.password) as sql:
            history = History(sql)
            living = {event.subject async for page in history.living_events() for event in page}
            finished = await history.pipeline("finished")
            assert finished is not None
            return sorted(living), finished.state

    assert asyncio.run(read()) == (["living"], "COMPLETED")


@pytest.mark.covers("O3")
def test_who_may_write_can_t_do_so_by_the_api_and_the_command(server: Server) -> None:
    database, address = server.database, server.address
    with Sql(f"{url_of(address)}/{address.database}", password_file=server.given.password_file) as sql:
        for statement in ("DROP TABLE log", "INSERT INTO gaps (topic) VALUES ('x')", "SET readonly = 0"):
            with pytest.raises(Refused, match="readonly"):
                sql.raw(statement, format="TSV")
        assert sql.raw("SELECT count() FROM log", format="TSV") == b"0\n"

    async def drop() -> None:
        async with SqlClient(address, server.given.password) as client:
            await client.rows("DROP TABLE log")

    with pytest.raises((QueryRefused, StoreUnavailable), match="readonly"):
        asyncio.run(drop())
    assert database.rows("SELECT count() FROM log") == [(0,)]
