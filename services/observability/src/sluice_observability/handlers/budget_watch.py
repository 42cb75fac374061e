"""The monitor's work: signals become state and alerts, each alert durable before the state that says it was told.

A batch of records, or a look at the timers, is one step: dead letters and alerts are written and acknowledged, then the
changed states, and last of each partition its position, the offset after the step's records. A monitor that dies
between finds its table as it was before the step, observes the records again, and makes the same alerts of them. Those
it finds among the last ones on `alerts`, so each stands there once. Of the rest the table says that it was told.

The position is the last record of each write. So what stands in the table and how far it has come are restored
together: rewinding the group changes nothing, and limits that changed meanwhile can't count what was counted.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from sluice_contracts import codec
from sluice_contracts.envelope import CloudEvent, Record
from sluice_contracts.errors import InvalidRecord
from sluice_contracts.messages.alert import AlertRaised
from sluice_contracts.topics import ALERTS, SIGNALS
from sluice_observability.domain.budget_limits import Budgets
from sluice_observability.domain.budget_state import Pipeline, Signal, decode, encode
from sluice_observability.domain.budgets import due, next_look_ms, observe, settle, tenant_of
from sluice_observability.domain.timers import Timers
from sluice_observability.handlers.refusals import DeadLetterOffice, Refused
from sluice_observability.ports import STEP_MAX_RECORDS, Change, StateTable
from sluice_runtime.broker import Broker, TopicPartition
from sluice_runtime.clock import Clock

logger = logging.getLogger(__name__)

STEP_MAX_LOOKS = 1_000
"""Timers that one step looks at."""

BEHIND_MAX_MS = 1_000
"""What was not handed out for so long is read by other means: it may be a transaction's marker, or be left out."""

LOOK_BACK_RECORDS = 4_000
"""The last alerts of a partition that are looked at when it is taken over: those of a step that was cut off are among
them."""

_FRESH = Pipeline()


@dataclass(slots=True)
class Figures:
    """What was done, for the metrics."""

    observed: Counter[str] = field(default_factory=Counter)
    unheeded: Counter[str] = field(default_factory=Counter)
    refused: Counter[tuple[str, str]] = field(default_factory=Counter)
    alerts: Counter[tuple[str, str]] = field(default_factory=Counter)
    delays_ms: list[int] = field(default_factory=list)


@dataclass(slots=True)
class _Partition:
    position: int
    pipelines: dict[str, Pipeline]
    published: Collection[str]
    timers: Timers
    asked: tuple[int, int] | None = None
    """When its end was asked for, and the end then."""


@dataclass(slots=True)
class _Step:
    changed: dict[int, dict[str, Pipeline | None]] = field(default_factory=dict)
    alerts: list[tuple[int, int, CloudEvent[AlertRaised]]] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)

    def take(
        self, partition: int, key: str, pipeline: Pipeline | None, alerts: Iterable[CloudEvent[AlertRaised]], at_ms: int
    ) -> None:
        self.changed.setdefault(partition, {})[key] = pipeline
        self.alerts += [(partition, at_ms, alert) for alert in alerts]


class BudgetWatch:
    """The pipelines of the partitions that this process owns, and what is told of them.

    After an exception of `observe` or `look` its state is ahead of the table: make a new one.

    Args:
        budgets: The limits in force.
        broker: For alerts, and for what was published before.
        letters: For invalid signals.
        clock: For the time at which a partition's end is asked for, set right by Kafka's; and the delay of alerts.
        partitions: Of topic `signals`.
        timers: Makes a partition's timers of the first ones.
    """

    def __init__(
        self,
        budgets: Budgets,
        broker: Broker,
        letters: DeadLetterOffice,
        clock: Clock,
        partitions: int,
        *,
        timers: Callable[[Mapping[str, int]], Timers] = Timers,
    ) -> None:
        self.figures = Figures()
        self._budgets = budgets
        self._broker = broker
        self._letters = letters
        self._clock = clock
        self._count = partitions
        self._timers = timers
        self._owned: dict[int, _Partition] = {}
        self._ahead_ms: int | None = None

    # What is owned

    def home(self, key: str) -> int | None:
        """The partition whose table has a key."""
        stem, slash, number = key.partition("/")
        return int(number) if slash else self._broker.partition_for(stem.encode(), self._count)

    async def restore(self, partition: int, stored: Mapping[str, bytes]) -> None:
        """Takes a partition over.

        Args:
            partition: Its number.
            stored: What its table holds.

        Raises:
            BrokerUnavailable: It can't be seen what was published before.
        """
        position = int(stored.get(position_key(partition), b"0"))
        signals, alerts = TopicPartition(SIGNALS.name, partition), TopicPartition(ALERTS.name, partition)
        bounds = await self._broker.bounds([signals, alerts])
        if position > bounds[signals].end:
            logger.warning("%s ends before %d, where this table stands: it was made anew", signals, position)
            position = 0
        published: set[str] = set()

        def keep(records: Sequence[Record]) -> None:
            published.update((dict(one.headers).get("ce_id") or b"").decode("utf-8", "replace") for one in records)

        end = bounds[alerts].end
        await self._broker.read(alerts, max(bounds[alerts].first, end - LOOK_BACK_RECORDS), end, keep)
        pipelines = {key: decode(value) for key, value in stored.items() if "/" not in key}
        looks = {key: self._look_ms(key, pipeline) for key, pipeline in pipelines.items()}
        self._owned[partition] = _Partition(position, pipelines, published, self._timers(looks))

    def drop(self, partitions: Iterable[int]) -> None:
        """Lets go of partitions."""
        for partition in partitions:
            self._owned.pop(partition, None)

    @property
    def ahead_ms(self) -> int | None:
        """How far this process's clock is ahead of Kafka's at most, as its last write showed; None before that."""
        return self._ahead_ms

    def position(self, partition: int) -> int | None:
        """The offset after the last signal that the table has; None where the partition is not owned."""
        owned = self._owned.get(partition)
        return None if owned is None else owned.position

    @property
    def owned(self) -> Collection[int]:
        """The partitions that were taken over."""
        return self._owned.keys()

    def replan(self, changed: Collection[str]) -> None:
        """Sets the timers of those anew whose limits have changed.

        Args:
            changed: Keys of records of topic `budgets`.
        """
        of_one = {key.partition("/")[2] for key in changed if key.startswith("pipeline/")}
        for owned in self._owned.values():
            about = of_one & owned.pipelines.keys()
            if len(of_one) < len(changed):  # a tenant's, or the installation's
                about |= {
                    key
                    for key, pipeline in owned.pipelines.items()
                    if "installation" in changed or f"tenant/{pipeline.tenant}" in changed
                }
            for key in about:
                owned.timers.put(key, self._look_ms(key, owned.pipelines[key]))

    def _look_ms(self, key: str, pipeline: Pipeline) -> int:
        return next_look_ms(pipeline, self._budgets.limits(pipeline.tenant, key))

    # What happens

    async def observe(self, records: Sequence[Record], table: StateTable) -> None:
        """Folds records in, at most `STEP_MAX_RECORDS`; those that the table has already are passed over.

        Raises:
            BrokerUnavailable: The step is cut off.
        """
        step, ends = _Step(), dict[int, int]()
        for record in records:
            owned = self._owned.get(record.partition)
            if owned is None:
                continue
            position = ends.get(record.partition, owned.position)
            if record.offset > position:
                await self._finish(step, ends, table)
                step, ends = _Step(), {}
                await self._catch_up(record.partition, owned, record.offset, table)
            if record.offset >= position:
                self._fold(step, owned, record)
                ends[record.partition] = record.offset + 1
        await self._finish(step, ends, table)

    async def ask(self) -> None:
        """Asks where the owned partitions end. Who has observed until there has heard all that was appended before.

        Raises:
            BrokerUnavailable: Kafka does not answer.
        """
        now_ms = self._clock.now_ms()
        wanted = [TopicPartition(SIGNALS.name, at) for at, owned in self._owned.items() if owned.asked is None]
        for at, bounds in (await self._broker.bounds(wanted) if wanted else {}).items():
            if (owned := self._owned.get(at.partition)) is not None:
                owned.asked = now_ms, bounds.end

    async def listen(self, waiting: Collection[int], table: StateTable) -> dict[int, int]:
        """By partition, until when all that Kafka appended was observed, where an end that was asked for is reached.

        By Kafka's clock, or less: what was appended is compared with it. A clock that is ahead would hear of what
        nobody has said yet.

        Args:
            waiting: Partitions of which something was handed out and is still to be observed.
            table: Where states are kept.

        Raises:
            BrokerUnavailable: The step is cut off.
        """
        heard = {}
        if self._ahead_ms is None and self._owned:
            partition, owned = next(iter(self._owned.items()))
            await self._write(self._changes(partition, owned, {}), table)
        for partition, owned in self._owned.items():
            if owned.asked is None:
                continue
            asked_ms, end = owned.asked
            behind = owned.position < end and self._clock.now_ms() - asked_ms >= BEHIND_MAX_MS
            if behind and partition not in waiting:
                await self._catch_up(partition, owned, min(end, owned.position + STEP_MAX_RECORDS), table)
            if owned.position >= end:
                heard[partition], owned.asked = asked_ms - (self._ahead_ms or 0), None
        return heard

    async def _catch_up(self, partition: int, owned: _Partition, end: int, table: StateTable) -> None:
        """Observes what lies before an offset and was not handed out.

        Offsets have holes; but Faust, after a rebalance, leaves records out, too.
        """
        while owned.position < end:
            through = min(end, owned.position + STEP_MAX_RECORDS)
            found: list[Record] = []
            await self._broker.read(TopicPartition(SIGNALS.name, partition), owned.position, through, found.extend)
            if found:
                logger.info("%d signals from offset %d on were passed over before", len(found), found[0].offset)
            step = _Step()
            for record in found:
                self._fold(step, owned, record)
            await self._finish(step, {partition: through}, table)

    def _fold(self, step: _Step, owned: _Partition, record: Record) -> None:
        try:
            event = codec.decode(record)
            codec.check_partition(record, self._broker.partition_for(record.key or b"", self._count))
        except InvalidRecord as fault:
            step.refused.append((record, fault))
            return
        self.figures.observed[event.type] += 1
        key, before = event.subject, owned.pipelines.get(event.subject)
        known = before or _FRESH
        signal = Signal(event, record.timestamp_ms)
        limits = self._budgets.limits(tenant_of(known, signal), key)
        after, alerts, unheeded = observe(known, signal, limits)
        if unheeded is not None:
            self.figures.unheeded[unheeded] += 1
        if after is not before:
            owned.pipelines[key] = after
            step.take(record.partition, key, after, alerts, record.timestamp_ms)

    async def look(self, heard: Mapping[int, int], table: StateTable) -> None:
        """Looks at the timers that are due.

        Args:
            heard: By partition, until when all that Kafka appended was observed.
            table: Where states are kept.

        Raises:
            BrokerUnavailable: The step is cut off.
        """
        step, left = _Step(), STEP_MAX_LOOKS
        for partition, heard_ms in heard.items():
            owned = self._owned.get(partition)
            if owned is None:
                continue
            keys, looked_at = owned.timers.take(heard_ms, left)
            left -= looked_at
            for key in keys:
                pipeline = owned.pipelines[key]
                if (look_ms := self._look_ms(key, pipeline)) > heard_ms:
                    owned.timers.put(key, look_ms)
                    continue
                after, alerts, _ = due(pipeline, key, heard_ms, self._budgets.limits(pipeline.tenant, key))
                kept = settle(after, heard_ms)
                if kept is None:
                    del owned.pipelines[key]
                else:
                    owned.pipelines[key] = kept
                deadline_ms = min((alert.time_ms for alert in alerts), default=heard_ms)
                step.take(partition, key, kept, alerts, deadline_ms)
        await self._finish(step, {}, table)

    async def _finish(self, step: _Step, ends: Mapping[int, int], table: StateTable) -> None:
        if step.refused:
            await self._letters.write(step.refused)
            self.figures.refused.update((record.topic, fault.reason.value) for record, fault in step.refused)
        if step.alerts:
            await self._tell(step.alerts)
        changes = []
        for partition in sorted(step.changed.keys() | ends.keys()):
            owned = self._owned[partition]
            owned.position = ends.get(partition, owned.position)
            changed = step.changed.get(partition, {})
            changes += self._changes(partition, owned, changed)
            for key, pipeline in changed.items():
                if pipeline is not None:
                    owned.timers.put(key, self._look_ms(key, pipeline))
        if changes:
            await self._write(changes, table)

    async def _write(self, changes: Sequence[Change], table: StateTable) -> None:
        appended_ms = await table.write(changes)
        self._ahead_ms = self._clock.now_ms() - appended_ms

    async def rewrite(self, partition: int, table: StateTable) -> None:
        """Writes all of a partition's states again: somebody else has written there.

        Raises:
            BrokerUnavailable: Some may not be durable.
        """
        if (owned := self._owned.get(partition)) is not None:
            await self._write(self._changes(partition, owned, owned.pipelines), table)

    def _changes(self, partition: int, owned: _Partition, changed: Mapping[str, Pipeline | None]) -> list[Change]:
        found = [
            Change(partition, key, None if pipeline is None else encode(pipeline), owned.position)
            for key, pipeline in changed.items()
        ]
        # Last, so that the last record of a partition is never a tombstone: Kafka would delete it some day, and Faust
        # waits for ever for the record before the partition's end.
        return [*found, Change(partition, position_key(partition), b"%d" % owned.position, owned.position)]

    async def _tell(self, alerts: Sequence[tuple[int, int, CloudEvent[AlertRaised]]]) -> None:
        new = [one for one in alerts if one[2].id not in self._owned[one[0]].published]
        await self._broker.append_all(
            [codec.encode(alert, topic=ALERTS.name, key=alert.subject) for _, _, alert in new]
        )
        now_ms = self._clock.now_ms()
        for _, at_ms, alert in new:
            self.figures.alerts[alert.data.condition, alert.data.action] += 1
            self.figures.delays_ms.append(max(0, now_ms - at_ms))
            logger.warning(
                "%s: %s", alert.data.condition, alert.data.detail,
                extra={"pipeline_id": alert.subject, "action": alert.data.action, "alert_id": alert.id},
            )  # fmt: skip


def position_key(partition: int) -> str:
    """The table's key of a partition's position; no pipeline's id has a slash."""
    return f"position/{partition}"
