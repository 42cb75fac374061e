"""`ports.Outbox` on Kafka: a consumer's group and a producer's transactions, tied by the group's generation."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer
from confluent_kafka import TopicPartition as KafkaPartition

from sluice_contracts.envelope import OutgoingRecord, Record
from sluice_observability.adapters.kafka_log import make_readable
from sluice_observability.domain.records import record_of
from sluice_runtime.broker import BrokerUnavailable, Fenced
from sluice_runtime.connection import KafkaConnection

logger = logging.getLogger(__name__)

SESSION_TIMEOUT_MS = 6_000
"""After this long without a sign of life a member's partitions go to others: the shortest that brokers allow, since
the end of a pipeline waits for the report."""

TRANSACTION_TIMEOUT_MS = 10_000
"""A transaction is one small record. Of one whose owner was killed the next owner hears when it is ended, by time."""

REQUEST_TIMEOUT_S = 15.0
"""For a step of a transaction; then its outcome counts as unknown."""

POLL_MAX_COUNT = 500
COMMIT_INTERVAL_S = 5.0
"""What is passed over is told to the group so seldom: read again, it is passed over again."""

_FENCED = frozenset({
    KafkaError._FENCED, KafkaError.PRODUCER_FENCED, KafkaError.INVALID_PRODUCER_EPOCH, KafkaError.ILLEGAL_GENERATION,
    KafkaError.UNKNOWN_MEMBER_ID, KafkaError.FENCED_INSTANCE_ID, KafkaError.REBALANCE_IN_PROGRESS,
    KafkaError.INVALID_PRODUCER_ID_MAPPING, KafkaError.INVALID_TXN_STATE,
})  # fmt: skip
"""Errors that say: somebody else has the partition, or the coordinator has ended this transaction."""


class KafkaOutbox:
    """Joins a group, and answers in transactions. See `ports.Outbox`.

    Args:
        connection: Where, and as whom.
        prefix: Before topic, group and transactional id.
        topic: What is read.
        group: The group. The transactional id begins with its name too, so that one right is enough.
        instance_id: Makes the transactional id one process's own.
    """

    def __init__(self, connection: KafkaConnection, *, prefix: str, topic: str, group: str, instance_id: str) -> None:
        self._topic, self._prefix = topic, prefix
        self._passed: dict[int, int] = {}
        self._commit_at = time.monotonic() + COMMIT_INTERVAL_S
        self._producer = Producer(
            {
                **connection.confluent(),
                "transactional.id": f"{prefix}{group}-{instance_id}",
                "transaction.timeout.ms": TRANSACTION_TIMEOUT_MS,
                "partitioner": "murmur2_random",
                "linger.ms": 0,
                "reconnect.backoff.max.ms": 1_000,
            },
            logger=logger,
        )
        self._do(lambda: self._producer.init_transactions(REQUEST_TIMEOUT_S))
        self._consumer = Consumer(
            {
                **connection.confluent(),
                "group.id": prefix + group,
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "auto.offset.reset": "earliest",
                "isolation.level": "read_committed",
                "session.timeout.ms": SESSION_TIMEOUT_MS,
                "heartbeat.interval.ms": SESSION_TIMEOUT_MS // 4,
                "partition.assignment.strategy": "range",
                "fetch.wait.max.ms": 100,
                "reconnect.backoff.max.ms": 1_000,
            },
            logger=logger,
        )
        self._consumer.subscribe([prefix + topic], on_revoke=self._on_gone, on_lost=self._on_gone)

    def _on_gone(self, consumer: Any, partitions: Sequence[KafkaPartition]) -> None:
        for one in partitions:
            self._passed.pop(one.partition, None)

    def poll(self, timeout_s: float) -> Sequence[Record]:
        """See `ports.Outbox.poll`."""
        if time.monotonic() >= self._commit_at:
            self._commit()
        first = self._consumer.poll(timeout_s)  # `consume` alone would wait for a full batch until the time is up
        if first is None:
            return []
        messages: Sequence[Any] = [first, *self._consumer.consume(POLL_MAX_COUNT, 0)]
        make_readable(messages)
        found = []
        for message in messages:
            error = message.error()
            if error is None:
                found.append(record_of(message, self._topic))
            elif error.fatal():
                raise BrokerUnavailable(error.str())
            else:
                logger.warning("Kafka: %s", error.str())
        return found

    def passed(self, record: Record) -> None:
        """See `ports.Outbox.passed`."""
        self._passed[record.partition] = record.offset + 1

    def _commit(self) -> None:
        self._commit_at = time.monotonic() + COMMIT_INTERVAL_S
        passed, self._passed = self._passed, {}
        if passed:
            try:
                self._consumer.commit(offsets=[self._after(*one) for one in passed.items()], asynchronous=True)
            except KafkaException as error:
                logger.debug("positions were not committed: %s", error)

    def _after(self, partition: int, offset: int) -> KafkaPartition:
        return KafkaPartition(self._prefix + self._topic, partition, offset)

    def answer(self, record: Record, answer: OutgoingRecord) -> None:
        """See `ports.Outbox.answer`."""
        producer = self._producer
        position = self._after(record.partition, record.offset + 1)
        delivered: list[Any] = []
        self._do(producer.begin_transaction)
        try:
            producer.produce(
                self._prefix + answer.topic, answer.value, answer.key, headers=list(answer.headers),
                on_delivery=lambda error, _: delivered.append(error),
            )  # fmt: skip
            generation = self._consumer.consumer_group_metadata()
            self._do(lambda: producer.send_offsets_to_transaction([position], generation, REQUEST_TIMEOUT_S))
            self._do(lambda: producer.commit_transaction(REQUEST_TIMEOUT_S))
        except BaseException:
            self._abort()
            raise
        self._passed.pop(record.partition, None)

    def _abort(self) -> None:
        try:
            self._producer.abort_transaction(REQUEST_TIMEOUT_S)
        except KafkaException as error:
            logger.debug("the transaction was not aborted; its time ends it: %s", error)

    def _do(self, step: Any) -> None:
        try:
            step()
        except KafkaException as raised:
            error = raised.args[0]
            if error.code() in _FENCED:
                raise Fenced(error.str()) from raised
            raise BrokerUnavailable(error.str()) from raised

    def close(self) -> None:
        """See `ports.Outbox.close`."""
        try:
            self._commit()
            self._consumer.close()
        except KafkaException as error:
            logger.debug("the group was not left; its time-out ends the membership: %s", error)
