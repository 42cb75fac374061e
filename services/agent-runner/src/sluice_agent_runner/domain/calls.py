"""The tool calls of one model answer: which of them are run, which are refused, and what came of each."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence

import msgspec

from sluice_agent_runner.domain import violations
from sluice_agent_runner.domain.cleaning import Redact
from sluice_agent_runner.domain.conversation import AuditedCall, ToolCall, ToolCallRequest, ToolResult, WrittenArtifact
from sluice_agent_runner.domain.signals import Signals
from sluice_agent_runner.domain.tools import FORBIDDEN_BY, InvalidArguments, ToolDefinition
from sluice_contracts.messages.plan import TaskSpec
from sluice_runtime.role import Role


class TurnCalls:
    """The calls of the turn that runs. What fails or is refused is signalled at once.

    Args:
        catalogue: All tools that there are.
    """

    def __init__(
        self, task: TaskSpec, role: Role, catalogue: Mapping[str, ToolDefinition], signals: Signals, redact: Redact
    ) -> None:
        self._constraints = task.constraints
        self._role = role
        self._catalogue = catalogue
        self._signals = signals
        self._redact = redact
        self._granted: dict[str, ToolDefinition] = {}
        self._results: dict[str, ToolResult] = {}
        self.control: list[tuple[ToolCallRequest, msgspec.Struct]] = []

    @property
    def granted(self) -> Container[str]:
        """The names of the tools that the agent has."""
        return self._granted

    def grant(self, tools: Sequence[ToolDefinition]) -> None:
        """These are the tools that the agent has."""
        self._granted = {tool.name: tool for tool in tools}

    def sort_out(self, requests: Sequence[ToolCallRequest]) -> list[ToolCall]:
        """Refuses what is not lawful, keeps in `control` what steers the turn loop; the others are to be run."""
        to_run = []
        for number, request in enumerate(requests, 1):
            try:
                tool, arguments = self._checked(request, number)
            except InvalidArguments as error:
                self.refuse(request, str(error), error.breaks)
                continue
            if tool.control:
                self.control.append((request, arguments))
            else:
                to_run.append(ToolCall(request.call_id, request.name, arguments))
        return to_run

    def take(self, calls: Sequence[ToolCallRequest], results: Sequence[ToolResult]) -> None:
        """Takes what came of the calls that were run."""
        for result in results:
            content = self._redact(result.content)
            if content is not result.content:
                result = ToolResult(
                    result.call_id, content, result.is_error, result.duration_ms, result.artifact, result.breaks
                )
            self._results[result.call_id] = result
            if result.is_error:
                name = next((call.name for call in calls if call.call_id == result.call_id), "")
                self._signals.tool_failed(name, content, result.breaks)

    def accept(self, request: ToolCallRequest) -> None:
        """The loop itself did what was asked."""
        self._results[request.call_id] = ToolResult(request.call_id, "accepted")

    def refuse(self, request: ToolCallRequest, why: str, breaks: str | None = None) -> None:
        """It is not done; the model hears why."""
        why = self._redact(why)
        self._results[request.call_id] = ToolResult(request.call_id, why, is_error=True, breaks=breaks)
        self._signals.tool_failed(request.name, why, breaks)

    def result(self, request: ToolCallRequest) -> ToolResult:
        """Whatever was not run is told so: a model's protocol wants a result for each call."""
        return self._results.get(request.call_id) or ToolResult(request.call_id, "not run", is_error=True)

    def written(self, requests: Sequence[ToolCallRequest]) -> tuple[WrittenArtifact, ...]:
        """The artifacts that the calls wrote, in their order."""
        results = (self._results.get(request.call_id) for request in requests)
        return tuple(result.artifact for result in results if result is not None and result.artifact is not None)

    def audited(self, requests: Sequence[ToolCallRequest], asking: Container[str]) -> tuple[AuditedCall, ...]:
        """Each call with its outcome, for the record; `asking` are those whose answer comes later."""
        return tuple(
            AuditedCall(request, ToolResult(request.call_id, "asked; the answer is in a later turn"))
            if request.call_id in asking
            else AuditedCall(request, self.result(request))
            for request in requests
        )

    def over(self) -> None:
        """The turn is over: the next answer has calls of its own."""
        self._results = {}
        self.control = []

    def _checked(self, request: ToolCallRequest, number: int) -> tuple[ToolDefinition, msgspec.Struct]:
        tool = self._granted.get(request.name)
        if tool is None:
            raise InvalidArguments(
                f"there is no tool {request.name!r}; you have {', '.join(self._granted)}", self._broken_by(request.name)
            )
        calls_max = self._role.limits.max_tool_calls_per_turn
        if number > calls_max:
            raise InvalidArguments(f"not run: this is call {number} of the turn, and at most {calls_max} are run")
        return tool, tool.parse(request.arguments)

    def _broken_by(self, name: str) -> str | None:
        """The policy that a call of a tool which the agent has not would break; None for a name that no tool has."""
        tool = self._catalogue.get(name)
        if tool is None:
            return None
        broken = [one for one in self._constraints if FORBIDDEN_BY[one] & tool.effects]
        return min(broken, key=_gravest, default=violations.TOOL_NOT_GRANTED)


def _gravest(policy: str) -> int:
    return -("LOW", "MEDIUM", "HIGH", "CRITICAL").index(violations.SEVERITIES[policy])
