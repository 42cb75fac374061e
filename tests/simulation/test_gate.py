"""The spawner, the vault-broker and Vault together survive everything, from any seed."""

from __future__ import annotations

import pytest

from tests.simulation.gate_world import GateWorld

SEEDS = 40


@pytest.mark.covers("V1", "V3", "V5", "V6", "V8", "P12")
@pytest.mark.parametrize("seed", range(SEEDS))
def test_no_task_without_its_grant_and_no_token_without_its_pipeline(seed: int) -> None:
    world = GateWorld(seed)
    try:
        world.run()
        world.check()
    except Exception as error:
        raise AssertionError(f"seed {seed}: {error}") from error
