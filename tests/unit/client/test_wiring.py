"""What a given ClickHouse server means for services and clients: one address, and a reader where one is given."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import httpx
import pytest

from sluice_client.environment import stack_settings
from sluice_client.errors import InputInvalid
from sluice_client.installation import Installation, find
from sluice_client.sql import Sql
from sluice_client.wiring import API, AUDIT, RUNNER, STORE, installation_of, services_of
from sluice_localstack import ExternalVault, LocalStack, VaultAddress, VaultCredentials, VaultLogin
from sluice_localstack.services import STOP_GRACE_S
from sluice_observability.settings import ApiSettings, StoreSettings
from sluice_runtime.lifecycle import STOP_MAX_S
from sluice_runtime.settings import PREFIX


class Stack:
    """As much of a running stack as the wiring asks for."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.bootstrap_servers = "127.0.0.1:9092"
        self.vault_credentials = VaultCredentials(directory / "credentials" / "vault")
        self.vault: ExternalVault | None = None

    def port(self, name: str) -> int:
        return 8_000 + len(name)

    def credentials_file(self, principal: str) -> Path:
        return self.directory / f"{principal}.json"


def wired(directory: Path, **given: str) -> tuple[StoreSettings, ApiSettings, Installation]:
    """What the store, the api and clients of a stack are told, with these variables set."""
    settings = stack_settings(directory, given)
    stack = cast(LocalStack, Stack(directory))
    told: dict[str, dict[str, Any]] = {
        service.name: {name.removeprefix(PREFIX).lower(): value for name, value in service.environment.items()}
        for service in services_of(settings, stack)
    }
    return StoreSettings(**told[STORE]), ApiSettings(**told[API]), installation_of(settings, stack)


def headers_of(installation: Installation) -> tuple[httpx.URL, httpx.Headers]:
    """What `sluice sql` sends."""
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, content=b"1\n")

    password_file = installation.sql_password_file
    with Sql(
        installation.needed_sql_url(), user=installation.sql_user, database=installation.sql_database,
        password_file=None if password_file is None else Path(password_file), readonly=installation.sql_readonly,
        transport=httpx.MockTransport(answer),
    ) as sql:  # fmt: skip
        sql.raw("SELECT 1", format="TSV")
    return seen[0].url, seen[0].headers


@pytest.fixture
def secrets(tmp_path: Path) -> dict[str, str]:
    found = {}
    for name in ("CLICKHOUSE", "SQL"):
        file = tmp_path / name
        file.write_text(f"{name}-password\n")
        found[f"SLUICE_{name}_PASSWORD_FILE"] = str(file)
    return found


def test_a_url_without_port_and_database_means_the_same_to_all(tmp_path: Path) -> None:
    store, api, installation = wired(tmp_path, CLICKHOUSE_URL="http://clickhouse")
    assert store.clickhouse_url == "http://clickhouse"  # the store's client adds the same port, user and database
    address = api.sql_address()
    assert (address.url, address.user, address.database) == ("http://clickhouse:8123", "default", "default")
    url, headers = headers_of(installation)
    assert (url.host, url.port, headers["X-ClickHouse-Database"]) == ("clickhouse", 8123, "default")


@pytest.mark.covers("O3")
def test_where_nobody_else_is_given_the_writer_asks_and_may_only_read(tmp_path: Path, secrets: dict[str, str]) -> None:
    _, api, installation = wired(tmp_path, CLICKHOUSE_URL="https://writer@h/sluice", **secrets)
    address = api.sql_address()
    assert (address.user, address.database, address.port) == ("writer", "sluice", 8443)
    assert (api.sql_password(), api.sql_readonly) == ("CLICKHOUSE-password", True)
    url, headers = headers_of(installation)
    assert url.params["readonly"] == "1"
    assert (headers["X-ClickHouse-User"], headers["X-ClickHouse-Key"]) == ("writer", "CLICKHOUSE-password")


@pytest.mark.covers("O3")
def test_a_reader_that_is_given_asks_instead_of_the_writer(tmp_path: Path, secrets: dict[str, str]) -> None:
    given = {"CLICKHOUSE_URL": "https://writer@h/sluice", "SLUICE_SQL_USER": "reader", **secrets}
    store, api, installation = wired(tmp_path, **given)
    assert (store.clickhouse_url, store.clickhouse_password()) == ("https://writer@h/sluice", "CLICKHOUSE-password")
    assert (api.sql_address().user, api.sql_password(), api.sql_readonly) == ("reader", "SQL-password", True)
    _, headers = headers_of(installation)
    assert (headers["X-ClickHouse-User"], headers["X-ClickHouse-Key"]) == ("reader", "SQL-password")
    _, api, installation = wired(tmp_path, **given, SLUICE_SQL_READONLY="false")
    assert (api.sql_readonly, installation.sql_readonly) == (False, False)
    assert "readonly" not in headers_of(installation)[0].params


def test_the_embedded_engine_s_endpoint_is_asked_as_nobody(tmp_path: Path, secrets: dict[str, str]) -> None:
    _, api, installation = wired(tmp_path, SLUICE_SQL_USER="reader", **secrets)
    assert (api.sql_address().url, api.sql_user, api.sql_database) == ("http://127.0.0.1:8005", None, None)
    assert "X-ClickHouse-User" not in headers_of(installation)[1]


def test_another_installation_s_sql_is_asked_by_its_url(tmp_path: Path) -> None:
    given = {"SLUICE_SQL_URL": "http://reader@sql/sluice", "SLUICE_DATA_DIRECTORY": str(tmp_path)}
    url, headers = headers_of(find(url="http://other", environment=given))
    assert (url.port, url.params["readonly"]) == (8123, "1")
    assert (headers["X-ClickHouse-User"], headers["X-ClickHouse-Database"]) == ("reader", "sluice")
    with pytest.raises(InputInvalid, match="SLUICE_SQL_URL 'sql:8123' is no URL of a server"):
        Sql("sql:8123")


def test_a_stack_waits_longer_for_its_services_than_they_take_to_stop() -> None:
    assert STOP_GRACE_S > STOP_MAX_S


@pytest.mark.covers("V7", "D4")
def test_the_audit_file_is_followed_where_it_can_be_read(tmp_path: Path) -> None:
    stack = Stack(tmp_path)
    settings = stack_settings(tmp_path, {})

    def told() -> dict[str, str] | None:
        services = {one.name: one for one in services_of(settings, cast(LocalStack, stack))}
        return dict(services[AUDIT].environment) if AUDIT in services else None

    assert told() is None
    login = VaultLogin(VaultAddress("https://vault.example:8200"), "a-token")
    stack.vault = ExternalVault(login)
    assert told() is None
    stack.vault = ExternalVault(login, tmp_path / "audit.log")
    found = told()
    assert found is not None
    assert found["SLUICE_VAULT_AUDIT_FILE"] == str(tmp_path / "audit.log")
    assert found["SLUICE_KAFKA_CREDENTIALS_FILE"] == str(tmp_path / "vault-audit.json")
    assert [name for name in found if "VAULT" in name] == ["SLUICE_VAULT_AUDIT_FILE"], "it has no login at Vault"


@pytest.mark.covers("V4", "D4")
def test_a_runner_is_told_where_vault_is_and_by_which_files_it_logs_in(tmp_path: Path) -> None:
    stack = Stack(tmp_path)
    settings = stack_settings(tmp_path, {"SLUICE_VAULT_ADDR": "http://elsewhere", "SLUICE_VAULT_BINARY": "bao"})

    def told() -> dict[str, str]:
        services = {one.name: one.environment for one in services_of(settings, cast(LocalStack, stack))}
        assert all("VAULT" not in name for one in (API, STORE) for name in services[one])
        return {name: value for name, value in services[RUNNER].items() if "VAULT" in name}

    assert told() == {}, "what others call by these names is not handed on"
    stack.vault = ExternalVault(VaultLogin(VaultAddress("https://vault.example:8200", "/ca.pem"), "a-token"))
    files = tmp_path / "credentials" / "vault"
    assert told() == {
        "SLUICE_VAULT_ADDR": "https://vault.example:8200",
        "SLUICE_VAULT_CA_FILE": "/ca.pem",
        "SLUICE_VAULT_ROLE_ID_FILE": str(files / "agent-runner" / "role-id"),
        "SLUICE_VAULT_SECRET_ID_FILE": str(files / "agent-runner" / "secret-id"),
    }
    found = installation_of(settings, cast(LocalStack, stack))
    assert (found.vault_addr, found.vault_credentials_directory) == ("https://vault.example:8200", str(files))
