"""A service that answers commands as a test tells it to: the api's tests look at the api alone."""

from __future__ import annotations

import threading
from collections.abc import Callable

from confluent_kafka import Consumer

from sluice_contracts import codec, topics
from sluice_contracts.envelope import CloudEvent, Record
from sluice_contracts.messages import Message
from tests.integration.observability.support import Writer
from tests.kafka import TestKafka

Answer = Callable[[CloudEvent[Message]], list[CloudEvent[Message]]]


class Spawner:
    """Reads commands of a topic and answers as it is told; the spawner, unless the topic is another's."""

    def __init__(
        self, kafka: TestKafka, prefix: str, writer: Writer, topic: str = topics.PIPELINE_COMMANDS.name
    ) -> None:
        self.commands: list[CloudEvent[Message]] = []
        self._writer = writer
        self._prefix = prefix
        self._ended = threading.Event()
        self._answer: Answer = lambda command: []
        self._consumer = Consumer(
            {**kafka.connection.confluent(), "group.id": f"{prefix}test-{topic}", "auto.offset.reset": "earliest"}
        )
        self._consumer.subscribe([prefix + topic])
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def answers(self, answer: Answer) -> None:
        self._answer = answer

    def _run(self) -> None:
        while not self._ended.is_set():
            message = self._consumer.poll(0.1)
            if message is None or message.error():
                continue
            record = Record(
                message.topic().removeprefix(self._prefix), message.partition(), message.offset(),
                message.timestamp()[1], message.key(), message.value(), tuple(message.headers()),
            )  # fmt: skip
            command = codec.decode(record)
            self.commands.append(command)
            self._writer.tell(*self._answer(command))
        self._consumer.close()

    def end(self) -> None:
        self._ended.set()
        self._thread.join()
