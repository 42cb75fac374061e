"""`evolve`: the one place where state changes. State is the fold of the facts; `_EVOLUTIONS` at the end says how."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from sluice_contracts.constraints import NO_SECRETS
from sluice_contracts.messages import admission, agent, blackboard, pipeline
from sluice_contracts.messages.base import Message, PipelineState
from sluice_spawner.domain import evolving_admission, evolving_agents, evolving_blackboard, facts
from sluice_spawner.domain.facts import Fact
from sluice_spawner.domain.planning import nodes_of, spec_json
from sluice_spawner.domain.policy import REMEMBERED_REFUSALS_MAX_COUNT, SpawnerPolicy
from sluice_spawner.domain.state import (
    Artifact,
    Fault,
    FinishedAgent,
    FinishedPipeline,
    PipelineEntity,
    PlanEntity,
    RefusalsEntity,
    SequenceEntity,
    TaskEntity,
    TaskSpecEntity,
)
from sluice_spawner.domain.view import View
from sluice_spawner.domain.workflow import Ending, outgoing_edges, satisfied

Evolution = Callable[[View, Any, Fact, SpawnerPolicy], None]

_TERMINAL: dict[type[Message], PipelineState] = {
    pipeline.PipelineCompleted: "COMPLETED",
    pipeline.PipelineFailed: "FAILED",
    pipeline.PipelineCancelled: "CANCELLED",
}


def evolve(view: View, fact: Fact, policy: SpawnerPolicy) -> None:
    """Folds one fact into a pipeline's state.

    A fact that changes nothing but the count of events has no evolution.
    """
    evolution = _EVOLUTIONS.get(type(fact.message))
    if evolution is not None:
        evolution(view, fact.message, fact, policy)
    if fact.sequence is not None:
        _count(view, fact.sequence)


def _count(view: View, sequence: int) -> None:
    finished = view.find_finished()
    if finished is None:
        view.put_sequence(SequenceEntity(last=sequence))
    else:
        view.put_finished(replace(finished, sequence=sequence))


# The pipeline


def _spawned(view: View, message: pipeline.PipelineSpawned, fact: Fact, policy: SpawnerPolicy) -> None:
    plan = message.plan
    nodes = nodes_of(plan)
    outgoing = outgoing_edges(nodes)
    entity = PlanEntity(
        tenant=fact.tenant,
        objective=plan.objective,
        task_ids=tuple(node.name for node in nodes),
        max_agents=plan.limits.max_agents,
        max_iterations=plan.limits.max_iterations,
        carry_on=plan.on_failure == "carry_on",
        unattended=plan.unattended,
        inputs=tuple(Artifact.of(ref) for ref in plan.inputs),
        traceparent=fact.traceparent,
        credentials=policy.credentials,
        diagnosis_depth=0 if message.diagnosed is None else message.diagnosed.depth,
        first_wins=plan.on_conflict == "first_wins",
    )
    view.put_plan(entity)
    view.put_pipeline(PipelineEntity(created_at_ms=fact.time_ms, unfinished=len(nodes), request_number=fact.time_ms))
    for node, task in zip(nodes, plan.tasks, strict=True):
        incoming = tuple(dict.fromkeys(source for source, _ in node.incoming))
        spec = TaskSpecEntity(
            role=task.role,
            timeout_s=task.timeout_s,
            retries=task.retries,
            spec=spec_json(plan, task),
            incoming=incoming,
            outgoing=outgoing[node.name],
            needs_grant=policy.credentials and NO_SECRETS not in task.constraints,
        )
        view.put_spec(node.name, spec)
        waits_for = len(dict.fromkeys(node.incoming))
        view.put_task(node.name, TaskEntity(waits_for=waits_for))
        if waits_for == 0:
            _enqueue(view, node.name)


def _state_changed(view: View, message: pipeline.PipelineStateChanged, fact: Fact, policy: SpawnerPolicy) -> None:
    view.put_pipeline(replace(view.pipeline(), state=message.to_state))


def _ended(view: View, message: pipeline.PipelineResult, fact: Fact, policy: SpawnerPolicy) -> None:
    """Deletes the living pipeline, and leaves what tells a repeated or late message."""
    plan, entity = view.plan(), view.pipeline()
    agents = []
    commands = [fact.cause_id] if isinstance(message, pipeline.PipelineCancelled) else []
    for task_id in plan.task_ids:
        agent_id = view.agent_id(task_id)
        known = view.find_agent(agent_id)
        if known is not None:
            agents.append(FinishedAgent(agent_id, known.queue, known.records))
            view.put_agent(agent_id, None)
        view.put_spec(task_id, None)
        view.put_task(task_id, None)
    question_id = entity.last_question
    while question_id is not None:
        question = view.question(question_id)
        if question.command_id is not None:
            commands.append(question.command_id)
        for request_id in question.asked_by:
            view.put_request(request_id, None)
        view.put_question(question_id, None)
        question_id = question.previous
    evolving_blackboard.forget(view)
    view.delete_timer(facts.ADVANCE_TIMER)
    view.put_sequence(None)
    view.put_pipeline(None)
    view.put_plan(None)
    assert fact.sequence is not None
    finished = FinishedPipeline(
        tenant=plan.tenant,
        state=_TERMINAL[type(message)],
        sequence=fact.sequence,
        agents=tuple(agents),
        commands=tuple(commands),
        request_number=entity.request_number,
    )
    view.put_finished(finished)
    due_at_ms = fact.time_ms + policy.finished_retention_s * 1_000
    view.set_timer(facts.RETENTION_TIMER, due_at_ms, 0, plan.tenant)


def _forgotten(view: View, message: facts.RetentionEnded, fact: Fact, policy: SpawnerPolicy) -> None:
    view.put_finished(None)
    view.put_refusals(None)
    view.delete_timer(facts.RETENTION_TIMER)


def _refused(view: View, message: facts.InputRefused, fact: Fact, policy: SpawnerPolicy) -> None:
    """Remembers a refusal, where there is a pipeline that bounds how many are remembered, and for how long."""
    if view.find_pipeline() is not None or view.find_finished() is not None:
        ids_ = (*view.refusals().ids, fact.cause_id)[-REMEMBERED_REFUSALS_MAX_COUNT:]
        view.put_refusals(RefusalsEntity(ids=ids_))


def _deferred(view: View, message: facts.StartsDeferred, fact: Fact, policy: SpawnerPolicy) -> None:
    entity = view.pipeline()
    entity = replace(entity, deferrals=entity.deferrals + 1)
    view.put_pipeline(entity)
    view.set_timer(facts.ADVANCE_TIMER, fact.time_ms, entity.deferrals, view.plan().tenant)


def _credentials_lost(view: View, message: facts.CredentialsLost, fact: Fact, policy: SpawnerPolicy) -> None:
    """None of its agents lives on: they are stopped by the same decision."""
    view.put_pipeline(replace(view.pipeline(), revoked=message.reason, alert_id=message.alert_id, alive=0))


def _root_denied(view: View, message: facts.RootDenied, fact: Fact, policy: SpawnerPolicy) -> None:
    view.put_pipeline(replace(view.pipeline(), root_denied=message.denial_id))


def _calls_throttled(view: View, message: facts.CallsThrottled, fact: Fact, policy: SpawnerPolicy) -> None:
    view.put_pipeline(replace(view.pipeline(), api_calls_per_minute=message.api_calls_per_minute))


def _timer_done(view: View, message: facts.DeadlinePassed, fact: Fact, policy: SpawnerPolicy) -> None:
    view.delete_timer(message.name)


# Tasks


def _agent_created(view: View, message: pipeline.AgentCreated, fact: Fact, policy: SpawnerPolicy) -> None:
    _dequeue(view, message.task_id)
    evolving_agents.created(view, message, fact, policy)


def _assigned(view: View, message: pipeline.TaskAssigned, fact: Fact, policy: SpawnerPolicy) -> None:
    view.put_task(message.task_id, replace(view.task(message.task_id), status="assigned"))


def _started(view: View, message: pipeline.TaskStarted, fact: Fact, policy: SpawnerPolicy) -> None:
    view.put_task(message.task_id, replace(view.task(message.task_id), status="running"))


def _retried(view: View, message: pipeline.TaskRetried, fact: Fact, policy: SpawnerPolicy) -> None:
    view.put_task(message.task_id, replace(view.task(message.task_id), retries_used=message.retry))


def _succeeded(view: View, message: pipeline.TaskSucceeded, fact: Fact, policy: SpawnerPolicy) -> None:
    artifacts = tuple(Artifact.of(ref) for ref in message.artifacts)
    task = replace(view.task(message.task_id), status="succeeded", summary=message.summary, artifacts=artifacts)
    view.put_task(message.task_id, task)
    entity = view.pipeline()
    view.put_pipeline(replace(entity, succeeded=entity.succeeded + 1))
    _task_ended(view, message.task_id, "succeeded")


def _failed(view: View, message: pipeline.TaskFailed, fact: Fact, policy: SpawnerPolicy) -> None:
    _dequeue(view, message.task_id)
    fault = Fault.of(message.problem)
    view.put_task(message.task_id, replace(view.task(message.task_id), status="failed", fault=fault))
    entity = view.pipeline()
    if entity.fault is None:
        view.put_pipeline(replace(entity, fault=fault))
    _task_ended(view, message.task_id, "failed")


def _skipped(view: View, message: pipeline.TaskSkipped, fact: Fact, policy: SpawnerPolicy) -> None:
    view.put_task(message.task_id, replace(view.task(message.task_id), status="skipped"))
    _task_ended(view, message.task_id, "skipped")


def _cancelled(view: View, message: pipeline.TaskCancelled, fact: Fact, policy: SpawnerPolicy) -> None:
    view.put_task(message.task_id, replace(view.task(message.task_id), status="cancelled"))
    _task_ended(view, message.task_id, "cancelled")


def _task_ended(view: View, task_id: str, ending: Ending) -> None:
    """Ends the task's agent, and looks at the task's dependents: those that wait for nothing more may start."""
    entity = view.pipeline()
    entity = replace(entity, unfinished=entity.unfinished - 1)
    agent_id = view.agent_id(task_id)
    known = view.find_agent(agent_id)
    if known is not None:
        spent = known.spent
        total = entity.spent.plus(spent.input_tokens, spent.output_tokens, spent.cost_usd)
        alive = entity.alive - 1 if entity.revoked is None else 0
        entity = replace(entity, alive=alive, spent=total)
    view.put_pipeline(entity)
    if known is not None:
        evolving_agents.end(view, agent_id)
    for target, condition in view.spec(task_id).outgoing:
        dependent = view.task(target)
        if dependent.status == "pending" and satisfied(condition, ending):
            view.put_task(target, replace(dependent, waits_for=dependent.waits_for - 1))
            if dependent.waits_for == 1:
                _enqueue(view, target)


def _enqueue(view: View, task_id: str) -> None:
    entity = view.pipeline()
    entity = replace(entity, ready=entity.ready + 1)
    if entity.ready_last is None:
        view.put_pipeline(replace(entity, ready_first=task_id, ready_last=task_id))
    else:
        view.put_task(entity.ready_last, replace(view.task(entity.ready_last), next_ready=task_id))
        view.put_pipeline(replace(entity, ready_last=task_id))


def _dequeue(view: View, task_id: str) -> None:
    """Takes a task from the head of the queue; a later attempt of one that was taken is not there any more."""
    entity = view.pipeline()
    if entity.ready_first == task_id:
        task = view.task(task_id)
        last = None if task.next_ready is None else entity.ready_last
        view.put_pipeline(replace(entity, ready_first=task.next_ready, ready_last=last, ready=entity.ready - 1))


_EVOLUTIONS: dict[type[Message], Evolution] = {
    pipeline.PipelineSpawned: _spawned,
    pipeline.PipelineStateChanged: _state_changed,
    pipeline.PipelineCompleted: _ended,
    pipeline.PipelineFailed: _ended,
    pipeline.PipelineCancelled: _ended,
    pipeline.TaskAssigned: _assigned,
    pipeline.TaskStarted: _started,
    pipeline.TaskRetried: _retried,
    pipeline.TaskSucceeded: _succeeded,
    pipeline.TaskFailed: _failed,
    pipeline.TaskSkipped: _skipped,
    pipeline.TaskCancelled: _cancelled,
    pipeline.AgentCreated: _agent_created,
    pipeline.AgentStateChanged: evolving_agents.state_changed,
    pipeline.AgentAttemptLost: evolving_agents.attempt_lost,
    pipeline.QuestionAsked: evolving_agents.asked,
    pipeline.QuestionAnswered: evolving_agents.answered,
    agent.AgentRun: evolving_agents.run,
    agent.AgentAnswer: evolving_agents.answer_sent,
    agent.AgentAttemptStarted: evolving_agents.started,
    agent.AgentTurnFinished: evolving_agents.turn_finished,
    agent.AgentSucceeded: evolving_agents.succeeded,
    agent.AgentFailed: evolving_agents.failed,
    agent.AgentInputRequested: evolving_agents.input_requested,
    blackboard.BlackboardWritten: evolving_blackboard.written,
    blackboard.BlackboardDeleted: evolving_blackboard.deleted,
    blackboard.BlackboardConflictDetected: evolving_blackboard.conflict_detected,
    blackboard.BlackboardConflictResolved: evolving_blackboard.conflict_resolved,
    facts.AnswerKept: evolving_blackboard.answer_kept,
    facts.QuestionDeclined: evolving_agents.declined,
    facts.StartsDeferred: _deferred,
    facts.DeadlinePassed: _timer_done,
    facts.InputRefused: _refused,
    facts.RetentionEnded: _forgotten,
    facts.CredentialsLost: _credentials_lost,
    facts.RootDenied: _root_denied,
    facts.CallsThrottled: _calls_throttled,
    facts.GrantAwaited: evolving_agents.grant_awaited,
    facts.AgentSuspended: evolving_agents.suspended,
    facts.GrantGivenUp: evolving_agents.given_up,
    admission.AdmissionRequested: evolving_admission.requested,
    admission.AdmissionGranted: evolving_admission.granted,
    facts.SlotsClaimed: evolving_admission.slots_claimed,
    facts.SlotsGranted: evolving_admission.slots_granted,
    facts.LookPlanned: evolving_admission.look_planned,
}
