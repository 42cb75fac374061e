"""Spawner instances of the simulation: the real protocol (`owners`) and the real decisions, stepped by hand."""

from __future__ import annotations

import random

from sluice_contracts.codec import decode
from sluice_contracts.messages.agent import RunnerHeartbeat
from sluice_runtime.broker import Fenced, TopicPartition
from sluice_runtime.deciding import Decider
from sluice_runtime.memory import MemoryLog, partition_for
from sluice_runtime.processor.partition import Partition
from sluice_spawner.adapters.leases import LeaseWatch
from tests.doubles import ManualClock
from tests.simulation.owners import Owner

JOURNAL, STATE = "pipeline.journal", "pipeline.state"
LEASE_MS = 6_000


class SpawnerInstance:
    """A process: some partitions, one watch over leases."""

    journal, checkpoints, group = JOURNAL, STATE, "spawner"

    def __init__(
        self, name: str, log: MemoryLog, clock: ManualClock, rng: random.Random, decider: Decider, inputs: list[str]
    ) -> None:
        self.name = name
        self.log = log
        self.clock = clock
        self.random = rng
        self.decider = decider
        self.inputs = inputs
        self.leases = LeaseWatch(clock, lease_ms=LEASE_MS)
        self.owners: dict[int, Owner] = {}
        self._heartbeats_from = log.bounds(TopicPartition("runner.heartbeats", 0)).end
        self._deaf_until_ms = 0
        self._heard_through_ms = clock.now_ms()

    def make_partition(self, number: int) -> Partition:
        return Partition(
            number,
            self.decider,
            service="spawner",
            partition_of=lambda key: partition_for(key, self.log.partitions(JOURNAL)),
            observe=lambda key, entity: self.leases.observe(number, key, entity),
        )

    def take(self, number: int) -> None:
        self.owners[number] = Owner(self, number)

    def give_up(self, number: int) -> None:
        self.owners.pop(number, None)
        self.leases.forget(number)

    def step(self) -> None:
        """Steps one partition; one that was taken away by another is given up until a rebalance."""
        if not self.owners:
            return
        number = self.random.choice(sorted(self.owners))
        try:
            self.owners[number].step()
        except Fenced:
            self.give_up(number)

    def deafen(self, milliseconds: int) -> None:
        """Kafka answers nothing where the heartbeats are; what the runners say is in the topic all the same."""
        self._deaf_until_ms = self.clock.now_ms() + milliseconds

    def look_after_leases(self) -> None:
        if self.clock.now_ms() >= self._deaf_until_ms:
            self._hear_heartbeats()
        for number, inputs in self.leases.expired(self._heard_through_ms).items():
            if number in self.owners and self.owners[number].restored:
                self.owners[number].sense(inputs)

    def _hear_heartbeats(self) -> None:
        at = TopicPartition("runner.heartbeats", 0)
        for record in self.log.read(at, self._heartbeats_from):
            heartbeat = decode(record).data
            assert isinstance(heartbeat, RunnerHeartbeat)
            self.leases.heard(heartbeat)
            self._heartbeats_from = record.offset + 1
        self._heard_through_ms = self.clock.now_ms()
