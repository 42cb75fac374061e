"""The contract's messages of an attempt, made of what the turn machine decided.

A message's inline texts stay within `INLINE_BODY_MAX_BYTES` together; what does not fit goes to the artifact store
first. Which texts those are is decided here; storing them is the driver's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from sluice_agent_runner.domain import limits
from sluice_agent_runner.domain.actions import BoardRead, BoardWrite, Fail, Question, Request, Succeed
from sluice_agent_runner.domain.conversation import TurnRecord, encode_messages
from sluice_agent_runner.domain.tools import nested_deeper
from sluice_contracts.limits import INLINE_BODY_MAX_BYTES, SUMMARY_MAX_CHARACTERS
from sluice_contracts.messages.agent import (
    AgentFailed,
    AgentGrantOpened,
    AgentGrantRefused,
    AgentInputRequested,
    AgentRun,
    AgentSucceeded,
    AgentTurnFinished,
    ToolCall,
)
from sluice_contracts.messages.base import ArtifactRef, Body, Problem
from sluice_contracts.messages.blackboard import BlackboardReadRequested, BlackboardWriteRequested


@dataclass(frozen=True, slots=True)
class Attempt:
    """What fences every message of an attempt."""

    agent_id: str
    attempt: int
    runner_id: str

    @classmethod
    def of(cls, run: AgentRun, runner_id: str) -> Attempt:
        """The attempt of a run, held by a runner."""
        return cls(run.agent_id, run.attempt, runner_id)


Texts = dict[str, str]
"""The texts of one message by a name that is theirs within it: prompt, response, result.<n>, arguments.<n>."""

_SMALL_BYTES = INLINE_BODY_MAX_BYTES // 12
"""UTF-8 and JSON's escapes make at most six bytes of a character, and quotes two more: below it none is counted."""


def turn_texts(record: TurnRecord) -> Texts:
    """All texts of a turn's message."""
    texts = {"prompt": encode_messages(record.prompt), "response": record.reply.text}
    for number, call in enumerate(record.tool_calls):
        texts[f"result.{number}"] = call.result.content
        texts[f"arguments.{number}"] = call.request.arguments
    return texts


def too_large(texts: Texts) -> list[str]:
    """The names of the texts that must be stored, the largest first, so that the rest fits inline.

    Arguments that are no JSON object, or nest too deep for the contract, can't stand inline at all.
    """
    stored = [name for name, text in texts.items() if name.startswith("arguments.") and not _inline_arguments(text)]
    if sum(map(len, texts.values())) <= _SMALL_BYTES:
        return stored
    sizes = {name: len(msgspec.json.encode(text)) for name, text in texts.items() if name not in stored}
    for name, text in texts.items():
        if name in sizes and name.startswith("arguments."):
            # As it will be written: 1e15 grows when it is read and written again.
            sizes[name] = len(msgspec.json.encode(_arguments(text)))
    total = sum(sizes.values())
    for name in sorted(sizes, key=lambda name: -sizes[name]):
        limit = limits.ARGUMENTS_INLINE_MAX_BYTES if name.startswith("arguments.") else INLINE_BODY_MAX_BYTES
        if total > INLINE_BODY_MAX_BYTES or sizes[name] > limit:
            stored.append(name)
            total -= sizes[name]
    return stored


def turn_finished(
    attempt: Attempt, record: TurnRecord, transcript: ArtifactRef, texts: Texts, stored: Mapping[str, ArtifactRef]
) -> AgentTurnFinished:
    """The message that makes a turn count."""
    reply = record.reply
    return AgentTurnFinished(
        agent_id=attempt.agent_id,
        attempt=attempt.attempt,
        runner_id=attempt.runner_id,
        turn=record.turn,
        transcript=transcript,
        provider=reply.provider,
        model=reply.model,
        finish_reason=reply.finish_reason,
        usage=reply.usage,
        model_ms=record.model_ms,
        model_calls=reply.calls,
        prompt=_body("prompt", texts, stored),
        response=_body("response", texts, stored),
        tool_calls=tuple(
            ToolCall(
                call_id=call.request.call_id,
                name=call.request.name,
                arguments=None if f"arguments.{number}" in stored else _arguments(call.request.arguments),
                arguments_ref=stored.get(f"arguments.{number}"),
                result=_body(f"result.{number}", texts, stored),
                is_error=call.result.is_error,
                duration_ms=call.result.duration_ms,
            )
            for number, call in enumerate(record.tool_calls)
        ),
    )


def succeeded(attempt: Attempt, success: Succeed, texts: Texts, stored: Mapping[str, ArtifactRef]) -> AgentSucceeded:
    """The message that ends an attempt well; `texts` holds `result`."""
    return AgentSucceeded(
        agent_id=attempt.agent_id,
        attempt=attempt.attempt,
        runner_id=attempt.runner_id,
        summary=success.conclusion.summary[:SUMMARY_MAX_CHARACTERS],
        result=_body("result", texts, stored),
        artifacts=tuple(artifact.ref() for artifact in success.artifacts),
    )


def failed(attempt: Attempt, failure: Fail) -> AgentFailed:
    """The message that ends an attempt without a result."""
    return AgentFailed(
        agent_id=attempt.agent_id,
        attempt=attempt.attempt,
        runner_id=attempt.runner_id,
        problem=failure.problem,
        retryable=failure.retryable,
    )


def grant_opened(attempt: Attempt, accessor: str, latency_ms: int) -> AgentGrantOpened:
    """The message that says that the attempt has its token."""
    return AgentGrantOpened(
        agent_id=attempt.agent_id,
        attempt=attempt.attempt,
        runner_id=attempt.runner_id,
        accessor=accessor,
        latency_ms=latency_ms,
    )


def grant_refused(attempt: Attempt, accessor: str, problem: Problem, latency_ms: int) -> AgentGrantRefused:
    """The message that says why the attempt gets no token."""
    return AgentGrantRefused(
        agent_id=attempt.agent_id,
        attempt=attempt.attempt,
        runner_id=attempt.runner_id,
        accessor=accessor,
        problem=problem,
        latency_ms=latency_ms,
    )


def requested(
    attempt: Attempt, request: Request, question_timeout_s: int
) -> AgentInputRequested | BlackboardReadRequested | BlackboardWriteRequested:
    """The message that asks a person, or the blackboard."""
    match request:
        case Question():
            return _input_requested(attempt, request, question_timeout_s)
        case BoardRead():
            return BlackboardReadRequested(
                agent_id=attempt.agent_id,
                attempt=attempt.attempt,
                runner_id=attempt.runner_id,
                request_id=request.request_id,
                turn=request.turn,
                key=request.key,
                prefix=request.prefix,
            )
        case BoardWrite():
            return BlackboardWriteRequested(
                agent_id=attempt.agent_id,
                attempt=attempt.attempt,
                runner_id=attempt.runner_id,
                request_id=request.request_id,
                turn=request.turn,
                action=request.action,
                key=request.key,
                value=request.value,
                key_version=request.version,
                ttl_s=request.ttl_s,
            )


def _input_requested(attempt: Attempt, question: Question, timeout_s: int) -> AgentInputRequested:
    return AgentInputRequested(
        agent_id=attempt.agent_id,
        attempt=attempt.attempt,
        runner_id=attempt.runner_id,
        request_id=question.request_id,
        question=question.question,
        options=question.options,
        default=question.default,
        timeout_s=timeout_s,
    )


def _body(name: str, texts: Texts, stored: Mapping[str, ArtifactRef]) -> Body:
    ref = stored.get(name)
    return Body(text=texts[name]) if ref is None else Body(ref=ref)


def _inline_arguments(text: str) -> bool:
    return not nested_deeper(text, limits.ARGUMENTS_MAX_DEPTH) and _arguments(text) is not None


def _arguments(text: str) -> dict[str, Any] | None:
    try:
        value = msgspec.json.decode(text or "{}")
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
