"""Doubles that implement a port, and small deciders; each passes the suite of the real thing where there is one."""

from __future__ import annotations

from typing import Any

from sluice_contracts.envelope import CloudEvent
from sluice_contracts.ids import derived_id
from sluice_contracts.messages import Message
from sluice_contracts.messages.base import Problem
from sluice_contracts.messages.pipeline import PipelineCancel, PipelineRefused, PipelineTick
from sluice_runtime.deciding import Decision, Entity, Output, State, Timer, TimerDue


class ManualClock:
    """A clock that stands still until it is moved."""

    def __init__(self, now_ms: int = 1_800_000_000_000) -> None:
        self.time_ms = now_ms

    def now_ms(self) -> int:
        return self.time_ms

    def advance(self, milliseconds: int) -> None:
        self.time_ms += milliseconds


class Count(Entity, frozen=True, tag="count"):
    """How many ticks a pipeline had, and which fired timers."""

    ticks: int = 0
    fired: int = 0
    payload: str = ""


class CountingDecider:
    """Counts ticks, says each count; `pipeline.cancel` with reason `in <n>` sets a timer n milliseconds from now."""

    entity_type: Any = Count | Timer

    def __init__(self, payload: str = "") -> None:
        self._payload = payload

    def decide(self, state: State, event: CloudEvent[Message], now_ms: int) -> Decision:
        key = f"{event.subject}/count"
        count = state.get(key, Count())
        assert isinstance(count, Count)
        match event.data:
            case PipelineTick():
                new = Count(count.ticks + 1, count.fired, self._payload)
                return Decision({key: new}, (self._say(event, now_ms, new, f"tick {new.ticks}"),))
            case PipelineCancel(reason=reason):
                timer = Timer(event.subject, "t", now_ms + int(reason.removeprefix("in ")), generation=count.fired)
                return Decision({timer.key: timer})
            case TimerDue(generation=generation) if generation == count.fired:
                new = Count(count.ticks, count.fired + 1, self._payload)
                timer_key = f"{event.subject}/timer/t"
                said = self._say(event, now_ms, new, f"fired {new.fired} after {new.ticks}")
                return Decision({key: new, timer_key: None}, (said,))
        return Decision()

    def _say(self, cause: CloudEvent[Message], now_ms: int, count: Count, detail: str) -> Output:
        problem = Problem(code="counted", detail=detail)
        data = PipelineRefused(command_id=cause.id, command_type="pipeline.tick", problem=problem)
        sequence = count.ticks + count.fired
        identity = derived_id(cause.id, data.type, 0)
        event = CloudEvent(
            identity, "spawner", cause.tenant, cause.subject, now_ms, data, causation_id=cause.id, sequence=sequence
        )
        return Output("pipeline.events", cause.subject, event)
