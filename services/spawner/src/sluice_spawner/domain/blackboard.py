"""The blackboard of a pipeline (A4): agents ask, and this decides, in the order of the log.

A write counts only on the version that the key has by then: of two on the same version the second is a conflict. An
answer is kept with the agent until a finished turn has seen it, so a request that is asked again by a later attempt is
answered as it was, and changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec

from sluice_contracts.limits import IDENTIFIER_PATTERN
from sluice_contracts.messages.agent import AgentAnswer, Answer
from sluice_contracts.messages.blackboard import (
    BlackboardDeleted,
    BlackboardReadRequested,
    BlackboardRequest,
    BlackboardWriteRequested,
    BlackboardWritten,
)
from sluice_spawner.domain import conflicts, fencing, questions, tasks
from sluice_spawner.domain.building import DecisionBuilder
from sluice_spawner.domain.errors import BlackboardRefused
from sluice_spawner.domain.facts import AnswerKept, InputRefused
from sluice_spawner.domain.outcomes import json_bytes
from sluice_spawner.domain.policy import (
    ANSWER_MAX_BYTES,
    BLACKBOARD_ANSWERS_MAX_BYTES,
    BLACKBOARD_KEY_MAX_CHARACTERS,
    BLACKBOARD_KEYS_MAX_COUNT,
    BLACKBOARD_REQUESTS_PER_TURN_MAX_COUNT,
    BLACKBOARD_TTL_MAX_S,
    BLACKBOARD_VALUE_MAX_BYTES,
    CONFLICTS_PER_AGENT_MAX_COUNT,
)
from sluice_spawner.domain.state import AgentEntity
from sluice_spawner.domain.state_blackboard import KeyEntity

LIST_MAX_BYTES = ANSWER_MAX_BYTES - 512
"""Of a list of keys, with its escapes; the rest of an answer is names and numbers."""


def read_requested(builder: DecisionBuilder, message: BlackboardReadRequested) -> None:
    """An agent asks for a key, or for the names of keys."""
    agent = _asking(builder, message)
    if agent is None:
        return
    refused = _too_much(agent, message)
    if refused is None and message.key is not None:
        refused = _no_key(message.key)
    if refused is not None:
        _decline(builder, message, refused)
    else:
        text = _list(builder, message.prefix) if message.key is None else _entry(builder, message.key)
        _keep(builder, message, Answer(request_id=message.request_id, answer=text))


def write_requested(builder: DecisionBuilder, message: BlackboardWriteRequested) -> None:
    """An agent asks to set or delete a key."""
    agent = _asking(builder, message)
    if agent is None:
        return
    key = builder.view.find_key(message.key)
    refused = (
        _too_much(agent, message)
        or _no_key(message.key)
        or _too_large(builder, message, key)
        or _no_version(builder, message, key)
    )
    if refused is None and key is not None and message.key_version != _version(builder, key):
        if len(agent.conflicts) < CONFLICTS_PER_AGENT_MAX_COUNT:
            conflicts.detect(builder, message, key)
            lost = _second(builder, message, key)
            answer = Answer(request_id=message.request_id, answer=_entry(builder, message.key), problem=lost.problem())
            _keep(builder, message, answer)
            return
        refused = _limit(
            f"the agent has {len(agent.conflicts)} conflicts that it has not settled; read those keys, and write them "
            f"anew, or let them be",
            "key_version",
            f"CONFLICTS_PER_AGENT_MAX_COUNT: {CONFLICTS_PER_AGENT_MAX_COUNT} conflicts",
        )
    if refused is not None:
        _decline(builder, message, refused)
    else:
        _write(builder, message, 1 if key is None else key.version + 1)


def _write(builder: DecisionBuilder, message: BlackboardWriteRequested, version: int) -> None:
    if message.action == "delete":
        builder.publish(BlackboardDeleted(key=message.key, key_version=version, agent_id=message.agent_id))
    else:
        ttl_s = builder.policy.blackboard_ttl_s if message.ttl_s is None else message.ttl_s
        builder.publish(
            BlackboardWritten(
                key=message.key,
                key_version=version,
                agent_id=message.agent_id,
                value=message.value,
                expires_at_ms=builder.now_ms + ttl_s * 1_000,
            )
        )
    conflicts.written(builder, message.agent_id, message.key)
    accepted = _json({"key": message.key, "version": version, "accepted": message.action})
    _keep(builder, message, Answer(request_id=message.request_id, answer=accepted))


def _asking(builder: DecisionBuilder, message: BlackboardRequest) -> AgentEntity | None:
    """The agent, if its request is news.

    It asks after the turn that it finished last. So what names an older turn was decided long ago, or nobody waits for
    it any more; and of this turn's requests the answers are kept, or it is remembered that they were refused.
    """
    agent = fencing.current(builder, message)
    if agent is None:
        record = fencing.record_of(builder, message)
        if record is None or not record.turns_before <= message.turn <= record.turns:
            fencing.refuse(builder, message)
        return None
    decided = message.turn < agent.turn or builder.refused_before()
    if decided or any(kept.request_id == message.request_id for kept in agent.answers):
        return None
    return agent


def _keep(builder: DecisionBuilder, message: BlackboardRequest, answer: Answer) -> None:
    builder.accept(AnswerKept(agent_id=message.agent_id, answer=answer))
    questions.send_answers(builder, message.agent_id)


def _decline(builder: DecisionBuilder, message: BlackboardRequest, refused: BlackboardRefused) -> None:
    """Tells an agent why nothing was done. Of that no answer is kept: asked again, it may be otherwise."""
    builder.accept(InputRefused())
    answer = Answer(request_id=message.request_id, problem=refused.problem())
    builder.tell(builder.view.agent(message.agent_id).queue, AgentAnswer(agent_id=message.agent_id, answer=answer))


# What an agent reads


def _version(builder: DecisionBuilder, key: KeyEntity | None) -> int:
    """The version on which a write counts; 0: the key does not exist."""
    return key.version if key is not None and key.lives(builder.now_ms) else 0


def _entry(builder: DecisionBuilder, name: str) -> str:
    key = builder.view.find_key(name)
    if key is None or not key.lives(builder.now_ms):
        return _json({"key": name, "version": 0, "value": None})
    task_id = builder.view.agent(key.agent_id).task_id
    told = {"key": name, "version": key.version, "task": task_id, "expires_at_ms": key.expires_at_ms}
    return _json({**told, "value": key.value})


def _list(builder: DecisionBuilder, prefix: str) -> str:
    """The keys that exist, by their names; as many as fit."""
    found = list(_living(builder, prefix))
    shown: list[dict[str, object]] = []
    size_bytes = 0
    for name, key in found:
        told = {"key": name, "version": key.version, "task": builder.view.agent(key.agent_id).task_id}
        size_bytes += json_bytes(_json(told))
        if size_bytes > LIST_MAX_BYTES:
            break
        shown.append(told)
    return _json({"keys": shown, "not_shown": len(found) - len(shown)})


def _living(builder: DecisionBuilder, prefix: str) -> Iterator[tuple[str, KeyEntity]]:
    for name in sorted(builder.view.blackboard().keys):
        key = builder.view.key(name)
        if name.startswith(prefix) and key.lives(builder.now_ms):
            yield name, key


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


# Why it is not obeyed


def _second(builder: DecisionBuilder, message: BlackboardWriteRequested, key: KeyEntity) -> BlackboardRefused:
    task_id = builder.view.agent(key.agent_id).task_id
    version = _version(builder, key)
    return BlackboardRefused(
        f"task {task_id} was first: you had read version {message.key_version} of the key, and now it is {version}. "
        f"Decide anew with what it says now, and write on version {version}, or let it be",
        code="blackboard_conflict",
        field="key_version",
    )


def _too_much(agent: AgentEntity, message: BlackboardRequest) -> BlackboardRefused | None:
    if message.turn > agent.turn:
        return BlackboardRefused(
            f"the request names turn {message.turn}, and {agent.turn} are finished; ask after a finished turn",
            code="blackboard_turn_unknown",
            field="turn",
        )
    answers = [
        answer for kept, answer in zip(agent.answers, tasks.kept_answers(agent), strict=True) if not kept.of_person
    ]
    if len(answers) >= BLACKBOARD_REQUESTS_PER_TURN_MAX_COUNT:
        return _limit(
            f"the agent has asked {len(answers)} times in this turn; go on in the next one",
            "turn",
            f"BLACKBOARD_REQUESTS_PER_TURN_MAX_COUNT: {BLACKBOARD_REQUESTS_PER_TURN_MAX_COUNT} requests",
        )
    size_bytes = sum(len(answer.model_dump_json(exclude_none=True).encode()) for answer in answers)
    if size_bytes + ANSWER_MAX_BYTES > BLACKBOARD_ANSWERS_MAX_BYTES:
        return _limit(
            f"the answers of this turn have {size_bytes} bytes; go on in the next one",
            "turn",
            f"BLACKBOARD_ANSWERS_MAX_BYTES: {BLACKBOARD_ANSWERS_MAX_BYTES} bytes",
        )
    return None


def _no_key(name: str) -> BlackboardRefused | None:
    if re.fullmatch(IDENTIFIER_PATTERN, name) is not None:
        return None
    return BlackboardRefused(
        f"{name[:BLACKBOARD_KEY_MAX_CHARACTERS]!r} is no key; it begins with a letter or digit, and has letters, "
        f"digits, dots, underscores and hyphens",
        code="blackboard_key_invalid",
        field="key",
        limit=f"BLACKBOARD_KEY_MAX_CHARACTERS: {BLACKBOARD_KEY_MAX_CHARACTERS} characters",
    )


def _too_large(
    builder: DecisionBuilder, message: BlackboardWriteRequested, key: KeyEntity | None
) -> BlackboardRefused | None:
    size_bytes = json_bytes(_json(message.value))
    if size_bytes > BLACKBOARD_VALUE_MAX_BYTES:
        return _limit(
            f"the value has {size_bytes} bytes with its escapes; write an artifact, and put that one's name here",
            "value",
            f"BLACKBOARD_VALUE_MAX_BYTES: {BLACKBOARD_VALUE_MAX_BYTES} bytes",
        )
    if message.ttl_s is not None and message.ttl_s > BLACKBOARD_TTL_MAX_S:
        return _limit(
            f"{message.ttl_s} s is too long for a value to last",
            "ttl_s",
            f"BLACKBOARD_TTL_MAX_S: {BLACKBOARD_TTL_MAX_S} s",
        )
    if key is None and message.action == "set" and len(builder.view.blackboard().keys) >= BLACKBOARD_KEYS_MAX_COUNT:
        return _limit(
            f"the pipeline has used {BLACKBOARD_KEYS_MAX_COUNT} keys; write one of those",
            "key",
            f"BLACKBOARD_KEYS_MAX_COUNT: {BLACKBOARD_KEYS_MAX_COUNT} keys",
        )
    return None


def _no_version(
    builder: DecisionBuilder, message: BlackboardWriteRequested, key: KeyEntity | None
) -> BlackboardRefused | None:
    """Nobody was first, and still there is nothing to write on: the value has expired, or never was."""
    version, last = _version(builder, key), 0 if key is None else key.version
    if message.key_version == version == 0 and message.action == "delete":
        return BlackboardRefused("there is no such key to delete", code="blackboard_key_unknown", field="key")
    if message.key_version != version and message.key_version >= last:
        return BlackboardRefused(
            f"the key has version {version}, not {message.key_version}; read it, and write on the version that it has",
            code="blackboard_version_unknown",
            field="key_version",
        )
    return None


def _limit(detail: str, field: str, limit: str) -> BlackboardRefused:
    return BlackboardRefused(detail, code="blackboard_limit_exceeded", field=field, limit=limit)
