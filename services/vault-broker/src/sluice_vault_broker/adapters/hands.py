"""The hands: do in Vault what the durable state wants, in a bounded number of threads, and tell the decider."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from sluice_contracts.messages.base import Message
from sluice_runtime.clock import Clock
from sluice_runtime.metrics import (
    TOKEN_ACT_DURATION,
    TOKEN_ACTS_FAILED,
    TOKEN_ACTS_WANTED,
    TOKENS_LIVE,
    VAULT_AWAY,
    Metrics,
)
from sluice_runtime.processor.partition import Injected
from sluice_vault_broker.adapters.acts import Act, Terms, act_for
from sluice_vault_broker.adapters.holdings import Holdings, Kind, Wanted
from sluice_vault_broker.adapters.inputs import injected
from sluice_vault_broker.adapters.schedule import Schedule
from sluice_vault_broker.ports import Vault, VaultFault

log = logging.getLogger(__name__)

LOOK_S = 0.1
"""How often we look for what is due again, or was restored, if nobody wakes us."""

END_S = 5.0
"""What is under way when the broker stops may take so long; most acts take a tenth of a second."""

Inject = Callable[[int, Sequence[Injected]], None]


class Hands:
    """Does what is wanted.

    Guarantee: an act is begun only for a state that is durable; what it made is told to the decider, or, if it is not,
    done again, and the reconciler finds what was left behind. Faults of Vault are tried again for ever.

    Args:
        answer: Gives Vault's answer to a partition; it may be lost. Commands that came meanwhile need not be decided
            before: an answer says whose it is, and what it may still mean is decided by the state.
        ready: Whether an input would reach a partition.
        threads: How many acts at once.
    """

    def __init__(
        self,
        vault: Vault,
        clock: Clock,
        holdings: Holdings,
        metrics: Metrics,
        *,
        terms: Terms,
        answer: Inject,
        ready: Callable[[int], bool],
        threads: int,
    ) -> None:
        self.holdings = holdings
        self.schedule = Schedule(holdings, places=threads, ready=ready)
        self._vault = vault
        self._clock = clock
        self._terms = terms
        self._answer = answer
        self._metrics = metrics
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="vault")
        self._doing: set[asyncio.Future[Message]] = set()
        self._wake = asyncio.Event()
        self._defect: BaseException | None = None

    def durable(self, partition: int) -> None:
        """All that was observed of a partition is durable."""
        self.holdings.durable(partition)
        self._wake.set()

    def forget(self, partition: int) -> None:
        """The partition is no longer ours."""
        self.holdings.forget(partition)
        self.schedule.forget(partition)

    async def run(self, stop: asyncio.Event) -> None:
        """Works until stopped; what is under way then is left to end by itself.

        Raises:
            Exception: An act met what is no fault of Vault: a defect, which the next owner would meet as well.
        """
        try:
            while not stop.is_set():
                self._wake.clear()
                if self._defect is not None:
                    raise self._defect
                while (wanted := self.schedule.take(self._clock.now_ms())) is not None:
                    self._begin(wanted)
                self._measure()
                try:
                    async with asyncio.timeout(LOOK_S):
                        await self._wake.wait()
                except TimeoutError:
                    continue
        finally:
            self._pool.shutdown(wait=False, cancel_futures=True)

    async def ended(self) -> bool:
        """Waits, once they were stopped, for what is under way, but not for ever; whether nothing is any more."""
        if self._doing:
            await asyncio.wait(self._doing, timeout=END_S)
        return not self._doing

    def _begin(self, wanted: Wanted) -> None:
        act = act_for(self._vault, self._clock, self._terms, wanted)
        doing = asyncio.get_running_loop().run_in_executor(self._pool, self._do, wanted, act)
        self._doing.add(doing)
        doing.add_done_callback(lambda done: self._ended(wanted, done))

    def _do(self, wanted: Wanted, act: Act) -> Message:
        started = time.perf_counter()
        try:
            return finish(act)
        finally:
            took_s = time.perf_counter() - started
            self._metrics.histogram(TOKEN_ACT_DURATION, act=wanted.kind.name.lower()).observe(took_s)

    def _ended(self, wanted: Wanted, done: asyncio.Future[Message]) -> None:
        now_ms = self._clock.now_ms()
        self._doing.discard(done)
        if done.cancelled():
            return
        fault = done.exception()
        if fault is None:
            self.schedule.answered(wanted)
            self._answer(wanted.partition, [injected(wanted.pipeline_id, wanted.tenant, done.result(), now_ms)])
        elif isinstance(fault, VaultFault):
            name, act = type(fault).__name__, wanted.kind.name.lower()
            self._metrics.counter(TOKEN_ACTS_FAILED, act=act, fault=name).inc()
            if not (self.schedule.away and self.schedule.busy > 1):
                log.warning("%s for pipeline %s is tried again: %s: %s", act, wanted.pipeline_id, name, fault)
            self.schedule.failed(wanted, fault, now_ms)
        else:
            self._defect = fault
        self._wake.set()

    def _measure(self) -> None:
        for kind in Kind:
            self._metrics.gauge(TOKEN_ACTS_WANTED, act=kind.name.lower()).set(self.holdings.count(kind))
        self._metrics.gauge(TOKENS_LIVE).set(self.holdings.live_tokens)
        self._metrics.gauge(VAULT_AWAY).set(int(self.schedule.away))


def finish(act: Act) -> Message:
    """Does all steps of an act; returns what the decider is told."""
    while True:
        try:
            next(act)
        except StopIteration as end:
            answer: Message = end.value
            return answer
