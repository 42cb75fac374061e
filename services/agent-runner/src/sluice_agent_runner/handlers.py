"""What the runner does with each message that it reads."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from sluice_agent_runner.ports import Attempts
from sluice_contracts.envelope import CloudEvent
from sluice_contracts.messages.agent import AgentAnswer, AgentRun, AgentStop, AgentThrottle
from sluice_contracts.messages.base import Message


async def take_attempt(attempts: Attempts, event: CloudEvent[AgentRun], queue: str) -> None:
    """Queues the attempt, in the place of an older one."""
    await attempts.on_task(event, queue)


async def stop_attempt(attempts: Attempts, event: CloudEvent[AgentStop], queue: str) -> None:
    """Ends the attempt without another word."""
    await attempts.on_stop(event.data)


async def pass_answer(attempts: Attempts, event: CloudEvent[AgentAnswer], queue: str) -> None:
    """Hands the answer to the agent, if it is here."""
    await attempts.on_answer(event.data)


async def slow_down(attempts: Attempts, event: CloudEvent[AgentThrottle], queue: str) -> None:
    """Spaces the agent's API calls from now on, if it is here."""
    await attempts.on_throttle(event.data)


Handler = Callable[[Attempts, CloudEvent[Any], str], Awaitable[None]]

HANDLERS: Mapping[type[Message], Handler] = {
    AgentRun: take_attempt,
    AgentStop: stop_attempt,
    AgentAnswer: pass_answer,
    AgentThrottle: slow_down,
}
