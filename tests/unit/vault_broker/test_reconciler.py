"""What Vault has and nobody knows is told, once it has been so for a while; what is ended by us is not."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import msgspec
import pytest

from sluice_runtime.metrics import Metrics
from sluice_runtime.processor.partition import Injected
from sluice_vault_broker.adapters.holdings import Holdings
from sluice_vault_broker.adapters.reconciler import SETTLED_MS, Reconciler
from sluice_vault_broker.adapters.schedule import Schedule
from sluice_vault_broker.domain.facts import OrphanFound
from sluice_vault_broker.domain.state import TokenEntity
from sluice_vault_broker.ports import Label
from tests.doubles import ManualClock
from tests.unit.vault_broker.world import World
from tests.vault import MemoryStore, MemoryVault, Token

PIPELINE = "11111111-1111-4111-8111-111111111111"


class There:
    """A reconciler that owns one partition, on a Vault in memory."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.store = MemoryStore(self.clock)
        self.vault = MemoryVault(self.store, "ours.")
        self.holdings = Holdings()
        self.holdings.durable(0)
        self.told: list[OrphanFound] = []
        self.reconciler = Reconciler(
            self.vault, self.clock, self.holdings, Schedule(self.holdings, places=4, ready=lambda number: True),
            Metrics("test", "test"), inject=self._inject, ready=lambda number: True, partition_of=lambda pipeline: 0,
        )  # fmt: skip

    def _inject(self, number: int, inputs: Sequence[Injected]) -> None:
        self.told += [one.event.data for one in inputs if isinstance(one.event.data, OrphanFound)]

    def look(self) -> list[str]:
        """One round; returns the calls of Vault."""
        self.store.calls.clear()
        calls = self.reconciler.round()
        call = next(calls)
        while True:
            try:
                call = calls.send(call())
            except StopIteration:
                return list(self.store.calls)


@pytest.mark.covers("V6")
def test_a_new_token_is_not_even_looked_up() -> None:
    """Vault forgets a token that is looked up while it is being made."""
    there = There()
    there.vault.log_in(Label("acme", PIPELINE, 1))
    assert "lookup" not in there.look()
    there.clock.advance(SETTLED_MS - 1)
    assert "lookup" not in there.look()
    there.clock.advance(1)
    assert "lookup" in there.look()
    assert [one.accessor for one in there.told] == ["accessor-1"]


@pytest.mark.covers("V6")
def test_a_clock_that_was_set_back_delays_it_no_longer() -> None:
    there = There()
    there.vault.log_in(Label("acme", PIPELINE, 1))
    there.look()
    there.clock.advance(-3_600_000)
    there.look()
    there.clock.advance(SETTLED_MS)
    there.look()
    assert len(there.told) == 1


@pytest.mark.covers("V6", "V7")
def test_what_was_known_when_vault_was_asked_is_no_orphan() -> None:
    """It was unknown while it was minted, then granted, and is ended by us while the look goes on."""
    there, world = There(), World()
    there.store.tokens["accessor-of-a"] = dataclasses.replace(_made(there), accessor="accessor-of-a")
    there.look()  # on its way: nobody knows it yet
    there.clock.advance(SETTLED_MS)
    world.grant("a")
    [(key, entity)] = [(key, one) for key, one in world.state.items() if key.endswith("/token/a")]
    assert isinstance(entity, TokenEntity)
    there.holdings.observe(0, key, msgspec.structs.replace(entity, accessor="accessor-of-a"))
    there.holdings.durable(0)
    calls = there.reconciler.round()
    list_accessors = calls.send(next(calls)())  # behind the entities
    listed = list_accessors()
    there.holdings.observe(0, key, None)  # revoked, and told so, before the answer was looked at
    there.holdings.durable(0)
    call = calls.send(listed)
    while True:
        try:
            call = calls.send(call())
        except StopIteration:
            break
    assert "accessor-of-a" not in [one.accessor for one in there.told]


def _made(there: There) -> Token:
    return there.store.made[there.vault.log_in(Label("acme", PIPELINE, 1)).accessor]
