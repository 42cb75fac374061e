"""How a backlog is announced: soon, in its order, each once."""

from __future__ import annotations

import asyncio

from sluice_agent_runner.supervision.runner import ANNOUNCING_MAX_COUNT
from sluice_contracts.messages.agent import AgentStop
from tests.unit.agent_runner.builders import finish, until
from tests.unit.agent_runner.runner_world import World, in_world


def test_a_backlog_is_announced_side_by_side_within_a_bound_and_in_its_order() -> None:
    async def scenario(world: World) -> None:
        await world.task("first")
        await world.models.until_asked("first")
        await world.log.until("agent.attempt_started")
        world.log.gate.clear()
        world.log.waited_at_once = 0
        agents = [f"agent-{n:03}" for n in range(200)]

        async def arrive() -> None:
            for agent in agents:
                await world.task(agent)

        arriving = asyncio.create_task(arrive())
        await until(lambda: world.log.waiting == ANNOUNCING_MAX_COUNT)
        for _ in range(20):
            await asyncio.sleep(0)
        assert not arriving.done()
        # What is dropped before its turn came is not announced; what is on its way is not taken back.
        for agent in ("agent-000", f"agent-{ANNOUNCING_MAX_COUNT:03}"):
            await world.runner.on_stop(AgentStop(agent_id=agent, attempt=1, reason="enough"))
        world.log.gate.set()
        await arriving
        await world.log.until("agent.attempt_started", 200)
        agents.remove(f"agent-{ANNOUNCING_MAX_COUNT:03}")
        assert world.started() == [("first", 1), *((agent, 1) for agent in agents)]
        assert world.log.waited_at_once == ANNOUNCING_MAX_COUNT
        # Whoever begins after its announcement says nothing twice.
        await world.models.says("first", finish())
        await world.models.says("agent-001", finish())
        await world.log.until("agent.succeeded", 2)
        assert world.log.types("agent-001") == ["agent.attempt_started", "agent.turn_finished", "agent.succeeded"]

    in_world(scenario, slots=1, backlog=300)


def test_an_announcement_that_waits_for_the_log_keeps_nobody_else_waiting() -> None:
    async def scenario(world: World) -> None:
        await world.task("a")
        await world.models.until_asked("a")
        await world.log.until("agent.attempt_started")
        world.log.away = "agent.attempt_started"
        await world.task("b")
        for _ in range(5):
            await asyncio.sleep(0)
        world.log.away = None
        await world.task("c")
        await world.log.until("agent.attempt_started", 2)
        assert world.started() == [("a", 1), ("c", 1)]
        world.log.back.set()
        await world.log.until("agent.attempt_started", 3)
        assert world.started()[-1] == ("b", 1)
        assert await world.held() == {"a": (1, "running"), "b": (1, "queued"), "c": (1, "queued")}

    in_world(scenario, slots=1)
