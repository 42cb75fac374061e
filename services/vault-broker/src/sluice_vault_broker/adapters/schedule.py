"""Which of the things that are wanted in Vault is done next: revocations, then mints, then renewals.

Time comes from outside: threads and the simulation drive the same object.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from heapq import heappop, heappush

from sluice_vault_broker.adapters.holdings import Holdings, Kind, Wanted
from sluice_vault_broker.adapters.line import Line
from sluice_vault_broker.ports import VaultAway, VaultFault

BACKOFF_MIN_MS, BACKOFF_MAX_MS = 100, 5_000
"""Between two attempts, doubled each time: for ever, since the state keeps what is wanted."""

RESERVED_MIN_COUNT = 1
"""Places that only revocations take, so that none waits for a mint that hangs: one in four, and this at least."""

PRUNE_COUNT = 64
"""Answers beyond twice as many as the decider had not heard of the last time; then those that it has heard of go."""


@dataclass(frozen=True, slots=True)
class _Try:
    """How something fared that is not done yet.

    Attributes:
        again_ms: Not before.
        missed_at: How much Vault had answered when it did not answer this; None: it did.
        stuck: Vault answered others since, and did not answer this again: it is at fault here, and not away.
    """

    wanted: Wanted
    count: int = 0
    again_ms: int = 0
    missed_at: int | None = None
    stuck: bool = False


class _Probing:
    """Trying one thing at a time, less and less often, with the kinds by turns: what is answered may be of any."""

    def __init__(self) -> None:
        self.missed_count = 0
        self._until_ms = 0
        self._kinds = list(Kind)

    def may(self, now_ms: int) -> bool:
        """Whether it is time."""
        return self.missed_count == 0 or now_ms >= self._until_ms

    def kinds(self) -> list[Kind]:
        """In which order to look for the next one."""
        return list(self._kinds)

    def given(self, kind: Kind) -> None:
        """The others come first now."""
        self._kinds.remove(kind)
        self._kinds.append(kind)

    def missed(self, now_ms: int) -> None:
        """There was no answer."""
        self._until_ms = now_ms + _backoff_ms(self.missed_count)
        self.missed_count += 1

    def answered(self) -> None:
        """There was one."""
        self.missed_count = 0


class Schedule:
    """Gives out what is wanted, each thing to one hand at a time.

    Guarantees: at most `places` are given out at once; of these some are for revocations alone. While Vault is away one
    thing at a time is tried, and nothing else. What alone is not answered, while others are — a quota on one path, a
    tree too large to end in time — is tried in the same way beside the others, which go on. What was answered is given
    out again only once the state has changed. What it costs to find the next thing does not grow with how many there
    are: one that can't be given out leaves its line, and whatever changes that lines it up again, at its old place.

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
        self._answers_count = 0
        self._tries: dict[str, _Try] = {}
        self._prune_at = PRUNE_COUNT
        self._away, self._stuck = _Probing(), _Probing()
        self._lines = {(kind, stuck): Line(holdings.current) for kind in Kind for stuck in (False, True)}
        self._later: list[tuple[int, str]] = []
        self._unready: dict[int, set[str]] = defaultdict(set)
        self._held: dict[str, set[str]] = {}

    @property
    def away(self) -> bool:
        """Whether Vault was away when it was last asked."""
        return self._away.missed_count > 0

    @property
    def busy(self) -> int:
        """How many hands are at work."""
        return len(self._given)

    def take(self, now_ms: int) -> Wanted | None:
        """Gives out the next thing to do, or None if there is nothing now. It must be answered or have failed."""
        if len(self._given) >= self._places:
            return None
        self._look(now_ms)
        if self.away:
            if self._given or not self._away.may(now_ms):
                return None
            return self._give(self._away.kinds(), now_ms, self._away)
        if self._stuck.may(now_ms) and not any(map(self._is_stuck, self._given)):
            found = self._give(self._stuck.kinds(), now_ms, self._stuck)
            if found is not None:
                return found
        return self._give(Kind, now_ms)

    def _look(self, now_ms: int) -> None:
        """Lines up what may be doable since the last look."""
        keys = self._holdings.woken()
        while self._later and self._later[0][0] <= now_ms:
            keys.append(heappop(self._later)[1])
        for number in filter(self._ready, list(self._unready)):
            keys += self._unready.pop(number)
        for key in keys:
            self._line_up(key)

    def _line_up(self, key: str) -> None:
        place = self._holdings.place(key)
        if place is not None:
            self._lines[place.kind, self._is_stuck(key)].put(place)

    def _give(self, kinds: Iterable[Kind], now_ms: int, probing: _Probing | None = None) -> Wanted | None:
        stuck = (False, True) if probing is self._away else (probing is self._stuck,)
        for kind in kinds:
            if kind is not Kind.REVOKE and self._others >= self._for_others:
                continue
            wanted = self._next([self._lines[kind, one] for one in stuck], now_ms)
            if wanted is not None:
                self._given[wanted.key] = wanted
                if probing is not None:
                    probing.given(kind)
                return wanted
        return None

    def _next(self, lines: list[Line], now_ms: int) -> Wanted | None:
        """Takes out of lines until something may be given out. What may not is lined up by whatever changes that."""
        while lines := [one for one in lines if one]:
            wanted = self._holdings.at(min(lines, key=lambda one: one.first).pop())
            if wanted is not None and self._free(wanted, now_ms):
                return wanted
        return None

    def _is_stuck(self, key: str) -> bool:
        return key in self._tries and self._tries[key].stuck

    @property
    def _others(self) -> int:
        return sum(1 for one in self._given.values() if one.kind is not Kind.REVOKE)

    def _free(self, wanted: Wanted, now_ms: int) -> bool:
        key = wanted.key
        if key in self._given:
            return False
        if wanted.pipeline_id in self._held:
            self._held[wanted.pipeline_id].add(key)
            return False
        if not self._ready(wanted.partition):
            self._unready[wanted.partition].add(key)
            return False
        answered = self._answered.get(key)
        if answered is not None:
            if answered.entity is wanted.entity and answered.parent is wanted.parent:
                return False
            del self._answered[key]
        tried = self._tries.get(key)
        if tried is not None and tried.wanted.entity is not wanted.entity:
            del self._tries[key]
            tried = None
        return tried is None or now_ms >= tried.again_ms

    def answered(self, wanted: Wanted) -> None:
        """It is done, and the decider is told."""
        self._given.pop(wanted.key, None)
        self._heard(wanted)
        self._answered[wanted.key] = wanted
        self._line_up(wanted.key)  # the state may have changed since it was given out
        if len(self._answered) > self._prune_at:  # what the decider has heard of is not remembered
            self._answered = {key: one for key, one in self._answered.items() if self._holdings.still(one)}
            self._tries = {key: one for key, one in self._tries.items() if self._holdings.still(one.wanted)}
            self._prune_at = PRUNE_COUNT + 2 * len(self._answered)

    def failed(self, wanted: Wanted, fault: VaultFault, now_ms: int) -> None:
        """It is not done, or nobody knows; it is tried again."""
        self._given.pop(wanted.key, None)
        tried = self._tries.get(wanted.key) or _Try(wanted)
        if isinstance(fault, VaultAway):
            self._missed(tried, now_ms)
        else:
            self._heard(wanted)
            again_ms = now_ms + _backoff_ms(tried.count)
            self._tries[wanted.key] = _Try(wanted, tried.count + 1, again_ms)
        heappush(self._later, (self._tries[wanted.key].again_ms, wanted.key))
        self._line_up(wanted.key)

    def _heard(self, wanted: Wanted) -> None:
        """Vault answered."""
        if self._is_stuck(wanted.key):
            self._stuck.answered()
        self._tries.pop(wanted.key, None)
        self._answers_count += 1
        self._away.answered()

    def _missed(self, tried: _Try, now_ms: int) -> None:
        """Vault did not answer: the fault is the act's own, if others were answered since it was missed before."""
        self._holdings.put_behind(tried.wanted)
        alone = tried.missed_at is not None and self._answers_count > tried.missed_at
        stuck = alone or tried.stuck
        again_ms = now_ms + _backoff_ms(tried.count) if stuck else 0
        self._tries[tried.wanted.key] = _Try(tried.wanted, tried.count + 1, again_ms, self._answers_count, stuck)
        (self._stuck if stuck and not self.away else self._away).missed(now_ms)

    def forget(self, partition: int) -> None:
        """The partition is no longer ours: what it had answered may never have been decided."""
        self._answered = {key: one for key, one in self._answered.items() if one.partition != partition}
        self._tries = {key: one for key, one in self._tries.items() if one.wanted.partition != partition}
        self._unready.pop(partition, None)

    def hold(self, pipeline_id: str) -> None:
        """Gives nothing of a pipeline out until it is released."""
        self._held.setdefault(pipeline_id, set())

    def release(self, pipeline_id: str) -> None:
        """Ends `hold`."""
        for key in self._held.pop(pipeline_id, ()):
            self._line_up(key)


def _backoff_ms(count: int) -> int:
    return min(BACKOFF_MAX_MS, BACKOFF_MIN_MS << min(count, 10))
