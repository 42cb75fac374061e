"""A runner with a model that the test holds in its hand: places, a log, a store."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from sluice_agent_runner.domain.conversation import ModelReply, ModelRequest, ToolCall, ToolResult, WrittenArtifact
from sluice_agent_runner.measures import Measures
from sluice_agent_runner.ports import Caller
from sluice_agent_runner.supervision.patience import PatientVault
from sluice_agent_runner.supervision.runner import Runner
from sluice_agent_runner.supervision.services import Services
from sluice_contracts.envelope import CloudEvent
from sluice_contracts.messages.agent import AgentRun, RunnerHeartbeat
from sluice_contracts.messages.base import Message
from sluice_contracts.messages.token import Grant
from sluice_runtime.metrics import Metrics
from tests.unit.agent_runner.builders import (
    NOW_MS,
    Published,
    Store,
    TestTime,
    agent_run,
    redact_canary,
    result_of,
    role,
    until,
)
from tests.unit.agent_runner.vault_double import VaultDouble


class Models:
    """A model whose every answer the test gives."""

    def __init__(self) -> None:
        self.asked: dict[str, asyncio.Future[ModelReply]] = {}
        self.requests: list[ModelRequest] = []
        self.callers: dict[str, Caller] = {}
        self.changed = asyncio.Event()

    async def complete(self, request: ModelRequest, caller: Caller) -> ModelReply:
        await caller.admitted()
        answer: asyncio.Future[ModelReply] = asyncio.get_running_loop().create_future()
        self.asked[request.agent_id] = answer
        self.requests.append(request)
        self.callers[request.agent_id] = caller
        self.changed.set()
        try:
            return await answer
        finally:
            self.asked.pop(request.agent_id, None)

    async def until_asked(self, *agent_ids: str) -> None:
        async with asyncio.timeout(10):
            while set(agent_ids) - set(self.asked):
                self.changed.clear()
                await self.changed.wait()

    async def says(self, agent_id: str, answer: ModelReply) -> None:
        await self.until_asked(agent_id)
        self.asked.pop(agent_id).set_result(answer)


class NoWorkspaces:
    """Workspaces without a disk; `failing` is what opening one raises."""

    def __init__(self) -> None:
        self.failing: Exception | None = None
        self.opened = 0
        self.closed = 0

    async def open(self, pipeline_id: str, run: AgentRun, artifacts: Sequence[WrittenArtifact]) -> NoWorkspaces:
        if self.failing is not None:
            raise self.failing
        self.opened += 1
        return self

    @property
    def tools(self) -> NoWorkspaces:
        return self

    async def run(self, one: ToolCall) -> ToolResult:
        if self.failing is not None:
            raise self.failing
        return result_of(one)

    async def close(self) -> None:
        self.closed += 1


class Log(Published):
    """A log that may be away for a type of event, be broken for some, or keep everybody waiting at its gate."""

    def __init__(self) -> None:
        super().__init__()
        self.signals: list[CloudEvent[Message]] = []
        self.away: str | None = None
        self.back = asyncio.Event()
        self.crashing: tuple[str, ...] = ()
        self.gate = asyncio.Event()
        self.gate.set()
        self.waiting = 0
        self.waited_at_once = 0

    async def publish(self, event: CloudEvent[Message], *, topic: str, key: str) -> None:
        if event.type == self.away:
            await self.back.wait()
        if event.type in self.crashing:
            raise RuntimeError("a defect")
        assert topic in ("agent.events.default", "runner.heartbeats", "signals")
        self.waiting += 1
        self.waited_at_once = max(self.waited_at_once, self.waiting)
        await self.gate.wait()
        self.waiting -= 1
        if topic == "signals":
            self.signals.append(event)
            return
        await super().publish(event, topic=topic, key=key)


LOOK_UP_S = 1_234.5


class WatchedTime(TestTime):
    """Time in which a token is looked at when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.looks = asyncio.Semaphore(0)

    async def sleep(self, seconds: float) -> None:
        if seconds == LOOK_UP_S:
            await self.looks.acquire()
            return
        await super().sleep(seconds)


class World:
    """A runner and its doubles."""

    def __init__(
        self, slots: int, backlog: int, redact: Callable[[str], str], vault: VaultDouble | None = None
    ) -> None:
        self.models = Models()
        self.log = Log()
        self.store = Store()
        self.workspaces = NoWorkspaces()
        self.metrics = Metrics("agent-runner", "test")
        self.time = WatchedTime()
        self.vault = vault or VaultDouble()
        self.vault_state: list[str | None] = []
        measures = Measures(self.metrics)
        self.services = Services(
            "runner-1", self.models, self.log, self.store, self.workspaces, {"worker": role()}, self.time,
            redact, measures,
            PatientVault(vault, self.time, measures, self.vault_state.append) if vault is not None else None,
            LOOK_UP_S,
        )  # fmt: skip
        self.runner = Runner(self.services, slots=slots, backlog_max_count=backlog, queues=("default",))

    async def task(self, agent_id: str, attempt: int = 1, **changes: Any) -> None:
        run = agent_run(agent_id=agent_id, attempt=attempt, **changes)
        await self.runner.on_task(CloudEvent(f"{agent_id}-{attempt}", "spawner", "acme", "p", 1, run), "default")

    async def granted(self, agent_id: str, queue: str = "default", life_s: int = 3_600, **changes: Any) -> str:
        """Gives a task with a grant, and returns its token."""
        attempt = changes.get("attempt", 1)
        sealed, token = self.vault.grant(queue, f"p/{agent_id}/{attempt}", life_s)
        grant = Grant(sealed=sealed, accessor=f"accessor-of-{agent_id}", expires_at_ms=NOW_MS + life_s * 1_000)
        await self.task(agent_id, grant=grant, **changes)
        return token

    async def held(self) -> dict[str, tuple[int, str]]:
        await self.runner.heartbeat()
        beat = self.log.events[-1].data
        assert isinstance(beat, RunnerHeartbeat)
        return {one.agent_id: (one.attempt, one.state) for one in beat.attempts}

    async def until_free(self) -> None:
        await until(lambda: self.runner.room == 12)

    def started(self) -> list[tuple[str, int]]:
        return [
            (event.data.agent_id, event.data.attempt)  # type: ignore[attr-defined]
            for event in self.log.events if event.type == "agent.attempt_started"
        ]  # fmt: skip


def in_world(
    scenario: Callable[[World], Awaitable[None]],
    slots: int = 2,
    backlog: int = 10,
    redact: Callable[[str], str] = redact_canary,
    vault: VaultDouble | None = None,
) -> World:
    async def run() -> World:
        world = World(slots, backlog, redact, vault)
        await scenario(world)
        await world.runner.stop(0)
        return world

    return asyncio.run(run())
