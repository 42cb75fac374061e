"""Settings that contradict each other are refused at the start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from sluice_agent_runner.settings import RunnerSettings
from sluice_vault_broker.settings import BrokerSettings


def settings(tmp_path: Path, **more: Any) -> BrokerSettings:
    role_id, secret_id = tmp_path / "role-id", tmp_path / "secret-id"
    return BrokerSettings(
        kafka_bootstrap_servers="k:9092", vault_addr="http://v:8200", vault_role_id_file=role_id,
        vault_secret_id_file=secret_id, **more,
    )  # fmt: skip


@pytest.mark.covers("V1")
def test_tokens_are_renewed_at_least_twice_in_their_life(tmp_path: Path) -> None:
    assert settings(tmp_path).terms().ttl_s == 7_200
    assert settings(tmp_path, token_ttl_s=60, renewal_interval_s=30).policy().renewal_interval_ms == 30_000
    with pytest.raises(ValidationError, match="one renewal that fails would end a token"):
        settings(tmp_path, token_ttl_s=60, renewal_interval_s=31)


@pytest.mark.covers("V8")
def test_a_call_of_vault_is_bounded_by_the_name_that_the_runners_know_too(tmp_path: Path) -> None:
    assert settings(tmp_path, vault_timeout_s=2).vault().call_timeout_s == 2
    assert "vault_timeout_s" in RunnerSettings.model_fields


@pytest.mark.covers("V4")
def test_what_it_logs_in_with_is_known_to_be_secret(tmp_path: Path) -> None:
    found = settings(tmp_path)
    assert list(found.known_secrets()) == []
    found.vault_secret_id_file.write_text("the-secret-id\n")
    assert list(found.known_secrets()) == ["the-secret-id"]
