"""A world of one partition: the real decider, its state, virtual time, and the messages that runners would send.

No double: what stands around the decider is a dict for the state and a loop for the timers. Everything that is decided
goes through the codecs, so that what can't be written or read back fails here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any, TypeVar

import msgspec
from msgspec.structs import replace

from sluice_contracts import codec, ids
from sluice_contracts.envelope import CloudEvent, Record
from sluice_contracts.messages.admission import AdmissionGranted, AdmissionRequested
from sluice_contracts.messages.agent import (
    AgentAttemptStarted,
    AgentFailed,
    AgentInputRequested,
    AgentRun,
    AgentSucceeded,
    AgentTurnFinished,
)
from sluice_contracts.messages.alert import AlertRaised
from sluice_contracts.messages.base import ArtifactRef, Body, Message, Problem, Usage
from sluice_contracts.messages.blackboard import BlackboardReadRequested, BlackboardWriteRequested
from sluice_contracts.messages.pipeline import (
    AgentCreated,
    PipelineAnswer,
    PipelineCancel,
    PipelineCancelled,
    PipelineCompleted,
    PipelineFailed,
    PipelineSpawn,
    PipelineTick,
)
from sluice_contracts.messages.plan import Plan
from sluice_contracts.messages.report import HandoffReported
from sluice_contracts.messages.token import Grant, TokenDenied, TokenExpired, TokenGranted, TokenRevoked
from sluice_runtime.deciding import Decision, Entity, LeaseExpired, Output, Timer, TimerDue
from sluice_spawner.domain.policy import AGENT_RUN_MAX_BYTES, RoleCatalogue, SpawnerPolicy
from sluice_spawner.domain.state import AgentEntity, RefusalsEntity
from sluice_spawner.domain.state_admission import PoolEntity
from sluice_spawner.handlers import SpawnerDecider

M = TypeVar("M", bound=Message)

USAGE = Usage(input_tokens=10, output_tokens=2, cost_usd=0.5)
PIPELINE = "p-1"
POOL = "installation/pool"
TENANT = "acme"
START_MS = 1_800_000_000_000
ROLES = RoleCatalogue(
    queue_of={"writer": "general", "analyst": "general", "coder": "code", "ghost": "nowhere"},
    queues=frozenset({"general", "code"}),
)
TERMINAL = (PipelineCompleted, PipelineFailed, PipelineCancelled)


def reference(text: str) -> ArtifactRef:
    """A reference to a body that a runner would have stored."""
    body = text.encode()
    return ArtifactRef(sha256=hashlib.sha256(body).hexdigest(), size_bytes=len(body))


def plan(*tasks: str | dict[str, Any], **more: Any) -> Plan:
    """A plan; a task is a dict, or text such as `c: a, b?failed` for task c that waits for a, and for b's failure."""
    return Plan.model_validate({"objective": "do it", "tasks": [_task(task) for task in tasks], **more})


def _task(task: str | dict[str, Any]) -> dict[str, Any]:
    if isinstance(task, dict):
        return {"objective": "part of it", "role": "writer", **task}
    name, _, edges = task.partition(":")
    dependencies = []
    for edge in filter(None, (part.strip() for part in edges.split(","))):
        source, _, condition = edge.partition("?")
        dependencies.append({"task": source, "on": condition or "succeeded"})
    return {"id": name, "objective": "part of it", "role": "writer", "dependencies": dependencies}


class World:
    """Runs the decider and keeps what it said.

    What pipelines and the arbiter of the slots say to each other is heard at once, as if the partition read it before
    anything else; it stands apart from what is said to others, who need not know of it.

    Attributes:
        state: The partition's.
        said: Every output but those of admission, in order.
        admission: Every output of admission, in order.
        elsewhere: Pipelines of other partitions: what is granted to them is not heard here.
        heard: Every input with its decision, in order.
        now_ms: Virtual time.
    """

    def __init__(self, policy: SpawnerPolicy | None = None, roles: RoleCatalogue = ROLES) -> None:
        self.policy = policy or SpawnerPolicy()
        self.decider = SpawnerDecider(self.policy, roles)
        self.state: dict[str, Entity] = {}
        self.said: list[Output] = []
        self.admission: list[Output] = []
        self.elsewhere: set[str] = set()
        self.heard: list[tuple[CloudEvent[Message], int, Decision]] = []
        self.now_ms = START_MS
        self._ids = count(1)
        self._agent_ids: dict[str, str] = {}
        self._entities = msgspec.msgpack.Decoder(self.decider.entity_type)

    # Inputs

    def event(
        self, message: Message, *, pipeline_id: str = PIPELINE, tenant: str = TENANT, id_: str | None = None
    ) -> CloudEvent[Message]:
        return CloudEvent(
            id=id_ or f"in-{next(self._ids)}",
            source="tests",
            tenant=tenant,
            subject=pipeline_id,
            time_ms=self.now_ms,
            data=message,
            traceparent="00-11111111111111111111111111111111-2222222222222222-01",
        )

    def hear(self, event: CloudEvent[Message]) -> list[Message]:
        """Decides an input; returns what was said."""
        decision = self.decider.decide(self.state, event, self.now_ms)
        for key, entity in decision.deltas.items():
            assert key.startswith(f"{event.subject}/")
            if entity is None:
                assert key in self.state, f"{key} is deleted, but was never there"
                del self.state[key]
            else:
                self.state[key] = self._entities.decode(msgspec.msgpack.encode(entity))
                assert self.state[key] == entity
        self.heard.append((event, self.now_ms, decision))
        said: list[Message] = []
        for output in decision.outputs:
            self._check(output)
            if isinstance(output.event.data, AgentCreated) and output.event.subject == PIPELINE:
                self._agent_ids[output.event.data.task_id] = output.event.data.agent_id
            if output.topic != "admission":
                self.said.append(output)
                said.append(output.event.data)
        for output in decision.outputs:
            if output.topic == "admission":
                self.admission.append(output)
                said += [] if output.event.subject in self.elsewhere else self.hear(output.event)
        return said

    def _check(self, output: Output) -> None:
        record = codec.encode(output.event, topic=output.topic, key=output.key)
        assert record.value is not None
        if isinstance(output.event.data, AgentRun):
            assert len(record.value) < AGENT_RUN_MAX_BYTES
        read = codec.decode(Record(record.topic, 0, 0, 0, record.key, record.value, record.headers))
        assert read == output.event

    def say(self, message: Message, **more: Any) -> list[Message]:
        """Decides a message as a new input."""
        return self.hear(self.event(message, **more))

    def spawn(self, plan_: Plan, **more: Any) -> list[Message]:
        return self.say(PipelineSpawn(plan=plan_), **more)

    def cancel(self, **more: Any) -> list[Message]:
        return self.say(PipelineCancel(reason="enough"), **more)

    def tick(self, **more: Any) -> list[Message]:
        return self.say(PipelineTick(), **more)

    def answer(self, question_id: str, text: str, **more: Any) -> list[Message]:
        return self.say(PipelineAnswer(question_id=question_id, answer=text), **more)

    # Runners

    def agent_id(self, task_id: str) -> str:
        return self._agent_ids[task_id]

    def agent(self, task_id: str) -> AgentEntity:
        entity = self.state[f"{PIPELINE}/agent/{self.agent_id(task_id)}"]
        assert isinstance(entity, AgentEntity)
        return entity

    def _who(self, task_id: str, attempt: int | None, runner: str) -> dict[str, Any]:
        attempt = self.agent(task_id).attempt if attempt is None else attempt
        return {"agent_id": self.agent_id(task_id), "attempt": attempt, "runner_id": runner}

    def start(self, task_id: str, *, attempt: int | None = None, runner: str = "r1", **more: Any) -> list[Message]:
        return self.say(AgentAttemptStarted(**self._who(task_id, attempt, runner)), **more)

    def turn(
        self, task_id: str, number: int, *, attempt: int | None = None, runner: str = "r1", text: str = "",
        usage: Usage = USAGE, **more: Any,
    ) -> list[Message]:  # fmt: skip
        return self.say(turn_of(self._who(task_id, attempt, runner), number, text, usage), **more)

    def succeed(
        self, task_id: str, summary: str = "done", *, attempt: int | None = None, runner: str = "r1",
        artifacts: Sequence[ArtifactRef] = (), **more: Any,
    ) -> list[Message]:  # fmt: skip
        message = AgentSucceeded(
            **self._who(task_id, attempt, runner), summary=summary, result=Body(text=summary), artifacts=artifacts
        )
        return self.say(message, **more)

    def fail(
        self, task_id: str, *, retryable: bool = False, code: str = "model_unauthorized", attempt: int | None = None,
        runner: str = "r1", **more: Any,
    ) -> list[Message]:  # fmt: skip
        problem = Problem(code=code, detail="it did not work")
        return self.say(
            AgentFailed(**self._who(task_id, attempt, runner), problem=problem, retryable=retryable), **more
        )

    def ask(
        self, task_id: str, request_id: str = "q", *, default: str | None = None, attempt: int | None = None,
        runner: str = "r1", question: str = "which?", timeout_s: int = 60, **more: Any,
    ) -> list[Message]:  # fmt: skip
        message = AgentInputRequested(
            **self._who(task_id, attempt, runner), request_id=request_id, question=question, options=("a", "b"),
            default=default, timeout_s=timeout_s,
        )  # fmt: skip
        return self.say(message, **more)

    def read(
        self, task_id: str, key: str | None = None, request_id: str = "b", *, attempt: int | None = None,
        runner: str = "r1", turn: int | None = None, prefix: str = "", **more: Any,
    ) -> list[Message]:  # fmt: skip
        turn = self.agent(task_id).turn if turn is None else turn
        message = BlackboardReadRequested(
            **self._who(task_id, attempt, runner), request_id=request_id, turn=turn, key=key, prefix=prefix
        )
        return self.say(message, **more)

    def write(
        self, task_id: str, key: str, version: int = 0, value: str = "v", request_id: str = "b", *,
        action: Any = "set", attempt: int | None = None, runner: str = "r1", turn: int | None = None,
        ttl_s: int | None = None, **more: Any,
    ) -> list[Message]:  # fmt: skip
        turn = self.agent(task_id).turn if turn is None else turn
        message = BlackboardWriteRequested(
            **self._who(task_id, attempt, runner), request_id=request_id, turn=turn, action=action, key=key,
            value=value, key_version=version, ttl_s=ttl_s,
        )  # fmt: skip
        return self.say(message, **more)

    def lose(self, task_id: str, *, attempt: int | None = None) -> list[Message]:
        attempt = self.agent(task_id).attempt if attempt is None else attempt
        return self.say(LeaseExpired(agent_id=self.agent_id(task_id), attempt=attempt))

    def run(self, task_id: str, summary: str = "done") -> list[Message]:
        """A runner takes the task, takes one turn and succeeds."""
        self.start(task_id)
        self.turn(task_id, self.agent(task_id).turn + 1)
        return self.succeed(task_id, summary)

    # The vault-broker, the monitor, the api

    def grant(self, task_id: str, *, attempt: int | None = None, **more: Any) -> list[Message]:
        """The vault-broker gives what was asked for: for an attempt, or the latest one."""
        agent_id = self.agent_id(task_id)
        attempt = self.agent(task_id).requested if attempt is None else attempt
        accessor = ids.derived_id("accessor", agent_id, attempt)
        end_ms = self.now_ms + 7_200_000
        message = TokenGranted(
            agent_id=agent_id, attempt=attempt, accessor=accessor, expires_at_ms=end_ms, ends_at_ms=end_ms,
            grant=Grant(sealed=f"vault:v1:{accessor}", accessor=accessor, expires_at_ms=end_ms),
        )  # fmt: skip
        return self.say(message, **more)

    def deny(self, task_id: str, code: str = "unknown_queue", *, command: Any = "token.request") -> list[Message]:
        problem = Problem(code=code, detail="there is no such key")
        agent = self.agent(task_id)
        return self.say(
            TokenDenied(agent_id=self.agent_id(task_id), attempt=agent.requested, problem=problem, command=command)
        )

    def deny_root(self, denial_id: str) -> list[Message]:
        """There will be no token of the pipeline's own: all its credentials were revoked."""
        problem = Problem(code="credentials_revoked", detail="all credentials of the pipeline were revoked (manual)")
        return self.say(TokenDenied(problem=problem), id_=denial_id)

    def expire(self, task_id: str, *, attempt: int | None = None) -> list[Message]:
        attempt = self.agent(task_id).attempt if attempt is None else attempt
        return self.say(TokenExpired(agent_id=self.agent_id(task_id), attempt=attempt, accessor="a"))

    def revoke(
        self, task_id: str | None = None, *, attempt: int | None = None, reason: Any = "manual"
    ) -> list[Message]:
        """Vault has ended an attempt's token, or all of the pipeline's."""
        if task_id is None:
            return self.say(TokenRevoked(accessors=("r",), reason=reason))
        attempt = self.agent(task_id).attempt if attempt is None else attempt
        message = TokenRevoked(agent_id=self.agent_id(task_id), attempt=attempt, accessors=("a",), reason=reason)
        return self.say(message)

    def alert(
        self, action: Any, condition: Any, task_id: str | None = None, *, attempt: int | None = None
    ) -> list[Message]:
        about: dict[str, Any] = {}
        if task_id is not None:
            attempt = self.agent(task_id).attempt if attempt is None else attempt
            about = {"agent_id": self.agent_id(task_id), "attempt": attempt}
        message = AlertRaised(
            condition=condition, action=action, observed=101, limit=100, window_ms=60_000, breached_at_ms=self.now_ms,
            detail="too many", **about,
        )  # fmt: skip
        return self.say(message)

    def report(self, reason: str = "error_budget_exceeded", cause: Any = "revocation", **more: Any) -> list[Message]:
        message = HandoffReported(
            cause=cause, cause_id="revoked-1", reason=reason, summary="6 errors within 60 s",
            report=reference("report"), markdown=reference("markdown"),
        )  # fmt: skip
        return self.say(message, **more)

    # Slots

    @property
    def pool(self) -> PoolEntity:
        entity = self.state.get(POOL, PoolEntity())
        assert isinstance(entity, PoolEntity)
        return entity

    def kept(self) -> dict[str, Entity]:
        """The state without what is there for ever: the slots of all, of which nobody has any and nobody waits."""
        assert self.pool == PoolEntity(grants=self.pool.grants, looks=self.pool.looks)
        return {key: entity for key, entity in self.state.items() if key != POOL}

    # Time

    def timers(self) -> list[Timer]:
        found = [entity for entity in self.state.values() if isinstance(entity, Timer)]
        return sorted(found, key=lambda timer: (timer.due_at_ms, timer.key, timer.generation))

    def wait(self, seconds: float) -> list[Message]:
        """Lets time pass; what is due fires in its order."""
        until_ms = self.now_ms + int(seconds * 1_000)
        said: list[Message] = []
        while (due := self.timers()) and due[0].due_at_ms <= until_ms:
            self.now_ms = max(self.now_ms, due[0].due_at_ms)
            said += self.fire(due[0])
            assert due[0] not in self.timers(), "a fired timer must be deleted or set anew"
        self.now_ms = until_ms
        return said

    def fire(self, timer: Timer) -> list[Message]:
        id_ = ids.derived_id("timer", timer.pipeline_id, timer.name, timer.generation)
        message = TimerDue(name=timer.name, generation=timer.generation)
        return self.say(message, pipeline_id=timer.pipeline_id, tenant=timer.tenant, id_=id_)

    # What was said

    def all(self, cls: type[M]) -> list[M]:
        return of(cls, [output.event.data for output in self.said])

    def last(self, cls: type[M]) -> M:
        return self.all(cls)[-1]

    def terminal(self) -> Message:
        ends = [output.event.data for output in self.said if isinstance(output.event.data, TERMINAL)]
        assert len(ends) == 1, ends
        return ends[0]

    def statuses(self) -> Mapping[str, str]:
        """Of the tasks, as the terminal event tells them."""
        end = self.terminal()
        assert isinstance(end, TERMINAL)
        return end.tasks


def of(cls: type[M], messages: Sequence[Message]) -> list[M]:
    return [message for message in messages if isinstance(message, cls)]


def types(messages: Sequence[Message]) -> list[str]:
    return [message.type for message in messages]


def turn_of(who: Mapping[str, Any], number: int, text: str = "", usage: Usage = USAGE) -> AgentTurnFinished:
    return AgentTurnFinished(
        **who, turn=number, transcript=reference(f"turn {number} {text}"), provider="scripted", model="m",
        finish_reason="stop", usage=usage, model_ms=1,
        prompt=Body(text="p"), response=Body(text="r"),
    )  # fmt: skip


def known(world: World, event: CloudEvent[Message]) -> dict[str, Entity]:
    """The state, as far as an input that comes again must leave it as it is.

    Of a claim that is gone nothing is known: a request of it is granted again, and that is given back. What remains is
    that grants were counted and that the one that came back is remembered.
    """
    if not isinstance(event.data, AdmissionRequested | AdmissionGranted):
        return dict(world.state)
    kept = {key: entity for key, entity in world.state.items() if not isinstance(entity, RefusalsEntity)}
    return {**kept, POOL: replace(world.pool, grants=0, looks=0)}
