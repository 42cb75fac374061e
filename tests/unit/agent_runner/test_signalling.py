"""Signals on their way: on their own topic, once, beside the turns; and the throttle."""

from __future__ import annotations

import asyncio

import pytest

from sluice_agent_runner.adapters.resilient import ResilientProvider, RetryPolicy
from sluice_agent_runner.domain.signals import Signal
from sluice_agent_runner.measures import Measures
from sluice_agent_runner.ports import ModelRefused, ModelUnavailable
from sluice_agent_runner.supervision.signalling import PROGRESS_SPACING_MS, SignalSender
from sluice_contracts.messages.agent import AgentStop, AgentThrottle
from sluice_contracts.messages.signal import ErrorReported, ProgressReported
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


def test_turns_that_follow_fast_are_told_once_a_second_and_their_calls_in_sums() -> None:
    async def scenario() -> None:
        time, told = SlowTime(), list[Signal]()
        asleep: list[asyncio.Event] = time.asleep

        async def publish(signal: Signal) -> None:
            told.append(signal)

        sender = SignalSender(publish, time)
        error = Signal(ErrorReported(agent_id="a", attempt=1, code="timeout", api_calls=1), "2.1")
        assert sender.paced([progress(1)]) == [progress(1)], "the first at once"
        assert sender.paced([error, progress(2)]) == [error], "an error is told when it happens"
        assert sender.paced([progress(3, api_calls=2)]) == []
        await sender.flush()
        assert told == [], "a turn does not wait for what is held back"
        await until(lambda: len(asleep) == 1)
        time.time_ms += PROGRESS_SPACING_MS
        asleep.pop().set()
        await until(lambda: told == [progress(3, api_calls=3)])
        assert sender.paced([progress(4)]) == []
        await until(lambda: len(asleep) == 1)
        time.time_ms += PROGRESS_SPACING_MS
        assert sender.paced([progress(5)]) == [progress(5, api_calls=2)], "a turn that comes then takes it along"
        asleep.pop().set()
        assert sender.paced([progress(6)]) == []
        await sender.settle()
        assert told[1:] == [progress(6)], "the end of the attempt waits for nothing"
        sender.paced([progress(7)])
        sender.drop()
        await sender.settle()
        assert told[1:] == [progress(6)]

    asyncio.run(scenario())


def progress(turn: int, api_calls: int = 1) -> Signal:
    return Signal(ProgressReported(agent_id="a", attempt=1, turn=turn, api_calls=api_calls), str(turn))


class SlowTime(TestTime):
    """Whoever sleeps is woken by hand."""

    __test__ = False

    def __init__(self) -> None:
        super().__init__()
        self.asleep: list[asyncio.Event] = []

    async def sleep(self, seconds: float) -> None:
        self.asleep.append(asyncio.Event())
        await self.asleep[-1].wait()


def test_a_signal_that_may_be_lost_drops_the_attempt_as_any_event_does() -> None:
    async def scenario(world: World) -> None:
        world.log.failing = "progress.reported"
        await world.task("a")
        await world.models.says("a", reply(call("list_files")))
        await world.until_free()
        assert world.log.types() == ["agent.attempt_started", "agent.turn_finished"]

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
