"""Small things that the agent-runner's tests are made of, and doubles of its ports."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from typing import Any

from sluice_agent_runner.domain.actions import Action, CallModel, Fail, FinishTurn, RunTools
from sluice_agent_runner.domain.conversation import (
    Link,
    ModelReply,
    ModelRequest,
    ToolCall,
    ToolCallRequest,
    ToolResult,
    WrittenArtifact,
    decode_link,
    encode_link,
)
from sluice_agent_runner.domain.secret import Secret
from sluice_agent_runner.domain.tools import WriteArtifact
from sluice_agent_runner.domain.turns import TurnMachine
from sluice_agent_runner.ports import ModelError, NoKey
from sluice_contracts.envelope import CloudEvent
from sluice_contracts.messages.agent import AgentRun
from sluice_contracts.messages.base import ArtifactRef, Message, Usage
from sluice_contracts.messages.plan import TaskSpec
from sluice_runtime.artifacts import ArtifactMissing
from sluice_runtime.role import Role

NOW_MS = 1_800_000_000_000
BOARD_TOOLS = ["blackboard_get", "blackboard_list", "blackboard_set", "blackboard_delete"]
ALL_TOOLS = ["list_files", "read_file", "search_files", "write_artifact", *BOARD_TOOLS, "ask_human", "finish"]


def role(**changes: Any) -> Role:
    given = {"name": "worker", "description": "works", "system_prompt": "You work.", "tools": ALL_TOOLS}
    return Role.model_validate({**given, **changes})


def task(**changes: Any) -> TaskSpec:
    return TaskSpec.model_validate({"id": "t1", "objective": "find it", "role": "worker", **changes})


def agent_run(spec: TaskSpec | None = None, **changes: Any) -> AgentRun:
    given = {"agent_id": "agent-1", "attempt": 1, "objective": "all of it", "deadline_at_ms": NOW_MS + 300_000}
    return AgentRun.model_validate({**given, "task": spec or task(), **changes})


def call(name: str, call_id: str = "", /, **arguments: Any) -> ToolCallRequest:
    return ToolCallRequest(call_id, name, json.dumps(arguments))


def reply(*calls: ToolCallRequest, text: str = "", usage: Usage | None = None) -> ModelReply:
    reason = "tool_calls" if calls else "stop"
    return ModelReply(text, calls, reason, usage or Usage(input_tokens=10, output_tokens=5), "test", "test-model")


def finish(**arguments: Any) -> ModelReply:
    return reply(call("finish", **{"summary": "done", **arguments}))


async def until(holds: Callable[[], object], within_s: float = 30) -> None:
    """Waits for a condition that nothing announces."""
    async with asyncio.timeout(within_s):
        while not holds():
            await asyncio.sleep(0.001)


def redact_canary(text: str) -> str:
    return text.replace("CANARY", "[redacted:canary]") if "CANARY" in text else text


class Store:
    """An artifact store in memory."""

    def __init__(self) -> None:
        self.bodies: dict[str, bytes] = {}
        self.puts: list[ArtifactRef] = []

    async def put(
        self, body: bytes, *, media_type: str = "text/plain; charset=utf-8", name: str | None = None,
        kind: str | None = None,
    ) -> ArtifactRef:  # fmt: skip
        ref = self.put_now(body, media_type=media_type, name=name, kind=kind)
        self.puts.append(ref)
        return ref

    def put_now(self, body: bytes, **described: Any) -> ArtifactRef:
        digest = sha256(body).hexdigest()
        self.bodies[digest] = body
        return ArtifactRef(sha256=digest, size_bytes=len(body), **described)

    async def get(self, sha256: str) -> bytes:
        try:
            return self.bodies[sha256]
        except KeyError:
            raise ArtifactMissing(f"{sha256} was never stored") from None


class Driver:
    """Drives a machine by hand: models and tools are what the test says, the store is a dictionary."""

    def __init__(
        self,
        run: AgentRun | None = None,
        the_role: Role | None = None,
        links: Sequence[Link] = (),
        now_ms: int = NOW_MS,
    ) -> None:
        self.run = run or agent_run()
        self.role = the_role or role()
        self.now_ms = now_ms
        self.stored: dict[str, bytes] = {}
        self.finished: list[FinishTurn] = []
        self.requests: list[ModelRequest] = []
        self.machine = TurnMachine("pipeline-1", self.run, self.role, links, redact_canary)
        self.action: Action = self._see(self.machine.start(now_ms))

    def links(self) -> list[Link]:
        return [decode_link(encode_link(finished.record.link)) for finished in self.finished]

    def says(self, answer: ModelReply) -> Action:
        """The model answers; tools and the log do their part, until the machine wants something else."""
        assert isinstance(self.action, CallModel), self.action
        return self._settle(self._see(self.machine.on_model_reply(answer, 7)))

    def _settle(self, action: Action) -> Action:
        while True:
            if isinstance(action, RunTools):
                action = self._see(self.machine.on_tool_results([result_of(one) for one in action.calls]))
            elif isinstance(action, FinishTurn):
                body = encode_link(action.record.link)
                digest = sha256(body).hexdigest()
                self.stored[digest] = body
                self.finished.append(action)
                action = self._see(self.machine.on_turn_durable(digest, self.now_ms))
            else:
                return action

    def _see(self, action: Action) -> Action:
        if isinstance(action, CallModel):
            self.requests.append(action.request)
        self.action = action
        return action

    def resumed(self, after: int | None = None, **changes: Any) -> Driver:
        """A later attempt, that knows what is durable (after so many turns) and nothing else."""
        turns = len(self.finished) if after is None else after
        ref = None
        if turns:
            digest, body = list(self.stored.items())[turns - 1]
            ref = ArtifactRef(sha256=digest, size_bytes=len(body))
        used = Usage()
        for finished in self.finished[:turns]:
            used += finished.record.reply.usage
        given = {"attempt": self.run.attempt + 1, "turn": turns, "transcript": ref, "usage": used}
        run = self.run.model_copy(update={**given, **changes})
        return Driver(run, self.role, self.links()[:turns], self.now_ms)


def failed(driver: Driver) -> str:
    assert isinstance(driver.action, Fail), driver.action
    return driver.action.problem.code


def last_results(driver: Driver) -> dict[str, tuple[str, bool]]:
    calls = driver.finished[-1].record.tool_calls
    return {one.request.name: (one.result.content, one.result.is_error) for one in calls}


def result_of(one: ToolCall) -> ToolResult:
    """What a tool of the tests answers."""
    if isinstance(one.arguments, WriteArtifact):
        body = one.arguments.content.encode()
        artifact = WrittenArtifact(
            one.arguments.name, sha256(body).hexdigest(), len(body), "text/plain", one.arguments.kind
        )
        return ToolResult(one.call_id, "written", artifact=artifact)
    return ToolResult(one.call_id, f"result of {one.name}", duration_ms=3)


class Alone:
    """Whoever calls a model without a pace and without Vault; it notes what it is told."""

    def __init__(self, key: str | None = None, changed: Sequence[str] = ()) -> None:
        self.vaults = key
        self.changed = list(changed)
        self.calls = 0
        self.failures: list[str] = []
        self.pieces = 0
        self.is_held_up = False

    async def admitted(self) -> None:
        self.calls += 1

    def failed(self, error: ModelError) -> None:
        self.failures.append(error.code)

    def came_on(self) -> None:
        self.pieces += 1

    @contextmanager
    def held_up(self) -> Iterator[None]:
        assert not self.is_held_up
        self.is_held_up = True
        yield
        self.is_held_up = False

    async def key(self, provider: str) -> Secret | NoKey:
        return NoKey("this is a test") if self.vaults is None else Secret(self.vaults)

    async def key_changed(self, provider: str) -> bool:
        if self.changed:
            self.vaults = self.changed.pop(0)
            return True
        return False


class TestTime:
    """Time that passes only by sleeping, at once."""

    __test__ = False

    def __init__(self) -> None:
        self.time_ms = NOW_MS
        self.slept_s: list[float] = []

    def now_ms(self) -> int:
        return self.time_ms

    def monotonic_ms(self) -> int:
        return self.time_ms

    async def sleep(self, seconds: float) -> None:
        self.slept_s.append(seconds)
        self.time_ms += int(seconds * 1_000)
        await asyncio.sleep(0)


class Published:
    """A log in memory."""

    def __init__(self) -> None:
        self.events: list[CloudEvent[Message]] = []
        self.changed = asyncio.Event()

    async def publish(self, event: CloudEvent[Message], *, topic: str, key: str) -> None:
        await asyncio.sleep(0)
        self.events.append(event)
        self.changed.set()

    async def publish_all(self, events: Sequence[tuple[CloudEvent[Message], str]], *, key: str) -> None:
        for event, topic in events:
            await self.publish(event, topic=topic, key=key)

    def types(self, agent_id: str | None = None) -> list[str]:
        return [
            event.type for event in self.events
            if agent_id is None or getattr(event.data, "agent_id", None) == agent_id
        ]  # fmt: skip

    async def until(self, type_: str, count: int = 1) -> list[CloudEvent[Message]]:
        """Waits until so many events of a type are published."""
        async with asyncio.timeout(10):
            while True:
                found = [event for event in self.events if event.type == type_]
                if len(found) >= count:
                    return found
                self.changed.clear()
                await self.changed.wait()
