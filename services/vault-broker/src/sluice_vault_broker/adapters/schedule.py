"""Which of the things that are wanted in Vault is done next: revocations, then mints, then renewals.

Time comes from outside: threads and the simulation drive the same object.
"""

from __future__ import annotations

from collections.abc import Callable

from sluice_vault_broker.adapters.holdings import Holdings, Kind, Wanted
from sluice_vault_broker.ports import VaultAway, VaultFault

BACKOFF_MIN_MS, BACKOFF_MAX_MS = 100, 5_000
"""Between two attempts, doubled each time: for ever, since the state keeps what is wanted."""

RESERVED_MIN_COUNT = 1
"""Places that only revocations take, so that none waits for a mint that hangs: one in four, and this at least."""

PRUNE_COUNT = 64
"""Answers beyond twice as many as the decider had not heard of the last time; then those that it has heard of go."""


class Schedule:
    """Gives out what is wanted, each thing to one hand at a time.

    Guarantees: at most `places` are given out at once; of these some are for revocations alone. While Vault is away one
    thing at a time is tried, and nothing else. What was answered is given out again only once the state has changed.

    Args:
        holdings: What is wanted.
        places: How many hands there are.
        ready: Whether what is answered would reach a partition.
    """

    def __init__(self, holdings: Holdings, *, places: int, ready: Callable[[int], bool]) -> None:
        self._holdings = holdings
        self._places = places
        self._for_others = max(1, places - max(RESERVED_MIN_COUNT, places // 4))
        self._ready = ready
        self._given: dict[str, Wanted] = {}
        self._answered: dict[str, Wanted] = {}
        self._tries: dict[str, tuple[Wanted, int, int]] = {}  # with count, and when again
        self._prune_at = PRUNE_COUNT
        self._away_count = 0
        self._away_until_ms = 0
        self._held: set[str] = set()

    @property
    def away(self) -> bool:
        """Whether Vault was away when it was last asked."""
        return self._away_count > 0

    @property
    def busy(self) -> int:
        """How many hands are at work."""
        return len(self._given)

    def take(self, now_ms: int) -> Wanted | None:
        """Gives out the next thing to do, or None if there is nothing now. It must be answered or have failed."""
        if len(self._given) >= self._places or (self.away and (self._given or now_ms < self._away_until_ms)):
            return None
        for kind in Kind:
            if kind is not Kind.REVOKE and self._others >= self._for_others:
                return None
            for wanted in self._holdings.wanted(kind):
                if self._free(wanted, now_ms):
                    self._given[wanted.key] = wanted
                    return wanted
        return None

    @property
    def _others(self) -> int:
        return sum(1 for one in self._given.values() if one.kind is not Kind.REVOKE)

    def _free(self, wanted: Wanted, now_ms: int) -> bool:
        key = wanted.key
        if key in self._given or wanted.pipeline_id in self._held or not self._ready(wanted.partition):
            return False
        answered = self._answered.get(key)
        if answered is not None:
            if answered.entity is wanted.entity and answered.parent is wanted.parent:
                return False
            del self._answered[key]
        tried = self._tries.get(key)
        if tried is not None and tried[0].entity is not wanted.entity:
            del self._tries[key]
            tried = None
        return tried is None or now_ms >= tried[2]

    def answered(self, wanted: Wanted) -> None:
        """It is done, and the decider is told."""
        self._given.pop(wanted.key, None)
        self._tries.pop(wanted.key, None)
        self._answered[wanted.key] = wanted
        self._away_count = 0
        if len(self._answered) > self._prune_at:  # what the decider has heard of is not remembered
            self._answered = {key: one for key, one in self._answered.items() if self._holdings.still(one)}
            self._tries = {key: one for key, one in self._tries.items() if self._holdings.still(one[0])}
            self._prune_at = PRUNE_COUNT + 2 * len(self._answered)

    def failed(self, wanted: Wanted, fault: VaultFault, now_ms: int) -> None:
        """It is not done, or nobody knows; it is tried again."""
        self._given.pop(wanted.key, None)
        if isinstance(fault, VaultAway):
            self._away_until_ms = now_ms + _backoff_ms(self._away_count)
            self._away_count += 1
            return
        self._away_count = 0
        count = self._tries[wanted.key][1] if wanted.key in self._tries else 0
        self._tries[wanted.key] = wanted, count + 1, now_ms + _backoff_ms(count)

    def forget(self, partition: int) -> None:
        """The partition is no longer ours: what it had answered may never have been decided."""
        self._answered = {key: one for key, one in self._answered.items() if one.partition != partition}
        self._tries = {key: one for key, one in self._tries.items() if one[0].partition != partition}

    def hold(self, pipeline_id: str) -> None:
        """Gives nothing of a pipeline out until it is released."""
        self._held.add(pipeline_id)

    def release(self, pipeline_id: str) -> None:
        """Ends `hold`."""
        self._held.discard(pipeline_id)


def _backoff_ms(count: int) -> int:
    return min(BACKOFF_MAX_MS, BACKOFF_MIN_MS << min(count, 10))
