"""What Vault has and nobody knows is told, once it has been so for a while; what is ended by us is not."""

from __future__ import annotations

import asyncio
import dataclasses
import sys
from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID

import msgspec
import pytest

from sluice_runtime.deciding import Entity
from sluice_runtime.metrics import Metrics
from sluice_runtime.processor.partition import Injected
from sluice_vault_broker.adapters.holdings import Holdings
from sluice_vault_broker.adapters.reconciler import (
    LOOKUPS_PER_ROUND_MAX_COUNT,
    SETTLED_MS,
    SLICE_COUNT,
    Reconciler,
    pause,
)
from sluice_vault_broker.adapters.schedule import Schedule
from sluice_vault_broker.domain.facts import OrphanFound, VaultGone
from sluice_vault_broker.domain.state import PipelineEntity, TokenEntity
from sluice_vault_broker.ports import Label, VaultFault
from tests.doubles import ManualClock
from tests.unit.vault_broker.world import World
from tests.vault import MemoryStore, MemoryVault, Token

PIPELINE = "11111111-1111-4111-8111-111111111111"


class There:
    """A reconciler that owns one partition, on a Vault in memory."""

    def __init__(self, slice_count: int = SLICE_COUNT) -> None:
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
            slice_count=slice_count,
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


def _many(there: There, count: int) -> list[str]:
    """So many pipelines with a token of their own, in the state and in Vault; returns their accessors."""
    accessors = []
    for number in range(count):
        pipeline_id = str(UUID(int=number + 1))
        label = Label("acme", pipeline_id, 1)
        login = there.vault.log_in(label)
        root = there.vault.mint_root(login.token, label, ttl_s=600, max_ttl_s=600)
        entities: dict[str, Entity] = {
            "pipeline": PipelineEntity(tenant="acme", since_ms=1, sequence=1, tokens=1),
            "root": TokenEntity(
                number=1, wanted_at_ms=1, request_id="r", accessor=root.accessor, top=login.accessor, renewed_at_ms=1,
            ),
        }  # fmt: skip
        for name, entity in entities.items():
            there.holdings.observe(0, f"{pipeline_id}/{name}", entity)
        accessors.append(root.accessor)
    there.holdings.durable(0)
    return accessors


def _slices_of_a_round(there: There, between: Callable[[int], None] = lambda number: None) -> list[int]:
    """One round; returns how many functions were called in each of its pieces. `between` is called at each pause."""
    counts, pauses, answer = [0], 0, None

    def hear(frame: object, event: str, argument: object) -> None:
        counts[-1] += event == "call"

    calls = there.reconciler.round()
    while True:
        sys.setprofile(hear)
        try:
            call: Callable[[], Any] = calls.send(answer)
        except StopIteration:
            return counts
        finally:
            sys.setprofile(None)
        answer = call()
        counts.append(0)
        if call is pause:
            pauses += 1
            between(pauses)


@pytest.mark.covers("V5", "V6")
def test_no_piece_of_a_round_grows_with_what_is_compared() -> None:
    """A revocation waits for one piece, not for all that lives: counted, not timed."""
    longest = []
    for count in (100, 1_000):
        there = There(slice_count=50)
        _many(there, count)
        _others(there, count)
        there.look()
        there.clock.advance(SETTLED_MS)
        longest.append(max(_slices_of_a_round(there)))
    assert longest[1] < 1.5 * longest[0], longest


def test_whatever_else_waits_comes_between_two_pieces() -> None:
    there, turns = There(slice_count=10), 0
    _many(there, 100)
    there.store.tokens.clear()
    turn_of_each: list[int] = []

    async def work() -> None:
        nonlocal turns
        stop = asyncio.Event()
        there.reconciler.taken(0)
        running = asyncio.create_task(there.reconciler.run(stop))
        async with asyncio.timeout(30):
            while len(there.gone) < 100:
                turn_of_each.extend([turns] * (len(there.gone) - len(turn_of_each)))
                turns += 1
                await asyncio.sleep(0)
        stop.set()
        await running

    asyncio.run(work())
    assert len(set(turn_of_each)) >= 9


@pytest.mark.covers("V6", "V7")
@pytest.mark.parametrize("at", range(1, 18))
def test_what_changes_between_two_pieces_is_judged_as_it_is_then(at: int) -> None:
    """Of three tokens that Vault has lost one is made anew, and one ends; and one that was unknown is recorded."""
    there = There(slice_count=10)
    told_before: set[str] | None = None
    gone, anew, ended, living, *_ = reversed(_many(there, 40))
    for accessor in (gone, anew, ended):
        there.store.end(accessor)
    unknown = there.vault.log_in(Label("acme", PIPELINE, 7)).accessor
    there.look()
    there.gone.clear()
    there.clock.advance(SETTLED_MS)

    def told() -> set[str]:
        return {*there.gone, *(one.accessor for one in there.told)}

    def between(pause_number: int) -> None:
        nonlocal told_before
        if pause_number != at:
            return
        keys, tokens = there.holdings.accessors, there.holdings.tokens
        there.holdings.observe(0, keys[anew], msgspec.structs.replace(tokens[keys[anew]], accessor="accessor-anew"))
        there.holdings.observe(0, keys[ended], None)
        recorded = TokenEntity(number=7, wanted_at_ms=1, request_id="r", accessor=unknown)
        there.holdings.observe(0, f"{PIPELINE}/token/a", recorded)
        there.holdings.durable(0)
        told_before = told()

    _slices_of_a_round(there, between)
    assert told_before is not None, "the round has fewer pieces"
    assert gone in told()
    assert not {living, "accessor-anew"} & told()
    assert not {anew, ended, unknown} & (told() - told_before), "what is not so any more is not told"
