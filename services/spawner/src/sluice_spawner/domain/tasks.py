"""How tasks start, are tried again, and end; what their end means for those that wait for them."""

from __future__ import annotations

from sluice_contracts.messages.agent import AgentRun, AgentSucceeded, Answer
from sluice_contracts.messages.base import Problem
from sluice_contracts.messages.pipeline import (
    AgentCreated,
    PipelineStateChanged,
    TaskAssigned,
    TaskFailed,
    TaskOutcome,
    TaskRetried,
    TaskSkipped,
    TaskSucceeded,
)
from sluice_contracts.messages.plan import TaskSpec
from sluice_contracts.messages.token import Grant
from sluice_spawner.domain import conflicts, ending, grants, slots
from sluice_spawner.domain.building import DecisionBuilder
from sluice_spawner.domain.errors import SpawnRefused
from sluice_spawner.domain.facts import StartsDeferred
from sluice_spawner.domain.outcomes import bounded, clipped, fitting, json_bytes, outcome_of
from sluice_spawner.domain.policy import (
    AGENT_RUN_MAX_BYTES,
    ANSWER_MAX_BYTES,
    BLACKBOARD_ANSWERS_MAX_BYTES,
    OUTCOME_MAX_BYTES,
    QUESTIONS_PER_AGENT_MAX_COUNT,
    STARTS_PER_DECISION_MAX_COUNT,
)
from sluice_spawner.domain.state import AgentEntity, PlanEntity
from sluice_spawner.domain.workflow import Ending, satisfied

AGENT_RUN_OVERHEAD_BYTES = 4 * 1024
"""Of an `agent.run`: names of members, numbers, the transcript's reference, the sealed grant."""


def advance(builder: DecisionBuilder) -> None:
    """Goes on with a pipeline after something ended: starts what may start and asks for slots, or concludes it.

    At most as many agents live at once as slots were granted, which is never more than `max_agents`; other tasks that
    may start wait in a queue, first come first served.
    """
    view = builder.view
    for started in range(STARTS_PER_DECISION_MAX_COUNT + 1):
        pipeline = view.find_pipeline()
        if pipeline is None:
            return
        if pipeline.state == "NEEDS_INPUT" and pipeline.questions_pending == 0:
            builder.publish(
                PipelineStateChanged(from_state="NEEDS_INPUT", to_state="RUNNING", reason="no question is pending")
            )
        if pipeline.revoked is not None:
            return  # its handoff report ends it
        if pipeline.unfinished == 0:
            ending.conclude(builder)
            return
        if pipeline.ready_first is None or pipeline.alive >= pipeline.slots_granted:
            break
        if started == STARTS_PER_DECISION_MAX_COUNT or builder.attempts >= STARTS_PER_DECISION_MAX_COUNT:
            builder.accept(StartsDeferred())
            break
        _start(builder, pipeline.ready_first)
    slots.balance(builder)


def _start(builder: DecisionBuilder, task_id: str) -> None:
    role = builder.view.spec(task_id).role
    queue = builder.roles.queue_of.get(role)
    if queue is None:  # it was there when the plan was checked
        refused = SpawnRefused(f"role {role} of task {task_id} was removed since the spawn", code="unknown_role")
        _end_failed(builder, task_id, refused.problem())
        return
    agent_id = builder.view.agent_id(task_id)
    builder.publish(AgentCreated(agent_id=agent_id, task_id=task_id, role=role, queue=queue))
    run_attempt(builder, agent_id, "ready")


def run_attempt(builder: DecisionBuilder, agent_id: str, reason: str) -> None:
    """Has an agent's next attempt go on from the last finished turn, as soon as it has its grant where it needs one."""
    ending.change_agent(builder, agent_id, "CREATED", reason)
    if grants.needed(builder, agent_id):
        grants.request(builder, agent_id, reason)
    else:
        assign(builder, agent_id, reason, None)


def assign(builder: DecisionBuilder, agent_id: str, reason: str, grant: Grant | None) -> None:
    """Hands an agent's next attempt to its queue: the one for which the grant was made."""
    agent = builder.view.agent(agent_id)
    attempt = agent.attempt + 1 if grant is None else agent.requested
    builder.publish(
        TaskAssigned(
            task_id=agent.task_id,
            agent_id=agent_id,
            attempt=attempt,
            queue=agent.queue,
            role=agent.role,
            reason=reason,
        )
    )
    builder.assign(agent.queue, _agent_run(builder, agent_id, attempt, grant))


def _agent_run(builder: DecisionBuilder, agent_id: str, attempt: int, grant: Grant | None) -> AgentRun:
    view = builder.view
    agent, plan = view.agent(agent_id), view.plan()
    spec = view.spec(agent.task_id)
    return AgentRun(
        agent_id=agent_id,
        attempt=attempt,
        task=TaskSpec.model_validate_json(spec.spec),
        objective=plan.objective,
        inputs=tuple(artifact.ref() for artifact in plan.inputs),
        dependency_outcomes=_dependency_outcomes(builder, agent, spec.incoming, plan),
        turn=agent.turn,
        transcript=None if agent.transcript is None else agent.transcript.ref(),
        usage=agent.spent.usage(),
        max_iterations=plan.max_iterations,
        deadline_at_ms=deadline_at_ms(builder, agent),
        answers=kept_answers(agent),
        grant=grant,
        api_calls_per_minute=builder.view.pipeline().api_calls_per_minute,
    )


def _dependency_outcomes(
    builder: DecisionBuilder, agent: AgentEntity, incoming: tuple[str, ...], plan: PlanEntity
) -> tuple[TaskOutcome, ...]:
    """The outcomes of the direct dependencies, in what room the rest of the record leaves.

    Direct ones only: who needs more depends on more, and the record does not grow with the depth of the plan.
    """
    fixed = len(builder.view.spec(agent.task_id).spec.encode()) + json_bytes(plan.objective)
    fixed += sum(len(artifact.ref().model_dump_json().encode()) + 1 for artifact in plan.inputs)
    answers = QUESTIONS_PER_AGENT_MAX_COUNT * ANSWER_MAX_BYTES + BLACKBOARD_ANSWERS_MAX_BYTES
    room = AGENT_RUN_MAX_BYTES - AGENT_RUN_OVERHEAD_BYTES - answers - fixed
    return bounded([outcome_of(builder.view, task_id) for task_id in incoming], room)


def kept_answers(agent: AgentEntity) -> tuple[Answer, ...]:
    """The answers that no finished turn has seen."""
    return tuple(
        Answer(
            request_id=kept.request_id,
            answer=kept.answer,
            problem=None if kept.fault is None else kept.fault.problem(),
        )
        for kept in agent.answers
    )


def deadline_at_ms(builder: DecisionBuilder, agent: AgentEntity) -> int:
    """When the agent's task must have ended: counted over all attempts, without the time that it waits for people."""
    if agent.attempt == 0:
        return builder.now_ms + builder.view.spec(agent.task_id).timeout_s * 1_000
    if agent.waiting_since_ms is None:
        return agent.deadline_at_ms
    return agent.deadline_at_ms + max(0, builder.now_ms - agent.waiting_since_ms)


# Ends


def succeed(builder: DecisionBuilder, message: AgentSucceeded) -> None:
    """Ends a task with its agent's result."""
    agent = builder.view.agent(message.agent_id)
    summary = clipped(message.summary, OUTCOME_MAX_BYTES // 2)
    artifacts = fitting(message.artifacts, OUTCOME_MAX_BYTES - json_bytes(summary))
    builder.accept(message)
    conflicts.let_be(builder, message.agent_id)
    ending.change_agent(builder, message.agent_id, "SUCCEEDED", "")
    builder.publish(
        TaskSucceeded(
            task_id=agent.task_id,
            agent_id=message.agent_id,
            summary=summary,
            artifacts=artifacts,
            usage=agent.spent.usage(),
            turns=agent.turn,
        )
    )
    _skip_dependents(builder, agent.task_id, "succeeded")
    advance(builder)
    grants.release(builder, message.agent_id)


def retry_or_fail(builder: DecisionBuilder, agent_id: str, problem: Problem, *, retryable: bool) -> None:
    """Goes on after an attempt that its runner ended without a result.

    A retry follows at once: the runner has waited already where its provider wanted it to.
    """
    agent = builder.view.agent(agent_id)
    allowed = builder.view.spec(agent.task_id).retries
    used = builder.view.task(agent.task_id).retries_used
    if not retryable or used >= allowed:
        fail(builder, agent.task_id, problem)
        return
    ending.change_agent(builder, agent_id, "ERROR", problem.code)
    builder.publish(TaskRetried(task_id=agent.task_id, agent_id=agent_id, retry=used + 1, problem=problem))
    run_attempt(builder, agent_id, f"retry {used + 1} of {allowed}")


def fail(builder: DecisionBuilder, task_id: str, problem: Problem) -> None:
    """Ends a task without success, and goes on with the pipeline."""
    agent_id = builder.view.agent_id(task_id)
    _end_failed(builder, task_id, problem)
    advance(builder)
    grants.release(builder, agent_id)


def stop_and_fail(builder: DecisionBuilder, agent_id: str, problem: Problem) -> None:
    """Ends a task whose attempt may still run somewhere."""
    ending.stop_agent(builder, agent_id, problem.code)
    fail(builder, builder.view.agent(agent_id).task_id, problem)


def _end_failed(builder: DecisionBuilder, task_id: str, problem: Problem) -> None:
    """Ends a task; under fail_fast the whole pipeline, unless a task waits for exactly this failure."""
    view = builder.view
    agent_id = builder.view.agent_id(task_id)
    if view.find_agent(agent_id) is not None:
        conflicts.let_be(builder, agent_id)
        ending.change_agent(builder, agent_id, "ERROR", problem.code)
    builder.publish(TaskFailed(task_id=task_id, problem=problem))
    handled = any(
        condition == "failed" and view.task(target).status == "pending"
        for target, condition in view.spec(task_id).outgoing
    )
    if handled or view.plan().carry_on:
        _skip_dependents(builder, task_id, "failed")
    else:
        ending.fail(builder, f"task {task_id} failed: {problem.code}")


def _skip_dependents(builder: DecisionBuilder, task_id: str, how: Ending) -> None:
    """Skips the tasks that can never run now, and those that wait for them, and so on."""
    view = builder.view
    ended: list[tuple[str, Ending]] = [(task_id, how)]
    for source, ending_ in ended:  # grows while it is walked
        for target, condition in view.spec(source).outgoing:
            if view.task(target).status == "pending" and not satisfied(condition, ending_):
                reason = f"task {source} {_PAST[ending_]}; this one waits for it to have {condition}"
                builder.publish(TaskSkipped(task_id=target, reason=reason))
                ended.append((target, "skipped"))


_PAST: dict[Ending, str] = {
    "succeeded": "succeeded",
    "failed": "failed",
    "skipped": "was skipped",
    "cancelled": "was cancelled",
}
