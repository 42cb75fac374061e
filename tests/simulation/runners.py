"""Runners of the simulation: the real turn machine, with a model and tools that are a function of the request."""

from __future__ import annotations

import json
import random
import re
from dataclasses import dataclass, field
from hashlib import sha256

from sluice_agent_runner.domain.actions import (
    Action,
    Ask,
    CallModel,
    Fail,
    FinishTurn,
    RunTools,
    Succeed,
    Wait,
)
from sluice_agent_runner.domain.conversation import (
    Link,
    ModelReply,
    ModelRequest,
    ToolCallRequest,
    ToolResult,
    decode_link,
    encode_link,
)
from sluice_agent_runner.domain.events import Attempt, failed, requested, succeeded, turn_finished, turn_texts
from sluice_agent_runner.domain.turns import TurnMachine
from sluice_contracts.codec import decode, encode
from sluice_contracts.envelope import CloudEvent
from sluice_contracts.ids import derived_id
from sluice_contracts.messages import Message
from sluice_contracts.messages.agent import (
    AgentAnswer,
    AgentAttemptStarted,
    AgentRun,
    AgentStop,
    HeldAttempt,
    RunnerHeartbeat,
)
from sluice_contracts.messages.base import ArtifactRef, Usage
from sluice_runtime.broker import TopicPartition
from sluice_runtime.memory import MemoryLog
from sluice_runtime.role import Role
from tests.doubles import ManualClock

QUEUE = "q"
ROLE = Role(
    name="worker", description="works", queue=QUEUE, system_prompt="work", tools=["list_files", "ask_human", "finish"]
)
BOARD = ["blackboard_get", "blackboard_list", "blackboard_set", "blackboard_delete"]
TEAM_ROLE = ROLE.model_copy(update={"tools": [*ROLE.tools, *BOARD]})
KEYS = ("plan", "cause")
"""So few that agents of a pipeline meet."""


@dataclass(slots=True)
class Shared:
    """What all runners share: the artifact store, the group's committed offsets, the model's bill.

    Attributes:
        finished: Agent and turn of all turns that are in the log.
        paid_again: Model calls for such a turn.
    """

    artifacts: dict[str, bytes] = field(default_factory=dict)
    committed: dict[TopicPartition, int] = field(default_factory=dict)
    finished: set[tuple[str, int]] = field(default_factory=set)
    paid_again: list[tuple[str, int]] = field(default_factory=list)

    def put(self, body: bytes) -> ArtifactRef:
        digest = sha256(body).hexdigest()
        self.artifacts[digest] = body
        return ArtifactRef(sha256=digest, size_bytes=len(body))

    def links(self, ref: ArtifactRef | None) -> list[Link]:
        chain: list[Link] = []
        digest = ref.sha256 if ref else None
        while digest is not None:
            chain.append(decode_link(self.artifacts[digest]))
            digest = chain[-1].previous
        return chain[::-1]


@dataclass(slots=True)
class Running:
    run: AgentRun
    pipeline_id: str
    tenant: str
    machine: TurnMachine
    action: Action | None = None
    begun: bool = False
    answers: list[AgentAnswer] = field(default_factory=list)


class RunnerInstance:
    """A process that holds attempts.

    Args:
        team: Whether its agents share a blackboard.
    """

    def __init__(
        self, name: str, log: MemoryLog, clock: ManualClock, rng: random.Random, shared: Shared, *, team: bool = False
    ) -> None:
        self.name = name
        self.role = TEAM_ROLE if team else ROLE
        self._reply = team_reply if team else lambda request: reply(request.agent_id, request.turn)
        self.log = log
        self.clock = clock
        self.random = rng
        self.shared = shared
        self.running: dict[str, Running] = {}
        self._stopped: dict[str, int] = {}
        self._over: dict[str, int] = {}
        self._inbox = {
            TopicPartition(f"agent.inbox.{QUEUE}", n): log.bounds(TopicPartition(f"agent.inbox.{QUEUE}", n)).end
            for n in range(log.partitions(f"agent.inbox.{QUEUE}"))
        }

    def step(self) -> None:
        choice = self.random.random()
        if choice < 0.25:
            self._take_a_task()
        elif choice < 0.4:
            self._read_inbox()
        elif self.running:
            self._work(self.running[self.random.choice(sorted(self.running))])

    @property
    def busy(self) -> bool:
        waiting = any(
            self.log.read(TopicPartition(f"agent.tasks.{QUEUE}", n), self._committed(n)) for n in range(2)
        ) or any(self.log.read(at, offset) for at, offset in self._inbox.items())
        return waiting or any(not isinstance(one.action, Wait) or one.answers for one in self.running.values())

    def _committed(self, number: int) -> int:
        return self.shared.committed.get(TopicPartition(f"agent.tasks.{QUEUE}", number), 0)

    def heartbeat(self) -> None:
        held = tuple(
            HeldAttempt(agent_id=agent, attempt=one.run.attempt, state="running")
            for agent, one in sorted(self.running.items())
        )
        data = RunnerHeartbeat(runner_id=self.name, queues=(QUEUE,), slots=64, attempts=held)
        self._send("runner.heartbeats", self.name, self.name, "system", data, str(self.clock.now_ms()))

    def _take_a_task(self) -> None:
        number = self.random.randrange(self.log.partitions(f"agent.tasks.{QUEUE}"))
        at = TopicPartition(f"agent.tasks.{QUEUE}", number)
        records = self.log.read(at, self._committed(number))
        if not records:
            return
        self.shared.committed[at] = records[0].offset + 1
        self.take(decode(records[0]))

    def take(self, event: CloudEvent[Message]) -> None:
        """Starts an attempt, unless a newer one is known."""
        run = event.data
        assert isinstance(run, AgentRun)
        known = self.running.get(run.agent_id)
        over = max(self._stopped.get(run.agent_id, 0), self._over.get(run.agent_id, 0))
        if run.attempt <= over or (known and known.run.attempt >= run.attempt):
            return
        links = self.shared.links(run.transcript)
        machine = TurnMachine(event.subject, run, self.role, links, lambda text: text)
        self.running[run.agent_id] = Running(run, event.subject, event.tenant, machine)

    def _read_inbox(self) -> None:
        for at, offset in self._inbox.items():
            for record in self.log.read(at, offset):
                self._inbox[at] = record.offset + 1
                data = decode(record).data
                if isinstance(data, AgentStop):
                    if data.runner_id not in (None, self.name):
                        continue
                    self._stopped[data.agent_id] = max(data.attempt, self._stopped.get(data.agent_id, 0))
                    held = self.running.get(data.agent_id)
                    if held and held.run.attempt <= data.attempt:
                        del self.running[data.agent_id]
                elif isinstance(data, AgentAnswer) and data.agent_id in self.running:
                    self.running[data.agent_id].answers.append(data)

    def _work(self, held: Running) -> None:
        now_ms, machine = self.clock.now_ms(), held.machine
        attempt = Attempt.of(held.run, self.name)
        if not held.begun:
            started = AgentAttemptStarted(agent_id=held.run.agent_id, attempt=held.run.attempt, runner_id=self.name)
            self._say(held, started, "started")
            held.begun = True
            held.action = machine.start(now_ms)
            return
        match held.action:
            case CallModel(request=request):
                if (request.agent_id, request.turn) in self.shared.finished:
                    self.shared.paid_again.append((request.agent_id, request.turn))
                if self.random.random() < 0.03:
                    held.action = machine.on_model_failed("rate_limited", "429", retryable=True)
                else:
                    held.action = machine.on_model_reply(self._reply(request), 1)
            case RunTools(calls=calls):
                held.action = machine.on_tool_results([ToolResult(call.call_id, "a.log") for call in calls])
            case FinishTurn(record=record):
                ref = self.shared.put(encode_link(record.link))
                data = turn_finished(attempt, record, ref, turn_texts(record), {})
                self._say(held, data, f"turn-{record.turn}")
                self.shared.finished.add((held.run.agent_id, record.turn))
                held.action = machine.on_turn_durable(ref.sha256, now_ms)
            case Ask(requests=requests):
                for request in requests:
                    self._say(held, requested(attempt, request, 30), f"ask-{request.request_id}")
                held.action = machine.on_asked(now_ms)
            case Wait():
                if held.answers:
                    held.action = machine.on_answer(held.answers.pop(0).answer, now_ms)
            case Succeed() as success:
                self._say(held, succeeded(attempt, success, {"result": success.conclusion.result}, {}), "succeeded")
                self._end(held)
            case Fail() as failure:
                self._say(held, failed(attempt, failure), "failed")
                self._end(held)

    def _end(self, held: Running) -> None:
        self.running.pop(held.run.agent_id, None)
        self._over[held.run.agent_id] = held.run.attempt

    def _say(self, held: Running, data: Message, what: str) -> None:
        key = f"{held.run.agent_id}/{held.run.attempt}/{self.name}/{what}"
        self._send(f"agent.events.{QUEUE}", held.pipeline_id, held.pipeline_id, held.tenant, data, key)

    def _send(self, topic: str, key: str, subject: str, tenant: str, data: Message, cause: str) -> None:
        identity = derived_id(cause, data.type, 0)
        event = CloudEvent(identity, f"agent-runner/{self.name}", tenant, subject, self.clock.now_ms(), data)
        self.log.append(encode(event, topic=topic, key=key))


def reply(agent_id: str, turn: int) -> ModelReply:
    """What the model says: a function of agent and turn, so that a run has one right course."""
    rng = random.Random(f"{agent_id}/{turn}")
    last = int(agent_id[:2], 16) % 4 + 1
    if turn >= last:
        call = ToolCallRequest("c", "finish", '{"summary": "done", "result": "done"}')
    elif rng.random() < 0.15:
        call = ToolCallRequest("c", "ask_human", '{"question": "really?", "options": [], "default": "yes"}')
    else:
        call = ToolCallRequest("c", "list_files", "{}")
    return ModelReply(f"turn {turn}", (call,), "tool_calls", Usage(input_tokens=10, output_tokens=5), "sim", "sim")


def team_reply(request: ModelRequest) -> ModelReply:
    """What the model of an agent with a blackboard says: a function of the request, so of what it was answered, too."""
    rng = random.Random(f"{request.agent_id}/{request.turn}")
    if request.turn >= int(request.agent_id[:2], 16) % 5 + 2:
        return reply(request.agent_id, 99)
    read = dict.fromkeys(KEYS, 0)
    for message in request.messages:
        for key, version in re.findall(r'"key":"(\w+)","version":(\d+)', message.content):
            read[key] = int(version)
    calls = []
    for number in range(rng.randint(1, 2)):
        key, kind = rng.choice(KEYS), rng.choice(["get", "list", "set", "set", "set", "delete", "ask"])
        arguments = {
            "get": {"key": key},
            "list": {},
            "set": {"key": key, "value": f"{request.agent_id}/{request.turn}", "version": read[key]},
            "delete": {"key": key, "version": read[key]},
            "ask": {"question": "really?", "default": "yes"},
        }[kind]
        name = "ask_human" if kind == "ask" else f"blackboard_{kind}"
        calls.append(ToolCallRequest(f"c{number}", name, json.dumps(arguments)))
    usage = Usage(input_tokens=10, output_tokens=5)
    return ModelReply(f"turn {request.turn}", tuple(calls), "tool_calls", usage, "sim", "sim")
