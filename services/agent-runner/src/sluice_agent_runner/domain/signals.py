"""What an attempt tells of itself for error budgets (V5, O4): progress, errors, violations; each once."""

from __future__ import annotations

from typing import NamedTuple

from sluice_agent_runner.domain.cleaning import Redact
from sluice_agent_runner.domain.violations import SEVERITIES
from sluice_contracts.messages.base import Message
from sluice_contracts.messages.signal import ErrorReported, ProgressReported, ViolationReported

PROGRESS_INTERVAL_MS = 10_000
"""Well below the minute that is a breach."""

DETAIL_MAX_CHARACTERS = 500
"""A signal is counted; who wants to read reads the turn."""

TOOL_FAILED = "tool_failed"


class Signal(NamedTuple):
    """One message for the topic `signals`.

    Attributes:
        ordinal: Its place in the attempt: what is told again has the same, and so the same id.
    """

    data: Message
    ordinal: str


class Signals:
    """Collects what is to be told, until it is taken.

    Calls of models are counted, retries too; each signal but a violation tells those since the one before it.

    Args:
        turn: Turns that were finished before this attempt.
        redact: Takes secrets out of a text.
        progress_interval_ms: A turn that lasts tells that it comes on at most so often.
        prefix: Of the ordinals: another one's signals of this attempt have another.
    """

    def __init__(
        self,
        agent_id: str,
        attempt: int,
        turn: int,
        redact: Redact,
        progress_interval_ms: int = PROGRESS_INTERVAL_MS,
        prefix: str = "",
    ) -> None:
        self._agent_id = agent_id
        self._attempt = attempt
        self._redact = redact
        self._progress_interval_ms = progress_interval_ms
        self._prefix = prefix
        self._turn = turn
        self._count = 0
        self._api_calls = 0
        self._since_ms: int | None = None
        self._told: list[Signal] = []

    def take(self) -> list[Signal]:
        """What was collected since the last time, in its order."""
        told = self._told
        if told:
            self._told = []
        return told

    def call_begins(self, now_ms: int) -> None:
        """A model is called."""
        self._api_calls += 1
        if self._since_ms is None:
            self._since_ms = now_ms

    def call_failed(self, code: str, detail: str) -> None:
        """That call brought nothing."""
        self._error(code, detail)

    def came_on(self, now_ms: int) -> None:
        """The turn that runs brought something: a piece of an answer, a tool's result; or the runner has it wait."""
        if self._since_ms is None:
            self._since_ms = now_ms
        elif now_ms - self._since_ms >= self._progress_interval_ms:
            self._since_ms = now_ms
            self._progress(self._next())

    def tool_failed(self, name: str, why: str, breaks: str | None) -> None:
        """A tool call failed or was refused; `breaks` names the policy that it broke."""
        self._error(TOOL_FAILED, f"{name}: {why}")
        if breaks is not None:
            violation = ViolationReported(
                policy=breaks,
                severity=SEVERITIES[breaks],
                agent_id=self._agent_id,
                detail=self._cut(f"{name}: {why}"),
            )
            self._told.append(Signal(violation, self._next()))

    def turn_finished(self) -> None:
        """A turn is complete."""
        self._turn += 1
        self._count = 0
        self._since_ms = None
        self._progress(str(self._turn))

    def _error(self, code: str, detail: str) -> None:
        error = ErrorReported(
            agent_id=self._agent_id,
            attempt=self._attempt,
            code=code,
            detail=self._cut(detail),
            api_calls=self._calls(),
        )
        self._told.append(Signal(error, self._next()))

    def _progress(self, ordinal: str) -> None:
        progress = ProgressReported(
            agent_id=self._agent_id, attempt=self._attempt, turn=self._turn, api_calls=self._calls()
        )
        self._told.append(Signal(progress, ordinal))

    def _calls(self) -> int:
        calls, self._api_calls = self._api_calls, 0
        return calls

    def _next(self) -> str:
        self._count += 1
        return f"{self._prefix}{self._turn + 1}.{self._count}"

    def _cut(self, text: str) -> str:
        return self._redact(text)[:DETAIL_MAX_CHARACTERS]
