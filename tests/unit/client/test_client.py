"""The Python client against an api in memory: httpx's port for transports, played."""

from __future__ import annotations

import json
from collections.abc import Callable

import httpx
import pytest

from sluice_client.client import TRIES_MAX_COUNT, Sluice
from sluice_client.errors import NotFound, Refused, TimedOut, Unreachable

Answer = Callable[[httpx.Request], httpx.Response]
ACCEPTED = {"pipeline_id": "p", "command_id": "c", "position": "pipeline.commands/0/1", "state": "RUNNING"}


class Api(httpx.BaseTransport):
    """Answers in the order given; the last answer is given for ever."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.requests: list[httpx.Request] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        request.read()
        self.requests.append(request)
        answer = self.answers[min(len(self.requests), len(self.answers)) - 1]
        return answer(request)


def says(status: int, body: object, **headers: str) -> Answer:
    return lambda request: httpx.Response(status, json=body, headers=headers)


def away(request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("refused", request=request)


def client(*answers: Answer) -> tuple[Sluice, Api, list[float]]:
    api, pauses = Api(*answers), []
    return Sluice("http://api/", tenant="acme", transport=api, sleep=pauses.append), api, pauses


@pytest.mark.covers("U5")
def test_a_spawn_that_got_no_answer_is_sent_again_with_its_key() -> None:
    sluice, api, pauses = client(away, says(503, {"detail": "away"}), says(202, ACCEPTED))
    accepted = sluice.spawn({"objective": "o"}, wait_s=5)
    assert (accepted.pipeline_id, accepted.state) == ("p", "RUNNING")
    bodies = [json.loads(request.content) for request in api.requests]
    assert len(bodies) == 3
    assert len({body["dedupe_key"] for body in bodies}) == 1
    assert bodies[0]["tenant"] == "acme"
    assert api.requests[0].headers["prefer"] == "wait=5"
    assert pauses == sorted(pauses)
    sluice.spawn({}, dedupe_key="mine")
    assert json.loads(api.requests[-1].content)["dedupe_key"] == "mine"


@pytest.mark.covers("U5")
@pytest.mark.parametrize("command", ["cancel", "answer", "tick"])
def test_other_commands_have_a_key_of_their_own(command: str) -> None:
    sluice, api, _ = client(away, says(202, ACCEPTED))
    {
        "cancel": lambda: sluice.cancel("p", reason="enough"),
        "answer": lambda: sluice.answer("p", "q", "yes"),
        "tick": lambda: sluice.tick("p"),
    }[command]()
    keys = [request.headers["idempotency-key"] for request in api.requests]
    assert keys[0] == keys[1]
    assert json.loads(api.requests[1].content)["pipeline_id"] == "p"


def test_problems_are_named_by_what_to_do() -> None:
    problem = {"type": "urn:sluice:problem:unknown_role", "detail": "role x", "field": "plan.tasks.0.role"}
    sluice, api, _ = client(says(422, problem))
    with pytest.raises(Refused, match=r"unknown_role: role x; field: plan.tasks.0.role") as refused:
        sluice.spawn({})
    assert refused.value.code == "unknown_role"
    assert len(api.requests) == 1
    sluice, _, _ = client(says(404, {"type": "urn:sluice:problem:pipeline_not_found", "detail": "no"}))
    with pytest.raises(NotFound):
        sluice.status("p")
    sluice, _, _ = client(lambda request: httpx.Response(502, text="<html>"))
    with pytest.raises(Refused, match="502: <html>"):
        sluice.status("p")


@pytest.mark.parametrize("answer", [away, says(503, {"detail": "broker away"})])
def test_tries_are_bounded(answer: Answer) -> None:
    sluice, api, pauses = client(answer)
    with pytest.raises(Unreachable):
        sluice.status("p")
    assert len(api.requests) == TRIES_MAX_COUNT
    assert len(pauses) == TRIES_MAX_COUNT - 1


def test_pages_are_read_to_the_end() -> None:
    pages = [says(200, {"items": [1, 2], "next_offset": 2}), says(200, {"items": [3], "next_offset": None})]
    sluice, api, _ = client(*pages)
    assert list(sluice.events("p", types=["a", "b"], after="x/0/1")) == [1, 2, 3]
    assert api.requests[1].url.params["offset"] == "2"
    assert api.requests[0].url.params.get_list("type") == ["a", "b"]


def test_waiting_ends_with_the_pipeline_or_the_time() -> None:
    views = [says(200, {"state": "RUNNING"}), says(200, {"state": "FAILED"})]
    sluice, api, _ = client(*views)
    assert sluice.wait("p", after="pipeline.commands/0/1")["state"] == "FAILED"
    assert api.requests[0].url.params["after"] == "pipeline.commands/0/1"
    sluice, _, _ = client(says(200, {"state": "NEEDS_INPUT"}))
    with pytest.raises(TimedOut, match="NEEDS_INPUT"):
        sluice.wait("p", timeout_s=0)
