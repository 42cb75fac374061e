"""Agents that ask and hear: an agent in another system, which speaks the topics, beside a bare echo."""

from __future__ import annotations

import asyncio
import statistics
import time
import uuid
from typing import Any

from aiokafka import AIOKafkaProducer

from benchmarks.client import Client, follow, headers_of, spawn_plan
from benchmarks.hops import BareHops, echoes, round_trips
from benchmarks.installation import FOREIGN_QUEUE, PREFIX, Installation
from benchmarks.results import Result, at_least, cpu_split, listed, result
from sluice_contracts import codec
from sluice_contracts.envelope import CloudEvent, Record
from sluice_contracts.messages.agent import (
    AgentAttemptStarted,
    AgentInputRequested,
    AgentRun,
    AgentSucceeded,
    AgentTurnFinished,
    HeldAttempt,
    RunnerHeartbeat,
)
from sluice_contracts.messages.base import ArtifactRef, Body, Message, Usage

IN_FLIGHT = 32
ASKS_PER_TURN = 3
"""The spawner keeps four answers of an agent at most that no finished turn has seen."""

HEARTBEAT_S = 1.0
_EVENTS = f"agent.events.{FOREIGN_QUEUE}"
_INBOX = f"agent.inbox.{FOREIGN_QUEUE}"
_TASKS = f"agent.tasks.{FOREIGN_QUEUE}"


class ForeignRunner:
    """Holds agents as any program in any language may, knowing the contract only."""

    def __init__(self, installation: Installation) -> None:
        self._arguments = installation.connection("agent-runner").aiokafka()
        self._runner_id = f"foreign-{uuid.uuid4()}"
        self._agents: dict[str, str] = {}
        self._turns: dict[str, int] = {}

    async def __aenter__(self) -> ForeignRunner:
        self._producer = AIOKafkaProducer(**self._arguments, enable_idempotence=True, acks="all")
        await self._producer.start()
        self.inbox = await follow(self._arguments, [PREFIX + _INBOX])
        self._tasks = await follow(self._arguments, [PREFIX + _TASKS])
        await asyncio.gather(self.inbox.getmany(timeout_ms=100), self._tasks.getmany(timeout_ms=100))
        self._beating = asyncio.create_task(self._beat())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._beating.cancel()
        await asyncio.gather(self._beating, return_exceptions=True)
        for client in (self.inbox, self._tasks, self._producer):
            await client.stop()

    async def take(self, count: int) -> list[str]:
        """Takes so many attempts from the queue and says that they run. Returns their agents."""
        self._agents.clear()
        while len(self._agents) < count:
            for messages in (await self._tasks.getmany(timeout_ms=500)).values():
                for message in messages:
                    event = codec.decode(_record(message))
                    assert isinstance(event.data, AgentRun)
                    agent_id = event.data.agent_id
                    self._agents[agent_id] = event.subject
                    self._turns[agent_id] = 0
                    await self._say(agent_id, AgentAttemptStarted(**self._attempt(agent_id)))
        return list(self._agents)

    async def ask(self, agent_id: str, number: int) -> None:
        """Asks what the plan has answered at once; every few asks a turn is finished, as an agent's would."""
        if number and number % ASKS_PER_TURN == 0:
            self._turns[agent_id] += 1
            transcript = ArtifactRef(sha256="0" * 64, size_bytes=0)
            await self._say(
                agent_id,
                AgentTurnFinished(
                    **self._attempt(agent_id), turn=self._turns[agent_id], transcript=transcript,
                    provider="none", model="none", finish_reason="stop", usage=Usage(), model_ms=0,
                    prompt=Body(text="[]"), response=Body(text="")
                ),
            )  # fmt: skip
        question = {"request_id": f"{agent_id}-{number}", "question": "May I?", "default": "yes"}
        await self._say(agent_id, AgentInputRequested(**self._attempt(agent_id), **question))

    async def finish(self) -> None:
        """Ends all attempts."""
        for agent_id in self._agents:
            await self._say(
                agent_id, AgentSucceeded(**self._attempt(agent_id), summary="done", result=Body(text="done"))
            )

    def _attempt(self, agent_id: str) -> dict[str, Any]:
        return {"agent_id": agent_id, "attempt": 1, "runner_id": self._runner_id}

    async def _say(self, agent_id: str, data: Message) -> None:
        await self._send(data, self._agents[agent_id], _EVENTS)

    async def _beat(self) -> None:
        while True:
            held = tuple(HeldAttempt(agent_id=one, attempt=1, state="running") for one in self._agents)
            data = RunnerHeartbeat(runner_id=self._runner_id, queues=(FOREIGN_QUEUE,), slots=64, attempts=held)
            await self._send(data, self._runner_id, "runner.heartbeats")
            await asyncio.sleep(HEARTBEAT_S)

    async def _send(self, data: Message, key: str, topic: str) -> None:
        source = f"agent-runner/{self._runner_id}"
        event = CloudEvent(str(uuid.uuid4()), source, "bench", key, time.time_ns() // 1_000_000, data)
        record = codec.encode(event, topic=topic, key=key)
        await self._producer.send(PREFIX + topic, value=record.value, key=record.key, headers=list(record.headers))


async def asks_per_s(installation: Installation, *, quick: bool) -> list[Result]:
    """Round trips of agents' asks, 32 in flight."""
    rounds, each = (1, 30) if quick else (4, 200)
    topics = ["bench.echo.in", "bench.echo.out"]
    alone: list[float] = []
    observed: list[float] = []
    floor: list[float] = []
    cpu_ms: list[dict[str, float]] = []

    def answered(message: Any) -> str | None:
        return message.key.decode() if headers_of(message)["ce_type"] == b"agent.answer" else None

    async def asks() -> float:
        plan = spawn_plan(None, "foreign-worker", unattended=True)
        ends = [(await client.spawn(plan))[1] for _ in range(IN_FLIGHT)]
        agents = await runner.take(IN_FLIGHT)
        before, own = installation.cpu_s(), time.process_time()
        found = await round_trips(runner.inbox, runner.ask, agents, each, answered)
        taken = {name: now - before[name] for name, now in installation.cpu_s().items()}
        taken["agents"] = time.process_time() - own
        cpu_ms.append({name: seconds * 1_000 / (IN_FLIGHT * each) for name, seconds in taken.items()})
        await runner.finish()
        await asyncio.gather(*ends)
        return found

    async with (
        echoes(installation, topics),
        BareHops(installation, topics) as hops,
        ForeignRunner(installation) as runner,
        Client(installation) as client,
    ):
        lanes = [f"lane-{number}" for number in range(IN_FLIGHT)]
        for number in range(rounds + 1):
            observed.append(await asks())
            cpu_ms.pop()
            with installation.without_observers():
                floor.append(await round_trips(hops.consumer, hops.send, lanes, each * 3, lambda one: one.key.decode()))
                alone.append(await asks())
            if number == 0:  # it warms up
                for figures in (floor, alone, observed, cpu_ms):
                    figures.clear()
    return [
        result("asks_per_s_32", statistics.median(alone), "asks/s", against="bare aiokafka echo, 32 in flight",
               against_value=statistics.median(floor), goal=at_least(0.3),
               note="agent.input_requested of unattended plans to agent.answer; the spawner also writes its journal, "
               f"question.asked and question.answered for each, and takes a finished turn for every {ASKS_PER_TURN}; "
               f"an ask takes {cpu_split(cpu_ms)}; rounds {listed(alone)}, floor {listed(floor)}; "
               f"with store and api running beside it {listed(observed)}")
    ]  # fmt: skip


def _record(message: Any) -> Record:
    return Record(
        message.topic.removeprefix(PREFIX), message.partition, message.offset, message.timestamp,
        message.key, message.value, tuple(message.headers),
    )  # fmt: skip
