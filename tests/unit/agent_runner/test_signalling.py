"""Signals on their way: on their own topic, once, beside the turns; and the throttle."""

from __future__ import annotations

import asyncio

import pytest

from sluice_agent_runner.adapters.resilient import ResilientProvider, RetryPolicy
from sluice_agent_runner.domain.signals import Signal
from sluice_agent_runner.measures import Measures
from sluice_agent_runner.ports import ModelRefused, ModelUnavailable
from sluice_agent_runner.supervision.signalling import SignalSender
from sluice_contracts.envelope import CloudEvent
from sluice_contracts.messages.agent import AgentStop, AgentThrottle
from sluice_contracts.messages.base import Message
from sluice_contracts.messages.signal import ErrorReported
from sluice_runtime.metrics import Metrics
from tests.unit.agent_runner.builders import Alone, TestTime, call, finish, reply, until
from tests.unit.agent_runner.runner_world import World, in_world
from tests.unit.agent_runner.test_resilience import Line, request

pytestmark = pytest.mark.covers("V5")


def test_signals_stand_on_their_topic_with_the_pipeline_and_what_caused_them() -> None:
    async def scenario(world: World) -> None:
        await world.task("a")
        await world.models.says("a", reply(call("list_files"), call("rm_rf")))
        await world.models.until_asked("a")
        assert [one.type for one in world.log.signals] == ["error.reported", "progress.reported"], (
            "before the next turn"
        )
        await world.models.says("a", finish())
        await world.log.until("agent.succeeded")
        first = world.log.signals[0]
        assert (first.subject, first.source, first.tenant, first.causation_id) == (
            "p", "agent-runner/runner-1", "acme", "a-1",
        )  # fmt: skip
        assert len({one.id for one in world.log.signals}) == 3
        told = [one.data.api_calls for one in world.log.signals]  # type: ignore[attr-defined]
        assert told == [1, 0, 1]
        return

    ids = [one.id for one in in_world(scenario).log.signals]
    assert ids == [one.id for one in in_world(scenario).log.signals], "whoever repeats a step repeats its signals"


def test_no_turn_begins_before_the_signals_of_the_last_one_are_in_the_log() -> None:
    async def scenario(world: World) -> None:
        world.log.away = "progress.reported"
        await world.task("a")
        await world.models.says("a", reply(call("list_files")))
        await world.log.until("agent.turn_finished")
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(world.models.requests) == 1
        world.log.back.set()
        await world.models.until_asked("a")
        assert [one.type for one in world.log.signals if one.type == "progress.reported"] == ["progress.reported"]

    in_world(scenario)


def test_a_failed_call_is_signalled_while_its_retry_still_waits() -> None:
    async def scenario() -> None:
        caller, time = Alone(), TestTime()
        line = Line([ModelUnavailable("model_timeout", "?"), ModelUnavailable("rate_limited", "?"), *REFUSED])
        asked = ResilientProvider("test", line, RetryPolicy(), time, Measures(Metrics("agent-runner", "test")))
        with pytest.raises(ModelRefused):
            await asked.complete(request(), caller)
        assert caller.failures == ["model_timeout", "rate_limited", "model_bad_request"]
        assert caller.calls == 3

    asyncio.run(scenario())


REFUSED = [ModelRefused("model_bad_request", "?")]


@pytest.mark.covers("W3")
@pytest.mark.parametrize(
    ("changed", "refusals", "calls"), [([], 1, 1), (["new"], 1, 2), (["new", "newer"], 2, 2), (["new"], 0, 1)]
)
def test_a_key_that_is_refused_is_read_again_once(changed: list[str], refusals: int, calls: int) -> None:
    async def scenario() -> None:
        caller = Alone("old", changed)
        line = Line([ModelRefused("model_unauthorized", "401")] * refusals)
        measures = Measures(Metrics("agent-runner", "test"))
        asked = ResilientProvider("test", line, RetryPolicy(), TestTime(), measures)
        try:
            answer = await asked.complete(request(), caller)
            assert answer.calls == calls
        except ModelRefused:
            assert refusals >= calls
        assert caller.calls == calls

    asyncio.run(scenario())


def test_a_throttled_agent_s_calls_are_spaced_and_the_last_word_counts() -> None:
    async def scenario(world: World) -> None:
        await world.task("a")
        await world.runner.on_throttle(AgentThrottle(agent_id="nobody", api_calls_per_minute=1))
        await world.models.says("a", reply(call("list_files")))
        await world.models.until_asked("a")
        await world.runner.on_throttle(AgentThrottle(agent_id="a", api_calls_per_minute=2))
        begun_ms = world.time.now_ms()
        await world.models.says("a", reply(call("list_files")))
        await world.models.until_asked("a")
        assert world.time.now_ms() - begun_ms == 30_000
        await world.runner.on_throttle(AgentThrottle(agent_id="a", api_calls_per_minute=600))
        await world.models.says("a", reply(call("list_files")))
        await world.models.until_asked("a")
        assert world.time.now_ms() - begun_ms == 30_100
        await world.runner.on_throttle(AgentThrottle(agent_id="a", api_calls_per_minute=1))
        await world.models.says("a", reply(call("list_files")))
        await world.runner.on_stop(AgentStop(agent_id="a", attempt=1, reason="enough"))
        await world.until_free()
        await world.task("a", attempt=2)
        await world.models.until_asked("a")

    in_world(scenario)


def test_an_attempt_of_a_throttled_pipeline_is_spaced_from_its_first_call_until_it_is_told_otherwise() -> None:
    async def scenario(world: World) -> None:
        for agent_id, attempt in (("a", 1), ("b", 2)):
            begun_ms = world.time.now_ms()
            await world.task(agent_id, attempt=attempt, api_calls_per_minute=2)
            await world.models.until_asked(agent_id)
            assert world.time.now_ms() - begun_ms == 30_000, f"attempt {attempt}"
            world.time.time_ms += 7_000
            await world.models.says(agent_id, reply(call("list_files")))
            await world.models.until_asked(agent_id)
            assert world.time.now_ms() - begun_ms == 67_000, "from when the call before was told"
            await world.runner.on_throttle(AgentThrottle(agent_id=agent_id, api_calls_per_minute=600))
            await world.models.says(agent_id, reply(call("list_files")))
            await world.models.until_asked(agent_id)
            assert world.time.now_ms() - begun_ms == 67_100

    in_world(scenario)


def test_a_stop_leaves_no_signal_behind() -> None:
    async def scenario(world: World) -> None:
        await world.task("a")
        await world.models.until_asked("a")
        world.log.gate.clear()
        await world.models.says("a", reply(call("rm_rf"), call("list_files")))
        await until(lambda: world.log.waiting >= 2)
        await world.runner.on_stop(AgentStop(agent_id="a", attempt=1, reason="enough"))
        world.log.gate.set()
        await world.until_free()
        assert world.log.signals == []

    in_world(scenario)


@pytest.mark.covers("O4")
def test_signals_bear_the_time_of_what_they_tell_however_long_the_log_is_away() -> None:
    """Else a minute of errors would seem to be one moment of them, and break a budget."""

    async def scenario() -> list[int]:
        there, now, told = asyncio.Event(), [0], []

        async def publish(event: CloudEvent[Message]) -> None:
            await there.wait()
            told.append(event.time_ms)

        def event_of(signal: Signal) -> CloudEvent[Message]:
            return CloudEvent(signal.ordinal, "agent-runner/r", "acme", "p", now[0], signal.data)

        sender = SignalSender(event_of, publish)
        for now[0] in (1_000, 31_000, 62_000):
            sender.send([Signal(ErrorReported(code="tool_failed"), f"s{now[0]}")])
            await asyncio.sleep(0)
        now[0] = 90_000
        there.set()
        await sender.flush()
        return told

    assert asyncio.run(scenario()) == [1_000, 31_000, 62_000]
