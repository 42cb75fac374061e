"""Which tasks are young enough to be taken: told by the log itself where it can, else by two machines' clocks."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from enum import Enum

from sluice_contracts.envelope import Record
from sluice_contracts.limits import UNTAKEN_MAX_S
from sluice_runtime.broker import TopicPartition

NOTE_INTERVAL_MS = UNTAKEN_MAX_S * 1_000 // 2
"""Between two notes: so one is always less than the limit old, and as old as that allows."""


class Age(Enum):
    """What is known of a task's age."""

    YOUNG = "young"
    YOUNG_AGAINST_CLOCK = "young against clock"
    """The log shows that it is young, though its time says otherwise."""
    OLD = "old"


class Youth:
    """Where the partitions ended, and when: what stands behind such an end was written since.

    A record's own time is its writer's clock. It is held against this machine's only for what was written before this
    runner looked: after a start, or when a partition came. One whose clock goes wrong then passes over a task that
    waits, and takes the next attempt of it; by clocks alone it would take none, ever.
    """

    def __init__(self) -> None:
        self._notes: deque[tuple[int, Mapping[TopicPartition, int]]] = deque(maxlen=2)

    def due(self, monotonic_ms: int) -> bool:
        """Whether it is time to note the ends."""
        return not self._notes or monotonic_ms - self._notes[-1][0] >= NOTE_INTERVAL_MS

    def note(self, ends: Mapping[TopicPartition, int], monotonic_ms: int) -> None:
        """Takes where partitions end; the moment is one before anybody looked."""
        self._notes.append((monotonic_ms, ends))

    def forget(self, partitions: Iterable[int]) -> None:
        """Drops what is known of partitions that are another runner's now: it may be long until they come back."""
        gone = frozenset(partitions)
        for noted_ms, ends in list(self._notes):
            self._notes.popleft()
            self._notes.append((noted_ms, {at: end for at, end in ends.items() if at.partition not in gone}))

    def age(self, record: Record, now_ms: int, monotonic_ms: int) -> Age:
        """How old a record is, as far as it matters."""
        if record.timestamp_ms >= now_ms - UNTAKEN_MAX_S * 1_000:
            return Age.YOUNG
        at = TopicPartition(record.topic, record.partition)
        shown = any(
            monotonic_ms - noted_ms <= UNTAKEN_MAX_S * 1_000 and record.offset >= ends[at]
            for noted_ms, ends in self._notes
            if at in ends
        )
        return Age.YOUNG_AGAINST_CLOCK if shown else Age.OLD
