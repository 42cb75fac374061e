"""A deciding service's processor: joins the group, and keeps one worker for each partition that it is given."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from sluice_contracts.envelope import Record
from sluice_runtime.broker import Broker, BrokerUnavailable, Fenced, Subscription, TopicPartition
from sluice_runtime.clock import Clock
from sluice_runtime.lag import Lag
from sluice_runtime.metrics import Metrics
from sluice_runtime.processor.partition import Injected, Partition
from sluice_runtime.processor.worker import ProcessorPolicy, Worker

log = logging.getLogger(__name__)

POLL_MS = 200
"""How long a poll waits when nothing comes; it bounds how late a stop is heard."""

BACKOFF_MIN_S, BACKOFF_MAX_S = 0.2, 5.0
"""Between attempts to come back after a fault of the broker: a broker that is away is never poison, so for ever."""

REVOKE_GRACE_S = 5.0
"""How long a revoked partition's worker may take to finish the batch in flight; then it is cut off, and fenced."""


@dataclass(frozen=True, slots=True)
class ProcessorTopics:
    """The topics of a processor, without prefix. All have one partition count."""

    inputs: Sequence[str]
    journal: str
    state: str


class Processor:
    """Decides on all partitions that the group gives to this instance, until stopped.

    Guarantees: every input is decided once, in its partition's order; what a decision says is published at least once
    and in order, and a repetition is the same bytes with the same id and sequence; an instance that lost a partition
    can't change anything any more, however late it wakes up.

    Args:
        make_partition: Makes the empty partition of a number, given the mapping from keys to partitions.
        released: Told of a partition that is no longer ours, before it can be given to us again.
        group: The consumer group, and the stem of the transactional ids.
        owner: Names this instance in claims.
    """

    def __init__(
        self,
        *,
        broker: Broker,
        clock: Clock,
        topics: ProcessorTopics,
        group: str,
        owner: str,
        make_partition: Callable[[int, Callable[[bytes], int]], Partition],
        metrics: Metrics,
        policy: ProcessorPolicy | None = None,
        released: Callable[[int], None] = lambda number: None,
    ) -> None:
        self._broker = broker
        self._clock = clock
        self._topics = topics
        self._group = group
        self._owner = owner
        self._make_partition = make_partition
        self._released = released
        self._metrics = metrics
        self._policy = policy or ProcessorPolicy()
        self._workers: dict[int, Worker] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._held: set[int] = set()
        self._fault: asyncio.Future[None] | None = None
        self._subscribed: asyncio.Future[Subscription] | None = None
        self._count = 0
        self._placed = False

    @property
    def ready(self) -> bool:
        """Whether the instance is in its group and all its partitions are restored."""
        joined = self._subscribed is not None and self._subscribed.done()
        return joined and self._placed and all(number in self._workers for number in self._tasks)

    @property
    def partitions(self) -> dict[int, Partition]:
        """The partitions owned and restored now."""
        return {number: worker.partition for number, worker in self._workers.items()}

    def inject(self, number: int, inputs: Sequence[Injected]) -> None:
        """Gives a sensor's inputs to a partition; dropped if it is not owned any more (its owner has a sensor too)."""
        worker = self._workers.get(number)
        if worker is not None:
            worker.inject(inputs)

    def answer(self, number: int, inputs: Sequence[Injected]) -> None:
        """As `inject`, for inputs that need not wait until all that is in the log is decided: that asks Kafka first."""
        worker = self._workers.get(number)
        if worker is not None:
            worker.answer(inputs)

    async def run(self, stop: asyncio.Event) -> None:
        """Runs until `stop` is set; comes back by itself after any fault of the broker.

        Raises:
            Exception: A defect or a bad deployment: stop the process, and have a person look.
        """
        backoff_s = BACKOFF_MIN_S
        while not stop.is_set():
            started_ms = self._clock.now_ms()
            try:
                await self._run_once(stop)
            except (BrokerUnavailable, Fenced) as fault:
                if self._clock.now_ms() - started_ms > 10_000:
                    backoff_s = BACKOFF_MIN_S
                log.warning("starting again in %.1f s: %s: %s", backoff_s, type(fault).__name__, fault)
                try:
                    async with asyncio.timeout(backoff_s):
                        await stop.wait()
                except TimeoutError:
                    backoff_s = min(backoff_s * 2, BACKOFF_MAX_S)

    async def _run_once(self, stop: asyncio.Event) -> None:
        self._fault = asyncio.get_running_loop().create_future()
        joining = self._subscribed = asyncio.get_running_loop().create_future()
        self._count = await self._broker.partitions(self._topics.journal)
        try:
            subscription = await self._broker.subscribe(
                self._topics.inputs,
                self._group,
                assigned=partial(self._assigned, joining),
                revoked=partial(self._revoked, joining),
            )
        except BaseException:
            self._subscribed = None
            await self._release(frozenset(self._tasks))  # assigned while joining, which then failed
            raise
        joining.set_result(subscription)
        stopping = asyncio.ensure_future(stop.wait())
        polling = asyncio.ensure_future(self._poll(subscription))
        ends: list[asyncio.Future[Any]] = [stopping, polling, self._fault]
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            for end in ends[1:]:
                if end.done():
                    end.result()
        finally:
            for task in (stopping, polling):
                task.cancel()
            await asyncio.gather(stopping, polling, return_exceptions=True)
            self._subscribed = None
            await self._release(frozenset(self._tasks))
            self._placed = False
            if self._fault.done() and not self._fault.cancelled():
                self._fault.exception()  # a second fault of the same cause was looked at as well
            await subscription.close()

    async def _poll(self, subscription: Subscription) -> None:
        lag = Lag(self._broker, self._metrics, self._policy.lag_interval_s, self._policy.lag_timeout_s)
        telling = [
            asyncio.create_task(self._keep_told(subscription), name="positions"),
            asyncio.create_task(lag.keep_told(partial(self._read_through, subscription)), name="lag"),
        ]
        try:
            await self._feed(subscription, telling)
        finally:
            for task in telling:
                task.cancel()

    async def _feed(self, subscription: Subscription, telling: Sequence[asyncio.Task[None]]) -> None:
        while True:
            for task in telling:
                if task.done():
                    task.result()
            found = await subscription.poll(POLL_MS)
            by_partition: dict[int, list[Record]] = {}
            for at, records in found.items():
                by_partition.setdefault(at.partition, []).extend(records)
            for number, worker in list(self._workers.items()):
                read_through = {}
                if worker.waits_for_log:
                    read_through = {at: await subscription.position(at) for at in self._inputs(number)}
                if worker.feed(by_partition.get(number, ()), read_through) and number not in self._held:
                    self._held.add(number)
                    subscription.hold(self._inputs(number))
                elif number in self._held and worker.hungry:
                    self._held.discard(number)
                    subscription.release(self._inputs(number))

    async def _read_through(self, subscription: Subscription) -> dict[TopicPartition, int]:
        return {at: await subscription.position(at) for number in list(self._workers) for at in self._inputs(number)}

    async def _keep_told(self, subscription: Subscription) -> None:
        while True:
            await asyncio.sleep(self._policy.lag_interval_s)
            await self._tell_positions(subscription)

    async def _tell_positions(self, subscription: Subscription) -> None:
        """Commits positions to the group: for lag tools alone; what counts stands in the journal."""
        positions = {
            TopicPartition(topic, number): offset
            for number, partition in self.partitions.items()
            for topic, offset in partition.positions.items()
        }
        try:
            if positions:
                async with asyncio.timeout(self._policy.lag_timeout_s):
                    await subscription.commit(positions)
        except (BrokerUnavailable, TimeoutError) as fault:
            log.info("the group was not told how far we are: %s", fault or type(fault).__name__)

    def _inputs(self, number: int) -> list[TopicPartition]:
        return [TopicPartition(topic, number) for topic in self._topics.inputs]

    async def _assigned(self, joining: asyncio.Future[Subscription], numbers: frozenset[int]) -> None:
        if joining is not self._subscribed:
            return  # we are leaving: the group gives them to others once we have left
        self._placed = True  # perhaps with no partition: then there are more instances than partitions
        for number in sorted(numbers - self._tasks.keys()):
            self._tasks[number] = asyncio.create_task(self._own(number), name=f"partition-{number}")

    async def _revoked(self, joining: asyncio.Future[Subscription], numbers: frozenset[int]) -> None:
        if joining is self._subscribed:
            await self._release(numbers)

    async def _release(self, numbers: frozenset[int]) -> None:
        tasks = {number: self._tasks.pop(number) for number in sorted(numbers & self._tasks.keys())}
        for number, task in tasks.items():
            worker = self._workers.pop(number, None)
            self._held.discard(number)
            if worker is None:
                task.cancel()
            else:
                worker.stop()
        if tasks:
            _, late = await asyncio.wait(tasks.values(), timeout=REVOKE_GRACE_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*tasks.values(), return_exceptions=True)
        for number in tasks:
            self._released(number)

    async def _own(self, number: int) -> None:
        assert self._subscribed is not None
        try:
            partition = self._make_partition(number, lambda key: self._broker.partition_for(key, self._count))
            worker = Worker(
                partition,
                broker=self._broker,
                clock=self._clock,
                metrics=self._metrics,
                policy=self._policy,
                owner=self._owner,
                input_topics=self._topics.inputs,
                journal_topic=self._topics.journal,
                state_topic=self._topics.state,
                transactional_id=f"{self._group}-checkpoint-{number}",
            )
            try:
                positions = await worker.take_over()
                subscription = await asyncio.shield(self._subscribed)  # assigned, perhaps, while still joining
                subscription.seek(positions)
                self._workers[number] = worker
                subscription.release(self._inputs(number))
                await worker.run()
            finally:
                await worker.close()
        except Exception as fault:
            if self._fault is not None and not self._fault.done():
                self._fault.set_exception(fault)
