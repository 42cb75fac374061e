"""Settings of a runner that must agree with the rest of the house."""

from __future__ import annotations

import pytest

from sluice_agent_runner.settings import CLOSING_MAX_S, RunnerSettings
from sluice_runtime.lifecycle import STOP_MAX_S
from sluice_runtime.settings import SettingsError, load_settings


@pytest.mark.covers("D1")
def test_the_grace_ends_before_the_process_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLUICE_KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:9092")
    monkeypatch.setenv("SLUICE_RUNNER_GRACE_S", str(STOP_MAX_S - CLOSING_MAX_S))
    assert load_settings(RunnerSettings).runner_grace_s < STOP_MAX_S
    monkeypatch.setenv("SLUICE_RUNNER_GRACE_S", str(STOP_MAX_S))
    with pytest.raises(SettingsError, match="SLUICE_RUNNER_GRACE_S"):
        load_settings(RunnerSettings)


@pytest.mark.covers("D1")
def test_slots_and_backlog_are_what_one_heartbeat_can_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLUICE_KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:9092")
    monkeypatch.setenv("SLUICE_RUNNER_SLOTS", "1000")
    with pytest.raises(SettingsError, match=r"SLUICE_RUNNER_SLOTS=1000 and SLUICE_RUNNER_BACKLOG_MAX_COUNT=1000"):
        load_settings(RunnerSettings)
    monkeypatch.setenv("SLUICE_RUNNER_BACKLOG_MAX_COUNT", "400")
    assert load_settings(RunnerSettings).runner_slots == 1_000
