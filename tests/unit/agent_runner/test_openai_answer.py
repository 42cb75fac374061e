"""What a provider's refusals mean, as a table; how they arrive stands in the integration tests."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sluice_agent_runner.adapters.openai_answer import Answer, refused
from sluice_agent_runner.ports import ModelError, ModelRefused, ModelUnavailable

pytestmark = pytest.mark.covers("W3")

OPENAI_CONTEXT = (
    "This model's maximum context length is 8192 tokens. However, your messages resulted in 9001 tokens. Please reduce "
    "the length of the messages."
)
RAW = {"raw": json.dumps({"error": {"message": OPENAI_CONTEXT}}), "provider_name": "somebody"}

REFUSALS: list[tuple[int, dict[str, Any], str]] = [
    (400, {"message": OPENAI_CONTEXT, "code": "context_length_exceeded"}, "context_too_long"),
    (400, {"message": OPENAI_CONTEXT, "code": 400}, "context_too_long"),
    (400, {"message": "too many", "code": "context_length_exceeded"}, "context_too_long"),
    (400, {"message": "This endpoint's maximum context length is 131072 tokens."}, "context_too_long"),
    (400, {"message": "prompt is too long: 210000 tokens > 200000 maximum"}, "context_too_long"),
    (400, {"message": "The input token count (12) exceeds the maximum number of tokens allowed"}, "context_too_long"),
    (400, {"message": "the request exceeds the available context size", "type": "x"}, "context_too_long"),
    (400, {"message": "Provider returned error", "metadata": RAW}, "context_too_long"),
    (413, {"message": "litellm.ContextWindowExceededError"}, "context_too_long"),
    (404, {"message": "no such thing"}, "unknown_model"),
    (400, {"message": "some/model is not a valid model ID"}, "unknown_model"),
    (400, {"message": "The model `gpt-9` does not exist or you do not have access to it."}, "unknown_model"),
    (400, {"message": "no", "code": "model_not_found"}, "unknown_model"),
    (400, {"message": "max_tokens is too large: this model supports at most 16384"}, "model_bad_request"),
    (400, {"message": "this model does not support tools"}, "model_bad_request"),
    (400, {"message": "tool call c1 does not exist"}, "model_bad_request"),
    (400, {"message": ["maximum context length"]}, "model_bad_request"),
    (400, {"message": "x", "metadata": {"raw": 1}}, "model_bad_request"),
]


@pytest.mark.parametrize(("status", "error", "code"), REFUSALS)
def test_what_a_refusal_means(status: int, error: dict[str, Any], code: str) -> None:
    failure = refused(status, json.dumps({"error": error}).encode(), "some/model", None)
    assert isinstance(failure, ModelRefused)
    assert failure.code == code
    assert str(status) in failure.detail


@pytest.mark.parametrize(
    ("status", "code"), [(401, "model_unauthorized"), (429, "rate_limited"), (500, "model_server_error")]
)
def test_words_about_a_model_change_nothing_else(status: int, code: str) -> None:
    body = json.dumps({"error": {"message": f"the model does not exist; {OPENAI_CONTEXT}"}}).encode()
    assert refused(status, body, "some/model", None).code == code


@pytest.mark.parametrize(
    ("error", "code", "retryable"),
    [
        ({"code": "context_length_exceeded", "message": "too long"}, "context_too_long", False),
        ({"code": "model_not_found", "message": "none"}, "unknown_model", False),
        ({"code": 400, "message": OPENAI_CONTEXT}, "context_too_long", False),
        ({"code": "²", "message": "odd"}, "model_server_error", True),
        ({"code": ["x"], "message": "odd"}, "model_server_error", True),
    ],
)
def test_what_an_error_inside_an_answer_means(error: dict[str, Any], code: str, retryable: bool) -> None:
    answer = Answer("test", "some/model", 0)
    with pytest.raises(ModelError) as caught:
        answer.chunk(json.dumps({"error": error}).encode())
    assert isinstance(caught.value, ModelUnavailable if retryable else ModelRefused)
    assert caught.value.code == code
    if not retryable:
        assert "'some/model'" in caught.value.detail


def test_whatever_becomes_a_field_of_a_message_is_text_that_utf_8_can_hold() -> None:
    answer = Answer("test", "some/model", 0)
    call = {"index": 0, "id": "c\ud800", "function": {"name": "n\ud800", "arguments": '"\ud800"'}}
    document = {
        "model": "m\ud800",
        "choices": [{"delta": {"content": "t\ud800", "tool_calls": [call]}, "finish_reason": "f\ud800"}],
    }
    answer.chunk(json.dumps(document).encode())
    reply = answer.reply()
    (made,) = reply.tool_calls
    for text in (reply.text, reply.model, reply.finish_reason, made.call_id, made.name, made.arguments):
        assert "\ufffd" in text
        text.encode()
    with pytest.raises(ModelUnavailable) as caught:
        answer.chunk(json.dumps({"choices": [{"delta": {"tool_calls": [{"index": "\ud800"}]}}]}).encode())
    caught.value.detail.encode()
