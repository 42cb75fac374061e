"""Real Kafka for tests: one broker for the whole run, given by the local stack."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from aiokafka import AIOKafkaProducer
from aiokafka.record.util import calc_crc32c_py as crc32c
from confluent_kafka.admin import AdminClient, NewTopic

from sluice_contracts import topics
from sluice_runtime.connection import KafkaConnection

KNOWN_MAX_S = 30

CHECKSUM = slice(17, 21)
"""Of a record batch (Kafka protocol, RecordBatch version 2): CRC-32C of all that follows it."""


@dataclass(frozen=True)
class TestKafka:
    """A broker, as its administrator."""

    __test__ = False
    connection: KafkaConnection

    def create_topics(self, prefix: str, queues: Sequence[str], partitions: int) -> None:
        """Creates an installation's topics under a prefix of its own; returns when the broker tells of all of them.

        It says that they are made a moment before: who asked then for all topics would miss some.
        """
        wanted = topics.concrete_topics(queues=queues, partitions=partitions)
        admin = AdminClient(self.connection.confluent())
        made = admin.create_topics(
            [NewTopic(prefix + one.name, one.partitions, 1, config=one.configs) for one in wanted]
        )
        for future in made.values():
            future.result()
        until = time.monotonic() + KNOWN_MAX_S
        while missing := made.keys() - admin.list_topics(timeout=KNOWN_MAX_S).topics.keys():
            assert time.monotonic() < until, f"made, and not there: {sorted(missing)}"
            time.sleep(0.02)


async def write_unreadable(connection: KafkaConnection, topic: str, partition: int, key: bytes, value: bytes) -> int:
    """Writes a record whose header's name is not UTF-8, which no Python client would write; returns its offset.

    Kafka does not look at names, and nobody keeps other producers from it: the name is exchanged in the batch's bytes.
    """
    async with AIOKafkaProducer(**connection.aiokafka()) as producer:
        batch = producer.create_batch()
        batch.append(timestamp=None, key=key, value=value, headers=[("@name@", b"x")])
        content = bytearray(bytes(batch._build()).replace(b"@name@", b"\xff\xfename"))
        content[CHECKSUM] = crc32c(bytes(content[CHECKSUM.stop :])).to_bytes(4, "big")
        batch._buffer = bytes(content)
        written = await (await producer.send_batch(batch, topic, partition=partition))
    return int(written.offset)
