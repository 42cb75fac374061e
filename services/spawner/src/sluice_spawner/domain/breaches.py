"""A broken error budget (V5): agents stop, the handoff report is waited for, the pipeline fails and is diagnosed."""

from __future__ import annotations

from collections.abc import Iterator

from sluice_contracts.diagnosis import diagnostic_spawn
from sluice_contracts.messages.agent import AgentThrottle
from sluice_contracts.messages.alert import AlertRaised
from sluice_contracts.messages.base import Problem
from sluice_contracts.messages.plan import TaskSpec
from sluice_contracts.messages.report import HandoffReported
from sluice_spawner.domain import ending, grants, slots, tasks
from sluice_spawner.domain.building import DecisionBuilder
from sluice_spawner.domain.facts import AgentSuspended, CallsThrottled, CredentialsLost, RootDenied
from sluice_spawner.domain.outcomes import outcome_of

UNDIAGNOSED = ("manual",)
"""Whoever revoked by hand knows why; a diagnostic can be asked for."""


def alert_raised(builder: DecisionBuilder, message: AlertRaised) -> None:
    """Does at once what needs no Vault: whoever is concerned is stopped or slowed, while the vault-broker revokes.

    A pipeline without credentials ends at once: there is nothing to revoke, and so nothing that a report would follow.
    """
    pipeline = builder.view.find_pipeline()
    if pipeline is None or pipeline.revoked is not None:
        return
    if message.action == "revoke_pipeline" and not builder.view.plan().credentials:
        ending.fail(builder, message.condition, Problem(code=message.condition, detail=message.detail))
    elif message.action == "revoke_pipeline":
        suspend(builder, message.condition, builder.cause.id)
    elif message.action == "revoke_agent" and message.agent_id is not None:
        problem = Problem(code=message.condition, detail=message.detail)
        interrupt(builder, message.agent_id, message.attempt, problem)
    elif message.action == "throttle":
        _throttle(builder, message.limit)


def suspend(builder: DecisionBuilder, reason: str, alert_id: str | None = None) -> None:
    """Stops all agents of a pipeline that has lost its credentials, and gives their slots back. Its report ends it."""
    pipeline = builder.view.find_pipeline()
    if pipeline is None or pipeline.revoked is not None:
        return
    builder.accept(CredentialsLost(reason=reason, alert_id=alert_id))
    for agent_id in _living(builder):
        ending.stop_agent(builder, agent_id, reason)
        ending.change_agent(builder, agent_id, "TERMINATED", reason)
        builder.accept(AgentSuspended(agent_id=agent_id))
    slots.release(builder)


def revoked(builder: DecisionBuilder, reason: str, alert_id: str | None) -> None:
    """All credentials are gone: agents stop, and the report follows."""
    pipeline = builder.view.find_pipeline()
    if pipeline is not None and pipeline.root_denied:
        builder.accept(RootDenied(denial_id=""))
    suspend(builder, reason, alert_id)


def root_denied(builder: DecisionBuilder, problem: Problem) -> None:
    """Ends a pipeline that was revoked before it was spawned; nothing else that is heard would.

    The vault-broker denies the pipeline's own token where a revocation came before it. Either both were decided
    together: then `token.revoked` follows the denial, the report that, and the report ends the pipeline as always. Or
    `token.revoked` stands before the denial: it may have been heard before the spawn, and the report too. To tell one
    from the other it is asked once more: the second denial stands behind whatever followed the first.
    """
    pipeline = builder.view.find_pipeline()
    if pipeline is None:
        return
    if pipeline.root_denied is None:
        builder.accept(RootDenied(denial_id=builder.cause.id))
        grants.request_root(builder)
    elif pipeline.root_denied not in ("", builder.cause.id):
        ending.fail(builder, pipeline.revoked or problem.code, problem)


def interrupt(builder: DecisionBuilder, agent_id: str, attempt: int | None, problem: Problem) -> None:
    """Stops an attempt that has lost its credential; the task is tried again, with another, if it has retries left."""
    pipeline = builder.view.find_pipeline()
    agent = builder.view.find_agent(agent_id)
    if pipeline is None or pipeline.revoked is not None or agent is None:
        return
    if agent.has_attempt and attempt == agent.attempt:
        ending.stop_agent(builder, agent_id, problem.code)
        builder.accept(AgentSuspended(agent_id=agent_id))
        tasks.retry_or_fail(builder, agent_id, problem, retryable=True)


def reported(builder: DecisionBuilder, message: HandoffReported) -> None:
    """Ends the pipeline that is handed off, and has it diagnosed. A report that somebody wanted changes nothing."""
    view = builder.view
    if message.cause != "revocation" or view.find_pipeline() is None:
        return
    suspend(builder, message.reason)  # the topics have no common order: this may be the first that is heard of it
    plan = view.plan()
    artifacts = [artifact for task_id in plan.task_ids for artifact in outcome_of(view, task_id).artifacts]
    depth = plan.diagnosis_depth + 1
    if depth <= builder.policy.diagnostic_depth_max and message.reason not in UNDIAGNOSED:
        pipeline_id, spawn = diagnostic_spawn(
            pipeline_id=builder.pipeline_id,
            tenant=plan.tenant,
            objective=plan.objective,
            cause_id=builder.cause.id,
            alert_id=view.pipeline().alert_id,
            reason=message.reason,
            depth=depth,
            report=message.report,
            markdown=message.markdown,
            artifacts=artifacts,
            model=TaskSpec.model_validate_json(view.spec(plan.task_ids[0]).spec).model,
        )
        builder.spawn(pipeline_id, spawn)
    ending.fail(builder, message.reason, Problem(code=message.reason, detail=message.summary))


def remind(builder: DecisionBuilder, agent_id: str) -> None:
    """Tells an agent of a throttled pipeline how many calls it may make. Its runner heeds that once it holds it."""
    each = builder.view.pipeline().api_calls_per_minute
    if each is not None:
        queue = builder.view.agent(agent_id).queue
        builder.tell(queue, AgentThrottle(agent_id=agent_id, api_calls_per_minute=each))


def _throttle(builder: DecisionBuilder, limit: int) -> None:
    """Shares the limit by as many agents as may live at once from now on, so that it holds whoever follows."""
    pipeline = builder.view.pipeline()
    if pipeline.api_calls_per_minute is not None:
        return
    agents = min(builder.view.plan().max_agents, pipeline.unfinished)
    builder.accept(CallsThrottled(api_calls_per_minute=max(1, limit // agents)))
    for agent_id in _living(builder):
        if builder.view.agent(agent_id).runner_id is not None:
            remind(builder, agent_id)


def _living(builder: DecisionBuilder) -> Iterator[str]:
    for task_id in builder.view.plan().task_ids:
        agent_id = builder.view.agent_id(task_id)
        agent = builder.view.find_agent(agent_id)
        if agent is not None and not agent.ended:
            yield agent_id
