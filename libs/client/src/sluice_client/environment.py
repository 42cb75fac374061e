"""What the environment of `sluice up` says about the stack that it starts."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from sluice_client.errors import InputInvalid
from sluice_client.wiring import RUNNER, Settings
from sluice_localstack import SettingInvalid
from sluice_localstack.vault.table import PIPELINE_MAX_TTL, seconds
from sluice_runtime.connection import ClickHouseAddress

MODEL_KEY = "OPENROUTER_API_KEY"
"""The one secret that may come by the environment, of this process only: it goes on by a file."""
MODEL_KEY_FILE = "credentials/openrouter.key"
DEFAULT_MODEL = "openai/gpt-4.1-mini"
"""For tasks that name no model where a key is given; SLUICE_MODEL_DEFAULT names another."""

OURS = frozenset({
    "SLUICE_URL", "SLUICE_SQL_URL", "SLUICE_SQL_USER", "SLUICE_SQL_PASSWORD_FILE", "SLUICE_SQL_DATABASE",
    "SLUICE_SQL_READONLY",
    "SLUICE_ARTIFACTS_URL", "SLUICE_CREDENTIALS_DIRECTORY", "SLUICE_DATA_DIRECTORY", "SLUICE_CACHE_DIR",
    "SLUICE_HTTP_PORT", "SLUICE_INSTANCE_ID", "SLUICE_PARTITIONS",
    "SLUICE_VAULT_BINARY", "SLUICE_VAULT_PIPELINE_MAX_TTL",
    "SLUICE_VAULT_ADDR", "SLUICE_VAULT_CA_FILE", "SLUICE_VAULT_ROLE_ID_FILE", "SLUICE_VAULT_SECRET_ID_FILE",
})  # fmt: skip
"""Settings of the client, and such as no two services may share: they are not handed on."""


def stack_settings(data_directory: Path, environment: Mapping[str, str] | None = None) -> Settings:
    """Reads what a stack is to be. Nothing is written here: see `hand_over_key`.

    `SLUICE_…` settings of the services are handed on to them, such as `SLUICE_LEASE_MS` or `SLUICE_MODEL_BASE_URL`.

    Args:
        data_directory: Where the stack has its data.
        environment: Default: this process's.

    Raises:
        InputInvalid: A setting can't be used.
    """
    given = dict(os.environ if environment is None else environment)
    provider = given.get("SLUICE_MODEL_PROVIDER") or ("openrouter" if given.get(MODEL_KEY) else "scripted")
    runner: dict[str, str] = {}
    if given.get(MODEL_KEY) and provider == "openrouter":
        runner["SLUICE_MODEL_API_KEY_FILE"] = str(data_directory.absolute() / MODEL_KEY_FILE)
        runner["SLUICE_MODEL_DEFAULT"] = given.get("SLUICE_MODEL_DEFAULT") or DEFAULT_MODEL
    return Settings(
        data_directory=data_directory,
        partitions=_partitions(given.get("SLUICE_PARTITIONS")),
        topic_prefix=given.get("SLUICE_TOPIC_PREFIX", "sluice."),
        roles_directories=_directories(given, "SLUICE_ROLES_DIRECTORIES"),
        scenarios_directory=_directory(given, "SLUICE_SCENARIOS_DIRECTORY") or data_directory.absolute() / "scenarios",
        clickhouse_url=_clickhouse_url(given.get("CLICKHOUSE_URL")),
        clickhouse_password_file=_file(given, "SLUICE_CLICKHOUSE_PASSWORD_FILE"),
        sql_user=given.get("SLUICE_SQL_USER") or None,
        sql_password_file=_file(given, "SLUICE_SQL_PASSWORD_FILE"),
        sql_readonly=given.get("SLUICE_SQL_READONLY", "").lower() not in ("false", "0"),
        model_provider=provider,
        vault_pipeline_max_ttl=_time(given, "SLUICE_VAULT_PIPELINE_MAX_TTL", PIPELINE_MAX_TTL),
        environment={name: value for name, value in given.items() if name.startswith("SLUICE_") and name not in OURS},
        service_environment={RUNNER: runner},
    )


def hand_over_key(data_directory: Path, environment: Mapping[str, str] | None = None) -> None:
    """Writes the model's key, where one is given, into a file that only the owner may read; else removes an old one."""
    key = (os.environ if environment is None else environment).get(MODEL_KEY)
    file = data_directory / MODEL_KEY_FILE
    file.unlink(missing_ok=True)
    if key:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as stream:
            stream.write(key)


def _partitions(text: str | None) -> int:
    if not text:
        return 8
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 1_000:
        raise InputInvalid(f"SLUICE_PARTITIONS={text[:80]!r}: it is a number from 1 to 1000")
    return int(text)


def _time(given: Mapping[str, str], name: str, default: str) -> str:
    text = given.get(name) or default
    try:
        seconds(text)
    except SettingInvalid as error:
        raise InputInvalid(f"{name}: {error}") from None
    return text


def _file(given: Mapping[str, str], name: str) -> Path | None:
    return Path(given[name]).expanduser().absolute() if given.get(name) else None


def _directory(given: Mapping[str, str], name: str) -> Path | None:
    return _folder(name, given[name]) if given.get(name) else None


def _directories(given: Mapping[str, str], name: str) -> tuple[Path, ...]:
    return tuple(_folder(name, part.strip()) for part in given.get(name, "").split(",") if part.strip())


def _folder(name: str, text: str) -> Path:
    found = Path(text).expanduser().absolute()
    if not found.is_dir():
        raise InputInvalid(f"{name}={found}: there is no such folder; make it, or correct the path")
    return found


def _clickhouse_url(text: str | None) -> str | None:
    if not text:
        return None
    try:
        ClickHouseAddress.parse(text, "CLICKHOUSE_URL")
    except ValueError as error:
        raise InputInvalid(str(error)) from None
    return text
