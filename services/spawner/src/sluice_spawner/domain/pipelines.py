"""Commands about pipelines, and the timers of their parts and of the arbiter."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice

from sluice_contracts.envelope import SYSTEM_TENANT
from sluice_contracts.messages.pipeline import (
    PipelineAnswer,
    PipelineCancel,
    PipelineSpawn,
    PipelineSpawned,
    PipelineStateChanged,
    PipelineTick,
)
from sluice_runtime.deciding import TimerDue
from sluice_spawner.domain import admission, attempts, ending, grants, planning, questions, redacting, tasks
from sluice_spawner.domain.building import DecisionBuilder
from sluice_spawner.domain.errors import SpawnRefused
from sluice_spawner.domain.facts import (
    ADVANCE_TIMER,
    RETENTION_TIMER,
    WAITING_TIMER,
    DeadlinePassed,
    RetentionEnded,
    question_timer,
    spawn_timer,
    task_timer,
    wait_timer,
)
from sluice_spawner.domain.policy import TIMERS_PER_DECISION_MAX_COUNT


def spawn(builder: DecisionBuilder, message: PipelineSpawn) -> None:
    """Starts a pipeline, or refuses its plan. One of this id that lives, or has ended, *is* the one that is meant."""
    owner = _owner(builder)
    if owner is not None:
        if owner != builder.cause.tenant:
            taken = SpawnRefused(
                f"pipeline id {builder.pipeline_id} is taken; choose another, or spawn with a dedupe key",
                code="pipeline_id_taken",
            )
            builder.refuse(taken.problem())
        return
    message = redacting.spawn(message)
    try:
        planning.check(
            message,
            pipeline_id=builder.pipeline_id,
            tenant=builder.cause.tenant,
            roles=builder.roles,
            diagnostic_depth_max=builder.policy.diagnostic_depth_max,
        )
    except SpawnRefused as refused:
        builder.refuse(refused.problem())
        return
    builder.publish(
        PipelineSpawned(
            plan=message.plan,
            dedupe_key=message.dedupe_key,
            parent_pipeline_id=message.parent_pipeline_id,
            diagnosed=message.diagnosed,
        )
    )
    builder.publish(PipelineStateChanged(from_state="SPAWNED", to_state="RUNNING", reason="the plan was checked"))
    grants.request_root(builder)
    tasks.advance(builder)


def cancel(builder: DecisionBuilder, message: PipelineCancel) -> None:
    """Ends a living pipeline."""
    if _lives(builder):
        ending.cancel(builder, redacting.cancel(message).reason)


def answer(builder: DecisionBuilder, message: PipelineAnswer) -> None:
    """Answers a question of a living pipeline."""
    if _lives(builder):
        questions.answer(builder, redacting.answer(message))


def tick(builder: DecisionBuilder, message: PipelineTick) -> None:
    """Looks at a living pipeline again (P12): what is due is done, what may start is started.

    Of what is due only so much as one decision may hold: the rest comes by its timers, as all of it would.
    """
    if builder.view.find_finished() is not None or not _lives(builder):
        return
    for name in islice(_due(builder), TIMERS_PER_DECISION_MAX_COUNT):
        _fire(builder, name)
    tasks.advance(builder)


def _lives(builder: DecisionBuilder) -> bool:
    """Whether the commanded pipeline lives; if not, the command is refused, unless it was obeyed before.

    Another tenant's pipeline is unknown; a command of the installation itself reaches all.
    """
    owner, finished = _owner(builder), builder.view.find_finished()
    if owner is None or builder.cause.tenant not in (owner, SYSTEM_TENANT):
        refused = SpawnRefused(
            f"tenant {builder.cause.tenant} has no pipeline {builder.pipeline_id}, or it ended too long ago; see the "
            f"active pipelines",
            code="unknown_pipeline",
        )
        builder.refuse(refused.problem())
        return False
    if finished is not None:
        if builder.cause.id not in finished.commands:
            refused = SpawnRefused(
                f"pipeline {builder.pipeline_id} has ended as {finished.state}; spawn another", code="pipeline_ended"
            )
            builder.refuse(refused.problem())
        return False
    return True


def _owner(builder: DecisionBuilder) -> str | None:
    """The tenant of the pipeline, living or ended."""
    plan, finished = builder.view.find_plan(), builder.view.find_finished()
    if plan is not None:
        return plan.tenant
    return None if finished is None else finished.tenant


# Timers


def timer_due(builder: DecisionBuilder, message: TimerDue) -> None:
    """A timer fired. One that was deleted or set anew meanwhile is ignored."""
    timer = builder.view.find_timer(message.name)
    if timer is not None and timer.generation == message.generation:
        _fire(builder, message.name)


def _due(builder: DecisionBuilder) -> Iterator[str]:
    """The timers of a pipeline's agents that are due; none is left where one that fired ended the pipeline."""
    for task_id in builder.view.plan().task_ids:
        if builder.view.find_pipeline() is None:
            return
        agent_id = builder.view.agent_id(task_id)
        agent = builder.view.find_agent(agent_id)
        if agent is not None:
            asked = [question_timer(question_id) for question_id in agent.pending]
            for name in (*asked, task_timer(agent_id), spawn_timer(agent_id), wait_timer(agent_id)):
                timer = builder.view.find_timer(name)
                if timer is not None and timer.due_at_ms <= builder.now_ms:
                    yield name


def _fire(builder: DecisionBuilder, name: str) -> None:
    kind, _, subject = name.partition(":")
    if kind != RETENTION_TIMER:
        builder.accept(DeadlinePassed(name=name))
        pipeline = builder.view.find_pipeline()
        if pipeline is not None and pipeline.revoked is not None:
            return  # nothing of it goes on; its handoff report ends it
    _TIMERS[kind](builder, subject)


def _advance(builder: DecisionBuilder, subject: str) -> None:
    tasks.advance(builder)


def _serve(builder: DecisionBuilder, subject: str) -> None:
    admission.serve(builder)


def _forget(builder: DecisionBuilder, subject: str) -> None:
    builder.accept(RetentionEnded())


_TIMERS: dict[str, Callable[[DecisionBuilder, str], None]] = {
    spawn_timer("").rstrip(":"): attempts.untaken,
    task_timer("").rstrip(":"): attempts.overdue,
    question_timer("").rstrip(":"): questions.deadline_passed,
    wait_timer("").rstrip(":"): questions.waited_too_long,
    ADVANCE_TIMER: _advance,
    WAITING_TIMER: _serve,
    RETENTION_TIMER: _forget,
}
"""By the first part of a timer's name; the rest says whose it is."""
