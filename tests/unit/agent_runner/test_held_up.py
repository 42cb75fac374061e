"""What the runner itself has an attempt wait for is no missing progress; a call or a tool that hangs is."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from sluice_agent_runner.adapters.resilient import ResilientProvider, RetryPolicy
from sluice_agent_runner.domain.conversation import ModelReply, ModelRequest, ToolCall, ToolResult
from sluice_agent_runner.domain.signals import PROGRESS_INTERVAL_MS
from sluice_agent_runner.measures import Measures
from sluice_agent_runner.ports import Caller, ModelUnavailable
from sluice_contracts.messages.agent import AgentThrottle
from sluice_contracts.messages.signal import ProgressReported
from sluice_runtime.metrics import Metrics
from tests.unit.agent_runner.builders import Alone, TestTime, call, finish, reply, until
from tests.unit.agent_runner.runner_world import World, in_world
from tests.unit.agent_runner.test_credentials import keyed
from tests.unit.agent_runner.test_resilience import DOWN, Line, request
from tests.unit.agent_runner.vault_double import AWAY, VaultDouble

pytestmark = pytest.mark.covers("V5", "V8")

Scenario = Callable[[World], Awaitable[None]]


def reports(world: World, agent_id: str = "a") -> int:
    told = [one.data for one in world.log.signals if isinstance(one.data, ProgressReported)]
    assert len({one.id for one in world.log.signals}) == len(world.log.signals)
    return sum(one.agent_id == agent_id for one in told)


async def look(world: World) -> None:
    """What the runner does each second, after the interval has gone by."""
    for _ in range(2):
        for held in world.runner._held.values():
            held.attempt.look()
        world.time.time_ms += PROGRESS_INTERVAL_MS
    for _ in range(9):
        await asyncio.sleep(0)


async def for_its_place(world: World) -> None:
    await world.task("busy-1")
    await world.task("busy-2")
    await world.task("a")


async def for_its_grant(world: World) -> None:
    world.vault.failing = AWAY
    await world.granted("a")
    await until(lambda: world.vault_state == [str(AWAY)])


async def for_its_key(world: World) -> None:
    world.vault.failing, world.vault.failing_at = AWAY, "read_key"
    keyed(world)
    await world.granted("a")
    await until(lambda: world.vault_state == [str(AWAY)])


async def for_its_pace(world: World) -> None:
    stands = asyncio.Event()

    async def sleep(seconds: float) -> None:
        stands.set()
        await asyncio.get_running_loop().create_future()

    await world.task("a")
    await world.runner.on_throttle(AgentThrottle(agent_id="a", api_calls_per_minute=1))
    await world.models.until_asked("a")
    world.time.sleep = sleep  # type: ignore[method-assign]
    await world.models.says("a", reply(call("list_files")))
    await stands.wait()


async def for_a_place_again(world: World) -> None:
    await for_its_grant(world)
    world.vault.failing_at = "look_up"
    await world.task("busy-1")
    await world.task("busy-2")
    await world.models.until_asked("busy-1", "busy-2")
    await until(lambda: world.vault_state[-1] is None)


@pytest.mark.parametrize("waits", [for_its_place, for_its_grant, for_its_key, for_its_pace, for_a_place_again])
def test_an_attempt_that_the_runner_has_wait_tells_that_it_is_not_stuck(waits: Scenario) -> None:
    async def scenario(world: World) -> None:
        await waits(world)
        before = reports(world)
        await look(world)
        once = reports(world)
        assert once > before
        await look(world)
        assert reports(world) > once, "as long as it waits"

    in_world(scenario, vault=VaultDouble())


@pytest.mark.parametrize("where", ["model", "tool"])
def test_an_attempt_whose_model_or_tool_hangs_tells_nothing(where: str) -> None:
    hanging = asyncio.Event()

    async def never(one: ToolCall) -> ToolResult:
        hanging.set()
        return await asyncio.get_running_loop().create_future()

    async def scenario(world: World) -> None:
        if where == "tool":
            world.workspaces.run = never  # type: ignore[method-assign]
        await world.granted("a")
        await world.models.until_asked("a")
        if where == "tool":
            await world.models.says("a", reply(call("list_files")))
            await hanging.wait()
        for _ in range(3):
            await look(world)
        assert reports(world) == 0

    in_world(scenario, vault=VaultDouble())


class Sleeping(TestTime):
    """Notes whether who sleeps is held up."""

    def __init__(self, caller: Alone) -> None:
        super().__init__()
        self.caller, self.told = caller, set[bool]()

    async def sleep(self, seconds: float) -> None:
        self.told.add(self.caller.is_held_up)
        await super().sleep(seconds)


class Watched(Line):
    async def complete(self, request: ModelRequest, caller: Caller) -> ModelReply:
        assert not caller.is_held_up  # type: ignore[attr-defined]
        return await super().complete(request, caller)


@pytest.mark.parametrize(
    ("failures", "policy"),
    [
        ([ModelUnavailable("rate_limited", "429", retry_after_s=60)], RetryPolicy()),
        ([DOWN], RetryPolicy(breaker_failures_count=1, backoff_min_s=0)),
    ],
    ids=["Retry-After", "an open breaker"],
)
def test_the_waits_before_a_model_is_asked_again_are_the_runner_s(
    failures: list[ModelUnavailable], policy: RetryPolicy
) -> None:
    caller = Alone()
    time = Sleeping(caller)
    asked = ResilientProvider("test", Watched(failures), policy, time, Measures(Metrics("agent-runner", "test")))
    asyncio.run(asked.complete(request(), caller))
    assert sum(time.slept_s) == 60
    assert time.told == {True}
    assert not caller.is_held_up


def test_a_throttle_that_comes_before_its_task_slows_it() -> None:
    async def scenario(world: World) -> None:
        begun_ms = world.time.now_ms()
        await world.runner.on_throttle(AgentThrottle(agent_id="a", api_calls_per_minute=2))
        await world.task("a")
        await world.models.until_asked("a")
        assert world.time.now_ms() - begun_ms == 30_000, "another one may have called just before"
        await world.models.says("a", reply(call("list_files")))
        await world.models.until_asked("a")
        assert world.time.now_ms() - begun_ms == 60_000
        await world.models.says("a", finish())

    in_world(scenario)
