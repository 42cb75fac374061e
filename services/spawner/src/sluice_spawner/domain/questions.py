"""Questions of agents to people, and their answers (P10)."""

from __future__ import annotations

from sluice_contracts.messages.agent import AgentAnswer, AgentInputRequested, Answer
from sluice_contracts.messages.pipeline import (
    PipelineAnswer,
    PipelineStateChanged,
    QuestionAnswered,
    QuestionAsked,
)
from sluice_spawner.domain import ending, fencing, grants, tasks
from sluice_spawner.domain.building import DecisionBuilder
from sluice_spawner.domain.errors import CoordinationFailed, SpawnerError, SpawnLimitExceeded, SpawnRefused
from sluice_spawner.domain.facts import GrantGivenUp, InputRefused, QuestionDeclined, question_id_of
from sluice_spawner.domain.outcomes import json_bytes
from sluice_spawner.domain.policy import ANSWER_MAX_BYTES, QUESTION_MAX_BYTES, QUESTIONS_PER_AGENT_MAX_COUNT
from sluice_spawner.domain.state import AgentEntity


def input_requested(builder: DecisionBuilder, message: AgentInputRequested) -> None:
    """An agent asks. What it asked before a crash meets its question, and the answer if there is one."""
    if builder.view.find_request(builder.cause.id) is not None:
        return
    agent = fencing.current(builder, message)
    if agent is None:
        if builder.view.find_finished() is None or fencing.record_of(builder, message) is None:
            fencing.refuse(builder, message)
        return
    question_id = question_id_of(builder.pipeline_id, message.agent_id, message.request_id, agent.turn)
    question = builder.view.find_question(question_id)
    if question is None:
        _ask(builder, message, agent, question_id)
        return
    builder.accept(message)
    if question.settled:
        _send_again(builder, message.agent_id, message.request_id)
    else:
        ending.change_agent(builder, message.agent_id, "WAITING", "asks again")


def _ask(builder: DecisionBuilder, message: AgentInputRequested, agent: AgentEntity, question_id: str) -> None:
    too_much = _limit_broken(builder, message, agent)
    if too_much is not None:
        # No question is remembered of it, so that a flood of requests leaves no more in the state than refusals do.
        if not builder.refused_before():
            builder.accept(InputRefused())
            _tell(builder, message.agent_id, Answer(request_id=message.request_id, problem=too_much.problem()))
        return
    plan = builder.view.plan()
    builder.accept(message)
    if plan.unattended and message.default is None:
        nobody = CoordinationFailed(
            "the pipeline is unattended and the question has no default; decide without an answer, or give up",
            code="question_unanswered",
        )
        builder.accept(QuestionDeclined(question_id=question_id, agent_id=message.agent_id, problem=nobody.problem()))
        send_answers(builder, message.agent_id)
        return
    builder.publish(
        QuestionAsked(
            question_id=question_id,
            agent_id=message.agent_id,
            question=message.question,
            options=message.options,
            default=message.default,
            deadline_at_ms=builder.now_ms + message.timeout_s * 1_000,
        )
    )
    if plan.unattended and message.default is not None:
        _settle(builder, question_id, message.default, "default")
        return
    ending.change_agent(builder, message.agent_id, "WAITING", "asks a person")
    state = builder.view.pipeline().state
    if state != "NEEDS_INPUT":
        builder.publish(
            PipelineStateChanged(from_state=state, to_state="NEEDS_INPUT", reason=f"task {agent.task_id} asks a person")
        )


def _limit_broken(
    builder: DecisionBuilder, message: AgentInputRequested, agent: AgentEntity
) -> SpawnLimitExceeded | None:
    fresh = sum(kept.of_person for kept in agent.answers)
    if len(agent.pending) + fresh >= QUESTIONS_PER_AGENT_MAX_COUNT:
        return SpawnLimitExceeded(
            f"the agent has {len(agent.pending)} open questions and {fresh} fresh answers; finish a turn "
            f"with the answers first",
            limit=f"QUESTIONS_PER_AGENT_MAX_COUNT: {QUESTIONS_PER_AGENT_MAX_COUNT} questions",
        )
    allowed = builder.policy.questions_per_pipeline_max
    if builder.view.pipeline().questions >= allowed:
        return SpawnLimitExceeded(
            f"the pipeline has asked {allowed} questions; decide without an answer",
            limit=f"questions_per_pipeline_max: {allowed} questions",
        )
    size = sum(map(json_bytes, (message.question, message.default or "", *message.options)))
    if size > QUESTION_MAX_BYTES:
        return SpawnLimitExceeded(
            f"the question has {size} bytes; ask in fewer, and write the rest into an artifact",
            limit=f"QUESTION_MAX_BYTES: {QUESTION_MAX_BYTES} bytes",
        )
    if message.default is not None and json_bytes(message.default) > ANSWER_MAX_BYTES:
        return SpawnLimitExceeded(
            f"the default has {json_bytes(message.default)} bytes; an answer may have {ANSWER_MAX_BYTES}",
            limit=f"ANSWER_MAX_BYTES: {ANSWER_MAX_BYTES} bytes",
        )
    return None


# Answers


def answer(builder: DecisionBuilder, message: PipelineAnswer) -> None:
    """A command answers a question. The first answer in the order of the log counts; every other is refused."""
    question = builder.view.find_question(message.question_id)
    if question is None:
        refused: SpawnerError = SpawnRefused(
            f"pipeline {builder.pipeline_id} has no question {message.question_id}; see its pending questions",
            code="unknown_question",
            field="question_id",
        )
    elif question.settled and question.command_id == builder.cause.id:
        return
    elif question.settled:
        refused = SpawnRefused(
            f"question {message.question_id} is settled already", code="question_settled", field="question_id"
        )
    elif json_bytes(message.answer) > ANSWER_MAX_BYTES:
        refused = SpawnLimitExceeded(
            f"the answer has {json_bytes(message.answer)} bytes; at most {ANSWER_MAX_BYTES} reach an agent: shorten it",
            code="answer_too_large",
            field="answer",
            limit=f"ANSWER_MAX_BYTES: {ANSWER_MAX_BYTES} bytes",
        )
    else:
        _settle(builder, message.question_id, message.answer, "command")
        return
    builder.refuse(refused.problem())


def waited_too_long(builder: DecisionBuilder, agent_id: str) -> None:
    """An agent has waited too long for a person (V1): it keeps its question, and neither its attempt nor its token.

    With the last one that had a token the pipeline's own is given up too. The answer starts the next attempt.
    """
    view = builder.view
    if not view.agent(agent_id).has_attempt:
        return
    ending.stop_agent(builder, agent_id, "waits for a person")
    builder.accept(GrantGivenUp(agent_id=agent_id))
    agents = [view.find_agent(view.agent_id(task_id)) for task_id in view.plan().task_ids]
    if any(agent is not None and not agent.ended and not agent.idle for agent in agents):
        grants.revoke(builder, "waiting", agent_id, view.agent(agent_id).attempt)
    else:
        grants.revoke(builder, "waiting")


def deadline_passed(builder: DecisionBuilder, question_id: str) -> None:
    """Nobody answered in time: the default counts, or the task fails."""
    question = builder.view.question(question_id)
    if question.default is not None:
        _settle(builder, question_id, question.default, "deadline")
        return
    unanswered = CoordinationFailed(
        f"nobody answered question {question_id} by its deadline, and it has no default; answer sooner, or have the "
        f"agent ask with a default",
        code="question_unanswered",
    )
    tasks.stop_and_fail(builder, question.agent_id, unanswered.problem())


def _settle(builder: DecisionBuilder, question_id: str, text: str, answered_by: str) -> None:
    agent_id = builder.view.question(question_id).agent_id
    builder.publish(QuestionAnswered(question_id=question_id, agent_id=agent_id, answer=text, answered_by=answered_by))
    send_answers(builder, agent_id)
    agent = builder.view.agent(agent_id)
    if agent.idle and not agent.pending:
        if builder.view.pipeline().revoked is None:
            tasks.run_attempt(builder, agent_id, "has its answers")
    elif agent.state == "WAITING" and not agent.pending:
        ending.change_agent(builder, agent_id, "BUSY", "has its answers")
    tasks.advance(builder)


def send_answers(builder: DecisionBuilder, agent_id: str) -> None:
    """Sends an agent the answers that its current attempt has not been sent.

    Only to a runner that holds it: one that does not know the agent yet would drop the answer. It is sent them when it
    says that it holds it.
    """
    agent = builder.view.agent(agent_id)
    if agent.runner_id is None:
        return
    for kept, sending in zip(agent.answers, tasks.kept_answers(agent), strict=True):
        if kept.sent_to < agent.attempt:
            _tell(builder, agent_id, sending)


def _send_again(builder: DecisionBuilder, agent_id: str, request_id: str) -> None:
    for sending in tasks.kept_answers(builder.view.agent(agent_id)):
        if sending.request_id == request_id:
            _tell(builder, agent_id, sending)


def _tell(builder: DecisionBuilder, agent_id: str, sending: Answer) -> None:
    queue = builder.view.agent(agent_id).queue
    builder.tell(queue, AgentAnswer(agent_id=agent_id, answer=sending))
