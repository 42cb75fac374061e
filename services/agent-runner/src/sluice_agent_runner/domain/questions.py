"""What an agent has asked, of people and of the blackboard, and is waiting to hear."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from sluice_agent_runner.domain.actions import BoardRead, BoardWrite, Question, Request
from sluice_agent_runner.domain.conversation import ChatMessage, ToolCallRequest
from sluice_agent_runner.domain.tools import AskHuman, BlackboardDelete, BlackboardGet, BlackboardList, BlackboardSet
from sluice_contracts.ids import derived_id
from sluice_contracts.messages.agent import Answer


class Questions:
    """The requests of one agent that no turn has seen an answer to, in the order of asking.

    Args:
        answers: Answers that came with the attempt.
    """

    def __init__(self, agent_id: str, answers: Iterable[Answer]) -> None:
        self._agent_id = agent_id
        self._answers = {answer.request_id: answer for answer in answers}
        self._pending: dict[str, Request] = {}

    @property
    def call_ids(self) -> frozenset[str]:
        """The tool calls that wait for an answer."""
        return frozenset(self._pending)

    def ask(self, call: ToolCallRequest, arguments: msgspec.Struct, turn: int) -> None:
        """Adds what a tool call asks; `turn` is the turn that made it. It has the same id in every attempt."""
        request_id = derived_id("question", self._agent_id, turn, call.call_id)
        self._pending[call.call_id] = _request(request_id, arguments, turn)

    def unanswered(self) -> tuple[Request, ...]:
        """The requests without an answer."""
        return tuple(request for request in self._pending.values() if request.request_id not in self._answers)

    @property
    def for_person(self) -> bool:
        """Whether one of those is a person's to answer."""
        return any(isinstance(request, Question) for request in self.unanswered())

    def hear(self, answer: Answer) -> None:
        """Takes an answer. The first one counts."""
        self._answers.setdefault(answer.request_id, answer)

    def settle(self) -> list[ChatMessage]:
        """The answers as messages to the model, once every request has one; nothing is pending any more."""
        messages = []
        for call_id, request in self._pending.items():
            answer = self._answers.pop(request.request_id)
            said = _said_by_person(answer) if isinstance(request, Question) else _said_of_blackboard(answer)
            is_error = answer.problem is not None or answer.answer is None
            messages.append(ChatMessage("tool", said, call_id=call_id, is_error=is_error))
        self._pending = {}
        return messages


def _request(request_id: str, arguments: msgspec.Struct, turn: int) -> Request:
    match arguments:
        case BlackboardGet(key=key):
            return BoardRead(request_id, turn, key=key)
        case BlackboardList(prefix=prefix):
            return BoardRead(request_id, turn, prefix=prefix)
        case BlackboardSet(key=key, version=version, value=value, ttl_s=ttl_s):
            return BoardWrite(request_id, turn, "set", key, version, value, ttl_s)
        case BlackboardDelete(key=key, version=version):
            return BoardWrite(request_id, turn, "delete", key, version)
        case _:
            assert isinstance(arguments, AskHuman)
            return Question(request_id, arguments.question, arguments.options, arguments.default)


def _said_by_person(answer: Answer) -> str:
    if answer.answer is not None:
        return answer.answer
    why = answer.problem.detail if answer.problem is not None else "nobody answered"
    return f"There is no answer: {why}. Decide yourself, and say so in your result."


def _said_of_blackboard(answer: Answer) -> str:
    """What stands there; where it was not done, why, and then what stands there."""
    problem = answer.problem
    if problem is None:
        return answer.answer or ""
    limit = "" if problem.limit is None else f" ({problem.limit})"
    why = f"refused, {problem.code}: {problem.detail}{limit}"
    return why if answer.answer is None else f"{why}\n{answer.answer}"
