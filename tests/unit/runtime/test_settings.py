"""Settings come from the environment, and errors say what to do without showing secrets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import Field

from sluice_runtime.connection import CredentialsError
from sluice_runtime.settings import (
    PREFIX,
    ArtifactSettings,
    QueueSettings,
    ServiceSettings,
    SettingsError,
    load_settings,
    settings_table,
)


class ExampleSettings(ArtifactSettings, QueueSettings):
    """A service's settings."""

    slots: int = Field(default=64, ge=1, le=1_000, description="Attempts at once | at most.")
    region: str = Field(description="Where it runs.")


Environment = pytest.MonkeyPatch


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The process's environment, with what every service needs."""
    import os

    for name in list(os.environ):
        if name.startswith(PREFIX):
            monkeypatch.delenv(name)
    monkeypatch.setenv("SLUICE_KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:9092")
    monkeypatch.setenv("SLUICE_REGION", "here")
    return monkeypatch


def test_defaults(environment: Environment) -> None:
    settings = load_settings(ExampleSettings)
    assert (settings.topic_prefix, settings.queues, settings.http_host) == ("sluice.", ("default",), "127.0.0.1")
    assert settings.kafka().bootstrap_servers == "127.0.0.1:9092"
    assert list(settings.known_secrets()) == []
    assert settings.instance_id != load_settings(ExampleSettings).instance_id


def test_the_environment_is_read(environment: Environment, tmp_path: Path) -> None:
    environment.setenv("SLUICE_QUEUES", "default, gpu ,")
    environment.setenv("SLUICE_LOG_LEVEL", "debug")
    environment.setenv("sluice_slots", "8")
    environment.setenv("SLUICE_HTTP_PORT", "")  # as compose files leave it
    environment.setenv("SLUICE_ARTIFACTS_URL", (tmp_path / "artifacts").as_uri())
    settings = load_settings(ExampleSettings)
    assert (settings.queues, settings.log_level, settings.slots) == (("default", "gpu"), "DEBUG", 8)
    assert settings.http_port == 0
    settings.artifacts()
    assert (tmp_path / "artifacts").is_dir()


def test_a_service_is_told_of_what_it_uses_only() -> None:
    rows = {kind: set(settings_table(kind).splitlines()) for kind in (ServiceSettings, QueueSettings, ArtifactSettings)}
    assert not [row for row in rows[ServiceSettings] if "QUEUES" in row or "ARTIFACTS" in row]
    assert len(rows[QueueSettings] - rows[ServiceSettings]) == 1
    assert len(rows[ArtifactSettings] - rows[ServiceSettings]) == 3


def test_credentials_come_from_files(environment: Environment, tmp_path: Path) -> None:
    kafka, s3 = tmp_path / "kafka.json", tmp_path / "s3.json"
    kafka.write_text(
        json.dumps({"bootstrap_servers": "127.0.0.1:1", "username": "spawner", "password": "pw-from-file"})
    )
    s3.write_text(json.dumps({"access_key_id": "id", "secret_access_key": "key-from-file"}))
    environment.delenv("SLUICE_KAFKA_BOOTSTRAP_SERVERS")
    environment.setenv("SLUICE_KAFKA_CREDENTIALS_FILE", str(kafka))
    environment.setenv("SLUICE_ARTIFACTS_URL", "s3://bucket")
    environment.setenv("SLUICE_ARTIFACTS_CREDENTIALS_FILE", str(s3))
    settings = load_settings(ExampleSettings)
    assert settings.kafka().username == "spawner"
    assert list(settings.known_secrets()) == ["pw-from-file", "key-from-file"]
    assert "from-file" not in repr(settings)
    kafka.unlink()
    with pytest.raises(CredentialsError, match=r"kafka\.json.*SLUICE_KAFKA_CREDENTIALS_FILE"):
        settings.kafka()


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("SLUICE_SLOTS", "many", r"SLUICE_SLOTS='many': .*integer.*Attempts at once"),
        ("SLUICE_SLOTS", "0", r"SLUICE_SLOTS='0': .*greater than or equal to 1"),
        ("SLUICE_HTTP_PORT", "70000", r"SLUICE_HTTP_PORT='70000'"),
        ("SLUICE_LOG_LEVEL", "loud", r"SLUICE_LOG_LEVEL='LOUD': .*'DEBUG'"),
        ("SLUICE_QUEUES", "a/b", r"SLUICE_QUEUES='a/b'"),
        ("SLUICE_QUEUES", ",", r"SLUICE_QUEUES="),
        ("SLUICE_TOPIC_PREFIX", "a b", r"SLUICE_TOPIC_PREFIX='a b'"),
        ("SLUICE_REGION", "", r"SLUICE_REGION is not set; set it \(Where it runs"),
        ("SLUICE_KAFKA_BOOTSTRAP_SERVERS", "", "set SLUICE_KAFKA_CREDENTIALS_FILE, or SLUICE_KAFKA_BOOTSTRAP_SERVERS"),
        ("SLUICE_KAFKA_CREDENTIALS_FILE", "/x.json", "one of both, not both"),
    ],
)
def test_an_error_names_variable_value_and_next_step(
    environment: Environment, variable: str, value: str, expected: str
) -> None:
    environment.setenv(variable, value)
    with pytest.raises(SettingsError, match=expected):
        load_settings(ExampleSettings)


def test_all_errors_are_told_at_once(environment: Environment) -> None:
    environment.setenv("SLUICE_SLOTS", "many")
    environment.setenv("SLUICE_HTTP_PORT", "-1")
    with pytest.raises(SettingsError) as caught:
        load_settings(ExampleSettings)
    assert len(str(caught.value).splitlines()) == 2


def test_an_error_shows_no_secret(environment: Environment) -> None:
    environment.setenv("SLUICE_SLOTS", "sk-proj-abcdef0123456789abcdef")
    environment.setenv("SLUICE_QUEUES", "password=hunter2")
    with pytest.raises(SettingsError) as caught:
        load_settings(ExampleSettings)
    assert "abcdef0123456789" not in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_the_table_has_every_variable(environment: Environment) -> None:
    table = settings_table(ExampleSettings)
    for name in ExampleSettings.model_fields:
        assert f"| `{PREFIX}{name.upper()}` |" in table
    assert "| `SLUICE_SLOTS` | `64` | Attempts at once \\| at most. |" in table
    assert "| `SLUICE_REGION` | required | Where it runs. |" in table
    assert "| `SLUICE_QUEUES` | `default` |" in table
    assert "| `SLUICE_INSTANCE_ID` | – |" in table
    assert all(field.description for field in ExampleSettings.model_fields.values())
