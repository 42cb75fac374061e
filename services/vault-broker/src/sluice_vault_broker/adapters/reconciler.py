"""Compares what Vault holds with what the log says (V6): a token that nobody knows ends, and one that is gone is told.

Guarantee: what is found is only told to the decider, whose state is the truth; nothing is ended here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Generator, Iterable, Iterator
from functools import partial
from heapq import nsmallest
from itertools import islice
from typing import Any, TypeVar

from sluice_runtime.clock import Clock
from sluice_runtime.metrics import ORPHANS_FOUND, Metrics
from sluice_vault_broker.adapters.hands import Inject
from sluice_vault_broker.adapters.holdings import Holdings
from sluice_vault_broker.adapters.inputs import injected
from sluice_vault_broker.adapters.schedule import Schedule
from sluice_vault_broker.domain.facts import OrphanFound, VaultGone
from sluice_vault_broker.domain.state import TokenEntity
from sluice_vault_broker.ports import Label, TokenUnknown, Vault, VaultAway, VaultFault, VaultRefused

log = logging.getLogger(__name__)

LOOK_S = 0.2
"""How often we look whether partitions came to us."""

BACKOFF_S = 5.0
"""After a round that Vault did not let us finish."""

SETTLED_MS = 2_000
"""So long a token must have been listed and unknown before it is looked at: Vault (1.21) forgets one that is looked up
while it is being made, before it has its lease; and what was recorded meanwhile is known."""

LOOKUPS_PER_ROUND_MAX_COUNT = 2_000
"""Then the next round begins at once: it knows what was taken over or was made since, and looks at that first. Some
seconds' look-ups; listing a hundred thousand tokens anew takes two."""

SLICE_COUNT = 1_000
"""Tokens that are compared in one piece, in a millisecond or two; then whatever else waits for the loop comes first: a
revocation does not wait until a hundred thousand are compared."""

Calls = Generator[Callable[[], Any], Any, None]
"""Gives calls of Vault, each to be made by whoever drives it, and is sent what they return or raise; and `pause`."""

T = TypeVar("T")


def pause() -> None:
    """Asks Vault nothing: whatever else waits may come first, and the state may change."""


class Reconciler:
    """Looks through all of Vault's tokens.

    Args:
        ready: Whether an input would reach a partition.
        partition_of: The partition of a pipeline; None while that is not known.
        lookups_per_s: How fast unknown accessors are looked up; each only once.
        settled_ms: How long one must have been listed and unknown before; 0 only with a Vault in memory.
        slice_count: How many tokens are compared in one piece.
    """

    def __init__(
        self,
        vault: Vault,
        clock: Clock,
        holdings: Holdings,
        schedule: Schedule,
        metrics: Metrics,
        *,
        inject: Inject,
        ready: Callable[[int], bool],
        partition_of: Callable[[str], int | None],
        interval_s: float = 60.0,
        lookups_per_s: int = 200,
        settled_ms: int = SETTLED_MS,
        slice_count: int = SLICE_COUNT,
    ) -> None:
        self._vault = vault
        self._clock = clock
        self._holdings = holdings
        self._schedule = schedule
        self._metrics = metrics
        self._inject = inject
        self._ready = ready
        self._partition_of = partition_of
        self._interval_s = interval_s
        self._pause_s = 1 / lookups_per_s
        self._labels: dict[str, Label | None] = {}
        self._settled_ms = settled_ms
        self._slice_count = slice_count
        self._unknown_since_ms: dict[str, int] = {}
        self._unknown_before_ms: dict[str, int] = {}
        self._refused: set[str] = set()
        self._unfinished = False
        self._new: set[int] = set()

    def taken(self, partition: int) -> None:
        """A partition came to us: look at once. What was unknown so far may be known to its state."""
        self._new.add(partition)
        self._unknown_since_ms.clear()
        self._unknown_before_ms.clear()

    async def run(self, stop: asyncio.Event) -> None:
        """Looks at every take-over and at every interval, until stopped."""
        loop = asyncio.get_running_loop()
        next_s = loop.time() + self._interval_s
        while not stop.is_set():
            await asyncio.sleep(LOOK_S)
            new = {number for number in self._new if self._ready(number)}
            if not new and loop.time() < next_s:
                continue
            self._new -= new
            try:
                await self._drive(stop)
                # What the last owner left behind is known to be settled at the second look.
                soon_s = 0.0 if self._unfinished else min(self._interval_s, self._settled_ms / 1_000)
                next_s = loop.time() + (soon_s if new or self._unfinished else self._interval_s)
            except VaultFault as fault:
                log.warning("what Vault holds could not be looked through: %s: %s", type(fault).__name__, fault)
                self._new |= new
                next_s = loop.time() + BACKOFF_S
                await asyncio.sleep(BACKOFF_S)

    async def _drive(self, stop: asyncio.Event) -> None:
        calls = self.round()
        call = next(calls)
        while not stop.is_set():
            try:
                answer = None if call is pause else await asyncio.to_thread(call)
            except VaultFault as fault:
                if isinstance(fault, VaultAway):
                    calls.close()
                    raise
                step = partial(calls.throw, fault)
            else:
                step = partial(calls.send, answer)
            try:
                call = step()
            except StopIteration:
                return
            await asyncio.sleep(0 if call is pause else self._pause_s)
        calls.close()

    def round(self) -> Calls:
        """One look through all; at tokens that nobody knows, as many as fit into a round.

        What is gone is told first, and each orphan as it is found: of others' tokens there may be any number.

        Raises:
            VaultFault: A call failed otherwise than expected; the round is given up.
        """
        before = self._holdings.tokens  # what lived before Vault was asked, and is not there, is gone
        entities: list[str] = yield self._vault.entities
        missing = self._holdings.accessors
        listed: list[str] = yield self._vault.accessors
        unknown: set[str] = set()
        yield from self._suspect(listed, missing, unknown)
        yield from self._tell_gone(before, missing, set(entities))
        yield from self._sweep_entities(entities)
        for some in self._slices(list(self._labels)):
            for accessor in some:
                if accessor in unknown:
                    self._tell_orphan(accessor, self._labels[accessor])
                else:
                    del self._labels[accessor]
            yield pause
        self._refused &= unknown
        yield from self._look_up()

    def _suspect(self, listed: list[str], missing: dict[str, str], unknown: set[str]) -> Calls:
        """Keeps since when tokens are listed and unknown. One that was known when Vault was asked is ended by us.

        Args:
            listed: By Vault.
            missing: What was known then; what is listed is taken out.
            unknown: What is listed and unknown is put in.
        """
        now_ms = self._clock.now_ms()
        self._unknown_before_ms, self._unknown_since_ms = self._unknown_since_ms, {}
        for some in self._slices(listed):
            for one in some:
                if missing.pop(one, None) is None and not self._holdings.knows(one):
                    unknown.add(one)
                    self._unknown_since_ms[one] = min(now_ms, self._unknown_before_ms.get(one, now_ms))
            yield pause

    def _settled(self, accessor: str) -> bool:
        since_ms = self._unknown_since_ms.get(accessor)
        return since_ms is not None and self._clock.now_ms() - since_ms >= self._settled_ms

    def _look_up(self) -> Calls:
        """Asks whose the tokens are that nobody knows, each once, the newest first, and tells of those that are ours.

        Vault may list an accessor whose token it did not finish making, because whoever asked died; it refuses to look
        such a one up, and that is no reason to leave the others alone: it is asked about again when there is room.
        """
        first: list[tuple[bool, int, str]] = []
        new_count, last = 0, ""
        for some in self._slices(list(self._unknown_since_ms)):
            ranked = [
                (one in self._refused, -self._unknown_since_ms[one], one)
                for one in some
                if one not in self._labels and self._settled(one)
            ]
            new_count += sum(not refused for refused, _, _ in ranked)
            first = nsmallest(LOOKUPS_PER_ROUND_MAX_COUNT, [*first, *ranked])
            yield pause
        for _, _, accessor in first:
            if not self._settled(accessor) or self._holdings.knows(accessor):
                continue
            try:
                label = yield partial(self._vault.lookup, accessor)
            except TokenUnknown:
                continue
            except VaultRefused as fault:
                self._refused.add(accessor)
                last = str(fault)
            else:
                self._labels[accessor] = label
                self._tell_orphan(accessor, label)
        self._unfinished = new_count > LOOKUPS_PER_ROUND_MAX_COUNT
        if last:
            log.info("Vault refuses to say whose %d tokens are; the last time: %s", len(self._refused), last)

    def _tell_orphan(self, accessor: str, label: Label | None) -> None:
        if label is None or not self._settled(accessor) or self._holdings.knows(accessor):
            return
        number = self._partition_of(label.pipeline_id)
        on_its_way = self._holdings.on_its_way(label.pipeline_id, label.agent_id, label.number)
        if number is None or not self._holdings.owns(number) or on_its_way:
            return
        found = OrphanFound(
            tenant=label.tenant, agent_id=label.agent_id, attempt=label.attempt, number=label.number, accessor=accessor
        )
        log.info("pipeline %s has a token that nobody knows: %s", label.pipeline_id, accessor)
        self._metrics.counter(ORPHANS_FOUND).inc()
        self._inject(number, [injected(label.pipeline_id, label.tenant, found, self._clock.now_ms())])

    def _tell_gone(self, before: dict[str, TokenEntity], missing: dict[str, str], with_entity: set[str]) -> Calls:
        """Tells of tokens that Vault has lost, and of a pipeline's own without its entity, which Vault refuses."""
        for some in self._slices(before):
            for key in some:
                self._tell_if_gone(key, before[key], missing, with_entity)
            yield pause

    def _tell_if_gone(self, key: str, token: TokenEntity, missing: dict[str, str], with_entity: set[str]) -> None:
        pipeline_id = key.partition("/")[0]
        there = missing.keys().isdisjoint((token.accessor, token.ended_by))
        if not token.lives or (there and (token.agent_id is not None or pipeline_id in with_entity)):
            return
        number = self._holdings.partition_of(key)
        if number is None or not self._holdings.knows(token.accessor):
            return
        log.warning("pipeline %s has lost a token, or its entity: %s", pipeline_id, token.accessor)
        gone = VaultGone(agent_id=token.agent_id, accessor=token.accessor)
        self._inject(number, [injected(pipeline_id, "", gone, self._clock.now_ms())])

    def _sweep_entities(self, entities: list[str]) -> Calls:
        """Deletes the entities of pipelines that we know to have no token any more.

        One of which nothing is known may be another installation's, which has none for it just now.
        """
        for some in self._slices(entities):
            for pipeline_id in some:
                if not self._left(pipeline_id):
                    continue
                log.info("pipeline %s has left its entity behind", pipeline_id)
                self._schedule.hold(pipeline_id)  # a token that is wanted now waits, and Vault makes the entity anew
                try:
                    yield partial(self._vault.delete_entity, pipeline_id)
                finally:
                    self._schedule.release(pipeline_id)
            yield pause

    def _left(self, pipeline_id: str) -> bool:
        number = self._partition_of(pipeline_id)
        return number is not None and self._holdings.owns(number) and self._holdings.has_no_token(pipeline_id)

    def _slices(self, things: Iterable[T]) -> Iterator[list[T]]:
        rest = iter(things)
        while some := list(islice(rest, self._slice_count)):
            yield some
