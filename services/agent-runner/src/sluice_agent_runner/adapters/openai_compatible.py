"""Any OpenAI-compatible chat-completions endpoint over HTTP; OpenRouter is one (W3)."""

from __future__ import annotations

import asyncio
import email.utils
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import httpx

from sluice_agent_runner.adapters.openai_answer import Answer, refused
from sluice_agent_runner.adapters.sse import SseParser
from sluice_agent_runner.domain.conversation import ChatMessage, ModelReply, ModelRequest
from sluice_agent_runner.domain.secret import Secret
from sluice_agent_runner.domain.tools import ToolDefinition
from sluice_agent_runner.ports import Caller, ModelError, ModelRefused, ModelUnavailable, Time

RESPONSE_MAX_BYTES = 8 * 1024 * 1024
"""One answer with all its framing: a streamed token costs about 200 bytes of it."""

ERROR_BODY_MAX_BYTES = 64 * 1024
"""So much of an error's body is looked at for its message."""

KEY_MAX_BYTES = 4 * 1024
"""A key is far shorter; a file that is not a key should not be sent to anybody."""

CONNECTIONS_MAX_COUNT = 256
"""Above the slots of one runner."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a model is, and how patiently it is asked.

    Attributes:
        name: The provider's name in events: openrouter, openai, …
        base_url: Up to and without `/chat/completions`.
        api_key_file: Read at each call, so that a new key needs no restart; used where Vault gives the attempt none.
        needs_key: Whether it answers nobody without a key: then it is not even asked.
        default_model: For agents whose task and role name none.
        connect_timeout_s: For the connection.
        silence_timeout_s: Between two pieces of an answer; a thinking model sends comments meanwhile.
        call_timeout_s: For the whole call.
        reports_cost: Whether it may be asked to tell the cost, as OpenRouter can; others refuse the unknown member.
    """

    name: str
    base_url: str
    api_key_file: Path | None
    default_model: str | None
    connect_timeout_s: float = 10.0
    silence_timeout_s: float = 60.0
    call_timeout_s: float = 600.0
    reports_cost: bool = False
    needs_key: bool = False


class OpenAiCompatibleProvider:
    """Asks one endpoint. Close it when done."""

    def __init__(self, endpoint: Endpoint, time: Time) -> None:
        self._endpoint = endpoint
        self._time = time
        self._client = httpx.AsyncClient(
            timeout=httpx.Timeout(
                connect=endpoint.connect_timeout_s,
                read=endpoint.silence_timeout_s,
                write=endpoint.silence_timeout_s,
                pool=endpoint.silence_timeout_s,
            ),
            limits=httpx.Limits(max_connections=CONNECTIONS_MAX_COUNT),
            follow_redirects=False,  # the key goes where it was meant to go
        )

    async def close(self) -> None:
        """Closes all connections."""
        await self._client.aclose()

    async def complete(self, request: ModelRequest, caller: Caller) -> ModelReply:
        """See `ports.ModelProvider.complete`."""
        model = request.model or self._endpoint.default_model
        if model is None:
            raise ModelRefused(
                "unknown_model",
                f"task {request.task_id} and role {request.role} name no model; set SLUICE_MODEL_DEFAULT",
            )
        key, origin = await self._key(caller)
        try:
            async with asyncio.timeout(self._endpoint.call_timeout_s):
                return await self._ask(request, model, key, caller)
        except ModelError as error:
            detail = error.detail if key is None else error.detail.replace(key, "[redacted:api_key]")
            if error.code == "model_unauthorized":
                detail = f"{detail}; {origin}"
            error.detail, error.args = detail, (f"{error.code}: {detail}",)
            raise
        except TimeoutError:
            raise ModelUnavailable(
                "model_timeout", f"the answer took longer than {self._endpoint.call_timeout_s:g} s"
            ) from None
        except httpx.TimeoutException as error:
            raise ModelUnavailable(
                "model_timeout",
                f"{type(error).__name__}: nothing was heard for {self._endpoint.silence_timeout_s:g} s "
                f"(connecting: {self._endpoint.connect_timeout_s:g} s)",
            ) from None
        except httpx.RemoteProtocolError:
            raise ModelUnavailable("model_stream_cut", "the connection ended before the answer did") from None
        except httpx.TransportError as error:
            raise ModelUnavailable(
                "model_unreachable", f"provider {self._endpoint.name} can't be reached: {type(error).__name__}"
            ) from None

    async def _key(self, caller: Caller) -> tuple[str | None, str]:
        """The key of one call, and where it is from, or why there is none: Vault's, else the file's, else none."""
        found = await caller.key(self._endpoint.name)
        if isinstance(found, Secret):
            return found.reveal(), "the key was Vault's: check it there"
        if self._endpoint.api_key_file is not None:
            return _key_of(self._endpoint.api_key_file), "check the key in SLUICE_MODEL_API_KEY_FILE"
        origin = f"there is no key: {found.why}, and SLUICE_MODEL_API_KEY_FILE is not set"
        if self._endpoint.needs_key:
            raise ModelRefused("model_unauthorized", f"provider {self._endpoint.name} was not asked; {origin}")
        return None, origin

    async def _ask(self, request: ModelRequest, model: str, key: str | None, caller: Caller) -> ModelReply:
        body = json.dumps(_body(request, model, reports_cost=self._endpoint.reports_cost)).encode()
        # No compression: a small body must not become a large one.
        headers = {"content-type": "application/json", "accept-encoding": "identity"}
        if key is not None:
            headers["authorization"] = f"Bearer {key}"
        answer = Answer(self._endpoint.name, model, len(body))
        url = f"{self._endpoint.base_url.rstrip('/')}/chat/completions"
        async with self._client.stream("POST", url, content=body, headers=headers) as response:
            if response.status_code != 200:
                text = await _some(response)
                raise refused(response.status_code, text, model, self._retry_after_s(response))
            if response.headers.get("content-encoding", "identity") != "identity":
                raise ModelUnavailable("model_malformed", "the provider's answer is compressed, unasked")
            kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
            if kind == "text/event-stream":
                await _read_stream(response, answer, caller)
            elif kind == "application/json":
                answer.whole(await _read_whole(response))
            else:
                raise ModelUnavailable(
                    "model_malformed", f"the provider's answer is {kind[:100]!r}, not text/event-stream; check the URL"
                )
        return answer.reply()

    def _retry_after_s(self, response: httpx.Response) -> float | None:
        """Retry-After as seconds or as an HTTP date (RFC 9110 §10.2.3)."""
        text = response.headers.get("retry-after", "").strip()
        if not text:
            return None
        try:
            return max(0.0, float(text))
        except ValueError:
            pass
        try:
            return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - self._time.now_ms() / 1_000)
        except ValueError:
            return None


def _key_of(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            key = opened.read(KEY_MAX_BYTES + 1).decode("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not ASCII"
        raise ModelRefused(
            "model_unauthorized", f"the key can't be read: {why}; set SLUICE_MODEL_API_KEY_FILE"
        ) from None
    if not key or len(key) > KEY_MAX_BYTES or not key.isprintable() or " " in key:
        raise ModelRefused("model_unauthorized", "the file of SLUICE_MODEL_API_KEY_FILE does not hold one key")
    return key


async def _read_stream(response: httpx.Response, answer: Answer, caller: Caller) -> None:
    parser = SseParser()
    size_bytes = 0
    async for piece in response.aiter_raw():
        size_bytes += len(piece)
        if size_bytes > RESPONSE_MAX_BYTES:
            raise _too_large()
        for data in parser.feed(piece):
            if data == b"[DONE]":
                if not answer.complete:
                    raise ModelUnavailable("model_malformed", "the provider's stream ended without a finish_reason")
                return
            answer.chunk(data)
            caller.came_on()
    if not answer.complete:
        raise ModelUnavailable("model_stream_cut", "the provider's stream ended before its end")


async def _read_whole(response: httpx.Response) -> bytes:
    body = bytearray()
    async for piece in response.aiter_raw():
        body += piece
        if len(body) > RESPONSE_MAX_BYTES:
            raise _too_large()
    return bytes(body)


async def _some(response: httpx.Response) -> bytes:
    body = bytearray()
    async for piece in response.aiter_raw():
        body += piece
        if len(body) > ERROR_BODY_MAX_BYTES:
            break
    return bytes(body)


def _too_large() -> ModelUnavailable:
    return ModelUnavailable("model_malformed", f"the provider's answer has more than {RESPONSE_MAX_BYTES} bytes")


def _body(request: ModelRequest, model: str, *, reports_cost: bool) -> dict[str, Any]:
    body: dict[str, Any] = {
        "model": model,
        "messages": [_message(message) for message in request.messages],
        "max_tokens": request.max_output_tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if reports_cost:
        body["usage"] = {"include": True}
    if request.tools:
        body["tools"] = _tools(request.tools)
    return body


@lru_cache(maxsize=256)
def _tools(tools: tuple[ToolDefinition, ...]) -> list[dict[str, Any]]:
    return [
        {
            "type": "function",
            "function": {"name": tool.name, "description": tool.description, "parameters": tool.schema()},
        }
        for tool in tools
    ]


def _message(message: ChatMessage) -> dict[str, Any]:
    if message.role == "tool":
        return {"role": "tool", "tool_call_id": message.call_id, "content": message.content}
    if message.role == "assistant" and message.tool_calls:
        calls = [
            {
                "id": call.call_id,
                "type": "function",
                "function": {"name": call.name, "arguments": _lawful(call.arguments)},
            }
            for call in message.tool_calls
        ]
        return {"role": "assistant", "content": message.content or None, "tool_calls": calls}
    return {"role": message.role, "content": message.content}


def _lawful(arguments: str) -> str:
    """A model's own broken arguments, so that a provider takes them back."""
    try:
        if isinstance(json.loads(arguments), dict):
            return arguments
    except (ValueError, RecursionError):
        pass
    return json.dumps({"invalid_arguments": arguments})
