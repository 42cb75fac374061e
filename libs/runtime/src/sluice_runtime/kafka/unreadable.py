"""Records that aiokafka can't read: one with a header whose name is not UTF-8 fails the poll, again and again.

Kafka does not look at headers, so anybody may write such a record. librdkafka reads all of it but the headers.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from operator import methodcaller
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException
from confluent_kafka import TopicPartition as KafkaPartition

from sluice_contracts.envelope import Record
from sluice_runtime.broker import TopicPartition
from sluice_runtime.connection import KafkaConnection
from sluice_runtime.kafka.names import KafkaNames

WAIT_S = 10.0
"""For the records of one fetch, which are in the broker's memory."""

READ_MAX_BYTES = 8 * 1024 * 1024
"""What is read at once, and what the client fetches ahead: twice what aiokafka fetches of a partition, so that the
record at which it failed is among them."""

_headers = methodcaller("headers")
# The client returns from `headers` with an error set, and the interpreter looks for such errors only where a method is
# called from C, as here: in a loop that has run for a while `message.headers()` itself would not fail, but what comes
# after it.


def headers_of(message: Any) -> tuple[tuple[str, bytes | None], ...] | None:
    """The headers of librdkafka's message; None if one of the names is not UTF-8."""
    try:
        return tuple(_headers(message) or ())
    except SystemError:
        return None


@dataclass(frozen=True, slots=True)
class Past:
    """What was read of a partition, in order.

    Attributes:
        unreadable: Whether the last record is one that aiokafka can't read. It comes without headers, which makes it an
            invalid record of the contract.
    """

    records: list[Record]
    unreadable: bool


def read_past(
    connection: KafkaConnection,
    names: KafkaNames,
    at: TopicPartition,
    start: int,
    max_records: int,
    max_bytes: int = READ_MAX_BYTES,
) -> Past:
    """Reads a partition up to and including the first record that aiokafka can't read. It blocks: use a thread.

    Returns:
        The records; all are readable if the partition ends before such a one, and after `max_records` or
        `max_bytes`.

    Raises:
        KafkaException: Kafka did not answer.
    """
    consumer = Consumer(
        {
            **connection.confluent(), "group.id": "unused", "enable.auto.commit": False, "enable.partition.eof": True,
            "isolation.level": "read_committed", "auto.offset.reset": "earliest", "log_level": 0,
            "queued.max.messages.kbytes": max(1, max_bytes // 1024),
        }
    )  # fmt: skip
    kafka = names.kafka(at)
    records: list[Record] = []
    read_bytes = 0
    try:
        consumer.assign([KafkaPartition(kafka.topic, kafka.partition, start)])
        until = time.monotonic() + WAIT_S
        while len(records) < max_records and read_bytes < max_bytes:
            message = consumer.poll(max(0.0, until - time.monotonic()))
            if message is None:
                raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
            error = message.error()
            if error is not None and error.code() == KafkaError.GROUP_AUTHORIZATION_FAILED:
                continue  # the client looks for a group's coordinator, though no group is used
            if error is not None and error.code() == KafkaError._PARTITION_EOF:
                break
            if error is not None:
                raise KafkaException(error)
            headers = headers_of(message)
            records.append(
                Record(
                    at.topic, at.partition, message.offset() or 0, message.timestamp()[1], message.key(),
                    message.value(), headers or (),
                )
            )  # fmt: skip
            if headers is None:
                return Past(records, unreadable=True)
            read_bytes += records[-1].size_bytes
    finally:
        consumer.close()
    return Past(records, unreadable=False)
