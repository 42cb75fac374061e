"""Records that aiokafka can't read: one with a header whose name is not UTF-8 fails the poll, again and again.

Kafka does not look at headers, so anybody may write such a record. librdkafka reads all of it but the headers.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from operator import methodcaller
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from sluice_contracts.envelope import Record
from sluice_runtime.connection import KafkaConnection

WAIT_S = 10.0
"""For the records of one fetch, which are in the broker's memory."""

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


def read_past(connection: KafkaConnection, topic: str, partition: int, start: int) -> Sequence[Record]:
    """Reads a partition up to and including the first record that aiokafka can't read. It blocks: use a thread.

    Returns:
        The records, with `topic` as given. The last one comes without headers, which makes it an invalid record of the
        contract. Nothing, if all records up to the partition's end can be read.

    Raises:
        KafkaException: Kafka did not answer.
    """
    consumer = Consumer(
        {
            **connection.confluent(), "group.id": "unused", "enable.auto.commit": False, "enable.partition.eof": True,
            "isolation.level": "read_committed", "auto.offset.reset": "earliest", "log_level": 0,
        }
    )  # fmt: skip
    records: list[Record] = []
    try:
        consumer.assign([TopicPartition(topic, partition, start)])
        until = time.monotonic() + WAIT_S
        while True:
            message = consumer.poll(max(0.0, until - time.monotonic()))
            if message is None:
                raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
            error = message.error()
            if error is not None and error.code() == KafkaError.GROUP_AUTHORIZATION_FAILED:
                continue  # the client looks for a group's coordinator, though no group is used
            if error is not None and error.code() == KafkaError._PARTITION_EOF:
                return []
            if error is not None:
                raise KafkaException(error)
            headers = headers_of(message)
            records.append(
                Record(
                    topic, partition, message.offset() or 0, message.timestamp()[1], message.key(), message.value(),
                    headers or (),
                )
            )  # fmt: skip
            if headers is None:
                return records
    finally:
        consumer.close()
