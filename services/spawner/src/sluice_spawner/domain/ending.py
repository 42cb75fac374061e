"""How a pipeline ends: by its report, by a failure, by a command. Exactly one terminal event, and nothing after it."""

from __future__ import annotations

from typing import Any

from sluice_contracts.messages.agent import AgentStop
from sluice_contracts.messages.base import AgentState, Problem
from sluice_contracts.messages.pipeline import (
    AgentStateChanged,
    PipelineCancelled,
    PipelineCompleted,
    PipelineFailed,
    PipelineReported,
    PipelineStateChanged,
    TaskCancelled,
    TaskSkipped,
)
from sluice_spawner.domain import conflicts, grants, slots
from sluice_spawner.domain.building import DecisionBuilder
from sluice_spawner.domain.outcomes import bounded, outcome_of
from sluice_spawner.domain.policy import REPORT_MAX_BYTES


def conclude(builder: DecisionBuilder) -> None:
    """All tasks have ended: the report, if at least one succeeded; the failure, if none did (P1)."""
    pipeline, plan = builder.view.pipeline(), builder.view.plan()
    count = len(plan.task_ids)
    if pipeline.succeeded == 0:
        fail(builder, f"none of {count} tasks succeeded")
        return
    builder.publish(
        PipelineStateChanged(from_state=pipeline.state, to_state="REPORT", reason=f"all of {count} tasks have ended")
    )
    outcomes = bounded([outcome_of(builder.view, task_id) for task_id in plan.task_ids], REPORT_MAX_BYTES)
    builder.publish(PipelineReported(objective=plan.objective, outcomes=outcomes))
    _finish(builder, PipelineCompleted, f"{pipeline.succeeded} of {count} tasks succeeded", None)


def fail(builder: DecisionBuilder, reason: str, problem: Problem | None = None) -> None:
    """Ends the pipeline as FAILED: with this problem, or with the first one of a task."""
    fault = builder.view.pipeline().fault
    _stop_tasks(builder, "the pipeline failed")
    _finish(builder, PipelineFailed, reason, fault.problem() if problem is None and fault is not None else problem)


def cancel(builder: DecisionBuilder, reason: str) -> None:
    """Ends the pipeline as CANCELLED."""
    _stop_tasks(builder, "the pipeline was cancelled")
    _finish(builder, PipelineCancelled, reason, None)


def stop_agent(builder: DecisionBuilder, agent_id: str, reason: str) -> None:
    """Tells an agent's current attempt to end, wherever it is: nothing that it still says counts."""
    agent = builder.view.agent(agent_id)
    if agent.attempt > 0:  # it may still wait for its first grant
        builder.tell(agent.queue, AgentStop(agent_id=agent_id, attempt=agent.attempt, reason=reason))


def change_agent(builder: DecisionBuilder, agent_id: str, state: AgentState, reason: str) -> None:
    """Shows an agent in another state, if it is another. Of a busy one, and of no other, progress is expected."""
    current = builder.view.agent(agent_id).state
    if current != state:
        builder.publish(AgentStateChanged(agent_id=agent_id, from_state=current, to_state=state, reason=reason))
        if "BUSY" in (current, state):
            grants.watch(builder, agent_id, state == "BUSY")


def _stop_tasks(builder: DecisionBuilder, reason: str) -> None:
    view = builder.view
    for task_id in view.plan().task_ids:
        task = view.task(task_id)
        agent_id = view.agent_id(task_id)
        if task.ended:
            continue
        if view.find_agent(agent_id) is None:
            builder.publish(TaskSkipped(task_id=task_id, reason=reason))
        else:
            stop_agent(builder, agent_id, reason)
            conflicts.let_be(builder, agent_id)
            change_agent(builder, agent_id, "TERMINATED", reason)
            builder.publish(TaskCancelled(task_id=task_id, reason=reason))


def _finish(builder: DecisionBuilder, terminal: type[Any], reason: str, problem: Problem | None) -> None:
    slots.release(builder)
    grants.release_all(builder)
    pipeline, plan = builder.view.pipeline(), builder.view.plan()
    builder.publish(
        terminal(
            reason=reason,
            duration_ms=max(0, builder.now_ms - pipeline.created_at_ms),  # the clock may have jumped back
            agents_used=pipeline.agents_used,
            usage=pipeline.spent.usage(),
            tasks={task_id: builder.view.task(task_id).status for task_id in plan.task_ids},
            problem=problem,
        )
    )
