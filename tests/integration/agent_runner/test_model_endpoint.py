"""The OpenAI-compatible provider against a real server on loopback that misbehaves in every way that we know."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from sluice_agent_runner.adapters.openai_compatible import Endpoint, OpenAiCompatibleProvider
from sluice_agent_runner.adapters.resilient import ResilientProvider, RetryPolicy
from sluice_agent_runner.domain.conversation import ChatMessage, ModelReply, ModelRequest, ToolCallRequest
from sluice_agent_runner.domain.tools import FINISH, READ_FILE
from sluice_agent_runner.measures import Measures
from sluice_agent_runner.ports import ModelError, ModelRefused, ModelUnavailable
from sluice_runtime.metrics import Metrics
from tests.integration.agent_runner.model_server import Behaviour, Connection, ModelServer, model_server
from tests.unit.agent_runner.builders import NOW_MS, Alone, TestTime, until

pytestmark = pytest.mark.covers("W3")

KEY = "sk-canary-0123456789abcdef"


def request(**changes: Any) -> ModelRequest:
    given: dict[str, Any] = {
        "pipeline_id": "p", "agent_id": "a", "attempt": 1, "task_id": "t1", "role": "researcher", "turn": 1,
        "model": "some/model", "messages": (ChatMessage("user", "find it"),), "tools": (READ_FILE, FINISH),
        "max_output_tokens": 100,
    }  # fmt: skip
    return ModelRequest(**{**given, **changes})


def ask(
    tmp_path: Path,
    *behaviours: Behaviour,
    asked: ModelRequest | None = None,
    caller: Alone | None = None,
    **endpoint: Any,
) -> tuple[ModelReply | ModelError, ModelServer]:
    """One question to a server that behaves like that."""

    async def scenario() -> tuple[ModelReply | ModelError, ModelServer]:
        key_file = tmp_path / "key"
        key_file.write_text(f"{KEY}\n")
        async with model_server(*behaviours) as server:
            given: dict[str, Any] = {
                "name": "test", "base_url": server.base_url, "api_key_file": key_file, "default_model": None,
                "silence_timeout_s": 0.3,
            }  # fmt: skip
            provider = OpenAiCompatibleProvider(Endpoint(**{**given, **endpoint}), TestTime())
            try:
                return await provider.complete(asked or request(), caller or Alone()), server
            except ModelError as error:
                return error, server
            finally:
                await provider.close()

    return asyncio.run(scenario())


async def talk(connection: Connection) -> None:
    """A streamed answer with text, two tool calls in fragments, comments and usage."""
    await connection.head()
    await connection.send(b": OPENROUTER PROCESSING\n\n")
    await connection.delta(role="assistant", content="I read ")
    await connection.delta(content="it: ü😀")
    await connection.delta(tool_calls=[{"index": 0, "id": "c1", "function": {"name": "read_file", "arguments": ""}}])
    await connection.delta(tool_calls=[{"index": 1, "id": "c2", "function": {"name": "finish", "arguments": '{"su'}}])
    await connection.delta(tool_calls=[{"index": 0, "function": {"arguments": '{"path": "a'}}])
    await connection.delta(tool_calls=[{"index": 0, "function": {"arguments": '.log"}'}}])
    await connection.delta(tool_calls=[{"index": 1, "function": {"arguments": 'mmary": "ok"}'}}])
    await connection.delta("tool_calls")
    await connection.done(prompt_tokens=120, completion_tokens=34, cost=0.0021)


def test_a_streamed_answer_with_tool_calls_in_fragments(tmp_path: Path) -> None:
    reply, server = ask(tmp_path, talk, reports_cost=True)
    assert isinstance(reply, ModelReply)
    assert reply.text == "I read it: ü😀"
    assert reply.tool_calls == (
        ToolCallRequest("c1", "read_file", '{"path": "a.log"}'),
        ToolCallRequest("c2", "finish", '{"summary": "ok"}'),
    )
    assert (reply.finish_reason, reply.provider, reply.model) == ("tool_calls", "test", "real-model")
    assert reply.usage.model_dump() == {"input_tokens": 120, "output_tokens": 34, "cost_usd": 0.0021}
    (seen,) = server.requests
    assert seen.path == "/v1/chat/completions"
    assert seen.headers["authorization"] == f"Bearer {KEY}"
    assert (seen.body["model"], seen.body["max_tokens"], seen.body["stream"]) == ("some/model", 100, True)
    assert seen.body["usage"] == {"include": True}
    tool = seen.body["tools"][0]["function"]
    assert tool["name"] == "read_file"
    assert tool["parameters"]["required"] == ["path"]
    assert tool["parameters"]["additionalProperties"] is False


def test_a_conversation_is_sent_as_the_protocol_wants_it(tmp_path: Path) -> None:
    broken = ToolCallRequest("c2", "read_file", "{broken")
    messages = (
        ChatMessage("system", "You work."),
        ChatMessage("user", "find it"),
        ChatMessage("assistant", "", (ToolCallRequest("c1", "read_file", '{"path": "x"}'), broken)),
        ChatMessage("tool", "line", call_id="c1"),
        ChatMessage("tool", "invalid", call_id="c2", is_error=True),
        ChatMessage("assistant", "hm"),
    )
    _, server = ask(tmp_path, talk, asked=request(messages=messages, tools=(), model=None), default_model="fallback")
    body = server.requests[0].body
    assert body["model"] == "fallback"
    assert "tools" not in body
    assert "usage" not in body
    assistant = body["messages"][2]
    assert assistant["content"] is None
    assert [json.loads(one["function"]["arguments"]) for one in assistant["tool_calls"]] == [
        {"path": "x"}, {"invalid_arguments": "{broken"},
    ]  # fmt: skip
    assert body["messages"][3] == {"role": "tool", "tool_call_id": "c1", "content": "line"}
    assert body["messages"][5] == {"role": "assistant", "content": "hm"}


async def whole(connection: Connection) -> None:
    message = {"content": None, "tool_calls": [{"id": "c", "function": {"name": "finish", "arguments": "{}"}}]}
    await connection.answer(200, {"choices": [{"message": message, "finish_reason": "tool_calls"}]})


def test_an_endpoint_that_does_not_stream_is_understood_and_missing_usage_is_estimated(tmp_path: Path) -> None:
    reply, server = ask(tmp_path, whole)
    assert isinstance(reply, ModelReply)
    assert reply.tool_calls == (ToolCallRequest("c", "finish", "{}"),)
    assert reply.usage.input_tokens == len(json.dumps(server.requests[0].body)) // 4


async def split_emoji(connection: Connection) -> None:
    await connection.head()
    await connection.send(b'data: {"choices": [{"delta": {"content": "\\ud83d"}}]}\r\n\r\n')
    await connection.send(
        b'data: {"choices": [{"delta": {"content": "\\ude00 \\ud800"}, "finish_reason": "stop"}]}\n\n'
    )
    await connection.end()


def test_a_surrogate_pair_cut_in_two_is_joined_and_a_lone_one_replaced(tmp_path: Path) -> None:
    reply, _ = ask(tmp_path, split_emoji)
    assert isinstance(reply, ModelReply)
    assert reply.text == "😀 \ufffd"


def answers(status: int, document: Any, kind: str = "application/json", **headers: str) -> Behaviour:
    async def behave(connection: Connection) -> None:
        await connection.answer(status, document, kind, **headers)

    return behave


def streams(*pieces: bytes, cut: bool = False) -> Behaviour:
    async def behave(connection: Connection) -> None:
        await connection.head()
        for piece in pieces:
            await connection.send(piece)
        if not cut:
            await connection.end()

    return behave


async def silence(connection: Connection) -> None:
    await connection.head()
    await connection.delta(content="I ")
    await asyncio.Event().wait()


async def no_answer(connection: Connection) -> None:
    await asyncio.Event().wait()


async def drip(connection: Connection) -> None:
    await connection.head()
    while True:
        await connection.send(b": still here\n\n")
        await asyncio.sleep(0.01)


async def flood(connection: Connection) -> None:
    await connection.head()
    while True:
        await connection.send(b":" + b"x" * 100_000 + b"\n")


async def endless_text(connection: Connection) -> None:
    await connection.head()
    while True:
        await connection.delta(content="x" * 100_000)


async def garbage(connection: Connection) -> None:
    connection.writer.write(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")
    await connection.writer.drain()


def error(message: str, **more: Any) -> dict[str, Any]:
    return {"error": {"message": message, **more}}


def chunk(**document: Any) -> bytes:
    return b"data: " + json.dumps(document).encode() + b"\n\n"


MANY_CALLS = [{"index": 128, "function": {"name": "x"}}]
FAULTS: list[tuple[str, Behaviour, str, bool, str]] = [
    ("401", answers(401, error(f"Incorrect key: {KEY}")), "model_unauthorized", False, "[redacted:api_key]"),
    ("403", answers(403, b"<html>no</html>", "text/html"), "model_unauthorized", False, "403"),
    ("402", answers(402, error("no credits")), "model_payment_required", False, "no credits"),
    ("404", answers(404, error("no such thing")), "unknown_model", False, "'some/model'"),
    ("400 model", answers(400, error("some/model is not a valid model ID")), "unknown_model", False, "valid model"),
    ("400", answers(400, error("messages: too long")), "model_bad_request", False, "too long"),
    ("302", answers(302, b"", location="http://127.0.0.1:1/"), "model_endpoint_wrong", False, "redirect"),
    ("429", answers(429, error("slow down"), retry_after="7"), "rate_limited", True, "slow down"),
    ("408", answers(408, b""), "model_timeout", True, "408"),
    ("500", answers(500, b"\xff\xfe"), "model_server_error", True, "500"),
    ("503", answers(503, [1, 2]), "model_server_error", True, "503"),
    ("huge error", answers(500, b"x" * 5_000_000), "model_server_error", True, "500"),
    ("not json", streams(b"data: {oops\n\n"), "model_malformed", True, "not JSON"),
    ("no object", streams(b"data: [1]\n\n"), "model_malformed", True, "no JSON object"),
    ("deep", streams(b"data: " + b"[" * 100_000 + b"\n\n"), "model_malformed", True, "not JSON"),
    ("choices", streams(chunk(choices="x")), "model_malformed", True, "choices"),
    ("delta", streams(chunk(choices=[{"delta": [1]}])), "model_malformed", True, "delta"),
    ("usage", streams(chunk(choices=[], usage={"prompt_tokens": -1})), "model_malformed", True, "lawful numbers"),
    ("calls", streams(chunk(choices=[{"delta": {"tool_calls": MANY_CALLS}}])), "model_malformed", True, "128"),
    ("no choice", answers(200, {"choices": []}), "model_malformed", True, "choices is empty"),
    ("no reason", streams(b"data: [DONE]\n\n"), "model_malformed", True, "finish_reason"),
    ("html", answers(200, b"<html>", "text/html"), "model_malformed", True, "'text/html'"),
    ("gzip", answers(200, b"", "text/event-stream", content_encoding="gzip"), "model_malformed", True, "compressed"),
    ("flood", flood, "model_malformed", True, "8388608"),
    ("endless text", endless_text, "model_malformed", True, "1048576"),
    ("ends early", streams(chunk(choices=[{"delta": {"content": "I"}}])), "model_stream_cut", True, "before its end"),
    ("cut", streams(chunk(choices=[{"delta": {}}]), cut=True), "model_stream_cut", True, "connection ended"),
    ("garbage", garbage, "model_stream_cut", True, "connection ended"),
    ("silence", silence, "model_timeout", True, "nothing was heard"),
    ("no answer", no_answer, "model_timeout", True, "nothing was heard"),
    ("told 429", streams(chunk(error={"code": 429, "message": "busy"})), "rate_limited", True, "busy"),
    ("told 401", streams(chunk(error={"code": "401", "message": "bad"})), "model_unauthorized", False, "bad"),
    ("told", streams(chunk(error="odd")), "model_server_error", True, "odd"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("behave", "code", "retryable", "says"), [pytest.param(*rest, id=id_) for id_, *rest in FAULTS]
)
def test_every_fault_has_its_error(tmp_path: Path, behave: Behaviour, code: str, retryable: bool, says: str) -> None:
    failure, _ = ask(tmp_path, behave)
    assert isinstance(failure, ModelUnavailable if retryable else ModelRefused)
    assert failure.code == code
    assert says in failure.detail
    assert KEY not in f"{failure} {failure!r} {failure.detail}"


def test_a_slow_drip_ends_with_the_call_s_time(tmp_path: Path) -> None:
    failure, server = ask(tmp_path, drip, call_timeout_s=0.2)
    assert isinstance(failure, ModelUnavailable)
    assert (failure.code, failure.detail) == ("model_timeout", "the answer took longer than 0.2 s")
    assert server.requests


def test_nobody_listens(tmp_path: Path) -> None:
    failure, _ = ask(tmp_path, talk, base_url="http://127.0.0.1:1/v1")
    assert isinstance(failure, ModelUnavailable)
    assert failure.code == "model_unreachable"


@pytest.mark.parametrize(
    ("content", "says"),
    [(None, "can't be read"), ("", "one key"), ("a b", "one key"), ("ü", "ASCII"), ("x" * 9_999, "one key")],
)
def test_a_key_that_is_none_is_never_sent(tmp_path: Path, content: str | None, says: str) -> None:
    path = tmp_path / "other"
    if content is not None:
        path.write_text(content)
    failure, server = ask(tmp_path, talk, api_key_file=path)
    assert isinstance(failure, ModelRefused)
    assert failure.code == "model_unauthorized"
    assert says in failure.detail
    assert server.requests == []


def test_no_model_is_told(tmp_path: Path) -> None:
    failure, _ = ask(tmp_path, talk, asked=request(model=None))
    assert isinstance(failure, ModelRefused)
    assert "SLUICE_MODEL_DEFAULT" in failure.detail


@pytest.mark.parametrize(
    ("header", "expected"),
    [("7", 7.0), ("0.5", 0.5), ("-3", 0.0), ("soon", None), ("", None), ("Fri, 15 Jan 2027 08:01:00 GMT", 60.0)],
)
def test_retry_after_is_read(tmp_path: Path, header: str, expected: float | None) -> None:
    assert NOW_MS == 1_800_000_000_000  # 2027-01-15 08:00:00 UTC
    failure, _ = ask(tmp_path, answers(429, error("x"), retry_after=header))
    assert isinstance(failure, ModelUnavailable)
    assert failure.retry_after_s == expected


def run_resilient(
    tmp_path: Path,
    *behaviours: Behaviour,
    then: Callable[[ResilientProvider, ModelServer, TestTime], Coroutine[Any, Any, Any]],
) -> Any:
    async def scenario() -> Any:
        (tmp_path / "key").write_text(KEY)
        time = TestTime()
        async with model_server(*behaviours) as server:
            endpoint = Endpoint("test", server.base_url, tmp_path / "key", None)
            provider = OpenAiCompatibleProvider(endpoint, time)
            measures = Measures(Metrics("agent-runner", "test"))
            try:
                return await then(ResilientProvider("test", provider, RetryPolicy(), time, measures), server, time)
            finally:
                await provider.close()

    return asyncio.run(scenario())


def test_what_may_succeed_later_is_asked_again_and_waits_as_it_is_told(tmp_path: Path) -> None:
    async def then(provider: ResilientProvider, server: ModelServer, time: TestTime) -> None:
        reply = await provider.complete(request(), Alone())
        assert reply.calls == 4
        assert time.slept_s == [2.0, 7.0, 8.0]
        assert len(server.requests) == 4

    run_resilient(
        tmp_path, answers(500, b""), answers(429, error("x"), retry_after="7"), streams(b"data: {\n\n"), talk, then=then
    )


def test_a_cancelled_call_ends_on_the_wire(tmp_path: Path) -> None:
    async def then(provider: ResilientProvider, server: ModelServer, time: TestTime) -> None:
        asking = asyncio.create_task(provider.complete(request(), Alone()))
        await until(lambda: server.requests)
        asking.cancel()
        await until(lambda: server.cut_off)
        assert asking.cancelled()

    run_resilient(tmp_path, drip, then=then)
