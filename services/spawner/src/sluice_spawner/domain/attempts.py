"""What runners say about attempts, and what it means that they say nothing (W10, P12)."""

from __future__ import annotations

from sluice_contracts.messages.agent import (
    AgentAttemptStarted,
    AgentFailed,
    AgentSucceeded,
    AgentTurnFinished,
)
from sluice_contracts.messages.pipeline import AgentAttemptLost, TaskStarted
from sluice_runtime.deciding import LeaseExpired
from sluice_spawner.domain import breaches, ending, fencing, questions, tasks
from sluice_spawner.domain.building import DecisionBuilder
from sluice_spawner.domain.errors import (
    CREDENTIAL_ENDS,
    AgentTimeout,
    CoordinationFailed,
    SpawnerError,
    SpawnLimitExceeded,
)
from sluice_spawner.domain.state import AgentEntity, AttemptRecord


def started(builder: DecisionBuilder, message: AgentAttemptStarted) -> None:
    """The first runner in the order of the log holds the attempt. What was answered meanwhile, it is sent now."""
    agent = builder.view.find_agent(message.agent_id)
    if agent is not None and agent.offered(message.attempt) and builder.view.pipeline().revoked is None:
        builder.accept(message)
        builder.publish(
            TaskStarted(
                task_id=agent.task_id,
                agent_id=message.agent_id,
                attempt=message.attempt,
                runner_id=message.runner_id,
            )
        )
        ending.change_agent(builder, message.agent_id, "BUSY", "")
        breaches.remind(builder, message.agent_id)
        questions.send_answers(builder, message.agent_id)
    elif fencing.current(builder, message) is None and fencing.record_of(builder, message) is None:
        fencing.refuse(builder, message)


def turn_finished(builder: DecisionBuilder, message: AgentTurnFinished) -> None:
    """The next turn is durable: nobody needs to hear more of it, and one small entity changes."""
    agent = fencing.current(builder, message)
    if agent is None:
        record = fencing.record_of(builder, message)
        if record is None or not record.turns_before < message.turn <= record.turns:
            fencing.refuse(builder, message)
    elif message.turn != agent.turn + 1:
        if not _repeated(agent, message):
            fencing.refuse(builder, message)
            lose(builder, message.agent_id, _disagreement(agent, message))
    elif message.turn > builder.view.plan().max_iterations:
        fencing.refuse(builder, message)
        tasks.stop_and_fail(builder, message.agent_id, _beyond(builder, agent, message).problem())
    else:
        builder.accept(message)


def _repeated(agent: AgentEntity, message: AgentTurnFinished) -> bool:
    """Whether this turn was accepted before, from this very attempt. Of the last one even the content is known."""
    if message.turn == agent.turn:
        same = agent.transcript is not None and agent.transcript.sha256 == message.transcript.sha256
        return same and message.turn > agent.turns_before
    return agent.turns_before < message.turn < agent.turn


def _disagreement(agent: AgentEntity, message: AgentTurnFinished) -> CoordinationFailed:
    return CoordinationFailed(
        f"attempt {message.attempt} by {message.runner_id} reports turn {message.turn} with transcript "
        f"{message.transcript.sha256}, after turn {agent.turn}; a new attempt goes on from there"
    )


def _beyond(builder: DecisionBuilder, agent: AgentEntity, message: AgentTurnFinished) -> SpawnLimitExceeded:
    limit = builder.view.plan().max_iterations
    return SpawnLimitExceeded(
        f"task {agent.task_id} reports turn {message.turn}; at most {limit} may be taken: raise limits.max_iterations, "
        f"or divide the task",
        code="max_iterations",
        field="plan.limits.max_iterations",
        limit=f"max_iterations: {limit} turns",
    )


def succeeded(builder: DecisionBuilder, message: AgentSucceeded) -> None:
    """The agent reached its end."""
    if fencing.current(builder, message) is not None:
        tasks.succeed(builder, message)
    elif not _ended_by(fencing.record_of(builder, message), "succeeded"):
        fencing.refuse(builder, message)


def failed(builder: DecisionBuilder, message: AgentFailed) -> None:
    """The attempt ended without a result: tried again, or the task's end. A credential that ended uses up no retry."""
    problem = message.problem
    how = "lost" if problem.code in CREDENTIAL_ENDS else "failed"
    current = fencing.current(builder, message) is not None
    if current and how == "lost":
        lose(builder, message.agent_id, CoordinationFailed(problem.detail, code=problem.code))
    elif current:
        builder.accept(message)
        tasks.retry_or_fail(builder, message.agent_id, problem, retryable=message.retryable)
    elif not _ended_by(fencing.record_of(builder, message), how):
        fencing.refuse(builder, message)


def _ended_by(record: AttemptRecord | None, end: str) -> bool:
    return record is not None and record.end == end


# Silence


def lease_expired(builder: DecisionBuilder, message: LeaseExpired) -> None:
    """No heartbeat named the attempt for its lease. Whoever took over meanwhile is not meant."""
    agent = builder.view.find_agent(message.agent_id)
    if agent is not None and agent.runner_id is not None and agent.attempt == message.attempt:
        lost = AgentTimeout(
            f"runner {agent.runner_id} sent no heartbeat for attempt {message.attempt} within its lease; see whether "
            f"the runner lives",
            code="lease_expired",
        )
        lose(builder, message.agent_id, lost)


def untaken(builder: DecisionBuilder, agent_id: str) -> None:
    """No runner took the current attempt in time: the next one, or the task's end."""
    policy = builder.policy
    agent = builder.view.agent(agent_id)
    untaken_ = AgentTimeout(
        f"no runner took attempt {agent.attempt} of task {agent.task_id} from queue {agent.queue} within "
        f"{policy.spawn_timeout_s} s; see whether a runner of the queue lives and has free slots",
        limit=f"spawn_timeout_s: {policy.spawn_timeout_s} s",
    )
    lose(builder, agent_id, untaken_)


def overdue(builder: DecisionBuilder, agent_id: str) -> None:
    """The task took longer than it may, over all its attempts: its end, whatever retries are left."""
    agent = builder.view.agent(agent_id)
    timeout_s = builder.view.spec(agent.task_id).timeout_s
    late = AgentTimeout(
        f"task {agent.task_id} did not end within {timeout_s} s; raise its timeout_s, or divide it",
        limit=f"timeout_s: {timeout_s} s",
    )
    tasks.stop_and_fail(builder, agent_id, late.problem())


def lose(builder: DecisionBuilder, agent_id: str, why: SpawnerError) -> None:
    """Gives the current attempt up and goes on with the next, from the last finished turn.

    It is not the task's fault, so no retry is used up; but neither may it go on for ever.
    """
    policy, before = builder.policy, builder.view.agent(agent_id)
    builder.publish(
        AgentAttemptLost(agent_id=agent_id, attempt=before.attempt, runner_id=before.runner_id, problem=why.problem())
    )
    agent = builder.view.agent(agent_id)
    if agent.untaken >= policy.spawn_attempts_max:
        tasks.stop_and_fail(builder, agent_id, why.problem())
    elif agent.lost >= policy.lost_attempts_max:
        often = AgentTimeout(
            f"{agent.lost} attempts of task {agent.task_id} were lost, the last one since {why.detail}",
            limit=f"lost_attempts_max: {policy.lost_attempts_max} attempts",
        )
        tasks.stop_and_fail(builder, agent_id, often.problem())
    else:
        ending.stop_agent(builder, agent_id, why.code)
        tasks.run_attempt(builder, agent_id, f"attempt {agent.attempt} was lost: {why.code}")
