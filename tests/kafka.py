"""Real Kafka for tests: one broker for the whole run, given by the local stack."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from confluent_kafka.admin import AdminClient, NewTopic

from sluice_contracts import topics
from sluice_runtime.connection import KafkaConnection


@dataclass(frozen=True)
class TestKafka:
    """A broker, as its administrator."""

    __test__ = False
    connection: KafkaConnection

    def create_topics(self, prefix: str, queues: Sequence[str], partitions: int) -> None:
        """Creates an installation's topics under a prefix of its own."""
        wanted = topics.concrete_topics(queues=queues, partitions=partitions)
        admin = AdminClient(self.connection.confluent())
        made = admin.create_topics(
            [NewTopic(prefix + one.name, one.partitions, 1, config=one.configs) for one in wanted]
        )
        for future in made.values():
            future.result()
