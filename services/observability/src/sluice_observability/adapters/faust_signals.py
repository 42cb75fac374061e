"""The monitor's stream and table, by Faust: topic `signals` in, a table of states whose changelog is `monitor.state`.

Faust reads, shares partitions out, keeps the table and restores it from the changelog. What it does not promise is done
here (faust-streaming 0.15.3):

- it acknowledges what it passes over in a rebalance, and would commit offsets of signals that nobody observed; so its
  acknowledgements are off, and where the table stands is a record of the table itself;
- after a rebalance it may hand out records from beyond where it should go on, and may keep others back; here whatever
  lies between is read by other means before a position moves on, and so is what it keeps back until an end that was
  asked for: only who has observed until there has heard all that was appended before;
- it commits whether or not the changelog was written; here the changelog's acknowledgement is waited for;
- the last record of a key wins in its changelog, though an owner that was frozen may write after the one who took over;
  here values have versions, and whoever finds that somebody else has written writes all of its states again;
- its table in memory keeps what belongs to partitions that went elsewhere; here each assignment drops that, and has
  Faust read those partitions' changelogs from their beginning when they come back;
- after an error of Kafka's it crashes as a whole, so a run is one life of an app, and whoever calls begins another;
- it crashes likewise after an error of what it calls, or passes over it; here an error of ours leaves the run as it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import defaultdict
from collections.abc import Awaitable, Iterator, Sequence
from typing import Any

from aiokafka import TopicPartition as KafkaPartition

from sluice_contracts.envelope import Record
from sluice_contracts.topics import MONITOR_STATE, SIGNALS, Principal
from sluice_observability.adapters.faust_app import VERSION_BYTES, VersionedTable, made_app
from sluice_observability.adapters.faust_faults import unavailable
from sluice_observability.ports import STEP_MAX_RECORDS, Change, SignalWatch
from sluice_runtime.broker import BrokerUnavailable
from sluice_runtime.connection import KafkaConnection
from sluice_runtime.kafka.names import KafkaNames

logger = logging.getLogger(__name__)

GROUP = str(Principal.MONITOR)
LOOK_INTERVAL_S = 0.25
"""How exactly missing progress is told."""

WAITING_MAX_RECORDS = 4_000
"""Read ahead of what is observed."""

COMMIT_INTERVAL_S = 1.0
"""Commits are where a new owner begins to read; what the table has by then it passes over."""

WRITE_TIMEOUT_S = 8.0
"""Below the time after which Kafka gives the partitions to others: what is not written by then never will be."""

FROZEN_SHARE = 1 / 3
"""A loop that stood still for so much of the session's time may soon have lost its partitions: it joins anew."""

STOP_TIMEOUT_S = 10.0


class FaustSignals:
    """One life of a Faust app: it joins the group, restores, observes until it is stopped or something fails.

    Guarantee: `watch` is called by one task at a time, and only for partitions that it was given by `restore` and not
    asked to drop since.

    Args:
        connection: Where Kafka is, and as whom.
        prefix: Before every topic's and group's name.
        partitions: Of `signals`, and of the changelog.
        instance: This process's name among its like.
        session_timeout_ms: After so long without a heartbeat the partitions go to others.
        watch: What is done with the signals.
    """

    def __init__(
        self,
        connection: KafkaConnection,
        *,
        prefix: str,
        partitions: int,
        instance: str,
        session_timeout_ms: int,
        watch: SignalWatch,
    ) -> None:
        self._names = KafkaNames(prefix)
        self._watch = watch
        self._lock = asyncio.Lock()  # a step, or a change of what is owned
        self._waiting: list[Any] = []
        self._wake, self._room = asyncio.Event(), asyncio.Event()
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._restored: set[int] = set()
        self._committed: dict[int, int] = {}
        self._written: dict[int, int] = {}  # the last offset of ours in the changelog
        self._disturbed: set[int] = set()  # where somebody else has written since
        self._frozen_s = FROZEN_SHARE * session_timeout_ms / 1_000
        self._ticked_s = asyncio.get_running_loop().time()
        self._app = made_app(
            self._names.full(GROUP), connection, self._names, partitions, instance, session_timeout_ms, WRITE_TIMEOUT_S
        )
        self._app.on_partitions_revoked.connect(self._on_revoked, weak=False)
        self._app.on_partitions_assigned.connect(self._on_assigned, weak=False)
        self._signals = self._names.full(SIGNALS.name)
        self._changelog = self._names.full(MONITOR_STATE.name)
        self._table = self._made_table(partitions)

    def _made_table(self, partitions: int) -> Any:
        raw = {"key_type": bytes, "value_type": bytes, "key_serializer": "raw", "value_serializer": "raw"}
        changelog = self._app.topic(
            self._changelog, **raw, partitions=partitions, acks=False, internal=True, allow_empty=True, maxsize=131_072
        )
        signals = self._app.topic(self._signals, **raw, acks=False, internal=True, allow_empty=True)
        self._app.agent(signals, name="signals")(self._read)
        table = VersionedTable(
            self._app, name="budgets", key_type=bytes, value_type=bytes, partitions=partitions,
            changelog_topic=changelog, on_recover=self._on_recovered, beacon=self._app.tables.beacon,
        )  # fmt: skip
        return self._app.tables.add(table)

    # Life

    async def run(self, stop: asyncio.Event) -> None:
        """Runs until `stop` is set.

        Raises:
            BrokerUnavailable: Kafka is away, or this process was frozen: begin another life.
            Exception: A defect of ours, or a right that is missing.
        """
        tasks = [asyncio.create_task(one) for one in (stop.wait(), self._steps(), self._tick(), self._until_failed())]
        starting = asyncio.create_task(self._app.start())
        try:
            await asyncio.wait([starting, *tasks], return_when=asyncio.FIRST_COMPLETED)
            if not any(task.done() for task in tasks):
                _end_of(starting)
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks[1:]:
                if task.done():
                    _end_of(task)
        except Exception as error:
            away = unavailable(error)
            if away is None or away is error:
                raise
            raise away from error
        finally:
            async with self._lock:
                self._watch.drop(list(self._watch.owned))
            for task in (starting, *tasks):
                task.cancel()
            await asyncio.gather(starting, *tasks, return_exceptions=True)
            with contextlib.suppress(Exception):
                async with asyncio.timeout(STOP_TIMEOUT_S):
                    await self._app.stop()

    async def _until_failed(self) -> None:
        crashed = asyncio.create_task(self._app._crashed.wait())
        try:
            await asyncio.wait([crashed, self._failed], return_when=asyncio.FIRST_COMPLETED)
        finally:
            crashed.cancel()
        if self._failed.done():
            self._failed.result()
        reason = self._app.crash_reason
        if isinstance(reason, Exception):
            raise reason
        raise BrokerUnavailable(f"Faust gave up: {reason!r}")

    @contextlib.contextmanager
    def _heeded(self) -> Iterator[None]:
        """Tells how a callback failed: Faust may pass over it, or cover it with what follows from it."""
        try:
            yield
        except Exception as error:
            if not self._failed.done():
                self._failed.set_exception(error)
            raise

    async def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._check_awake()
            self._ticked_s = loop.time()
            await asyncio.sleep(0.1)

    def _check_awake(self) -> None:
        stood_s = asyncio.get_running_loop().time() - self._ticked_s
        if stood_s > self._frozen_s:
            raise BrokerUnavailable(f"this process stood still for {stood_s:.1f} s, others may own its partitions")

    # Partitions come and go

    async def _on_revoked(self, app: Any, revoked: Any, **_: Any) -> None:
        async with self._lock:  # after the step that is under way
            self._forget_waiting()
            self._written.clear()
            self._watch.drop(list(self._watch.owned))

    async def _on_assigned(self, app: Any, assigned: Any, **_: Any) -> None:
        with self._heeded():
            kept = self._restored & {at.partition for at in assigned if at.topic == self._changelog}
            self._restored = set()
            self._forget_waiting()
            for key in list(self._table.data):
                if self._watch.home(key.decode()) not in kept:
                    self._table.data.data.pop(key, None)
            offsets = self._app.tables.recovery.active_offsets
            for at in list(offsets):
                if at.partition not in kept:
                    offsets[at] = None

    def _forget_waiting(self) -> None:
        self._waiting.clear()
        self._room.set()  # or the reader, full of what was just forgotten, would wait for ever

    async def _on_recovered(self) -> None:
        try:
            with self._heeded():
                await self._restore()
        except asyncio.CancelledError:
            if not self._failed.done():
                self._failed.set_exception(BrokerUnavailable("Faust gave up while partitions were taken over"))
            raise

    async def _restore(self) -> None:
        partitions = {at.partition for at in self._app.assignor.assigned_actives() if at.topic == self._changelog}
        stored: dict[int, dict[str, bytes]] = defaultdict(dict)
        for key, value in self._table.data.items():
            home = self._watch.home(key.decode())
            if home is not None and value is not None:
                stored[home][key.decode()] = value[VERSION_BYTES:]
        async with self._lock:
            for partition in sorted(partitions):
                await self._watch.restore(partition, stored[partition])
        self._restored = partitions
        logger.info("restored", extra={"partitions": sorted(partitions)})

    # Signals

    async def _read(self, stream: Any) -> None:
        with self._heeded():
            async for event in stream.noack().events():
                self._waiting.append(event.message)
                self._wake.set()
                while len(self._waiting) >= WAITING_MAX_RECORDS:
                    self._room.clear()
                    await self._room.wait()

    async def _steps(self) -> None:
        loop = asyncio.get_running_loop()
        looked_s = committed_s = loop.time()
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(looked_s + LOOK_INTERVAL_S - loop.time()):
                    await self._wake.wait()
            looking = loop.time() >= looked_s + LOOK_INTERVAL_S
            if looking:
                await self._watch.ask()
            async with self._lock:
                await self._observe()
                while self._disturbed:
                    partition = self._disturbed.pop()
                    logger.warning("somebody else has written the table of partition %d; writing it anew", partition)
                    self._written.pop(partition, None)
                    await self._watch.rewrite(partition, self)
                if looking:
                    looked_s = loop.time()
                    heard = await self._watch.listen({message.partition for message in self._waiting}, self)
                    self._check_awake()  # before anything is told that others may have told meanwhile
                    await self._watch.look(heard, self)
            if loop.time() >= committed_s + COMMIT_INTERVAL_S:
                committed_s = loop.time()
                await self._commit()

    async def _observe(self) -> None:
        messages = self._waiting[:STEP_MAX_RECORDS]
        if not messages:
            self._wake.clear()
            return
        self._check_awake()
        await self._watch.observe([self._record(message) for message in messages], self)
        del self._waiting[: len(messages)]
        self._room.set()

    def _record(self, message: Any) -> Record:
        return Record(
            SIGNALS.name, message.partition, message.offset, round(message.timestamp * 1_000), message.key,
            message.value, tuple(message.headers or ()),
        )  # fmt: skip

    async def _commit(self) -> None:
        positions = {partition: self._watch.position(partition) for partition in self._watch.owned}
        new = {at: offset for at, offset in positions.items() if offset and self._committed.get(at) != offset}
        if new and not self._app.rebalancing:
            await self._app.consumer._thread.commit(
                {KafkaPartition(self._signals, at): offset for at, offset in new.items()}
            )
            self._committed.update((at, offset) for at, offset in new.items() if offset is not None)

    # The table

    async def write(self, changes: Sequence[Change]) -> int:
        """See `ports.StateTable.write`."""
        self._check_awake()
        sent: list[Awaitable[Any]] = []
        for change in changes:
            key = change.key.encode()
            value = None if change.value is None else change.version.to_bytes(VERSION_BYTES) + change.value
            sent.append(
                self._table.send_changelog(change.partition, key, value, key_serializer="raw", value_serializer="raw")
            )
            if value is None:
                self._table.data.data.pop(key, None)
            else:
                self._table.data.data[key] = value
        try:
            async with asyncio.timeout(2 * WRITE_TIMEOUT_S):
                written = await asyncio.gather(*sent)
        except Exception as error:
            if unavailable(error) is None:
                raise
            raise BrokerUnavailable(f"the table was not written: {type(error).__name__}: {error}") from error
        for one in written:
            at, offset = one.topic_partition.partition, one.offset
            if self._written.get(at, offset - 1) != offset - 1:
                self._disturbed.add(at)
            self._written[at] = offset
        return max(int(one.timestamp) for one in written)


def _end_of(task: asyncio.Task[Any]) -> None:
    """Raises what a task failed with. Nobody here has cancelled it: a client that was given up cancels who waits."""
    if task.cancelled():
        raise BrokerUnavailable("a client was given up while its answer was waited for")
    task.result()
