"""The Python client: what a person or a program may ask of an installation, over HTTP.

```python
from sluice_client.client import Sluice

with Sluice("http://127.0.0.1:8080") as sluice:
    accepted = sluice.spawn({"objective": "…", "tasks": [{"id": "t", "objective": "…", "role": "researcher"}]})
    print(sluice.wait(accepted.pipeline_id)["state"])
```

Answers are the JSON objects of the api's OpenAPI document (`GET /openapi.json`).
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from sluice_client.errors import NotFound, Refused, TimedOut, Unreachable

Json = dict[str, Any]

TERMINAL = frozenset({"COMPLETED", "FAILED", "CANCELLED"})
"""The states after which nothing more happens to a pipeline."""

TIMEOUT_S = 45.0
"""The api answers a request that waits within 30 s."""

TRIES_MAX_COUNT = 5
"""A service that restarts is back within seconds; whoever waits longer wants to know."""

FIRST_PAUSE_S, PAUSE_MAX_S = 0.2, 3.0
POLL_S = 0.25
"""Between looks at a pipeline that is waited for: below what a person notices."""

PAGE_COUNT = 1_000
"""Entries that are asked for at once: the api's limit."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """A command is durable.

    Attributes:
        pipeline_id: The pipeline that it concerns.
        command_id: The id of the command's message.
        position: Give it as `after` to a question, to read one's own write.
        state: The pipeline's state, where the command's effect was waited for and came.
    """

    pipeline_id: str
    command_id: str
    position: str
    state: str | None = None


class Sluice:
    """A client of one installation. Use it as a context manager, or close it. Not safe for use by several threads.

    Guarantee: a command that gets no answer is sent again with the same key, so that it takes effect once; a
    question is asked again. Both give up after some seconds (`Unreachable`).

    Args:
        url: The api's address.
        tenant: Whose pipelines are spawned.
        timeout_s: For one request.
        transport: Instead of the network.
        sleep: Between tries.
    """

    def __init__(
        self,
        url: str,
        *,
        tenant: str = "default",
        timeout_s: float = TIMEOUT_S,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.url = url.rstrip("/")
        self._tenant = tenant
        self._sleep = sleep
        # No proxy from the environment for an address on this machine; httpx would take one for loopback too.
        self._client = httpx.Client(base_url=self.url, timeout=timeout_s, transport=transport, trust_env=False)

    def __enter__(self) -> Sluice:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        self._client.close()

    # Commands

    def spawn(
        self,
        plan: Mapping[str, Any],
        *,
        dedupe_key: str | None = None,
        parent_pipeline_id: str | None = None,
        wait_s: int = 10,
    ) -> Accepted:
        """Starts a pipeline.

        Args:
            plan: As `schemas/pipeline.spawn.v1.schema.json` describes it.
            dedupe_key: The same tenant and key name the same pipeline, whoever spawns it. Default: a new one.
            parent_pipeline_id: The pipeline on whose behalf this one runs.
            wait_s: How long to wait for the spawner's decision; 0: not at all. No decision in time is no error.

        Raises:
            Refused: The plan breaks the contract, or the spawner refused it.
            Unreachable: Nothing answers.
        """
        body: Json = {"plan": dict(plan), "tenant": self._tenant, "dedupe_key": dedupe_key or str(uuid.uuid4())}
        if parent_pipeline_id is not None:
            body["parent_pipeline_id"] = parent_pipeline_id
        return self._command("/api/spawn", body, wait_s, keyed=True)

    def cancel(self, pipeline_id: str, *, reason: str | None = None, wait_s: int = 10) -> Accepted:
        """Ends a pipeline; its agents are stopped.

        Raises:
            Refused: There is no such pipeline, or it has ended.
            Unreachable: Nothing answers.
        """
        given = {} if reason is None else {"reason": reason}
        return self._command("/api/pipeline/cancel", {"pipeline_id": pipeline_id, **given}, wait_s)

    def answer(self, pipeline_id: str, question_id: str, answer: str, *, wait_s: int = 10) -> Accepted:
        """Answers a pending question; the first answer counts.

        Raises:
            Refused: There is no such question, or it is settled.
            Unreachable: Nothing answers.
        """
        body = {"pipeline_id": pipeline_id, "question_id": question_id, "answer": answer}
        return self._command("/api/pipeline/answer", body, wait_s)

    def tick(self, pipeline_id: str, *, wait_s: int = 0) -> Accepted:
        """Has a pipeline looked at again now. Where nothing is due, nothing follows.

        Raises:
            Refused: There is no such pipeline.
            Unreachable: Nothing answers.
        """
        return self._command("/api/pipeline/tick", {"pipeline_id": pipeline_id}, wait_s)

    def revoke(
        self, pipeline_id: str, *, agent_id: str | None = None, reason: str | None = None, wait_s: int = 0
    ) -> Accepted:
        """Ends the credentials of a pipeline, which is then handed off and fails, or those of one of its agents.

        Args:
            pipeline_id: The pipeline.
            agent_id: Only this agent's.
            reason: For people.
            wait_s: How long to wait until Vault has ended them; 0: not at all. Not yet in time is no error.

        Raises:
            NotFound: There is no such pipeline.
            Refused: The request breaks the contract; or, where it is waited for, there is nothing to revoke.
            Unreachable: Nothing answers.
        """
        given = {"agent_id": agent_id, "reason": reason}
        more = {name: value for name, value in given.items() if value is not None}
        return self._command("/api/pipeline/revoke", {"pipeline_id": pipeline_id, **more}, wait_s)

    def renew(self, pipeline_id: str, *, wait_s: int = 0) -> Accepted:
        """Renews all credentials of a pipeline now.

        Raises:
            NotFound: There is no such pipeline.
            Refused: Where it is waited for: there is nothing to renew.
            Unreachable: Nothing answers.
        """
        return self._command("/api/pipeline/renew", {"pipeline_id": pipeline_id}, wait_s)

    def diagnose(self, pipeline_id: str, *, wait_s: int = 10) -> Accepted:
        """Starts a pipeline that finds out why another one failed; the answer names the new one.

        Raises:
            NotFound: There is no such pipeline.
            Refused: It has not failed, or the spawner refused the diagnostic.
            Unreachable: Nothing answers.
        """
        return self._command("/api/observability/diagnostic", {"pipeline_id": pipeline_id}, wait_s)

    def hand_off(self, pipeline_id: str, *, reason: str | None = None) -> Json:
        """Has a report written on a pipeline as it is now, and returns where it stands. The pipeline goes on.

        Raises:
            NotFound: There is no such pipeline.
            Unreachable: Nothing answers.
        """
        body = {"pipeline_id": pipeline_id, **({} if reason is None else {"reason": reason})}
        headers = {"Idempotency-Key": str(uuid.uuid4()), "Prefer": "wait=10"}
        found: Json = self._request("POST", "/api/observability/handoff", json=body, headers=headers).json()
        return found

    # Questions

    def status(self, pipeline_id: str, *, after: str | None = None) -> Json:
        """A pipeline with its tasks, agents and pending questions, whether it lives or is past.

        Raises:
            NotFound: There is none of this id.
            Unreachable: Nothing answers.
        """
        found: Json = self._get(f"/runs/{pipeline_id}/status", after=after)
        return found

    def active(
        self, *, states: Sequence[str] = (), tenant: str | None = None, labels: Sequence[str] = ()
    ) -> Iterator[Json]:
        """Pipelines that live, oldest first. `labels` are `name=value`."""
        return self._pages("/api/active-pipelines", state=list(states), tenant=tenant, label=list(labels))

    def events(self, pipeline_id: str, *, types: Sequence[str] = (), after: str | None = None) -> Iterator[Json]:
        """A pipeline's events from the log, each once, in order."""
        return self._pages(f"/runs/{pipeline_id}/events", type=list(types), after=after)

    def story(self, pipeline_id: str, *, after: str | None = None) -> Iterator[Json]:
        """What happened in a pipeline, line by line."""
        return self._pages("/api/pipeline/logs", pipeline_id=pipeline_id, after=after)

    def errors(self, pipeline_id: str | None = None) -> Iterator[Json]:
        """Events that carry a problem, newest first; of one pipeline, or of all."""
        if pipeline_id is None:
            return self._pages("/api/observability/errors")
        return self._pages("/api/pipeline/errors", pipeline_id=pipeline_id)

    def tokens(self, pipeline_id: str, *, after: str | None = None) -> Iterator[Json]:
        """A pipeline's credentials, by Vault's names of them; never a token."""
        return self._pages("/api/pipeline/token", pipeline_id=pipeline_id, after=after)

    def alerts(self, pipeline_id: str | None = None) -> Iterator[Json]:
        """Breaches of error budgets, newest first; of one pipeline, or of all."""
        return self._pages("/api/observability/alerts", pipeline_id=pipeline_id)

    def agents(self, *, pipeline_id: str | None = None) -> Iterator[Json]:
        """Agents of the pipelines that live, or of one pipeline."""
        return self._pages("/api/agents", pipeline_id=pipeline_id)

    def artifacts(self, pipeline_id: str, *, after: str | None = None) -> list[Json]:
        """What the tasks that succeeded have left: `{task_id, artifact: {sha256, size_bytes, name, kind, …}}`."""
        found: list[Json] = self._get(f"/runs/{pipeline_id}/artifacts", after=after)
        return found

    def artifact(self, sha256: str) -> bytes:
        """An artifact's bytes.

        Raises:
            NotFound: There is none of this hash.
            Unreachable: Nothing answers.
        """
        return self._request("GET", f"/api/artifacts/{sha256}").content

    def dead_letters(self, *, topic: str | None = None, reason: str | None = None) -> Iterator[Json]:
        """Records that were refused, newest first."""
        return self._pages("/api/dead-letters", topic=topic, reason=reason)

    def wait(self, pipeline_id: str, *, timeout_s: float | None = None, after: str | None = None) -> Json:
        """Waits until a pipeline has ended, and returns its status.

        Args:
            pipeline_id: The pipeline.
            timeout_s: How long at most; None: for ever.
            after: The position of the command that spawned it, so that it is not unknown yet.

        Raises:
            NotFound: There is no such pipeline.
            TimedOut: It has not ended in time.
            Unreachable: Nothing answers.
        """
        until = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            view = self.status(pipeline_id, after=after)
            after = None
            if view["state"] in TERMINAL:
                return view
            if until is not None and time.monotonic() > until:
                raise TimedOut(
                    f"pipeline {pipeline_id} is {view['state']} after {timeout_s:g} s; wait longer, or look at it: "
                    f"sluice status {pipeline_id}"
                )
            self._sleep(POLL_S)

    # One request

    def _command(self, path: str, body: Json, wait_s: int, *, keyed: bool = False) -> Accepted:
        # A key, so that it may be sent again; where the body is keyed, it has one.
        headers = {} if keyed else {"Idempotency-Key": str(uuid.uuid4())}
        if wait_s:
            headers["Prefer"] = f"wait={wait_s}"
        answer = self._request("POST", path, json=body, headers=headers).json()
        return Accepted(answer["pipeline_id"], answer["command_id"], answer["position"], answer.get("state"))

    def _get(self, path: str, **parameters: Any) -> Any:
        given = {name: value for name, value in parameters.items() if value not in (None, [])}
        return self._request("GET", path, params=given).json()

    def _pages(self, path: str, **parameters: Any) -> Iterator[Json]:
        offset: int | None = 0
        while offset is not None:
            page = self._get(path, limit=PAGE_COUNT, offset=offset, **parameters)
            yield from page["items"]
            offset = page["next_offset"]

    def _request(self, method: str, path: str, **options: Any) -> httpx.Response:
        pause_s = FIRST_PAUSE_S
        for left in range(TRIES_MAX_COUNT - 1, -1, -1):
            try:
                answer = self._client.request(method, path, **options)
            except httpx.TransportError as error:
                if not left:
                    raise Unreachable(
                        f"{self.url} does not answer ({type(error).__name__}); see what runs: sluice doctor"
                    ) from error
            else:
                if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE or not left:
                    return _checked(answer)
            self._sleep(pause_s)
            pause_s = min(2 * pause_s, PAUSE_MAX_S)
        raise AssertionError("the last try returns or raises")


def _checked(answer: httpx.Response) -> httpx.Response:
    if answer.is_success:
        return answer
    try:
        problem = dict(answer.json())
    except ValueError:
        problem = {"detail": answer.text[:300]}
    parts = [str(problem.get("detail") or answer.reason_phrase)]
    parts += [f"{name}: {problem[name]}" for name in ("field", "limit") if problem.get(name)]
    code = str(problem.get("type", "")).rpartition(":")[2]
    message = f"{code or answer.status_code}: {'; '.join(parts)}"
    if answer.status_code == httpx.codes.SERVICE_UNAVAILABLE:
        raise Unreachable(message)
    error = NotFound if answer.status_code == httpx.codes.NOT_FOUND else Refused
    raise error(message, answer.status_code, problem)
