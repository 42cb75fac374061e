"""A model's answer, made fit to be kept: redacted, and of lawful size."""

from __future__ import annotations

from collections.abc import Callable, Container

from sluice_agent_runner.domain import limits
from sluice_agent_runner.domain.conversation import ModelReply, ToolCallRequest

Redact = Callable[[str], str]
"""Takes secrets out of a text; gives back the very same object where there are none."""


def cleaned(reply: ModelReply, turn: int, granted: Container[str], redact: Redact) -> ModelReply:
    """The answer, redacted, with call ids that are unique and of lawful length.

    Args:
        reply: As the provider told it.
        turn: The turn's number, for the ids that are made here.
        granted: Names of tools that are nobody's secret.
        redact: Takes secrets out of a text.
    """
    seen: set[str] = set()
    calls = []
    for number, call in enumerate(reply.tool_calls[: limits.TOOL_CALLS_MAX_COUNT], 1):
        call_id = call.call_id
        if not call_id or len(call_id) > limits.CALL_ID_MAX_CHARACTERS or call_id in seen:
            call_id = f"call_{turn}_{number}"
        seen.add(call_id)
        name = call.name if call.name in granted else redact(call.name)[: limits.TOOL_NAME_MAX_CHARACTERS]
        calls.append(ToolCallRequest(call_id, name, redact(call.arguments)))
    text = redact(reply.text[: limits.MODEL_TEXT_MAX_CHARACTERS])
    return ModelReply(text, tuple(calls), reply.finish_reason, reply.usage, reply.provider, reply.model, reply.calls)
