"""What a chat-completions endpoint answers, put together from its pieces: no I/O.

Source: OpenAI's chat completions protocol, streamed and whole; OpenRouter's additions (usage.cost, errors in the
stream).
"""

from __future__ import annotations

import json
import re
from typing import Any

from sluice_agent_runner.domain import limits
from sluice_agent_runner.domain.conversation import ModelReply, ToolCallRequest
from sluice_agent_runner.ports import ModelError, ModelRefused, ModelUnavailable
from sluice_contracts.messages.base import Usage

_ESTIMATED_CHARACTERS_PER_TOKEN = 4
"""Where a provider reports no usage, a budget must still count."""

_RATE_LIMITED = 429

_SAID_MAX_CHARACTERS = 300
"""Of a provider's own words: the rest is for its log."""

_CONTEXT_CODES = frozenset({"context_length_exceeded", "context_window_exceeded", "exceed_context_size_error"})
_CONTEXT_WORDS = re.compile(
    r"maximum context length|context[ _]?(?:length|window|size)[ _]?exceeded"
    r"|(?:exceeds?|larger than|too large for|longer than)(?: \w+){0,4} context (?:length|window|size)"
    r"|(?:prompt|input) is too long|input token count\b.{0,40}\bexceeds",
    re.IGNORECASE,
)
"""OpenAI, vLLM and OpenRouter's endpoints; llama.cpp; Anthropic; Google."""

_MODEL_CODES = frozenset({"model_not_found"})
_MODEL_WORDS = re.compile(r"\bmodel\b.{0,200}\bdoes not exist|not a valid model id", re.IGNORECASE | re.DOTALL)
"""OpenAI and vLLM; OpenRouter."""


class Answer:
    """Collects one answer.

    Args:
        prompt_characters: Size of what was asked, to estimate the usage that a provider does not report.
    """

    def __init__(self, provider: str, model: str, prompt_characters: int) -> None:
        self._provider = provider
        self._model = model
        self._prompt_characters = prompt_characters
        self._text: list[str] = []
        self._text_characters = 0
        self._calls: dict[int, _Call] = {}
        self._finish_reason: str | None = None
        self._usage: Usage | None = None

    @property
    def complete(self) -> bool:
        """Whether the end was seen."""
        return self._finish_reason is not None

    def chunk(self, data: bytes) -> None:
        """Takes one streamed chunk.

        Raises:
            ModelError: It is malformed, tells an error, or is too much.
        """
        document = _object(data)
        self._common(document)
        for choice in _list(document, "choices"):
            delta = choice.get("delta") or {}
            if not isinstance(delta, dict):
                raise _malformed("choices[0].delta is no object")
            self._take(delta, choice)

    def whole(self, data: bytes) -> None:
        """Takes an answer that was not streamed.

        Raises:
            ModelError: As for `chunk`; also if the answer holds no choice.
        """
        document = _object(data)
        self._common(document)
        choices = _list(document, "choices")
        if not choices:
            raise _malformed("choices is empty")
        message = choices[0].get("message")
        if not isinstance(message, dict):
            raise _malformed("choices[0].message is no object")
        self._take(message, choices[0])
        self._finish_reason = self._finish_reason or "stop"

    def reply(self) -> ModelReply:
        """The answer.

        Raises:
            ModelUnavailable: A tool call has no name.
        """
        calls = []
        for _, call in sorted(self._calls.items()):
            if not call.name:
                raise _malformed("a tool call has no name")
            calls.append(ToolCallRequest(_text(call.call_id), _text(call.name), _text("".join(call.arguments))))
        return ModelReply(
            text=_text("".join(self._text)),
            tool_calls=tuple(calls),
            finish_reason=_text(self._finish_reason or "")[:64],
            usage=self._usage or self._estimated(),
            provider=self._provider,
            model=self._model,
        )

    def _common(self, document: dict[str, Any]) -> None:
        if document.get("error"):
            raise _told(document["error"], self._model)
        model = document.get("model")
        if isinstance(model, str) and model:
            self._model = _text(model)[:255]
        usage = document.get("usage")
        if usage:
            self._usage = _usage(usage)

    def _take(self, message: dict[str, Any], choice: dict[str, Any]) -> None:
        content = message.get("content")
        if isinstance(content, str):
            self._text_characters += len(content)
            if self._text_characters > limits.MODEL_TEXT_MAX_CHARACTERS:
                raise _malformed(f"the text has more than {limits.MODEL_TEXT_MAX_CHARACTERS} characters")
            self._text.append(content)
        for position, fragment in enumerate(_list(message, "tool_calls")):
            self._take_call(fragment, position)
        reason = choice.get("finish_reason")
        if isinstance(reason, str) and reason:
            self._finish_reason = reason

    def _take_call(self, fragment: dict[str, Any], position: int) -> None:
        index = fragment.get("index", position)
        if not isinstance(index, int) or not 0 <= index < limits.TOOL_CALLS_MAX_COUNT:
            raise _malformed(f"tool call {index!r:.20}; at most {limits.TOOL_CALLS_MAX_COUNT} are read")
        call = self._calls.setdefault(index, _Call())
        function = fragment.get("function") or {}
        if not isinstance(function, dict):
            raise _malformed("tool_calls[].function is no object")
        if isinstance(fragment.get("id"), str):
            call.call_id = fragment["id"]
        if isinstance(function.get("name"), str) and function["name"]:
            call.name = function["name"]
        arguments = function.get("arguments")
        if isinstance(arguments, dict):
            arguments = json.dumps(arguments)
        if isinstance(arguments, str):
            call.add(arguments)

    def _estimated(self) -> Usage:
        said = self._text_characters + sum(call.characters for call in self._calls.values())
        return Usage(
            input_tokens=self._prompt_characters // _ESTIMATED_CHARACTERS_PER_TOKEN,
            output_tokens=said // _ESTIMATED_CHARACTERS_PER_TOKEN,
        )


class _Call:
    def __init__(self) -> None:
        self.call_id = ""
        self.name = ""
        self.arguments: list[str] = []
        self.characters = 0

    def add(self, arguments: str) -> None:
        self.characters += len(arguments)
        if self.characters > limits.ARGUMENTS_MAX_BYTES:
            raise _malformed(f"a tool call has more than {limits.ARGUMENTS_MAX_BYTES} characters of arguments")
        self.arguments.append(arguments)


def refused(status: int, body: bytes, model: str, retry_after_s: float | None) -> ModelError:
    """The error for an answer that is not 200."""
    error = _error(body)
    said = _message(error)
    what = f"the provider answered {status}{f': {said}' if said else ''}"
    if status in (401, 403):
        return ModelRefused("model_unauthorized", what)
    if status == 402:
        return ModelRefused("model_payment_required", what)
    if _CONTEXT_CODES & _codes(error) or (status in (400, 413, 422) and _CONTEXT_WORDS.search(_words(error))):
        return ModelRefused(
            "context_too_long", f"model {model!r}: {what}; give the task less to read, or a larger model"
        )
    if status == 404 or (status == 400 and (_MODEL_CODES & _codes(error) or _MODEL_WORDS.search(_words(error)))):
        return ModelRefused("unknown_model", f"model {model!r}: {what}; name one that the provider has")
    if status == _RATE_LIMITED:
        return ModelUnavailable("rate_limited", what, retry_after_s=retry_after_s)
    if status == 408:
        return ModelUnavailable("model_timeout", what, retry_after_s=retry_after_s)
    if status >= 500:
        return ModelUnavailable("model_server_error", what, retry_after_s=retry_after_s)
    if 300 <= status < 400:
        return ModelRefused("model_endpoint_wrong", f"{what}: a redirect, which is not followed; set its target")
    return ModelRefused("model_bad_request", what)


def _told(error: Any, model: str) -> ModelError:
    """An error that stands inside an answer."""
    code = error.get("code") if isinstance(error, dict) else None
    body = json.dumps({"error": error}).encode()
    if isinstance(code, str) and code.isdecimal() and code.isascii():
        code = int(code[:3])
    if code in (*_CONTEXT_CODES, *_MODEL_CODES):
        code = 400
    if not isinstance(code, int) or not 400 <= code < 600:
        code = 500
    return refused(code, body, model, None)


def _error(body: bytes) -> dict[str, Any]:
    """The error of a body, in the protocol's form, whatever form it has."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    error = document.get("error", document) if isinstance(document, dict) else None
    return error if isinstance(error, dict) else {"message": error}


def _message(error: dict[str, Any]) -> str:
    message = error.get("message")
    return _text(message)[:_SAID_MAX_CHARACTERS] if isinstance(message, str) else ""


def _codes(error: dict[str, Any]) -> frozenset[str]:
    return frozenset(code for code in (error.get("code"), error.get("type")) if isinstance(code, str))


def _words(error: dict[str, Any]) -> str:
    """The message, and what OpenRouter passes on of the endpoint's own."""
    metadata = error.get("metadata")
    raw = metadata.get("raw") if isinstance(metadata, dict) else None
    return "\n".join(words[:2_000] for words in (error.get("message"), raw) if isinstance(words, str))


def _usage(usage: Any) -> Usage:
    if not isinstance(usage, dict):
        raise _malformed("usage is no object")
    try:
        return Usage(
            input_tokens=usage.get("prompt_tokens") or 0,
            output_tokens=usage.get("completion_tokens") or 0,
            cost_usd=usage.get("cost") or 0.0,
        )
    except ValueError:
        raise _malformed("usage holds no lawful numbers") from None


def _object(data: bytes) -> dict[str, Any]:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        raise _malformed("it is not JSON") from None
    if not isinstance(document, dict):
        raise _malformed("it is no JSON object")
    return document


def _list(document: dict[str, Any], name: str) -> list[dict[str, Any]]:
    items = document.get(name) or []
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise _malformed(f"{name} is no list of objects")
    return items


def _text(text: str) -> str:
    """Text that UTF-8 can hold: pieces of a stream may cut a surrogate pair in two."""
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _malformed(what: str) -> ModelUnavailable:
    return ModelUnavailable("model_malformed", f"the provider's answer is malformed: {what}")
