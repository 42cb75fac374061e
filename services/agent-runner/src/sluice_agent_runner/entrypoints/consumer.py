"""Tasks and inboxes from the broker into the runner.

Two readers, because they must not lose in the same way:

- **Tasks** go to one member of the group `agent-runner`. A record's offset is committed *before* its attempt starts
  (at most once): an attempt that is lost with its runner is started again by the spawner, when its lease runs out; one
  that were started twice would be paid twice. The group reads the inboxes too, to refuse what is invalid, once.
- **Inboxes** are heard by every runner, each for the attempts that it holds: partitions move between runners, running
  attempts do not.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from sluice_agent_runner.entrypoints.youth import Age, Youth
from sluice_agent_runner.handlers import HANDLERS
from sluice_agent_runner.measures import Measures
from sluice_agent_runner.ports import Attempts, Time
from sluice_agent_runner.supervision.attempt import SOURCE
from sluice_contracts import codec
from sluice_contracts.dead_letters import dead_letter
from sluice_contracts.envelope import CloudEvent, Record
from sluice_contracts.errors import InvalidRecord
from sluice_contracts.limits import UNTAKEN_MAX_S
from sluice_contracts.messages.base import Message
from sluice_contracts.topics import AGENT_INBOX, AGENT_TASKS
from sluice_runtime.broker import Broker, BrokerUnavailable, Subscription, TopicPartition
from sluice_runtime.lag import Lag

log = logging.getLogger(__name__)

GROUP = "agent-runner"

POLL_WAIT_MS = 500
"""How long a poll waits for records; a stop and a backlog with room again are noticed after it."""

AWAY_WAIT_S = 1.0
"""Between tries while the broker is away."""


class Consumer:
    """Reads until it is cancelled.

    Args:
        queues: The queues whose tasks this runner takes.
        lag: Tells how many tasks wait in the partitions that the group gave to this runner.

    Attributes:
        ready: Set once the inboxes are heard and the group has given this runner its share of the tasks.
    """

    def __init__(
        self, broker: Broker, attempts: Attempts, queues: Sequence[str], time: Time, measures: Measures, lag: Lag
    ) -> None:
        self._broker = broker
        self._attempts = attempts
        self._time = time
        self._measures = measures
        self._lag = lag
        self._member: Subscription | None = None
        self._queues = {AGENT_TASKS.for_queue(queue): queue for queue in queues}
        self._inboxes = {AGENT_INBOX.for_queue(queue): queue for queue in queues}
        self._partitions: dict[str, int] = {}
        self._assigned: frozenset[int] = frozenset()
        self._kept: frozenset[int] = frozenset()
        self._youth = Youth()
        self._unreleased = False
        self._full = False
        self.ready = asyncio.Event()

    async def run(self) -> None:
        """Reads tasks and inboxes. A broker that is away is waited for."""
        async with asyncio.TaskGroup() as readers:
            heard = asyncio.Event()
            readers.create_task(self._hear_inboxes(heard))
            # A stop for the first task must not be missed.
            await heard.wait()
            readers.create_task(self._take_tasks())
            readers.create_task(self._lag.keep_told(self._read_through))

    # Inboxes

    async def _hear_inboxes(self, heard: asyncio.Event) -> None:
        subscription: Subscription | None = None
        positions: dict[TopicPartition, int] = {}
        try:
            while True:
                try:
                    if subscription is None:
                        subscription = await self._broker.follow(list(self._inboxes))
                        if positions:
                            subscription.seek(positions)  # after an outage, go on where it was interrupted
                        else:
                            positions = {at: await subscription.position(at) for at in await self._all(self._inboxes)}
                        heard.set()
                    found = await subscription.poll(POLL_WAIT_MS)
                except BrokerUnavailable as error:
                    log.warning("the inboxes can't be read: %s; trying again", error)
                    await self._away(subscription)
                    subscription = None
                    continue
                for at, records in found.items():
                    for record in records:
                        await self._hear(record)
                    positions[at] = records[-1].offset + 1
        finally:
            await self._close(subscription)

    async def _hear(self, record: Record) -> None:
        try:
            event = await self._decoded(record)
        except InvalidRecord:
            return  # refused by the member of the group that has its partition
        await HANDLERS[type(event.data)](self._attempts, event, self._inboxes[record.topic])

    # Tasks

    async def _take_tasks(self) -> None:
        subscription: Subscription | None = None
        try:
            while True:
                try:
                    if subscription is None:
                        subscription = await self._broker.subscribe(
                            [*self._queues, *self._inboxes], GROUP, assigned=self._on_assigned, revoked=self._on_revoked
                        )
                    self._member = subscription
                    await self._note_ends()
                    self._press_back(subscription)
                    found = await subscription.poll(POLL_WAIT_MS)
                    if found:
                        await self._take(subscription, found)
                except BrokerUnavailable as error:
                    log.warning("tasks can't be read: %s; trying again", error)
                    self._member = None
                    await self._away(subscription)
                    subscription = None
        finally:
            await self._close(subscription)

    async def _read_through(self) -> dict[TopicPartition, int]:
        if self._member is None or self._unreleased:
            return {}
        tasks = [TopicPartition(topic, number) for topic in self._queues for number in self._assigned]
        return {at: await self._member.position(at) for at in tasks}

    async def _on_assigned(self, partitions: frozenset[int]) -> None:
        self._assigned |= partitions
        self._unreleased = True
        self.ready.set()

    async def _on_revoked(self, partitions: frozenset[int]) -> None:
        self._assigned -= partitions
        self._kept -= partitions
        self._youth.forget(partitions)

    async def _note_ends(self) -> None:
        now_ms = self._time.monotonic_ms()
        if self._assigned and (self._unreleased or self._youth.due(now_ms)):
            tasks = [TopicPartition(topic, number) for topic in self._queues for number in self._assigned]
            bounds = await self._broker.bounds(tasks)
            self._youth.note({at: bounds[at].end for at in tasks if at.partition in self._assigned}, now_ms)

    def _press_back(self, subscription: Subscription) -> None:
        """Reads tasks only while there is room for them; new partitions come held."""
        full = not self._attempts.room
        tasks = [TopicPartition(topic, number) for topic in self._queues for number in self._assigned]
        if self._unreleased:
            self._unreleased = False
            subscription.release(TopicPartition(topic, number) for topic in self._inboxes for number in self._assigned)
            self._full = not full
        if full != self._full:
            self._full = full
            (subscription.hold if full else subscription.release)(tasks)

    async def _take(self, subscription: Subscription, found: Mapping[TopicPartition, Sequence[Record]]) -> None:
        self._kept = self._assigned
        room = self._attempts.room
        tasks: list[tuple[Record, CloudEvent[Message]]] = []
        ages: Counter[Age] = Counter()
        done: dict[TopicPartition, int] = {}
        left: dict[TopicPartition, int] = {}
        for at, records in found.items():
            for record in records:
                if record.topic in self._queues and len(tasks) >= room:
                    left[at] = record.offset
                    break
                done[at] = record.offset + 1
                try:
                    event = await self._decoded(record)
                except InvalidRecord as error:
                    await self._refuse(record, error)
                    continue
                if record.topic in self._queues:
                    age = self._youth.age(record, self._time.now_ms(), self._time.monotonic_ms())
                    ages[age] += 1
                    if age is not Age.OLD:
                        tasks.append((record, event))
        _tell(ages)
        # What was revoked meanwhile is read, and paid for, by somebody else: also if it has come back since.
        kept = self._kept
        subscription.seek({at: offset for at, offset in left.items() if at.partition in kept})
        await subscription.commit({at: offset for at, offset in done.items() if at.partition in kept})
        for record, event in tasks:
            if record.partition in kept:
                await HANDLERS[type(event.data)](self._attempts, event, self._queues[record.topic])

    async def _all(self, topics: Iterable[str]) -> list[TopicPartition]:
        counts = {topic: await self._broker.partitions(topic) for topic in topics}
        return [TopicPartition(topic, number) for topic, count in counts.items() for number in range(count)]

    async def _decoded(self, record: Record) -> CloudEvent[Message]:
        event = codec.decode(record)
        count = self._partitions.get(record.topic)
        if count is None:
            count = self._partitions[record.topic] = await self._broker.partitions(record.topic)
        codec.check_partition(record, self._broker.partition_for(record.key or b"", count))
        return event

    async def _refuse(self, record: Record, error: InvalidRecord) -> None:
        log.warning("%s[%d]@%d is refused: %s", record.topic, record.partition, record.offset, error)
        letter = dead_letter(record, error.reason, error.detail, SOURCE, self._time.now_ms())
        await self._broker.append(letter)
        self._measures.refused(record.topic, error.reason)

    async def _away(self, subscription: Subscription | None) -> None:
        await self._close(subscription)
        await self._time.sleep(AWAY_WAIT_S)

    async def _close(self, subscription: Subscription | None) -> None:
        if subscription is not None:
            try:
                await subscription.close()
            except BrokerUnavailable as error:
                log.info("a reader was not closed in order: %s", error)


def _tell(ages: Counter[Age]) -> None:
    if ages[Age.OLD]:
        log.warning("%d tasks are older than %d s and are passed over", ages[Age.OLD], UNTAKEN_MAX_S)
    if ages[Age.YOUNG_AGAINST_CLOCK]:
        log.error(
            "%d new tasks seem older than %d s: the clocks of this machine and of the spawner's differ; set them right",
            ages[Age.YOUNG_AGAINST_CLOCK], UNTAKEN_MAX_S,
        )  # fmt: skip
