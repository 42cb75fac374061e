"""The scripted model: plays a scenario file in place of a model, so that everything else is real without a key.

It has no memory. Which turn it plays follows from the request (the number of the turn that is asked for), what it
captured is found again in the conversation, which fault it plays follows from the request's retry number: a resumed
agent meets the same model that a fresh one would.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import re2

from sluice_agent_runner.adapters.scenarios import (
    Assertion,
    Check,
    CompiledScript,
    CompiledTurn,
    FaultEntry,
    Scenario,
    ScenarioLibrary,
    Turn,
    compile_pattern,
)
from sluice_agent_runner.adapters.templates import arguments_text, filled, filled_value
from sluice_agent_runner.domain.conversation import ModelReply, ModelRequest, ToolCallRequest
from sluice_agent_runner.ports import Caller, ModelError, ModelRefused, ModelUnavailable, Time
from sluice_runtime.yaml_files import InvalidFile

PROVIDER = "scripted"

SEEN_MAX_CHARACTERS = 200
"""So much of what a failed capture or assertion saw is told."""

_FAULTS: Mapping[str, tuple[type[ModelError], str, str]] = {
    "timeout": (ModelUnavailable, "model_timeout", "the model did not answer in time"),
    "401": (ModelRefused, "model_unauthorized", "the provider answered 401: the key is wrong or was withdrawn"),
    "429": (ModelUnavailable, "rate_limited", "the provider answered 429: too many requests"),
    "500": (ModelUnavailable, "model_server_error", "the provider answered 500"),
    "malformed": (ModelUnavailable, "model_malformed", "the provider's answer is not JSON"),
    "cut_stream": (ModelUnavailable, "model_stream_cut", "the provider's stream ended before its end"),
}
"""As the HTTP provider tells the same faults."""


class ScriptedProvider:
    """Answers from scenarios. `scripted:NAME` names one.

    Whoever names no model gets the default one; whoever names another model gets it only where a default file was set:
    a model that somebody wants must not be replaced by the shipped `no-model` in silence.
    """

    def __init__(self, library: ScenarioLibrary, time: Time) -> None:
        self._library = library
        self._time = time

    async def complete(self, request: ModelRequest, caller: Caller) -> ModelReply:
        """See `ports.ModelProvider.complete`."""
        scenario = self._scenario(request.model)
        script = scenario.script(request.role, request.task_id)
        if script is None:
            raise ModelRefused(
                "scenario_has_no_script",
                f"scenario {scenario.name} has no script for role {request.role} or task {request.task_id}; add one",
            )
        number = request.turn
        compiled = script.at(number)
        if compiled is None:
            raise ModelRefused(
                "scenario_exhausted",
                f"scenario {scenario.name} has {script.count} turns for role {request.role} and task "
                f"{request.task_id}; turn {number} was asked for: end the last with finish, or add turns",
            )
        turn = compiled.turn
        if turn.delay_ms:
            await self._time.sleep(turn.delay_ms / 1_000)
        played = turn.faults_through_attempt is None or request.attempt <= turn.faults_through_attempt
        if played and request.retry < len(turn.faults):
            raise _fault(turn.faults[request.retry], scenario, number)
        return _reply(scenario, script, compiled, number, request)

    def _scenario(self, model: str | None) -> Scenario:
        kind, _, name = (model or "").partition(":")
        scripted = kind == PROVIDER
        if model is not None and not scripted and not self._library.has_default_file:
            raise ModelRefused(
                "unknown_model",
                f"model {model[:100]!r}: this runner has no model provider; set SLUICE_MODEL_PROVIDER (sluice up: "
                f"OPENROUTER_API_KEY), or name a scenario: {PROVIDER}:NAME",
            )
        try:
            return self._library.get(name if scripted else None)
        except InvalidFile as error:
            raise ModelRefused("scenario_invalid", str(error)) from None


def _fault(entry: FaultEntry, scenario: Scenario, number: int) -> ModelError:
    cls, code, detail = _FAULTS[entry.fault]
    detail = f"{detail} (scripted: scenario {scenario.name}, turn {number})"
    if cls is ModelUnavailable:
        return ModelUnavailable(code, detail, retry_after_s=entry.retry_after_s)
    return cls(code, detail)


def _reply(
    scenario: Scenario, script: CompiledScript, compiled: CompiledTurn, number: int, request: ModelRequest
) -> ModelReply:
    turn = compiled.turn
    text, calls = turn.text, compiled.fixed_calls
    if turn.assert_ or turn.capture or calls is None or not compiled.fixed_text:
        looker = _Looker(scenario, number, request)
        values = looker.values(script)
        for assertion in turn.assert_:
            looker.check(assertion, values)
        try:
            if not compiled.fixed_text:
                text = filled(turn.text, values)
            if calls is None:
                calls = tuple(
                    (call.name, arguments_text(filled_value(call.arguments, values))) for call in turn.tool_calls
                )
        except ValueError as error:
            raise looker.failure(str(error)) from None
    return ModelReply(
        text=text,
        tool_calls=tuple(
            ToolCallRequest(f"call_{number}_{index}", name, arguments)
            for index, (name, arguments) in enumerate(calls, 1)
        ),
        finish_reason="tool_calls" if calls else "stop",
        usage=turn.usage,
        provider=PROVIDER,
        model=f"{PROVIDER}:{scenario.name}",
    )


class _Looker:
    """Looks at a conversation as one turn of a script does."""

    def __init__(self, scenario: Scenario, number: int, request: ModelRequest) -> None:
        self._scenario = scenario
        self._number = number
        self._request = request
        self._results: dict[int, list[tuple[str, str]]] | None = None

    def values(self, script: CompiledScript) -> dict[str, str]:
        """All that the turns up to this one capture."""
        request = self._request
        values = {"turn": str(self._number), "task": request.task_id, "role": request.role}
        for first, turn in script.captures:
            for number in range(first, min(first + turn.repeat - 1, self._number) + 1):
                self._capture(turn, number, values)
        return values

    def _capture(self, turn: Turn, number: int, values: dict[str, str]) -> None:
        for capture in turn.capture:
            text = self._text(capture, number)
            pattern = self._pattern(capture, values)
            match = None
            if capture.match == "first":
                match = pattern.search(text)
            else:
                for later in pattern.finditer(text):
                    match = later
            if match is None:
                raise self._unmet("capture", pattern, capture, text, number)
            values.update({name: value or "" for name, value in match.groupdict().items()})

    def check(self, assertion: Assertion, values: Mapping[str, str]) -> None:
        """Holds an assertion against what was seen.

        Raises:
            ModelRefused: It does not hold.
        """
        text = self._text(assertion, self._number)
        pattern = self._pattern(assertion, values)
        if (pattern.search(text) is None) != assertion.absent:
            raise self._unmet("assert absent" if assertion.absent else "assert", pattern, assertion, text, self._number)

    def failure(self, why: str) -> ModelRefused:
        """The error of an unmet expectation; the agent fails for good."""
        request = self._request
        return ModelRefused(
            "scenario_assertion_failed",
            f"scenario {self._scenario.name}, role {request.role}, task {request.task_id}, turn {self._number}: {why}",
        )

    def _unmet(self, kind: str, pattern: Any, check: Check, text: str, number: int) -> ModelRefused:
        where = "the prompt" if check.source == "prompt" else "the tool results"
        of = f" of {check.tool}" if check.tool else ""
        at = f" (of turn {number})" if number != self._number else ""
        expression = pattern.pattern.removeprefix("(?m)")
        return self.failure(f"{kind}{at} {expression!r} failed on {where}{of}; it saw {text[:SEEN_MAX_CHARACTERS]!r}")

    def _pattern(self, check: Check, values: Mapping[str, str]) -> Any:
        try:
            return _compiled(filled(check.pattern, values, re.escape))
        except (ValueError, re2.error) as error:  # some patterns are invalid only once they are filled: x{1,{{n}}}
            raise self.failure(str(error)) from None

    def _text(self, check: Check, number: int) -> str:
        """What a check of turn `number` looks at."""
        if check.source == "prompt":
            return next((message.content for message in self._request.messages if message.role == "user"), "")
        if check.turn == "all":
            turns = list(range(1, number))
        else:
            turns = [check.turn if check.turn is not None else number - 1]
        if self._results is None:
            self._results = _results_by_turn(self._request)
        results = self._results
        return "\n".join(
            content
            for turn in turns
            for tool, content in results.get(turn, ())
            if check.tool is None or tool == check.tool
        )


@lru_cache(maxsize=1_024)
def _compiled(pattern: str) -> Any:
    return compile_pattern(pattern)


def _results_by_turn(request: ModelRequest) -> dict[int, list[tuple[str, str]]]:
    """(tool, result) of each turn that stands in the conversation."""
    turn = 0
    tools: dict[str | None, str] = {}
    results: dict[int, list[tuple[str, str]]] = {}
    for message in request.messages:
        if message.role == "assistant":
            turn += 1
            tools = {call.call_id: call.name for call in message.tool_calls}
        elif message.role == "tool":
            results.setdefault(turn, []).append((tools.get(message.call_id, ""), message.content))
    return results
