"""All records of an installation's topics, each read once and kept, so that waiting costs no second reading."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from confluent_kafka import Consumer, IsolationLevel, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from sluice_contracts.envelope import Record
from sluice_runtime.connection import KafkaConnection
from sluice_runtime.kafka.unreadable import headers_of

READ_MAX_S = 60
"""To the ends of all topics; a broker that was just killed needs some of it to come back."""

_LATEST: Any = OffsetSpec.latest()  # type: ignore[no-untyped-call]


class Log:
    """The topics of a prefix, read from their beginning by the administrator, outside any group.

    Guarantee: each partition's records are in its order, without gap, whatever happens to the broker meanwhile.

    Args:
        connection: The administrator's.
        prefix: Before every topic's name.
        without: Names of topics, without prefix, that are not read.
    """

    def __init__(self, connection: KafkaConnection, prefix: str, without: Sequence[str] = ()) -> None:
        self._connection = {**connection.confluent(), "log_level": 0}  # a broker is away on purpose here
        self._consumer = Consumer(
            {**self._connection, "group.id": "unused", "enable.auto.commit": False,
             "auto.offset.reset": "earliest", "isolation.level": "read_committed", "reconnect.backoff.max.ms": 500}
        )  # fmt: skip
        self._prefix = prefix
        self._records: dict[str, list[Record]] = defaultdict(list)
        self._next: dict[tuple[str, int], int] = {}
        for name, topic in self._consumer.list_topics(timeout=30).topics.items():
            if name.startswith(prefix) and name.removeprefix(prefix) not in without:
                self._next |= {(name, number): 0 for number in topic.partitions}
        self._consumer.assign([TopicPartition(name, number, 0) for name, number in self._next])

    @property
    def topics(self) -> list[str]:
        """The topics that are read, without prefix."""
        return sorted({name.removeprefix(self._prefix) for name, _ in self._next})

    @property
    def records(self) -> Mapping[str, Sequence[Record]]:
        """By topic, what was read so far."""
        return self._records

    def poll(self, wait_s: float = 0.1) -> None:
        """Takes what has come, or waits for something."""
        for message in self._consumer.consume(10_000, wait_s):
            if message.error() is None:
                record = _record(message.topic().removeprefix(self._prefix), message)
                self._records[record.topic].append(record)
                self._next[message.topic(), message.partition()] = record.offset + 1

    def ends(self) -> dict[tuple[str, int], int]:
        """By topic, without prefix, and partition: where it ends now."""
        # A client of its own each time: one that knew the broker before it was killed asks with its old leader epochs,
        # and is refused (librdkafka 2.16) for as long as it lives.
        admin = AdminClient(self._connection)
        asked = admin.list_offsets(
            {TopicPartition(*at): _LATEST for at in self._next}, isolation_level=IsolationLevel.READ_UNCOMMITTED
        )
        return {
            (at.topic.removeprefix(self._prefix), at.partition): future.result(READ_MAX_S).offset
            for at, future in asked.items()
        }

    def catch_up(self) -> None:
        """Reads everything up to where the topics end now."""
        ends = self.ends()
        until = time.monotonic() + READ_MAX_S
        while behind := {at: end for at, end in ends.items() if self._position(self._prefix + at[0], at[1]) < end}:
            assert time.monotonic() < until, f"not read to the end: {behind}"
            self.poll()

    def _position(self, name: str, number: int) -> int:
        """What was read of a partition, and the marks of transactions behind it."""
        [at] = self._consumer.position([TopicPartition(name, number)])
        return max(self._next[name, number], at.offset)

    def close(self) -> None:
        self._consumer.close()


def _record(name: str, message: Any) -> Record:
    return Record(
        topic=name,
        partition=message.partition(),
        offset=message.offset(),
        timestamp_ms=message.timestamp()[1],
        key=message.key(),
        value=message.value(),
        headers=headers_of(message) or (),
    )
