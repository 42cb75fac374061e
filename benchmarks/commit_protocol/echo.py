"""Bare echo with aiokafka: no state, no commit. The floor both protocols are measured against."""

from __future__ import annotations

import asyncio

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from .instance import Progress, Topics, emit, parse_arguments
from .model import KeyState, decide, encode_json


async def main() -> None:
    arguments = parse_arguments()
    topics = Topics(arguments.run)
    progress = Progress(arguments.stop_after)
    producer = AIOKafkaProducer(
        bootstrap_servers=arguments.bootstrap, enable_idempotence=True, acks="all", max_batch_size=1 << 19
    )
    consumer = AIOKafkaConsumer(
        arguments.inputs or topics.inputs,
        bootstrap_servers=arguments.bootstrap,
        group_id=f"{arguments.run}.group",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        max_partition_fetch_bytes=1 << 19,
    )
    await producer.start()
    await consumer.start()
    emit("ready")
    empty = KeyState()
    while True:
        fetched = await consumer.getmany(timeout_ms=200, max_records=4_000)
        acks = []
        for partition, messages in fetched.items():
            progress.start()
            batch = producer.create_batch()
            for message in messages:
                _, output = decide(empty, message.value)
                value = encode_json(output)
                if batch.append(key=message.key, value=value, timestamp=None) is None:
                    acks.append(await producer.send_batch(batch, topics.outputs, partition=partition.partition))
                    batch = producer.create_batch()
                    batch.append(key=message.key, value=value, timestamp=None)
            acks.append(await producer.send_batch(batch, topics.outputs, partition=partition.partition))
            last = progress.done + len(messages)
            if arguments.stop_after and last >= arguments.stop_after:
                await asyncio.gather(*acks)
            if progress.add(len(messages)):
                await consumer.stop()
                await producer.stop()
                return


if __name__ == "__main__":
    asyncio.run(main())
