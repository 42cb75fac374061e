"""What the environment says about a stack, and where its one secret goes."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest

from sluice_client.environment import MODEL_KEY_FILE, hand_over_key, stack_settings
from sluice_client.errors import InputInvalid
from sluice_client.wiring import RUNNER

CANARY = "canary-4f1d"


def test_without_anything_scenarios_answer(tmp_path: Path) -> None:
    settings = stack_settings(tmp_path, {})
    assert settings.model_provider == "scripted"
    assert settings.scenarios_directory == tmp_path / "scenarios"
    assert settings.clickhouse_url is None


def test_settings_of_the_services_are_handed_on_and_those_of_the_client_are_not(tmp_path: Path) -> None:
    given = {
        "SLUICE_LEASE_MS": "3000",
        "SLUICE_URL": "http://x",
        "HOME": "/",
        "SLUICE_HTTP_PORT": "1",
        "SLUICE_PARTITIONS": "3",
    }
    settings = stack_settings(tmp_path, given)
    assert settings.environment == {"SLUICE_LEASE_MS": "3000"}
    assert settings.partitions == 3


def test_the_models_key_goes_on_by_a_private_file_only(tmp_path: Path) -> None:
    given = {"OPENROUTER_API_KEY": CANARY, "SLUICE_MODEL_DEFAULT": "some/model"}
    settings = stack_settings(tmp_path, given)
    assert settings.model_provider == "openrouter"
    assert CANARY not in str(asdict(settings))
    assert settings.service_environment[RUNNER]["SLUICE_MODEL_DEFAULT"] == "some/model"
    file = Path(settings.service_environment[RUNNER]["SLUICE_MODEL_API_KEY_FILE"])
    assert file == tmp_path / MODEL_KEY_FILE
    hand_over_key(tmp_path, given)
    assert file.read_text() == CANARY
    assert file.stat().st_mode & 0o777 == 0o600
    hand_over_key(tmp_path, {})
    assert not file.exists()


def test_a_provider_may_be_named_instead(tmp_path: Path) -> None:
    given = {"OPENROUTER_API_KEY": CANARY, "SLUICE_MODEL_PROVIDER": "scripted"}
    assert stack_settings(tmp_path, given).model_provider == "scripted"
    assert stack_settings(tmp_path, given).service_environment[RUNNER] == {}


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("SLUICE_PARTITIONS", "0", "1 to 1000"),
        ("SLUICE_PARTITIONS", "many", "1 to 1000"),
        ("SLUICE_ROLES_DIRECTORIES", "/tmp,/does/not/exist", "=/does/not/exist: there is no such folder"),
        ("CLICKHOUSE_URL", "clickhouse:8123", "no URL of a server"),
        ("CLICKHOUSE_URL", f"http://user:{CANARY}@host:8123/x", "SLUICE_CLICKHOUSE_PASSWORD_FILE"),
    ],
)
def test_what_is_wrong_is_told_without_the_secret(tmp_path: Path, name: str, value: str, told: str) -> None:
    with pytest.raises(InputInvalid, match=told) as refused:
        stack_settings(tmp_path, {name: value})
    assert CANARY not in str(refused.value)
