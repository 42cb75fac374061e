"""The one place that puts the vault-broker together."""

from __future__ import annotations

from collections.abc import Callable

from sluice_contracts import topics
from sluice_runtime.broker import Broker
from sluice_runtime.clock import Clock
from sluice_runtime.metrics import Metrics
from sluice_runtime.processor.partition import Partition
from sluice_runtime.processor.processor import Processor, ProcessorTopics
from sluice_vault_broker.adapters.hands import Hands
from sluice_vault_broker.adapters.holdings import Holdings
from sluice_vault_broker.adapters.reconciler import Reconciler
from sluice_vault_broker.handlers import BrokerDecider
from sluice_vault_broker.ports import Vault
from sluice_vault_broker.settings import BrokerSettings

SERVICE = topics.Principal.VAULT_BROKER
INPUTS = (topics.TOKEN_COMMANDS.name, topics.ALERTS.name)


class VaultBroker:
    """The processor that decides, the hands that act in Vault, and the reconciler that compares."""

    def __init__(self, settings: BrokerSettings, broker: Broker, clock: Clock, metrics: Metrics, vault: Vault) -> None:
        decider = BrokerDecider(settings.policy())
        holdings = Holdings()
        self._partition_of: Callable[[bytes], int] | None = None

        def make_partition(number: int, partition_of: Callable[[bytes], int]) -> Partition:
            self._partition_of = partition_of

            def durable() -> None:
                if not holdings.owns(number):
                    self.reconciler.taken(number)
                self.hands.durable(number)

            return Partition(
                number,
                decider,
                service=SERVICE,
                partition_of=partition_of,
                observe=lambda key, entity: holdings.observe(number, key, entity),
                durable=durable,
                own_dead_letters_max=settings.own_dead_letters_max_count,
            )

        self.processor = Processor(
            broker=broker,
            clock=clock,
            topics=ProcessorTopics(INPUTS, journal=topics.TOKEN_JOURNAL.name, state=topics.TOKEN_STATE.name),
            group=SERVICE,
            owner=settings.instance_id,
            make_partition=make_partition,
            released=lambda number: self.hands.forget(number),
            metrics=metrics,
        )
        self.hands = Hands(
            vault,
            clock,
            holdings,
            metrics,
            terms=settings.terms(),
            answer=self.processor.answer,
            ready=self._ready,
            threads=settings.vault_threads,
        )
        self.reconciler = Reconciler(
            vault,
            clock,
            holdings,
            self.hands.schedule,
            metrics,
            inject=self.processor.inject,
            ready=self._ready,
            partition_of=self._partition,
            interval_s=settings.reconcile_interval_s,
            lookups_per_s=settings.lookups_per_s,
        )

    def _ready(self, number: int) -> bool:
        return number in self.processor.partitions

    def _partition(self, pipeline_id: str) -> int | None:
        return None if self._partition_of is None else self._partition_of(pipeline_id.encode())
