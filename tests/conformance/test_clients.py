"""Clients of a Kafka that does not answer: they end all the same, and what they held is not delivered later."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from sluice_contracts.envelope import OutgoingRecord, Record
from sluice_runtime.broker import BrokerUnavailable, TopicPartition
from sluice_runtime.kafka.broker import KafkaBroker
from sluice_runtime.kafka.clients import KafkaTimeouts
from tests.conformance.conftest import kafka_installation
from tests.kafka import TestKafka

IMPATIENT = KafkaTimeouts(write_s=3, read_stalled_s=3, stop_s=1)
"""Longer than a broker beside other work takes to answer, and short enough to be waited for here."""

JOURNAL, STATE = TopicPartition("pipeline.journal", 0), TopicPartition("pipeline.state", 0)


class Silence:
    """While it lasts, what a client sends goes nowhere and is not answered."""

    def __init__(self, client: Any) -> None:
        self._broken = asyncio.Event()
        self._send = client.send
        client.send = self._later

    async def _later(self, *given: Any, **named: Any) -> Any:
        await self._broken.wait()
        return await self._send(*given, **named)

    def end(self) -> None:
        self._broken.set()


def run(server: TestKafka, test: Callable[[KafkaBroker], Awaitable[None]]) -> None:
    async def main() -> None:
        async with kafka_installation(server, IMPATIENT) as connect, asyncio.timeout(60):
            broker = connect()
            assert isinstance(broker, KafkaBroker)
            await test(broker)

    asyncio.run(main())


async def ended(before: set[asyncio.Task[Any]]) -> None:
    """Returns once no task has stayed that was not there before."""
    while left := asyncio.all_tasks() - before:
        await asyncio.wait(left, timeout=0.05)


@pytest.mark.covers("P12")
def test_an_append_of_unknown_outcome_is_not_delivered_later(kafka: TestKafka) -> None:
    async def test(broker: KafkaBroker) -> None:
        before = asyncio.all_tasks()
        producer = await broker._started_producer("single")
        silence = Silence(producer.client)
        with pytest.raises(BrokerUnavailable):
            await broker.append(OutgoingRecord(JOURNAL.topic, b"0", b"late"), 0)
        silence.end()
        await ended(before)
        assert await broker.append(OutgoingRecord(JOURNAL.topic, b"0", b"next"), 0) == 0

    run(kafka, test)


@pytest.mark.covers("P12")
@pytest.mark.parametrize("cut_off", [False, True])
def test_a_checkpoint_in_flight_ends_with_its_transaction(kafka: TestKafka, cut_off: bool) -> None:
    async def test(broker: KafkaBroker) -> None:
        before = asyncio.all_tasks()
        transaction = await broker.open_transaction("spawner-checkpoint-0")
        silence = Silence(transaction._producer.client)
        writing = asyncio.create_task(transaction.write([(OutgoingRecord(STATE.topic, b"k", b"v"), 0)]))
        await asyncio.wait([writing], timeout=0.1)
        if cut_off:
            writing.cancel()
        await transaction.close()
        [outcome] = await asyncio.gather(writing, return_exceptions=True)
        assert isinstance(outcome, BrokerUnavailable)
        silence.end()
        await ended(before)
        later = await broker.open_transaction("spawner-checkpoint-0")
        assert (await broker.bounds([STATE]))[STATE].end == 0
        await later.close()

    run(kafka, test)


@pytest.mark.covers("P12")
def test_a_broker_closes_though_nobody_answers(kafka: TestKafka) -> None:
    async def test(broker: KafkaBroker) -> None:
        before = asyncio.all_tasks()
        producer, reader = await broker._started_producer("bulk"), await broker._started_reader()
        silences = [Silence(producer.client), Silence(reader._client)]
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await broker.append_all([OutgoingRecord(JOURNAL.topic, b"0", b"late")])
        await broker.close()
        for silence in silences:
            silence.end()
        await ended(before)

    run(kafka, test)


@pytest.mark.covers("P12")
def test_a_read_that_gets_nothing_ends(kafka: TestKafka) -> None:
    async def test(broker: KafkaBroker) -> None:
        await broker.append(OutgoingRecord(JOURNAL.topic, b"0", b"v"), 0)
        before = asyncio.all_tasks()
        silence = Silence((await broker._started_reader())._client)
        with pytest.raises(BrokerUnavailable):
            await broker.read(JOURNAL, 0, 1, lambda records: None)
        silence.end()
        await ended(before)
        found: list[Record] = []
        await broker.read(JOURNAL, 0, 1, found.extend)
        assert [one.value for one in found] == [b"v"]

    run(kafka, test)


@pytest.mark.covers("P12")
def test_a_reader_that_another_has_given_up_is_the_brokers_fault(kafka: TestKafka) -> None:
    async def test(broker: KafkaBroker) -> None:
        for value in (b"one", b"two"):
            await broker.append(OutgoingRecord(JOURNAL.topic, b"0", value), 0)

        def give_up(_: Any) -> None:
            broker._abandon_reader()

        with pytest.raises(BrokerUnavailable):
            await broker.read(JOURNAL, 0, 3, give_up)  # there is no third, so that it asks again
        assert (await broker.bounds([JOURNAL]))[JOURNAL].end == 2

    run(kafka, test)
