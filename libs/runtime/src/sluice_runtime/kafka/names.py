"""Our topics, partitions and records, and Kafka's: there every name begins with the installation's prefix."""

from __future__ import annotations

from typing import Any

from aiokafka import TopicPartition as KafkaPartition

from sluice_contracts.envelope import Record
from sluice_runtime.broker import TopicPartition


class KafkaNames:
    """Translates both ways.

    Args:
        prefix: Before every topic, group and transactional id.
    """

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix

    def full(self, name: str) -> str:
        """The name of a topic, group or transactional id in Kafka."""
        return self._prefix + name

    def kafka(self, at: TopicPartition) -> KafkaPartition:
        """A partition of ours in Kafka."""
        return KafkaPartition(self._prefix + at.topic, at.partition)

    def ours(self, at: KafkaPartition) -> TopicPartition:
        """A partition of Kafka's, as the services name it."""
        return TopicPartition(at.topic.removeprefix(self._prefix), at.partition)

    def record(self, message: Any) -> Record:
        """A record as aiokafka gives it."""
        return Record(
            topic=message.topic.removeprefix(self._prefix),
            partition=message.partition,
            offset=message.offset,
            timestamp_ms=message.timestamp,
            key=message.key,
            value=message.value,
            headers=tuple(message.headers),
        )
