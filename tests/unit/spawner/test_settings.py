"""Settings that contradict each other are refused at the start."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from sluice_contracts.limits import UNTAKEN_MAX_S
from sluice_spawner.settings import SpawnerSettings


@pytest.mark.covers("P13")
def test_the_spawner_waits_for_no_attempt_longer_than_runners_take_it_up() -> None:
    SpawnerSettings(kafka_bootstrap_servers="k:9092", spawn_timeout_s=UNTAKEN_MAX_S)
    with pytest.raises(ValidationError, match="less than or equal to 60"):
        SpawnerSettings(kafka_bootstrap_servers="k:9092", spawn_timeout_s=UNTAKEN_MAX_S + 1)
