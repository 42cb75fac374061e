"""Which of what runners say counts (W10).

An event counts if its attempt is the current one and its runner holds it. One that counted before and comes again is
passed over in silence; anything else is refused aloud, so that whoever adds turns up can leave it out, and its runner
is told to stop.
"""

from __future__ import annotations

from sluice_contracts.messages.agent import AgentFailed, AgentStop, AgentSucceeded, AttemptEvent
from sluice_contracts.messages.pipeline import AgentAttemptRefused
from sluice_spawner.domain.building import DecisionBuilder
from sluice_spawner.domain.errors import CoordinationFailed
from sluice_spawner.domain.facts import InputRefused
from sluice_spawner.domain.state import AgentEntity, AttemptRecord


def current(builder: DecisionBuilder, message: AttemptEvent) -> AgentEntity | None:
    """The agent, if this event comes from the runner that holds its current attempt."""
    agent = builder.view.find_agent(message.agent_id)
    return agent if agent is not None and agent.held_by(message.attempt, message.runner_id) else None


def record_of(builder: DecisionBuilder, message: AttemptEvent) -> AttemptRecord | None:
    """The record of the attempt that this event speaks of, if this runner held it and it is over."""
    known = _known(builder, message.agent_id)
    for record in () if known is None else known[1]:
        if record.attempt == message.attempt and record.runner_id == message.runner_id:
            return record
    return None


def refuse(builder: DecisionBuilder, message: AttemptEvent) -> None:
    """Refuses what an attempt said that does not count, and has its runner stop it.

    A pipeline that nobody knows gets no answer: it ended longer ago than the retention, or is another installation's,
    and a topic that is read again must not be answered message by message.
    """
    view = builder.view
    if view.find_pipeline() is None and view.find_finished() is None:
        return
    if builder.refused_before():
        return
    detail = f"attempt {message.attempt} by {message.runner_id} is not the one that counts, or says what it may not"
    refused = CoordinationFailed(f"{detail}; its runner must stop it", code="attempt_refused")
    builder.accept(InputRefused())
    builder.publish(
        AgentAttemptRefused(
            agent_id=message.agent_id,
            attempt=message.attempt,
            refused_id=builder.cause.id,
            refused_type=message.type,
            problem=refused.problem(),
        )
    )
    known = _known(builder, message.agent_id)
    if known is None or isinstance(message, AgentSucceeded | AgentFailed):
        return  # no such agent, or it has stopped by itself
    agent = view.find_agent(message.agent_id)
    if agent is not None and (message.attempt > agent.attempt or agent.held_by(message.attempt, message.runner_id)):
        return  # never handed out; or whoever holds it is dealt with by the caller
    builder.tell(
        known[0],
        AgentStop(
            agent_id=message.agent_id,
            attempt=message.attempt,
            reason="the attempt does not count any more",
            runner_id=message.runner_id,
        ),
    )


def _known(builder: DecisionBuilder, agent_id: str) -> tuple[str, tuple[AttemptRecord, ...]] | None:
    """An agent's queue and past attempts, whether its pipeline lives or has ended."""
    agent = builder.view.find_agent(agent_id)
    if agent is not None:
        return agent.queue, agent.records
    finished = builder.view.find_finished()
    for left in () if finished is None else finished.agents:
        if left.agent_id == agent_id:
            return left.queue, left.records
    return None
