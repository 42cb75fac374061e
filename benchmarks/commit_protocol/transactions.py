"""Protocol A: one Kafka transaction holds the state records, the outputs and the input offsets.

Fencing: the offsets are sent with the group metadata that was taken when the partitions were assigned.
An instance that lost its partitions is refused by the group coordinator and the transaction aborts.
"""

from __future__ import annotations

import time

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from .instance import (
    HEARTBEAT_INTERVAL_MS,
    SESSION_TIMEOUT_MS,
    TRANSACTION_TIMEOUT_MS,
    FaultPoint,
    Progress,
    Topics,
    emit,
    parse_arguments,
)
from .model import KeyState, decide, decode_state, encode_json

MAX_TRANSACTION_RECORDS = 4_000
RESTORE_TIMEOUT_SECONDS = 60.0


class Fenced(Exception):
    """The transaction was refused: throw the instance's memory away and start again."""


class TransactionProcessor:
    def __init__(self, arguments, fault: FaultPoint, progress: Progress) -> None:
        self._arguments = arguments
        self._topics = Topics(arguments.run)
        self._inputs = arguments.inputs or self._topics.inputs
        self._fault = fault
        self._progress = progress
        self._state: dict[int, dict[bytes, KeyState]] = {}
        self._group_metadata = None
        self._assignment_number = 0
        common = {"bootstrap.servers": arguments.bootstrap}
        self._producer = Producer(
            {
                **common,
                "transactional.id": f"{arguments.run}.{arguments.instance}",
                "transaction.timeout.ms": TRANSACTION_TIMEOUT_MS,
                "linger.ms": 0,
                "retry.backoff.ms": 1,
                "queue.buffering.max.messages": 100_000,
            }
        )
        reader = {**common, "group.id": f"{arguments.run}.group", "enable.auto.commit": False}
        self._consumer = Consumer(
            {
                **reader,
                "group.instance.id": arguments.instance,
                "isolation.level": "read_committed",
                "session.timeout.ms": SESSION_TIMEOUT_MS,
                "heartbeat.interval.ms": HEARTBEAT_INTERVAL_MS,
                "auto.offset.reset": "earliest",
                "fetch.queue.backoff.ms": 10,
            }
        )
        self._restorer = Consumer({**reader, "isolation.level": "read_committed", "enable.partition.eof": True})
        self._watermarks = Consumer({**reader, "isolation.level": "read_uncommitted"})

    def run(self) -> None:
        self._producer.init_transactions(30)
        self._consumer.subscribe([self._inputs], on_assign=self._assigned, on_revoke=self._revoked)
        interval = self._arguments.commit_interval_ms / 1000
        while True:
            messages = self._consumer.consume(1, timeout=0.2)
            if not messages:
                continue
            number = self._assignment_number
            more = self._consumer.consume(MAX_TRANSACTION_RECORDS - 1, timeout=interval)
            # One call of consume() never returns records from before a rebalance it served; two calls can. What the
            # first call returned is then void, because the position was set back to the committed offset.
            messages = messages + more if number == self._assignment_number else more
            good = [message for message in messages if message.error() is None]
            if good and self._decide(good):
                return

    def close(self) -> None:
        for consumer in (self._consumer, self._restorer, self._watermarks):
            consumer.close()

    def _decide(self, messages: list[Message]) -> bool:
        self._progress.start()
        changed: dict[tuple[int, bytes], KeyState] = {}
        positions: dict[int, int] = {}
        try:
            self._producer.begin_transaction()
            for message in messages:
                partition, key = message.partition(), message.key()
                before = changed.get((partition, key)) or self._state[partition].get(key) or KeyState()
                after, output = decide(before, message.value())
                changed[partition, key] = after
                self._producer.produce(self._topics.outputs, encode_json(output), key, partition)
                positions[partition] = message.offset() + 1
            for (partition, key), state in changed.items():
                self._producer.produce(self._topics.state, encode_json(state), key, partition)
            self._fault.pass_by("decided")
            offsets = [TopicPartition(self._inputs, partition, offset) for partition, offset in positions.items()]
            self._producer.send_offsets_to_transaction(offsets, self._group_metadata, 10)
            self._fault.pass_by("offsets_sent")
            self._commit()
            self._fault.pass_by("committed")
        except KafkaException as error:
            self._refused(error.args[0])
        for (partition, key), state in changed.items():
            self._state[partition][key] = state
        return self._progress.add(len(messages))

    def _commit(self) -> None:
        while True:
            try:
                self._producer.commit_transaction(10)
                return
            except KafkaException as error:
                if not error.args[0].retriable():
                    raise

    def _refused(self, error: KafkaError) -> None:
        if error.txn_requires_abort():
            try:
                self._producer.abort_transaction(10)
            except KafkaException as failure:
                emit("abort_failed", error=str(failure.args[0]))
        raise Fenced(f"{error.name()}: {error.str()}")

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        started = time.perf_counter()
        self._assignment_number += 1
        # The committed offsets come first: the coordinator holds them back while a former owner's transaction is
        # undecided. After that no older transaction can still commit to these partitions.
        committed = self._stable_offsets(consumer, partitions)
        self._state = {partition.partition: {} for partition in partitions}
        records = self._restore([partition.partition for partition in partitions])
        consumer.assign(
            [TopicPartition(tp.topic, tp.partition, tp.offset if tp.offset >= 0 else 0) for tp in committed]
        )
        self._group_metadata = consumer.consumer_group_metadata()
        emit("restored", partitions=len(partitions), records=records, seconds=time.perf_counter() - started)

    def _revoked(self, _: Consumer, __: list[TopicPartition]) -> None:
        self._assignment_number += 1
        self._state = {}

    def _stable_offsets(self, consumer: Consumer, partitions: list[TopicPartition]) -> list[TopicPartition]:
        deadline = time.monotonic() + RESTORE_TIMEOUT_SECONDS
        while True:
            try:
                committed = consumer.committed(partitions, timeout=RESTORE_TIMEOUT_SECONDS)
                errors = [tp.error for tp in committed if tp.error]
                if not errors:
                    return committed
            except KafkaException as error:
                errors = [error.args[0]]
            emit("offsets_unstable", error=str(errors[0]))
            if time.monotonic() > deadline:
                raise Fenced(f"no stable offsets: {errors[0]}")
            time.sleep(0.05)

    def _restore(self, partitions: list[int]) -> int:
        """Read the state to the high watermark, not to the last stable offset: markers may still be on their way."""
        ends = {}
        for partition in partitions:
            watermarks = self._watermarks.get_watermark_offsets(TopicPartition(self._topics.state, partition), 10)
            if watermarks[1] > 0:
                ends[partition] = watermarks[1]
        self._restorer.assign([TopicPartition(self._topics.state, partition, 0) for partition in ends])
        deadline = time.monotonic() + RESTORE_TIMEOUT_SECONDS
        records = 0
        while ends:
            if time.monotonic() > deadline:
                raise Fenced("the state could not be read to its end")
            for message in self._restorer.consume(5_000, timeout=0.05):
                if message.error() is None:
                    self._state[message.partition()][message.key()] = decode_state(message.value())
                    records += 1
                elif message.error().code() == KafkaError._PARTITION_EOF and message.offset() >= ends.get(
                    message.partition(), 0
                ):
                    ends.pop(message.partition(), None)
        self._restorer.unassign()
        return records


def main() -> None:
    arguments = parse_arguments()
    fault, progress = FaultPoint(arguments.fault), Progress(arguments.stop_after)
    while True:
        processor = TransactionProcessor(arguments, fault, progress)
        emit("ready")
        try:
            processor.run()
            processor.close()
            return
        except Fenced as error:
            emit("fenced", error=str(error))
            processor.close()


if __name__ == "__main__":
    main()
