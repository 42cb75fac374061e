"""What Vault has and nobody knows is told, once it has been so for a while; what is ended by us is not."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import msgspec
import pytest

from sluice_runtime.metrics import Metrics
from sluice_runtime.processor.partition import Injected
from sluice_vault_broker.adapters.holdings import Holdings
from sluice_vault_broker.adapters.reconciler import LOOKUPS_PER_ROUND_MAX_COUNT, SETTLED_MS, Reconciler
from sluice_vault_broker.adapters.schedule import Schedule
from sluice_vault_broker.domain.facts import OrphanFound, VaultGone
from sluice_vault_broker.domain.state import TokenEntity
from sluice_vault_broker.ports import Label, VaultFault
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
        self.gone: list[str] = []
        self.reconciler = Reconciler(
            self.vault, self.clock, self.holdings, Schedule(self.holdings, places=4, ready=lambda number: True),
            Metrics("test", "test"), inject=self._inject, ready=lambda number: True, partition_of=lambda pipeline: 0,
        )  # fmt: skip

    def _inject(self, number: int, inputs: Sequence[Injected]) -> None:
        self.told += [one.event.data for one in inputs if isinstance(one.event.data, OrphanFound)]
        self.gone += [one.event.data.accessor for one in inputs if isinstance(one.event.data, VaultGone)]

    def look(self) -> list[str]:
        """One round; returns the calls of Vault."""
        self.store.calls.clear()
        calls = self.reconciler.round()
        call = next(calls)
        while True:
            try:
                try:
                    answer = call()
                except VaultFault as fault:
                    call = calls.throw(fault)
                else:
                    call = calls.send(answer)
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


def _others(there: There, count: int) -> None:
    """Another installation's tokens."""
    other = MemoryVault(there.store, "others.")
    for number in range(count):
        other.log_in(Label("acme", PIPELINE, number + 1))


@pytest.mark.covers("V6")
def test_on_a_vault_of_many_what_is_gone_and_each_orphan_is_told_before_all_are_looked_at() -> None:
    there, world = There(), World()
    there.store.count = 1_000
    world.grant("a")
    for key, entity in world.state.items():
        there.holdings.observe(0, key, entity)
    there.holdings.durable(0)
    _others(there, 50)
    ours = there.vault.log_in(Label("acme", PIPELINE, 1)).accessor
    _others(there, 50)
    there.look()
    there.gone.clear()
    there.clock.advance(SETTLED_MS)
    calls = there.reconciler.round()
    call = next(calls)
    there.store.calls.clear()
    while not there.told:
        call = calls.send(call())
        if "lookup" in there.store.calls:
            assert sorted(there.gone) == sorted(world.token(one).accessor for one in (None, "a"))
    assert [one.accessor for one in there.told] == [ours]
    assert there.store.calls.count("lookup") < 100, "it was told only when all had been looked at"


@pytest.mark.covers("V6")
def test_a_round_looks_at_so_many_and_the_next_at_what_came_since_first() -> None:
    there = There()
    _others(there, LOOKUPS_PER_ROUND_MAX_COUNT + 100)
    there.look()
    there.clock.advance(SETTLED_MS)
    assert there.look().count("lookup") == LOOKUPS_PER_ROUND_MAX_COUNT
    there.vault.log_in(Label("acme", PIPELINE, 1))
    there.store.unfinished += [f"unfinished-{number}" for number in range(50)]
    there.look()
    there.clock.advance(SETTLED_MS)
    assert there.look()[2:] == ["lookup"] * 51
    assert len(there.told) == 1
    there.told.clear()
    _others(there, 1)
    there.look()
    there.clock.advance(SETTLED_MS)
    there.look()
    assert there.store.calls.count("lookup") == 51, "what is refused is asked about again, behind all others"


def _made(there: There) -> Token:
    return there.store.made[there.vault.log_in(Label("acme", PIPELINE, 1)).accessor]
