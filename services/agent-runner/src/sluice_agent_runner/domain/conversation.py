"""What is said between an agent and its model, and how a finished turn is kept: a link of the transcript's chain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from sluice_agent_runner.domain.tools import ToolDefinition
from sluice_contracts.messages.base import ArtifactRef, Usage


class ToolCallRequest(msgspec.Struct, frozen=True):
    """A tool call as the model wrote it; `arguments` is its JSON text, right or wrong."""

    call_id: str
    name: str
    arguments: str


class ChatMessage(msgspec.Struct, frozen=True, omit_defaults=True):
    """One message of the conversation. A tool's message names the call that it answers."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str = ""
    tool_calls: tuple[ToolCallRequest, ...] = ()
    call_id: str | None = None
    is_error: bool = False


class WrittenArtifact(msgspec.Struct, frozen=True, omit_defaults=True):
    """An artifact that a turn wrote. The body is in the artifact store."""

    name: str
    sha256: str
    size_bytes: int
    media_type: str
    kind: str | None = None

    def ref(self) -> ArtifactRef:
        """The contract's form."""
        return ArtifactRef(
            sha256=self.sha256, size_bytes=self.size_bytes, media_type=self.media_type, name=self.name, kind=self.kind
        )


class Conclusion(msgspec.Struct, frozen=True):
    """An accepted end of the task. `result` is text, or a JSON document."""

    summary: str
    result: str


class Link(msgspec.Struct, frozen=True, omit_defaults=True):
    """One finished turn as it is kept: what it added, and the hash of the link before it.

    The whole conversation is the chain's messages in the order of the turns, so a turn stores what it added and no
    more. Everything in it is redacted.
    """

    turn: int
    previous: str | None
    messages: tuple[ChatMessage, ...]
    artifacts: tuple[WrittenArtifact, ...] = ()
    conclusion: Conclusion | None = None

    @property
    def said(self) -> ChatMessage:
        """The model's answer."""
        return next(message for message in reversed(self.messages) if message.role == "assistant")


class ModelRequest(msgspec.Struct, frozen=True):
    """What a model is asked.

    Attributes:
        turn: The number of the turn that this call belongs to, from 1.
        model: The provider's name for the model; None takes the runner's default.
        messages: The conversation so far.
        retry: How many calls for this turn failed before, in this attempt.
    """

    pipeline_id: str
    agent_id: str
    attempt: int
    task_id: str
    role: str
    turn: int
    model: str | None
    messages: Sequence[ChatMessage]
    tools: tuple[ToolDefinition, ...]
    max_output_tokens: int
    retry: int = 0


class ModelReply(msgspec.Struct, frozen=True):
    """What a model answered.

    Attributes:
        model: The model that answered, as the provider names it.
        finish_reason: The provider's word: stop, tool_calls, length, content_filter, …
        calls: Calls that it took, failed ones included.
    """

    text: str
    tool_calls: tuple[ToolCallRequest, ...]
    finish_reason: str
    usage: Usage
    provider: str
    model: str
    calls: int = 1


class ToolCall(msgspec.Struct, frozen=True):
    """A checked call of a granted tool. `arguments` is an instance of the tool's `arguments` class."""

    call_id: str
    name: str
    arguments: msgspec.Struct


class ToolResult(msgspec.Struct, frozen=True):
    """What a tool answered, in the order of the calls.

    Attributes:
        breaks: The policy that the call would have broken; see `domain.violations`.
    """

    call_id: str
    content: str
    is_error: bool = False
    duration_ms: int = 0
    artifact: WrittenArtifact | None = None
    breaks: str | None = None

    def message(self) -> ChatMessage:
        """The result as the model reads it."""
        return ChatMessage("tool", self.content, call_id=self.call_id, is_error=self.is_error)


class AuditedCall(msgspec.Struct, frozen=True):
    """A tool call of a turn with its outcome, for the record; a question's outcome comes in a later turn."""

    request: ToolCallRequest
    result: ToolResult


class TurnRecord(msgspec.Struct, frozen=True):
    """All that is to be known about a turn that is over. Everything in it is redacted.

    Attributes:
        prompt: What the turn added to the conversation before the model's answer.
        reply: The model's answer.
        model_ms: How long the model took, retries and waits included.
    """

    turn: int
    link: Link
    prompt: tuple[ChatMessage, ...]
    reply: ModelReply
    tool_calls: tuple[AuditedCall, ...]
    model_ms: int


_ENCODER = msgspec.json.Encoder()
_LINK_DECODER = msgspec.json.Decoder(Link)


def encode_link(link: Link) -> bytes:
    """A link as it stands in the artifact store."""
    return _ENCODER.encode(link)


def decode_link(body: bytes) -> Link:
    """Reads a link.

    Raises:
        msgspec.MsgspecError: The body is no link.
    """
    return _LINK_DECODER.decode(body)


def encode_messages(messages: Sequence[ChatMessage]) -> str:
    """Messages as a JSON array."""
    return _ENCODER.encode(messages).decode()
