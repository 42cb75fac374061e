"""Instances of the vault-broker in the simulation: the real decisions, schedule, acts and reconciler, stepped by hand.

A step is one step of a partition, one call of Vault, or the moment between a call and what is told of it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from sluice_contracts.messages import Message
from sluice_runtime.broker import Fenced
from sluice_runtime.memory import MemoryLog, partition_for
from sluice_runtime.metrics import Metrics
from sluice_runtime.processor.partition import Injected, Partition
from sluice_vault_broker.adapters.acts import Act, Terms, act_for
from sluice_vault_broker.adapters.holdings import Holdings, Kind, Wanted
from sluice_vault_broker.adapters.inputs import injected
from sluice_vault_broker.adapters.reconciler import Calls, Reconciler
from sluice_vault_broker.adapters.schedule import Schedule
from sluice_vault_broker.handlers import BrokerDecider
from sluice_vault_broker.ports import VaultAway, VaultFault
from tests.doubles import ManualClock
from tests.simulation.owners import Owner
from tests.vault import MemoryVault

JOURNAL, STATE = "token.journal", "token.state"
INPUTS = ["token.commands", "alerts"]


class BrokerInstance:
    """A process: some partitions, hands, a reconciler."""

    journal, checkpoints, group = JOURNAL, STATE, "vault-broker"

    def __init__(
        self,
        name: str,
        log: MemoryLog,
        clock: ManualClock,
        rng: random.Random,
        decider: BrokerDecider,
        vault: MemoryVault,
        terms: Terms,
    ) -> None:
        self.name = name
        self.log = log
        self.clock = clock
        self.random = rng
        self.inputs = INPUTS
        self.owners: dict[int, Owner] = {}
        self.holdings = Holdings()
        self.schedule = Schedule(self.holdings, places=4, ready=self._ready)
        self.reconciler = Reconciler(
            vault, clock, self.holdings, self.schedule, Metrics("simulation", name),
            inject=self.inject, ready=self._ready, partition_of=self._partition_of, settled_ms=0, slice_count=3,
        )  # fmt: skip
        self._decider = decider
        self._vault = vault
        self._terms = terms
        self._acts: dict[str, tuple[Wanted, Act]] = {}
        self._round: tuple[Calls, Callable[[], Any]] | None = None

    def make_partition(self, number: int) -> Partition:
        return Partition(
            number,
            self._decider,
            service="vault-broker",
            partition_of=lambda key: partition_for(key, self.log.partitions(JOURNAL)),
            observe=lambda key, entity: self.holdings.observe(number, key, entity),
            durable=lambda: self.holdings.durable(number),
        )

    def inject(self, number: int, inputs: Sequence[Injected]) -> None:
        if self._ready(number):
            self.owners[number].sense(list(inputs))

    def _ready(self, number: int) -> bool:
        return number in self.owners and self.owners[number].restored

    def _partition_of(self, pipeline_id: str) -> int:
        return partition_for(pipeline_id.encode(), self.log.partitions(JOURNAL))

    def take(self, number: int) -> None:
        self.owners[number] = Owner(self, number)

    def give_up(self, number: int) -> None:
        self.owners.pop(number, None)
        self.holdings.forget(number)
        self.schedule.forget(number)

    # Steps

    def step(self) -> None:
        roll = self.random.random()
        if roll < 0.5:
            self._decide()
        elif roll < 0.9:
            self.work()
        else:
            self.reconcile()

    def _decide(self) -> None:
        if not self.owners:
            return
        number = self.random.choice(sorted(self.owners))
        try:
            self.owners[number].step()
        except Fenced:
            self.give_up(number)

    def work(self) -> None:
        """One call of Vault, of what is under way or of something new."""
        now_ms = self.clock.now_ms()
        wanted = self.schedule.take(now_ms) if self.random.random() < 0.5 or not self._acts else None
        if wanted is not None:
            assert wanted.key not in self._acts
            self._acts[wanted.key] = wanted, act_for(self._vault, self.clock, self._terms, wanted)
        elif not self._acts:
            return
        key = wanted.key if wanted is not None else self.random.choice(sorted(self._acts))
        one, act = self._acts[key]
        try:
            next(act)
        except StopIteration as end:
            del self._acts[key]
            self._answer(one, end.value)
        except VaultFault as fault:
            del self._acts[key]
            self.schedule.failed(one, fault, now_ms)

    def _answer(self, wanted: Wanted, message: Message) -> None:
        self.schedule.answered(wanted)
        if self._ready(wanted.partition):
            answer = injected(wanted.pipeline_id, wanted.tenant, message, self.clock.now_ms())
            self.owners[wanted.partition].answer([answer])

    def reconcile(self) -> bool:
        """One call of Vault; returns whether a round has ended."""
        try:
            if self._round is None:
                calls = self.reconciler.round()
                self._round = calls, next(calls)
                return False
            calls, call = self._round
            try:
                answer = call()
            except VaultAway:
                calls.close()
                self._round = None
                return False
            except VaultFault as fault:
                self._round = calls, calls.throw(fault)
            else:
                self._round = calls, calls.send(answer)
        except (StopIteration, VaultFault):
            self._round = None
            return True
        return False

    def wanted(self) -> list[Wanted]:
        """What can be done now."""
        return [one for kind in Kind for one in self.holdings.wanted(kind)]

    def idle(self, now_ms: int) -> bool:
        """Whether nothing is under way and nothing is wanted."""
        working = bool(self._acts) or any(self.holdings.count(kind) for kind in Kind)
        return not working and all(owner.idle(now_ms) for owner in self.owners.values())
