"""Reads a topic as everybody does: committed records only."""

from __future__ import annotations

import time

from confluent_kafka import Consumer, TopicPartition

from sluice_contracts import codec
from sluice_contracts.envelope import CloudEvent, Record
from sluice_contracts.messages import Message
from tests.integration.observability.support import PARTITIONS
from tests.kafka import TestKafka


class Reader:
    """What stands on a topic, from its beginning."""

    def __init__(self, kafka: TestKafka, prefix: str, topic: str) -> None:
        self.found: list[CloudEvent[Message]] = []
        self._topic = topic
        self._consumer = Consumer(
            {
                **kafka.connection.confluent(), "group.id": f"{prefix}reader", "enable.auto.commit": False,
                "isolation.level": "read_committed", "auto.offset.reset": "earliest",
            }
        )  # fmt: skip
        self._consumer.assign([TopicPartition(prefix + topic, number, 0) for number in range(PARTITIONS)])

    def read(self, timeout_s: float = 0.1) -> list[CloudEvent[Message]]:
        """All events so far."""
        for message in self._consumer.consume(1_000, timeout_s):
            assert message.error() is None, message.error()
            record = Record(
                self._topic, message.partition(), message.offset(), message.timestamp()[1], message.key(),
                message.value(), tuple(message.headers()),
            )  # fmt: skip
            self.found.append(codec.decode(record))
        return self.found

    def of(self, *pipelines: str) -> list[CloudEvent[Message]] | None:
        """All events so far, once each of these pipelines has one."""
        found = self.read()
        return found if {one.subject for one in found} >= set(pipelines) else None

    def rest(self, quiet_s: float = 1.0) -> list[CloudEvent[Message]]:
        """All events, when none has come for so long."""
        until, count = time.monotonic() + quiet_s, len(self.found)
        while time.monotonic() < until:
            if len(self.read()) > count:
                until, count = time.monotonic() + quiet_s, len(self.found)
        return self.found

    def close(self) -> None:
        self._consumer.close()
