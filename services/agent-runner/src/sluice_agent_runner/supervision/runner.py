"""A runner: places, a backlog, and who holds what."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import Literal

from sluice_agent_runner.domain.limits import HELD_MAX_COUNT
from sluice_agent_runner.supervision.attempt import SOURCE, AttemptRunner, Place
from sluice_agent_runner.supervision.services import Services
from sluice_contracts.envelope import SYSTEM_TENANT, CloudEvent
from sluice_contracts.ids import derived_id
from sluice_contracts.messages.agent import (
    AgentAnswer,
    AgentRun,
    AgentStop,
    AgentThrottle,
    HeldAttempt,
    RunnerHeartbeat,
)
from sluice_contracts.topics import RUNNER_HEARTBEATS

OVER_MAX_COUNT = 20_000
"""Attempts that are remembered as over, and agents as throttled. A stop or a throttle may arrive before its task, for
these are different topics; and a task may arrive again after a rebalance, when its attempt has ended: it must not be
paid for again."""

ANNOUNCING_MAX_COUNT = 64
"""Announcements on their way at once: a backlog of a thousand is told in sixteen rounds, far below the ten seconds that
the spawner waits, and the broker's client holds few of them."""

HEARTBEAT_INTERVAL_S = 1.0
"""Well below the spawner's lease."""


@dataclass(slots=True)
class _Held:
    """One attempt that this runner has."""

    event: CloudEvent[AgentRun]
    attempt: AttemptRunner
    place: Place
    task: asyncio.Task[None] | None = None

    @property
    def state(self) -> Literal["queued", "running"]:
        return "queued" if self.task is None else "running"


class Runner:
    """Runs attempts, as many at once as it has places; the others wait in their order.

    Of each agent it holds the newest attempt only. Use it in one event loop.

    Args:
        slots: Attempts that work at once. One that waits for a person leaves its place to another.
        backlog_max_count: Attempts that wait; when there are more, `room` is 0.
        queues: For the heartbeat.

    Raises:
        ValueError: Slots and backlog are more than one heartbeat can name.
    """

    def __init__(self, services: Services, *, slots: int, backlog_max_count: int, queues: tuple[str, ...]) -> None:
        if slots + backlog_max_count > HELD_MAX_COUNT:
            raise ValueError(
                f"slots={slots} and backlog={backlog_max_count} are more than {HELD_MAX_COUNT} attempts; lower one"
            )
        self._services = services
        self._slots = slots
        self._held_max_count = slots + backlog_max_count
        self._queues = queues
        self._held: dict[str, _Held] = {}
        self._backlog: OrderedDict[str, None] = OrderedDict()
        self._returning: deque[asyncio.Future[None]] = deque()
        self._working = 0
        self._over: OrderedDict[str, int] = OrderedDict()
        self._throttled: OrderedDict[str, int] = OrderedDict()
        self._stopping = False
        self._announcing = asyncio.Semaphore(ANNOUNCING_MAX_COUNT)
        self._announcements: set[asyncio.Task[None]] = set()
        self._heartbeats = 0
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def room(self) -> int:
        """How many more attempts it takes."""
        return 0 if self._stopping else max(0, self._held_max_count - len(self._held))

    async def failure(self) -> None:
        """Returns never; raises what no attempt could be failed for, for the process to stop with."""
        await asyncio.shield(self._failed)

    # What arrives

    async def on_task(self, event: CloudEvent[AgentRun], queue: str) -> None:
        """Takes an attempt, unless it is over already, or a newer one of the agent is held.

        The spawner hears soon that it is held, also if it waits for a place: an attempt in a backlog is not untaken.
        Returns while that is on its way; waits where too many such announcements are.
        """
        run = event.data
        if self._stopping or run.attempt <= self._over.get(run.agent_id, 0):
            return
        older = self._held.get(run.agent_id)
        if older is not None and older.event.data.attempt >= run.attempt:
            return
        began = older is not None and older.task is not None
        if older is not None and began:
            self._drop(run.agent_id, older)
        place = Place(self._free, self._come_back)
        held = _Held(event, AttemptRunner(self._services, event, queue, place), place)
        self._held[run.agent_id] = held
        throttled = self._throttled.pop(run.agent_id, None)
        if throttled is not None:
            held.attempt.throttle(throttled)
        # In a queue a newer attempt keeps the older one's turn; one that began goes on before all others.
        self._backlog.setdefault(run.agent_id)
        if began:
            self._backlog.move_to_end(run.agent_id, last=False)
        self._fill()
        if held.task is not None:
            return
        await self._announcing.acquire()
        # Meanwhile it may have been stopped, or begun: then it announces itself.
        if self._held.get(run.agent_id) is not held or held.task is not None:
            self._announcing.release()
            return
        announcement = asyncio.get_running_loop().create_task(held.attempt.announce())
        self._announcements.add(announcement)
        announcement.add_done_callback(self._announced)

    def _announced(self, announcement: asyncio.Task[None]) -> None:
        self._announcements.discard(announcement)
        self._announcing.release()
        if not announcement.cancelled():
            self._broken(announcement.exception())

    async def on_stop(self, stop: AgentStop) -> None:
        """Stops this attempt and every older one; nothing more is published of them.

        A stop for another runner, which was late for the attempt that this one holds, is not meant for us.
        """
        if stop.runner_id not in (None, self._services.runner_id):
            return
        self._note_over(stop.agent_id, stop.attempt)
        held = self._held.get(stop.agent_id)
        if held is not None and held.event.data.attempt <= stop.attempt:
            self._drop(stop.agent_id, held)

    def _note_over(self, agent_id: str, attempt: int) -> None:
        if attempt > self._over.get(agent_id, 0):
            self._over[agent_id] = attempt
            self._over.move_to_end(agent_id)
            if len(self._over) > OVER_MAX_COUNT:
                self._over.popitem(last=False)

    async def on_answer(self, message: AgentAnswer) -> None:
        """Hands an answer to its agent. Not held: the next attempt's `agent.run` brings it, or asking again."""
        held = self._held.get(message.agent_id)
        if held is not None:
            held.attempt.answer(message.answer)

    async def on_throttle(self, throttle: AgentThrottle) -> None:
        """Slows the calls of the attempt that is held, or else of the agent's next one: these are different topics."""
        held = self._held.get(throttle.agent_id)
        if held is not None:
            held.attempt.throttle(throttle.api_calls_per_minute)
            return
        self._throttled[throttle.agent_id] = throttle.api_calls_per_minute
        self._throttled.move_to_end(throttle.agent_id)
        if len(self._throttled) > OVER_MAX_COUNT:
            self._throttled.popitem(last=False)

    # Places

    def _fill(self) -> None:
        """Gives free places away: to those that come back first, then to the backlog."""
        while self._working < self._slots:
            if self._returning:
                returning = self._returning.popleft()
                if returning.done():
                    continue
                self._working += 1
                returning.set_result(None)
            elif self._backlog and not self._stopping:
                agent_id, _ = self._backlog.popitem(last=False)
                self._working += 1
                self._start(self._held[agent_id])
            else:
                return

    def _start(self, held: _Held) -> None:
        held.task = asyncio.get_running_loop().create_task(held.attempt.run())
        held.task.add_done_callback(lambda task: self._ended(held, task))

    def _free(self) -> None:
        self._working -= 1
        self._fill()

    async def _come_back(self) -> None:
        if self._working < self._slots:
            self._working += 1
            return
        returning: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._returning.append(returning)
        try:
            await returning
        except asyncio.CancelledError:
            if returning.done() and not returning.cancelled():
                self._free()
            raise

    def _ended(self, held: _Held, task: asyncio.Task[None]) -> None:
        agent_id = held.event.data.agent_id
        if self._held.get(agent_id) is held:
            del self._held[agent_id]
        self._note_over(agent_id, held.event.data.attempt)
        if held.place.held:
            self._working -= 1
        if not task.cancelled():
            self._broken(task.exception())
        self._fill()

    def _broken(self, error: BaseException | None) -> None:
        if error is not None and not self._failed.done():
            self._failed.set_exception(error)

    def _drop(self, agent_id: str, held: _Held) -> None:
        del self._held[agent_id]
        self._backlog.pop(agent_id, None)
        if held.task is not None:
            held.task.cancel()
        else:
            held.attempt.drop()

    # Heartbeats

    async def heartbeat(self) -> None:
        """Tells once what is held."""
        self._heartbeats += 1
        self._services.measures.attempts(len(self._held) - len(self._backlog), len(self._backlog))
        runner_id = self._services.runner_id
        data = RunnerHeartbeat(
            runner_id=runner_id,
            queues=self._queues,
            slots=self._slots,
            attempts=tuple(
                HeldAttempt(agent_id=agent_id, attempt=held.event.data.attempt, state=held.state)
                for agent_id, held in self._held.items()
            ),
        )
        event = CloudEvent(
            id=derived_id(runner_id, data.type, self._heartbeats),
            source=f"{SOURCE}/{runner_id}",
            tenant=SYSTEM_TENANT,
            subject=runner_id,
            time_ms=self._services.time.now_ms(),
            data=data,
        )
        await self._services.publisher.publish(event, topic=RUNNER_HEARTBEATS.name, key=runner_id)

    async def keep_alive(self) -> None:
        """Sends heartbeats until cancelled, and has attempts that must wait tell of it."""
        while True:
            await self.heartbeat()
            for held in self._held.values():
                held.attempt.look()
            await self._services.time.sleep(HEARTBEAT_INTERVAL_S)

    # The end

    async def stop(self, grace_s: float) -> None:
        """Takes nothing more, lets the turns that run become durable, then ends.

        What is dropped, and what did not get ready within the grace, is covered by its lease: the spawner goes on from
        the last finished turn.
        """
        self._stopping = True
        for agent_id in list(self._backlog):
            self._drop(agent_id, self._held[agent_id])
        tasks = list(self._announcements)
        for held in self._held.values():
            assert held.task is not None
            tasks.append(held.task)
            if held.attempt.waiting:
                held.task.cancel()
            else:
                held.attempt.drain()
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=grace_s)
            for task in late:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
