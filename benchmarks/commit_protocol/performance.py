"""Latency, closed-loop round trips and flat-out throughput, the variants interleaved in one run."""

from __future__ import annotations

import os
import statistics

from confluent_kafka import Producer

from .client import Client, create_topics, delete_topics
from .instance import Topics
from .model import Input, encode_json, key_name, key_partition
from .processes import ProcessorProcess

VARIANTS = ("echo", "transactions", "transactions_5ms", "journal")
FLAT_OUT_INPUTS = 200_000
FLAT_OUT_KEYS = 50_000  # so many that no batch holds a key twice: each input costs a delta of its own


def quantiles(latencies: list[float]) -> dict:
    ordered = sorted(latencies)

    def at(share: float) -> float:
        return round(1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))], 2)

    return {"p50_ms": at(0.5), "p99_ms": at(0.99), "count": len(ordered)}


async def measure(bootstrap: str, variant: str, round_number: int) -> dict:
    topics = Topics(f"trial.{os.getpid()}.{variant}.{round_number}")
    await create_topics(bootstrap, topics)
    processor = ProcessorProcess(bootstrap, variant, topics.run)
    await processor.start()
    isolation_level = "read_committed" if variant.startswith("transactions") else "read_uncommitted"
    client = Client(bootstrap, topics, isolation_level)
    await client.start()
    result = {"variant": variant, "round": round_number}
    try:
        await client.warm_up()
        await client.closed_loop(32, 1)
        result["one_in_flight"] = quantiles((await client.closed_loop(1, 3))[0])
        result["200_per_s"] = quantiles(await client.open_loop(200, 5))
        result["2000_per_s"] = quantiles(await client.open_loop(2_000, 6))
        latencies, rate = await client.closed_loop(32, 5)
        result["32_in_flight"] = {**quantiles(latencies), "round_trips_per_s": round(rate)}
        result["unanswered"] = client.outstanding
    finally:
        await client.stop()
        await processor.kill()
        await delete_topics(bootstrap, topics)
    return result


def fill(bootstrap: str, topic: str) -> None:
    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 20, "queue.buffering.max.messages": 300_000})
    for number in range(FLAT_OUT_INPUTS):
        key = number % FLAT_OUT_KEYS
        value = encode_json(Input(f"{key}-{number // FLAT_OUT_KEYS}"))
        producer.produce(topic, value, key_name(key), key_partition(key))
        if number % 10_000 == 0:
            producer.poll(0)
    producer.flush(60)


async def flat_out(bootstrap: str, variant: str, inputs: str, round_number: int) -> dict:
    topics = Topics(f"flat.{os.getpid()}.{variant}.{round_number}")
    await create_topics(bootstrap, topics)
    processor = ProcessorProcess(bootstrap, variant, topics.run)
    try:
        await processor.start("--inputs", inputs, "--stop-after", str(FLAT_OUT_INPUTS))
        await processor.wait(120)
        finished = await processor.event("finished", 1, 0)
    finally:
        await processor.kill() if processor.alive else None
        await delete_topics(bootstrap, topics)
    return {
        "variant": variant,
        "round": round_number,
        "records_per_s": round(finished["records"] / finished["seconds"]),
        "processor_cpu_us_per_record": round(1e6 * finished["cpu_seconds"] / finished["records"], 1),
    }


async def run_latency(bootstrap: str, rounds: int) -> list[dict]:
    results = []
    for round_number in range(rounds):
        for variant in VARIANTS:
            results.append(await measure(bootstrap, variant, round_number))
            print(results[-1], flush=True)
    return results


async def run_flat_out(bootstrap: str, rounds: int) -> list[dict]:
    source = Topics(f"flat.{os.getpid()}.source")
    await create_topics(bootstrap, source)
    fill(bootstrap, source.inputs)
    results = []
    for round_number in range(rounds):
        for variant in ("echo", "transactions", "journal"):
            results.append(await flat_out(bootstrap, variant, source.inputs, round_number))
            print(results[-1], flush=True)
    await delete_topics(bootstrap, source)
    return results


def medians(results: list[dict]) -> dict:
    """Median over the rounds of every figure, per variant."""
    table: dict = {}
    for variant in dict.fromkeys(result["variant"] for result in results):
        rows = [result for result in results if result["variant"] == variant]
        table[variant] = {
            name: {figure: statistics.median(row[name][figure] for row in rows) for figure in value}
            if isinstance(value, dict)
            else statistics.median(row[name] for row in rows)
            for name, value in rows[0].items()
            if name not in ("variant", "round")
        }
    return table
