"""What is done in Vault is done by hands, and a defect of theirs ends the process."""

from __future__ import annotations

import asyncio

import pytest

from sluice_runtime.clock import SystemClock
from sluice_runtime.metrics import Metrics
from sluice_vault_broker.adapters.acts import Terms
from sluice_vault_broker.adapters.hands import Hands
from sluice_vault_broker.adapters.holdings import Holdings
from sluice_vault_broker.ports import Label, Minted
from tests.unit.vault_broker.world import World
from tests.vault import MemoryStore, MemoryVault


class Defective(MemoryVault):
    """Its adapter has a defect."""

    def log_in(self, label: Label) -> Minted:
        raise KeyError("wrap_info")


@pytest.mark.covers("V8")
def test_a_defect_in_an_act_ends_the_hands() -> None:
    """A place that is lost silently would be the first of all: nothing would be minted any more, and all look well."""
    world = World()
    world.request("a")
    holdings = Holdings()
    for key, entity in world.state.items():
        holdings.observe(0, key, entity)
    clock = SystemClock()
    hands = Hands(
        Defective(MemoryStore(clock), "sluice."), clock, holdings, Metrics("vault-broker", "one"), terms=Terms(),
        answer=lambda partition, inputs: None, ready=lambda partition: True, threads=2,
    )  # fmt: skip

    async def work() -> None:
        hands.durable(0)
        async with asyncio.timeout(10):
            await hands.run(asyncio.Event())

    with pytest.raises(KeyError, match="wrap_info"):
        asyncio.run(work())
