"""What an agent has asked a person, and is waiting to hear."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from sluice_agent_runner.domain.actions import Question
from sluice_agent_runner.domain.conversation import ChatMessage, ToolCallRequest
from sluice_agent_runner.domain.tools import AskHuman
from sluice_contracts.ids import derived_id
from sluice_contracts.messages.agent import Answer


class Questions:
    """The questions of one agent that no turn has seen an answer to, in the order of asking.

    Args:
        answers: Answers that came with the attempt.
    """

    def __init__(self, agent_id: str, answers: Iterable[Answer]) -> None:
        self._agent_id = agent_id
        self._answers = {answer.request_id: answer for answer in answers}
        self._pending: dict[str, Question] = {}

    @property
    def call_ids(self) -> frozenset[str]:
        """The tool calls that wait for an answer."""
        return frozenset(self._pending)

    def __bool__(self) -> bool:
        return bool(self._pending)

    def ask(self, request: ToolCallRequest, arguments: msgspec.Struct, turn: int) -> None:
        """Adds the question of a tool call; `turn` is the turn that made it. It has the same id in every attempt."""
        assert isinstance(arguments, AskHuman)
        request_id = derived_id("question", self._agent_id, turn, request.call_id)
        self._pending[request.call_id] = Question(
            request_id, arguments.question, arguments.options, arguments.default
        )  # fmt: skip

    def unanswered(self) -> tuple[Question, ...]:
        """The questions without an answer."""
        return tuple(question for question in self._pending.values() if question.request_id not in self._answers)

    def hear(self, answer: Answer) -> None:
        """Takes an answer. The first one counts."""
        self._answers.setdefault(answer.request_id, answer)

    def settle(self) -> list[ChatMessage]:
        """The answers as messages to the model, once every question has one; nothing is pending any more."""
        messages = []
        for call_id, question in self._pending.items():
            answer = self._answers.pop(question.request_id)
            if answer.answer is not None:
                messages.append(ChatMessage("tool", answer.answer, call_id=call_id))
            else:
                why = answer.problem.detail if answer.problem is not None else "nobody answered"
                content = f"There is no answer: {why}. Decide yourself, and say so in your result."
                messages.append(ChatMessage("tool", content, call_id=call_id, is_error=True))
        self._pending = {}
        return messages
