"""How agents, their attempts and their questions change. Called by `evolving` alone."""

from __future__ import annotations

from msgspec.structs import replace

from sluice_contracts.messages import agent
from sluice_contracts.messages.pipeline import (
    AgentAttemptLost,
    AgentCreated,
    AgentStateChanged,
    QuestionAnswered,
    QuestionAsked,
)
from sluice_spawner.domain.errors import CREDENTIAL_ENDS
from sluice_spawner.domain.facts import (
    AgentSuspended,
    Fact,
    GrantAwaited,
    GrantGivenUp,
    QuestionDeclined,
    question_id_of,
    question_timer,
    spawn_timer,
    task_timer,
    wait_timer,
)
from sluice_spawner.domain.policy import SpawnerPolicy
from sluice_spawner.domain.state import (
    AgentEntity,
    Artifact,
    AttemptEnd,
    AttemptRecord,
    Fault,
    KeptAnswer,
    QuestionEntity,
    RequestEntity,
)
from sluice_spawner.domain.view import View


def created(view: View, message: AgentCreated, fact: Fact, policy: SpawnerPolicy) -> None:
    """An agent begins to live."""
    entity = AgentEntity(task_id=message.task_id, role=message.role, queue=message.queue)
    view.put_agent(message.agent_id, entity)
    pipeline = view.pipeline()
    view.put_pipeline(replace(pipeline, alive=pipeline.alive + 1, agents_used=pipeline.agents_used + 1))


def state_changed(view: View, message: AgentStateChanged, fact: Fact, policy: SpawnerPolicy) -> None:
    """An agent shows another state."""
    view.put_agent(message.agent_id, replace(view.agent(message.agent_id), state=message.to_state))


def run(view: View, message: agent.AgentRun, fact: Fact, policy: SpawnerPolicy) -> None:
    """A new attempt waits for a runner. The first one sets the task's deadline."""
    entity = view.agent(message.agent_id)
    first = entity.attempt == 0
    entity = replace(
        entity,
        attempt=message.attempt,
        requested=message.attempt if message.grant is not None else entity.requested,
        idle=False,
        runner_id=None,
        turns_before=entity.turn,
        answers=tuple(_sent(kept, message.attempt) for kept in entity.answers),
        deadline_at_ms=message.deadline_at_ms if first else entity.deadline_at_ms,
    )
    view.put_agent(message.agent_id, entity)
    due_at_ms = fact.time_ms + policy.spawn_timeout_s * 1_000
    view.set_timer(spawn_timer(message.agent_id), due_at_ms, message.attempt, fact.tenant)
    if first:
        view.set_timer(task_timer(message.agent_id), entity.deadline_at_ms, 0, fact.tenant)
    else:
        _let_time_run(view, message.agent_id, fact)


def grant_awaited(view: View, message: GrantAwaited, fact: Fact, policy: SpawnerPolicy) -> None:
    """The next attempt waits for its grant; the task's deadline stands still."""
    entity = view.agent(message.agent_id)
    entity = replace(entity, requested=message.attempt, request_reason=message.reason, idle=False)
    view.put_agent(message.agent_id, entity)
    if entity.attempt > 0:
        _let_time_stand(view, message.agent_id, fact)


def given_up(view: View, message: GrantGivenUp, fact: Fact, policy: SpawnerPolicy) -> None:
    """The attempt is over, and none follows before the answer that is waited for."""
    _close(view, message.agent_id, "stopped")
    view.put_agent(message.agent_id, replace(view.agent(message.agent_id), idle=True))


def suspended(view: View, message: AgentSuspended, fact: Fact, policy: SpawnerPolicy) -> None:
    """The current attempt is over: whoever had it was told to stop."""
    _close(view, message.agent_id, "stopped")


def started(view: View, message: agent.AgentAttemptStarted, fact: Fact, policy: SpawnerPolicy) -> None:
    """A runner holds the current attempt."""
    entity = view.agent(message.agent_id)
    view.put_agent(message.agent_id, replace(entity, runner_id=message.runner_id, untaken=0))
    view.delete_timer(spawn_timer(message.agent_id))


def turn_finished(view: View, message: agent.AgentTurnFinished, fact: Fact, policy: SpawnerPolicy) -> None:
    """The hot path. What was answered is in the transcript now: a held attempt has been sent every answer."""
    entity = view.agent(message.agent_id)
    usage = message.usage
    entity = replace(
        entity,
        turn=message.turn,
        transcript=Artifact.of(message.transcript),
        spent=entity.spent.plus(usage.input_tokens, usage.output_tokens, usage.cost_usd),
        answers=(),
    )
    view.put_agent(message.agent_id, entity)


def succeeded(view: View, message: agent.AgentSucceeded, fact: Fact, policy: SpawnerPolicy) -> None:
    """The current attempt ended with a result."""
    _close(view, message.agent_id, "succeeded")


def failed(view: View, message: agent.AgentFailed, fact: Fact, policy: SpawnerPolicy) -> None:
    """The current attempt ended without a result."""
    _close(view, message.agent_id, "failed")


def attempt_lost(view: View, message: AgentAttemptLost, fact: Fact, policy: SpawnerPolicy) -> None:
    """The current attempt is over: its runner is silent, its credential has ended, or no runner ever took it."""
    entity = view.agent(message.agent_id)
    if message.runner_id is None and message.problem.code not in CREDENTIAL_ENDS:
        entity = replace(entity, untaken=entity.untaken + 1)
    else:
        entity = replace(entity, lost=entity.lost + 1)
    view.put_agent(message.agent_id, entity)
    _close(view, message.agent_id, "lost")


def end(view: View, agent_id: str) -> None:
    """The agent's task has ended: nothing is due any more, and nobody needs to answer it."""
    _close(view, agent_id, "stopped")
    entity = view.agent(agent_id)
    for question_id in entity.pending:
        _settle(view, question_id, None)
    view.delete_timer(task_timer(agent_id))
    view.delete_timer(wait_timer(agent_id))
    view.put_agent(agent_id, replace(entity, ended=True, pending=(), answers=(), waiting_since_ms=None))


def _close(view: View, agent_id: str, how: AttemptEnd) -> None:
    """Ends the current attempt, if it has not ended."""
    view.delete_timer(spawn_timer(agent_id))
    entity = view.agent(agent_id)
    if entity.runner_id is not None:
        record = AttemptRecord(entity.attempt, entity.runner_id, entity.turns_before, entity.turn, how)
        view.put_agent(agent_id, replace(entity, runner_id=None, records=(*entity.records, record)))


def _limit_wait(view: View, agent_id: str, fact: Fact, policy: SpawnerPolicy) -> None:
    """Whoever has a credential waits with it only so long, from the first question on."""
    if view.spec(view.agent(agent_id).task_id).needs_grant and view.find_timer(wait_timer(agent_id)) is None:
        view.set_timer(wait_timer(agent_id), fact.time_ms + policy.token_wait_s * 1_000, 0, fact.tenant)


def _let_time_stand(view: View, agent_id: str, fact: Fact) -> None:
    """The task's deadline stands still while a person, or the grant of its next attempt, is waited for."""
    entity = view.agent(agent_id)
    if entity.waiting_since_ms is None:
        view.delete_timer(task_timer(agent_id))
        view.put_agent(agent_id, replace(entity, waiting_since_ms=fact.time_ms))


def _let_time_run(view: View, agent_id: str, fact: Fact) -> None:
    """The task's deadline moves on by the time waited, once nothing is waited for."""
    entity = view.agent(agent_id)
    if entity.waiting_since_ms is None or entity.pending or entity.awaits_grant or entity.idle:
        return
    entity = replace(
        entity,
        deadline_at_ms=entity.deadline_at_ms + max(0, fact.time_ms - entity.waiting_since_ms),
        deadline_generation=entity.deadline_generation + 1,
        waiting_since_ms=None,
    )
    view.put_agent(agent_id, entity)
    view.set_timer(task_timer(agent_id), entity.deadline_at_ms, entity.deadline_generation, fact.tenant)


# Questions


def input_requested(view: View, message: agent.AgentInputRequested, fact: Fact, policy: SpawnerPolicy) -> None:
    """A question exists; or one that exists was asked again, by a later attempt."""
    entity = view.agent(message.agent_id)
    question_id = question_id_of(view.pipeline_id, message.agent_id, message.request_id, entity.turn)
    view.put_request(fact.cause_id, RequestEntity(question_id=question_id))
    question = view.find_question(question_id)
    if question is not None:
        view.put_question(question_id, replace(question, asked_by=(*question.asked_by, fact.cause_id)))
        if not question.settled:
            _limit_wait(view, message.agent_id, fact, policy)
        return
    pipeline = view.pipeline()
    question = QuestionEntity(
        agent_id=message.agent_id,
        request_id=message.request_id,
        asked_by=(fact.cause_id,),
        previous=pipeline.last_question,
        default=message.default,
    )
    view.put_question(question_id, question)
    view.put_pipeline(replace(pipeline, questions=pipeline.questions + 1, last_question=question_id))


def asked(view: View, message: QuestionAsked, fact: Fact, policy: SpawnerPolicy) -> None:
    """A question waits for its answer; the task's deadline stands still from the first one on."""
    entity = view.agent(message.agent_id)
    view.put_agent(message.agent_id, replace(entity, pending=(*entity.pending, message.question_id)))
    _let_time_stand(view, message.agent_id, fact)
    _limit_wait(view, message.agent_id, fact, policy)
    pipeline = view.pipeline()
    view.put_pipeline(replace(pipeline, questions_pending=pipeline.questions_pending + 1))
    view.set_timer(question_timer(message.question_id), message.deadline_at_ms, 0, fact.tenant)


def answered(view: View, message: QuestionAnswered, fact: Fact, policy: SpawnerPolicy) -> None:
    """A question has its answer; with the last one the task's deadline moves on, by the time waited."""
    command_id = fact.cause_id if message.answered_by == "command" else None
    question = view.question(message.question_id)
    _settle(view, message.question_id, command_id)
    entity = view.agent(message.agent_id)
    pending = tuple(other for other in entity.pending if other != message.question_id)
    kept = KeptAnswer(question.request_id, 0, answer=message.answer)
    view.put_agent(message.agent_id, replace(entity, pending=pending, answers=(*entity.answers, kept)))
    if not pending:
        view.delete_timer(wait_timer(message.agent_id))
    _let_time_run(view, message.agent_id, fact)


def declined(view: View, message: QuestionDeclined, fact: Fact, policy: SpawnerPolicy) -> None:
    """A question that nobody was asked gets a problem for its answer."""
    question = view.question(message.question_id)
    view.put_question(message.question_id, replace(question, settled=True))
    entity = view.agent(message.agent_id)
    kept = KeptAnswer(question.request_id, 0, fault=Fault.of(message.problem))
    view.put_agent(message.agent_id, replace(entity, answers=(*entity.answers, kept)))


def answer_sent(view: View, message: agent.AgentAnswer, fact: Fact, policy: SpawnerPolicy) -> None:
    """The current attempt was sent an answer."""
    entity = view.agent(message.agent_id)
    answers = tuple(
        _sent(kept, entity.attempt) if kept.request_id == message.answer.request_id else kept for kept in entity.answers
    )
    view.put_agent(message.agent_id, replace(entity, answers=answers))


def _sent(kept: KeptAnswer, attempt: int) -> KeptAnswer:
    return replace(kept, sent_to=attempt)


def _settle(view: View, question_id: str, command_id: str | None) -> None:
    view.put_question(question_id, replace(view.question(question_id), settled=True, command_id=command_id))
    view.delete_timer(question_timer(question_id))
    pipeline = view.pipeline()
    view.put_pipeline(replace(pipeline, questions_pending=pipeline.questions_pending - 1))
