"""An event as one line for people."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sluice_client.cli.output import clock, shortened

Data = Mapping[str, Any]

TEXT_MAX_CHARACTERS = 160
"""A line of a terminal or two."""

PROBLEM_MAX_CHARACTERS = 600
"""Why something failed is read to its end."""


def line(event: Mapping[str, Any]) -> str:
    """Time, type and what happened."""
    return f"{clock(event['time_ms'])}  {event['type']:<22} {sentence(event)}"


def sentence(event: Mapping[str, Any]) -> str:
    """What happened."""
    data = event["data"] if isinstance(event["data"], Mapping) else {}
    tell = _SENTENCES.get(event["type"])
    most = PROBLEM_MAX_CHARACTERS if data.get("problem") else TEXT_MAX_CHARACTERS
    return shortened("" if tell is None else tell(data), most)


def _agent(data: Data) -> str:
    return f"agent {str(data.get('agent_id', ''))[:8]}"


def _problem(data: Data) -> str:
    problem = data.get("problem") or {}
    return f"{problem.get('code', '')}: {problem.get('detail', '')}"


def _turn(data: Data) -> str:
    calls = ", ".join(call.get("name", "") for call in data.get("tool_calls") or ())
    said = (data.get("response") or {}).get("text") or ""
    return f"{_agent(data)} turn {data.get('turn')}: {calls or 'no tool'} – {said}"


def _end(data: Data) -> str:
    usage = data.get("usage") or {}
    tokens = usage.get("input_tokens", 0) + usage.get("output_tokens", 0)
    return f"after {data.get('duration_ms', 0) / 1_000:.1f} s, {tokens} tokens: {data.get('reason', '')}"


def _holder(data: Data) -> str:
    if not data.get("agent_id"):
        return "the pipeline"
    return _agent(data) + (f" attempt {data['attempt']}" if data.get("attempt") else "")


def _granted(data: Data) -> str:
    took = f"in {data.get('latency_ms', 0)} ms"
    return f"{data.get('accessor')} to {_holder(data)} {took}: {data.get('reason', 'requested')}"


def _denied(data: Data) -> str:
    asked = {"token.revoke": "revocation of ", "token.renew": "renewal of "}.get(data.get("command", ""), "to ")
    return f"{asked}{_holder(data)}: {_problem(data)}"


def _revoked(data: Data) -> str:
    named = len(data.get("accessors") or ())
    why = f"{data.get('reason')}" + (f", {data['detail']}" if data.get("detail") else "")
    return f"{named} of {_holder(data)} in {data.get('latency_ms', 0)} ms: {why}"


def _key(data: Data) -> str:
    return f"{data.get('key')} version {data.get('key_version')}"


_SENTENCES: Mapping[str, Callable[[Data], str]] = {
    "pipeline.spawned": lambda data: (data.get("plan") or {}).get("objective", ""),
    "pipeline.refused": _problem,
    "pipeline.state_changed": lambda data: f"{data.get('from_state')} → {data.get('to_state')}: {data.get('reason')}",
    "pipeline.reported": lambda data: f"{len(data.get('outcomes') or ())} outcomes",
    "pipeline.completed": _end,
    "pipeline.failed": _end,
    "pipeline.cancelled": _end,
    "task.assigned": lambda data: f"{data.get('task_id')} to queue {data.get('queue')}, attempt {data.get('attempt')}",
    "task.started": lambda data: f"{data.get('task_id')} on {data.get('runner_id')}, attempt {data.get('attempt')}",
    "task.retried": lambda data: f"{data.get('task_id')}: {_problem(data)}",
    "task.succeeded": lambda data: f"{data.get('task_id')}: {data.get('summary', '')}",
    "task.failed": lambda data: f"{data.get('task_id')}: {_problem(data)}",
    "task.skipped": lambda data: f"{data.get('task_id')}: {data.get('reason')}",
    "task.cancelled": lambda data: f"{data.get('task_id')}: {data.get('reason')}",
    "agent.created": lambda data: f"{_agent(data)} for {data.get('task_id')}, role {data.get('role')}",
    "agent.state_changed": lambda data: f"{_agent(data)} {data.get('from_state')} → {data.get('to_state')}",
    "agent.attempt_lost": lambda data: f"{_agent(data)} attempt {data.get('attempt')}: {_problem(data)}",
    "agent.attempt_refused": lambda data: f"{_agent(data)} {data.get('refused_type')}: {_problem(data)}",
    "agent.attempt_started": lambda data: f"{_agent(data)} attempt {data.get('attempt')} on {data.get('runner_id')}",
    "agent.grant_opened": lambda data: f"{_agent(data)} attempt {data.get('attempt')} has its credential",
    "agent.grant_refused": lambda data: f"{_agent(data)} attempt {data.get('attempt')}: {_problem(data)}",
    "agent.turn_finished": _turn,
    "agent.succeeded": lambda data: f"{_agent(data)}: {data.get('summary', '')}",
    "agent.failed": lambda data: f"{_agent(data)}: {_problem(data)}",
    "agent.input_requested": lambda data: f"{_agent(data)}: {data.get('question', '')}",
    "token.granted": _granted,
    "token.denied": _denied,
    "token.renewed": lambda data: f"{data.get('accessor')} of {_holder(data)}: {data.get('reason', 'due')}",
    "token.revoked": _revoked,
    "token.expired": lambda data: f"{data.get('accessor')} of {_holder(data)}",
    "error.reported": lambda data: f"{_holder(data)}: {data.get('code')}: {data.get('detail')}",
    "violation.reported": lambda data: (
        f"{data.get('severity')} of {data.get('policy')} by {_holder(data)}: {data.get('detail')}"
    ),
    "alert.raised": lambda data: f"{_holder(data)}, {data.get('condition')}: {data.get('detail')}",
    "handoff.reported": lambda data: f"{data.get('summary')}",
    "blackboard.read_requested": lambda data: f"{_agent(data)} reads {data.get('key') or 'the list of keys'}",
    "blackboard.write_requested": lambda data: (
        f"{_agent(data)}: {data.get('action')} {data.get('key')} on version {data.get('key_version', 0)}"
    ),
    "blackboard.written": lambda data: f"{_key(data)} by {_agent(data)}: {data.get('value', '')}",
    "blackboard.deleted": lambda data: f"{_key(data)} by {_agent(data)}",
    "blackboard.conflict_detected": lambda data: (
        f"{_key(data)}: {_agent(data)} had read version {data.get('expected_version')}"
    ),
    "blackboard.conflict_resolved": lambda data: f"{_key(data)}: {_agent(data)}: {data.get('resolution')}",
    "question.asked": lambda data: f"{data.get('question_id')}: {data.get('question', '')}",
    "question.answered": lambda data: f"{data.get('question_id')} by {data.get('answered_by')}: {data.get('answer')}",
}
