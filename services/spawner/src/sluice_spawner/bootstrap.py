"""The one place that puts the spawner together."""

from __future__ import annotations

from collections.abc import Callable

from sluice_contracts import topics
from sluice_runtime.broker import Broker
from sluice_runtime.clock import Clock
from sluice_runtime.metrics import Metrics
from sluice_runtime.processor.partition import Partition
from sluice_runtime.processor.processor import Processor, ProcessorTopics
from sluice_runtime.roles import load_roles, queues_by_role
from sluice_spawner.adapters.heartbeats import HeartbeatListener
from sluice_spawner.adapters.leases import LeaseWatch
from sluice_spawner.domain.policy import RoleCatalogue
from sluice_spawner.handlers import SpawnerDecider
from sluice_spawner.settings import SpawnerSettings

SERVICE = topics.Principal.SPAWNER


class Spawner:
    """The processor that decides, and the listener that watches over leases."""

    def __init__(self, settings: SpawnerSettings, broker: Broker, clock: Clock, metrics: Metrics) -> None:
        queue_of = queues_by_role(load_roles(settings.roles_directories))
        decider = SpawnerDecider(settings.policy(), RoleCatalogue(queue_of=queue_of, queues=frozenset(settings.queues)))
        self._leases = LeaseWatch(clock, lease_ms=settings.lease_ms)
        said = [topics.AGENT_EVENTS.for_queue(queue) for queue in settings.queues]
        told = [topics.TOKEN_EVENTS.name, topics.ALERTS.name, topics.REPORTS.name]
        inputs = [topics.PIPELINE_COMMANDS.name, topics.ADMISSION.name, *told, *said]

        def make_partition(number: int, partition_of: Callable[[bytes], int]) -> Partition:
            return Partition(
                number,
                decider,
                service=SERVICE,
                partition_of=partition_of,
                observe=lambda key, entity: self._leases.observe(number, key, entity),
                own_dead_letters_max=settings.own_dead_letters_max_count,
            )

        self.processor = Processor(
            broker=broker,
            clock=clock,
            topics=ProcessorTopics(inputs, journal=topics.PIPELINE_JOURNAL.name, state=topics.PIPELINE_STATE.name),
            group=SERVICE,
            owner=settings.instance_id,
            make_partition=make_partition,
            released=self._leases.forget,
            metrics=metrics,
        )
        self.heartbeats = HeartbeatListener(broker, clock, self._leases, self.processor)
