"""Defects: what of them ends an attempt, and what the runner."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.unit.agent_runner.builders import call, finish, reply
from tests.unit.agent_runner.runner_world import World, in_world


@pytest.mark.parametrize(
    "crashing", [("agent.turn_finished", "agent.failed"), ("agent.attempt_started",)], ids=["every word", "the first"]
)
def test_a_defect_stops_the_runner(crashing: tuple[str, ...]) -> None:
    """Where not even an attempt's failure can be published: the runner can tell nobody what it does."""

    async def scenario(world: World) -> None:
        world.log.crashing = crashing
        await world.task("a")
        await world.models.says("a", finish())
        with pytest.raises(RuntimeError, match="a defect"):
            async with asyncio.timeout(10):
                await world.runner.failure()

    in_world(scenario)


def test_a_defect_in_the_announcement_of_a_backlog_stops_the_runner() -> None:
    async def scenario(world: World) -> None:
        await world.task("a")
        await world.models.until_asked("a")
        await world.log.until("agent.attempt_started")
        world.log.crashing = ("agent.attempt_started",)
        await world.task("b")
        with pytest.raises(RuntimeError, match="a defect"):
            async with asyncio.timeout(10):
                await world.runner.failure()

    in_world(scenario, slots=1)


def defective(at: str, world: World, error: Exception) -> None:
    if at == "the model":
        world.models.asked.pop("a").set_exception(error)
    elif at == "a tool":
        world.workspaces.failing = error
        world.models.asked.pop("a").set_result(reply(call("list_files")))
    else:
        world.log.crashing = (at,)
        world.models.asked.pop("a").set_result(finish())


@pytest.mark.parametrize("at", ["the model", "a tool", "agent.turn_finished", "agent.succeeded"])
def test_a_defect_in_one_attempt_fails_that_attempt_and_the_others_go_on(
    at: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(world: World) -> None:
        await world.task("a")
        await world.task("b")
        await world.models.until_asked("a", "b")
        error = RuntimeError("CANARY in '/srv/my data/x.py', ~/.ssh/id and /etc/passwd; 1/2 of logs/app.log")
        defective(at, world, error)
        (failed,) = await world.log.until("agent.failed")
        problem = failed.data.problem  # type: ignore[attr-defined]
        assert (failed.data.agent_id, problem.code) == ("a", "internal_error")  # type: ignore[attr-defined]
        assert not failed.data.retryable  # type: ignore[attr-defined]
        assert "RuntimeError in " in problem.detail
        if not at.startswith("agent."):
            assert "[redacted:canary] in [path], [path] and [path] 1/2 of logs/app.log" in problem.detail
        assert str(Path(__file__).parents[3]) not in problem.detail
        assert "site-packages" not in problem.detail
        world.log.crashing = ()
        world.workspaces.failing = None
        await world.models.says("b", finish())
        await world.log.until("agent.succeeded")
        await world.until_free()
        (logged,) = [record for record in caplog.records if record.exc_info]
        assert "attempt 1 of agent a met a defect" in logged.getMessage()
        assert b"sluice_attempts_defective_total 1.0" in world.metrics.exposition()[0]
        breaking = asyncio.ensure_future(world.runner.failure())
        await asyncio.sleep(0)
        assert not breaking.done()
        breaking.cancel()

    in_world(scenario)
