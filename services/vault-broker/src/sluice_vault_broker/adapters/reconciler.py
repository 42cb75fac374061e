"""Compares what Vault holds with what the log says (V6): a token that nobody knows ends, and one that is gone is told.

Guarantee: what is found is only told to the decider, whose state is the truth; nothing is ended here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Generator
from functools import partial
from typing import Any

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

Calls = Generator[Callable[[], Any], Any, None]
"""Gives calls of Vault, each to be made by whoever drives it, and is sent what they return or raise."""


class Reconciler:
    """Looks through all of Vault's tokens.

    Args:
        ready: Whether an input would reach a partition.
        partition_of: The partition of a pipeline; None while that is not known.
        lookups_per_s: How fast unknown accessors are looked up; each only once.
        settled_ms: How long one must have been listed and unknown before; 0 only with a Vault in memory.
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
        self._unknown_since_ms: dict[str, int] = {}
        self._refused: set[str] = set()
        self._unfinished = False
        self._new: set[int] = set()

    def taken(self, partition: int) -> None:
        """A partition came to us: look at once. What was unknown so far may be known to its state."""
        self._new.add(partition)
        self._unknown_since_ms.clear()

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
                answer = await asyncio.to_thread(call)
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
            await asyncio.sleep(self._pause_s)
        calls.close()

    def round(self) -> Calls:
        """One look through all; at tokens that nobody knows, as many as fit into a round.

        What is gone is told first, and each orphan as it is found: of others' tokens there may be any number.

        Raises:
            VaultFault: A call failed otherwise than expected; the round is given up.
        """
        before = self._holdings.living()  # what lived before Vault was asked, and is not there, is gone
        entities: list[str] = yield self._vault.entities
        known = self._holdings.accessors
        accessors = set((yield self._vault.accessors))
        self._suspect(accessors - known)
        self._tell_gone(before, accessors, set(entities))
        yield from self._sweep_entities(entities)
        self._labels = {accessor: label for accessor, label in self._labels.items() if accessor in accessors}
        for accessor, label in self._labels.items():
            self._tell_orphan(accessor, label)
        yield from self._look_up(accessors)

    def _suspect(self, unknown: set[str]) -> None:
        """Keeps since when tokens are listed and unknown. One that was known when Vault was asked is ended by us."""
        now_ms = self._clock.now_ms()
        unknown = {accessor for accessor in unknown if not self._holdings.knows(accessor)}
        self._unknown_since_ms = {one: min(now_ms, self._unknown_since_ms.get(one, now_ms)) for one in unknown}

    def _settled(self, accessor: str) -> bool:
        since_ms = self._unknown_since_ms.get(accessor)
        return since_ms is not None and self._clock.now_ms() - since_ms >= self._settled_ms

    def _look_up(self, accessors: set[str]) -> Calls:
        """Asks whose the tokens are that nobody knows, each once, the newest first, and tells of those that are ours.

        Vault may list an accessor whose token it did not finish making, because whoever asked died; it refuses to look
        such a one up, and that is no reason to leave the others alone: it is asked about again when there is room.
        """
        self._refused &= accessors
        unknown = [one for one in accessors - self._labels.keys() if self._settled(one)]
        unknown.sort(key=lambda one: (one in self._refused, -self._unknown_since_ms[one], one))
        first, last = unknown[:LOOKUPS_PER_ROUND_MAX_COUNT], ""
        for accessor in first:
            if self._holdings.knows(accessor):
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
        self._unfinished = not self._refused.issuperset(unknown[len(first) :])
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

    def _tell_gone(
        self, before: dict[str, tuple[int, str, TokenEntity]], accessors: set[str], with_entity: set[str]
    ) -> None:
        """Tells of tokens that Vault has lost, and of a pipeline's own without its entity, which Vault refuses."""
        for number, pipeline_id, token in before.values():
            there = {token.accessor, token.ended_by} <= accessors
            if there and (token.agent_id is not None or pipeline_id in with_entity):
                continue
            if not self._holdings.knows(token.accessor):
                continue
            log.warning("pipeline %s has lost a token, or its entity: %s", pipeline_id, token.accessor)
            gone = VaultGone(agent_id=token.agent_id, accessor=token.accessor)
            self._inject(number, [injected(pipeline_id, "", gone, self._clock.now_ms())])

    def _sweep_entities(self, entities: list[str]) -> Calls:
        """Deletes the entities of pipelines that we know to have no token any more.

        One of which nothing is known may be another installation's, which has none for it just now.
        """
        for pipeline_id in entities:
            if not self._left(pipeline_id):
                continue
            log.info("pipeline %s has left its entity behind", pipeline_id)
            self._schedule.hold(pipeline_id)  # a token that is wanted now waits, and Vault makes the entity anew
            try:
                yield partial(self._vault.delete_entity, pipeline_id)
            finally:
                self._schedule.release(pipeline_id)

    def _left(self, pipeline_id: str) -> bool:
        number = self._partition_of(pipeline_id)
        return number is not None and self._holdings.owns(number) and self._holdings.has_no_token(pipeline_id)
