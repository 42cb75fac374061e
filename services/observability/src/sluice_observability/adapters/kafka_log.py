"""Reading whole topics from Kafka without a group: positions come from whoever asks, never from the broker."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from operator import methodcaller
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicCollection
from confluent_kafka import TopicPartition as KafkaPartition
from confluent_kafka.admin import (
    AdminClient,
    OffsetSpec,
)

from sluice_contracts.limits import HEADERS_MAX_COUNT
from sluice_observability.domain.places import Gap, Place, Progress, starting_point
from sluice_observability.domain.records import UNREADABLE_HEADERS
from sluice_observability.ports import FetchedMessage, StoreUnavailable
from sluice_runtime.connection import KafkaConnection

logger = logging.getLogger(__name__)

DISCOVERY_INTERVAL_S = 1.0
"""A new queue's first event is visible this much later; one metadata request a second costs the broker nothing."""

REQUEST_TIMEOUT_S = 10.0
"""For metadata and offsets; after it the broker counts as away, and is asked again."""

PREFETCH_MAX_KIB = 64 * 1024
"""What the client holds in memory over all partitions: more than one batch, so that the sink never starves."""

FETCH_MIN_BYTES = 256 * 1024
"""The broker answers a fetch when it has so much, or when the reader's time is up: not at every record, which would
wake this process, and cost the broker as much as the record itself."""

HEADERS_KEPT_COUNT = 2 * HEADERS_MAX_COUNT
"""More than a lawful record or its dead letter has. As objects headers take a hundred times what they take in Kafka: of
a record with more, the others are left away before the next one's are looked at."""

_EARLIEST: Any = OffsetSpec.earliest()  # type: ignore[no-untyped-call]
_LATEST: Any = OffsetSpec.latest()  # type: ignore[no-untyped-call]

NOT_KNOWN = -1
"""What the client says of an end that no fetch has told it yet."""

_LOOK_AGAIN = frozenset({
    KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE, KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION, KafkaError.UNKNOWN_TOPIC_ID,
})  # fmt: skip
"""Errors by which a partition tells that it is not where we read on: deleted, made anew, or trimmed below us."""

_ask_for_headers = methodcaller("headers")
"""Where the name of a header is not UTF-8, confluent's client sets an exception but returns a list, a broken one, and
keeps it. A method call that Python has specialised does not see that, and the exception comes up anywhere later.
This call sees it, as SystemError."""

Partition = tuple[str, int]


def make_readable(messages: Iterable[Any]) -> None:
    """Puts something that can be read in place of headers that can't, and of too many."""
    for message in messages:
        try:
            headers = _ask_for_headers(message)
        except SystemError:
            message.set_headers(UNREADABLE_HEADERS)
        else:
            if headers is not None and len(headers) > HEADERS_KEPT_COUNT:
                message.set_headers(headers[:HEADERS_KEPT_COUNT])


class KafkaLog:
    """Reads all partitions of all wanted topics, and finds new topics by itself. See `ports.LogSource`.

    `poll`, `progress`, `take_gaps` and `close` belong to one thread; the other methods may be called from any.

    Args:
        connection: Where, and as whom.
        prefix: Before every topic of the installation.
        group: Named in commits for lag tools; nobody joins it.
        wants: Says of a topic's name (without prefix) whether to read it.
        begin: Gives, by place, the offset at which to begin; what it lacks is read from the first offset.
        fetch_wait_max_ms: How long a record may wait at the broker for others.
    """

    def __init__(
        self,
        connection: KafkaConnection,
        *,
        prefix: str,
        group: str,
        wants: Callable[[str], bool],
        begin: Mapping[Place, int],
        fetch_wait_max_ms: int,
    ) -> None:
        self._prefix = prefix
        self._wants = wants
        self._begin = dict(begin)
        self._connection = connection
        self._admin = AdminClient({**connection.confluent()})
        self._consumer = Consumer(
            {
                **connection.confluent(),
                "group.id": prefix + group,
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "enable.partition.eof": True,
                "auto.offset.reset": "error",
                "isolation.level": "read_committed",
                "queued.max.messages.kbytes": PREFETCH_MAX_KIB,
                "fetch.min.bytes": FETCH_MIN_BYTES,
                "fetch.wait.max.ms": fetch_wait_max_ms,
                "topic.metadata.refresh.interval.ms": 10_000,
                "reconnect.backoff.max.ms": 1_000,
            },
            logger=logger,
        )
        self._names: dict[str, tuple[str, str]] = {}
        self._counts: dict[str, int] = {}
        self._assigned: dict[Partition, int] = {}
        self._ends_seen: dict[Partition, int] = {}
        self._gaps: list[Gap] = []
        self._unreadable: set[Partition] = set()
        self._look_up: set[str] = set()
        self._lock = threading.Lock()
        self._discover_at = 0.0

    @property
    def names(self) -> Mapping[str, tuple[str, str]]:
        """See `ports.LogSource.names`."""
        return self._names

    @property
    def partition_counts(self) -> Mapping[str, int]:
        """See `ports.LogSource.partition_counts`."""
        return self._counts

    # Reading

    def poll(self, max_messages: int, timeout_s: float) -> Sequence[FetchedMessage]:
        """See `ports.LogSource.poll`."""
        if self._look_up or time.monotonic() >= self._discover_at:
            self._discover()
        messages: Sequence[Any] = self._consumer.consume(max_messages, timeout_s)
        make_readable(messages)
        told = [message for message in messages if message.error() is not None]
        if not told:
            return messages
        for message in told:
            self._heed(message)
        return [message for message in messages if message.error() is None]

    def _heed(self, message: Any) -> None:
        error, topic = message.error(), message.topic()
        code = error.code()
        if code == KafkaError._PARTITION_EOF:
            self._ends_seen[topic, message.partition()] = message.offset()
        elif code in _LOOK_AGAIN and topic is not None:
            logger.warning("%s[%s]: %s; looking it up again", topic, message.partition(), error.str())
            with self._lock:
                self._look_up.add(topic)
        elif error.fatal():
            raise KafkaException(error)
        else:
            logger.warning("Kafka: %s", error.str())

    # Which topics there are

    def _discover(self) -> None:
        self._discover_at = time.monotonic() + DISCOVERY_INTERVAL_S
        with self._lock:
            again, self._look_up = self._look_up, set()
        try:
            listed = self._consumer.list_topics(timeout=REQUEST_TIMEOUT_S).topics
            wanted = {
                topic
                for topic, metadata in listed.items()
                if metadata.error is None
                and topic.startswith(self._prefix)
                and self._wants(topic.removeprefix(self._prefix))
            }
            new = sorted(wanted - self._names.keys() | wanted & again)
            if new:
                self._take_up(self._described(new))
            self._drop(again - wanted)
        except (KafkaException, StoreUnavailable) as error:
            with self._lock:
                self._look_up |= again
            # librdkafka 2.16 asks for offsets with the leader epochs that it knew first: after the broker has come
            # back, such a client is refused (FENCED_LEADER_EPOCH) for as long as it lives.
            self._admin = AdminClient({**self._connection.confluent()})
            logger.warning("topics could not be looked up, will be asked again: %s", error)

    def _described(self, topics: Iterable[str]) -> dict[str, tuple[str, int]]:
        """Incarnation and partition count of those topics that exist."""
        found = {}
        asked = self._admin.describe_topics(TopicCollection(list(topics)), request_timeout=REQUEST_TIMEOUT_S)
        for topic, future in asked.items():
            try:
                description = future.result()
                found[topic] = (str(description.topic_id), len(description.partitions))
            except KafkaException as error:
                if error.args[0].code() not in _LOOK_AGAIN:
                    raise StoreUnavailable(f"{topic} can't be described: {error.args[0].str()}") from error
        return found

    def _take_up(self, described: Mapping[str, tuple[str, int]]) -> None:
        partitions = [(topic, number) for topic, (_, count) in described.items() for number in range(count)]
        first, end = self._offsets(partitions, _EARLIEST), self._offsets(partitions, _LATEST)
        starts = []
        for topic, (incarnation, count) in described.items():
            name = topic.removeprefix(self._prefix)
            before = self._names.get(topic)
            for number in range(count):
                at = (topic, number)
                place = Place(name, incarnation, number)
                if before is not None and before[1] != incarnation:
                    self._mourn(at, Place(name, before[1], number))
                    position = self._begin.get(place)
                elif at in self._assigned:
                    position = self._position(at)
                else:
                    position = self._begin.get(place)
                start = starting_point(place, position, first[at], end[at])
                if start.gap is not None and at not in self._unreadable:
                    self._gaps.append(start.gap)
                    logger.error("gap in %s[%d]: %s", topic, number, start.gap.detail)
                if start.offset is None:
                    self._unreadable.add(at)
                else:
                    self._unreadable.discard(at)
                    starts.append(KafkaPartition(topic, number, start.offset))
            self._unassign([topic])
            self._names[topic], self._counts[topic] = (name, incarnation), count
        self._consumer.incremental_assign(starts)
        self._assigned.update({(start.topic, start.partition): start.offset for start in starts})

    def _mourn(self, at: Partition, place: Place) -> None:
        """Tells what the deleted incarnation still had, as far as it is known."""
        position = self._position(at)
        end = self._end(at)
        if end > position:
            detail = f"the topic was deleted and made anew while {position}..{end - 1} were not read yet"
            self._gaps.append(Gap(place, position, end, "recreated", detail))
            logger.error("gap in %s[%d]: %s", at[0], at[1], detail)

    def _drop(self, topics: Collection[str]) -> None:
        """Stops reading topics that are gone; if they come back, they are new."""
        self._unassign(topics)
        for topic in topics:
            self._names.pop(topic, None)
            self._counts.pop(topic, None)

    def _unassign(self, topics: Collection[str]) -> None:
        gone = [at for at in self._assigned if at[0] in topics]
        if gone:
            self._consumer.incremental_unassign([KafkaPartition(*at) for at in gone])
        for at in gone:
            del self._assigned[at]
            self._ends_seen.pop(at, None)

    def _offsets(self, partitions: Iterable[Partition], spec: Any) -> dict[Partition, int]:
        asked = self._admin.list_offsets(
            {KafkaPartition(*at): spec for at in partitions}, request_timeout=REQUEST_TIMEOUT_S
        )
        return {(at.topic, at.partition): future.result().offset for at, future in asked.items()}

    # How far

    def _position(self, at: Partition) -> int:
        """The next offset to hand out."""
        position = self._consumer.position([KafkaPartition(*at)])[0].offset
        start = self._assigned.get(at, 0)
        return max(position, start, self._ends_seen.get(at, 0))

    def _end(self, at: Partition) -> int:
        end = self._consumer.get_watermark_offsets(KafkaPartition(*at), cached=True)[1]
        return max(end, self._ends_seen.get(at, NOT_KNOWN))

    def progress(self) -> Sequence[Progress]:
        """See `ports.LogSource.progress`."""
        return [
            Progress(Place(*self._names[at[0]], at[1]), position := self._position(at), max(position, self._end(at)))
            for at in self._assigned
        ]

    def take_gaps(self) -> Sequence[Gap]:
        """See `ports.LogSource.take_gaps`."""
        gaps, self._gaps = self._gaps, []
        return gaps

    # From other threads

    def stale_topics(self, incarnations: Mapping[str, str]) -> Collection[str]:
        """See `ports.LogSource.stale_topics`."""
        try:
            now = self._described(self._prefix + topic for topic in incarnations)
        except KafkaException as error:
            raise StoreUnavailable(f"Kafka does not say which topics are which: {error}") from error
        # A topic that is gone is not stale: what was read of it under this id can be of no other incarnation, unless
        # it was made anew and deleted once more in the moment since.
        return [
            topic
            for topic, incarnation in incarnations.items()
            if now.get(self._prefix + topic, (incarnation, 0))[0] != incarnation
        ]

    def reread(self, topics: Collection[str]) -> None:
        """See `ports.LogSource.reread`."""
        with self._lock:
            self._look_up |= {self._prefix + topic for topic in topics}

    def publish_position(self, positions: Mapping[Place, int]) -> None:
        """See `ports.LogSource.publish_position`."""
        offsets = [KafkaPartition(self._prefix + at.topic, at.partition, offset) for at, offset in positions.items()]
        try:
            self._consumer.commit(offsets=offsets, asynchronous=True)
        except KafkaException as error:
            logger.debug("positions for lag tools were not committed: %s", error)

    def close(self) -> None:
        """See `ports.LogSource.close`."""
        self._consumer.close()
