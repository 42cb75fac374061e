"""Invalid records of the topics that nobody but observability reads in order: each one dead letter (C2)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from sluice_contracts import codec, topics
from sluice_contracts.dead_letters import dead_letter
from sluice_contracts.envelope import Record
from sluice_contracts.errors import InvalidRecord
from sluice_contracts.ids import record_id
from sluice_observability.domain.records import check_headers, record_of
from sluice_observability.ports import FetchedMessage, LogSource
from sluice_runtime.broker import Broker, BrokerUnavailable, TopicPartition
from sluice_runtime.clock import Clock

Refused = tuple[Record, InvalidRecord]

Letter = tuple[str, int]
"""A dead letter's id and the refused record's time: of two incarnations of a topic, the ids may be equal."""


class Checker:
    """Finds the invalid records among those that observability refuses; all others have a reader who refuses them.

    Args:
        source: Where they come from.
        partition_for: Kafka's default partitioner; `broker.Broker.partition_for`.
    """

    def __init__(self, source: LogSource, partition_for: Callable[[bytes, int], int]) -> None:
        self._source = source
        self._partition_for = partition_for
        self._ours: dict[str, bool] = {}

    def invalid(self, messages: Iterable[FetchedMessage]) -> list[Refused]:
        """The invalid ones, in their order."""
        refused = []
        ours = self._ours
        for message in messages:
            topic = message.topic()
            if topic not in ours:
                row = topics.find(self._source.names[topic][0])
                ours[topic] = row is not None and row.refused_by is topics.Principal.OBSERVABILITY
            if ours[topic]:
                record = record_of(message, self._source.names[topic][0])
                try:
                    check_headers(message)
                    codec.decode(record)
                    home = self._partition_for(record.key or b"", self._source.partition_counts[topic])
                    codec.check_partition(record, home)
                except InvalidRecord as fault:
                    refused.append((record, fault))
        return refused


class DeadLetterOffice:
    """Writes dead letters, each once through a kill -9.

    A letter is written before its record's batch is in the log; a store that is killed between both reads the record
    again. It then finds the letter among the last of the topic: at most one batch can have been under way.

    Args:
        window_records: A batch's largest number of rows.
        refused_by: Who refuses.
    """

    def __init__(
        self,
        broker: Broker,
        clock: Clock,
        *,
        window_records: int,
        refused_by: topics.Principal = topics.Principal.OBSERVABILITY,
    ) -> None:
        self._broker = broker
        self._clock = clock
        self._window_records = window_records
        self._refused_by = refused_by
        self._written: dict[str, set[Letter]] = {}

    def look_again(self) -> None:
        """What was refused may come again: looks at what was written before the next letter is."""
        self._written.clear()

    async def write(self, refused: Sequence[Refused]) -> int:
        """Writes the letters that are not there yet, and returns how many.

        Raises:
            BrokerUnavailable: Some may not be there; call again with the same.
        """
        letters = []
        for record, fault in refused:
            written = await self._written_lately(topics.dead_letter_topic(record.topic))
            letter = (record_id(record.topic, record.partition, record.offset), record.timestamp_ms)
            if letter not in written:
                now_ms = self._clock.now_ms()
                letters.append(dead_letter(record, fault.reason, fault.detail, self._refused_by, now_ms))
        if letters:
            try:
                await self._broker.append_all(letters)
            except BrokerUnavailable:
                self._written.clear()  # some may be there: the topics' ends tell which
                raise
        return len(letters)

    async def _written_lately(self, topic: str) -> set[Letter]:
        if topic not in self._written:
            found: set[Letter] = set()
            at = TopicPartition(topic, 0)
            bounds = (await self._broker.bounds([at]))[at]

            def keep(records: Sequence[Record]) -> None:
                for record in records:
                    headers = dict(record.headers)
                    identity, time_ms = headers.get("ce_id"), headers.get("dlq_timestamp_ms")
                    if identity is not None and time_ms is not None and time_ms.isdigit():
                        found.add((identity.decode("utf-8", "replace"), int(time_ms)))

            await self._broker.read(at, max(bounds.first, bounds.end - self._window_records), bounds.end, keep)
            self._written[topic] = found
        return self._written[topic]
