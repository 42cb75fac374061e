"""Writes down what a partition leaves in `pipeline.state` and `pipeline.journal`, for later releases to read.

`python -m tests.unit.spawner.recording STORY NAME` makes `recorded/NAME.msgpack` of a story in `STORIES`, and beside it
`NAME.json`: what must come back from it, every field by its name. Recordings are histories: one that exists is never
made anew. Add another where an entity was added, or a field.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import fields

from sluice_contracts import codec, topics
from sluice_contracts.envelope import CloudEvent, OutgoingRecord, Record
from sluice_contracts.messages.agent import (
    AgentAttemptStarted,
    AgentFailed,
    AgentInputRequested,
    AgentSucceeded,
)
from sluice_contracts.messages.alert import AlertRaised
from sluice_contracts.messages.base import Body, Message, Problem
from sluice_contracts.messages.blackboard import BlackboardWriteRequested
from sluice_contracts.messages.pipeline import (
    AgentCreated,
    Diagnosed,
    PipelineAnswer,
    PipelineCancel,
    PipelineSpawn,
    QuestionAsked,
)
from sluice_contracts.messages.plan import Plan
from sluice_contracts.messages.token import Grant, TokenDenied, TokenGranted
from sluice_runtime.broker import TopicPartition
from sluice_runtime.deciding import Entity, LeaseExpired
from sluice_runtime.memory import MemoryLog
from sluice_runtime.processor import journal
from sluice_runtime.processor.partition import Injected, Partition
from sluice_spawner.domain.policy import STARTS_PER_DECISION_MAX_COUNT, SpawnerPolicy
from sluice_spawner.handlers import SpawnerDecider
from tests.doubles import ManualClock
from tests.unit.spawner.world import ROLES, TENANT, plan, reference, turn_of

FOLDER = Path(__file__).parent / "recorded"
JOURNAL, STATE = "pipeline.journal", "pipeline.state"
AGENTS_MAX = 25
SPAWN_TIMEOUT_MS = SpawnerPolicy().spawn_timeout_s * 1_000
WIDE = {"limits": {"max_agents": 20}}
QUEUES = ("general", "code")


class Recording(msgspec.Struct, frozen=True):
    """Keys and values of the state topic; offsets and values of the journal, which begins behind the checkpoint."""

    state: list[tuple[bytes, bytes | None]]
    journal: list[tuple[int, bytes]]

    def restored(self) -> Partition:
        """The partition as whoever takes it over has it."""
        partition = empty_partition()
        partition.restore_checkpoint(
            Record(STATE, 0, offset, 0, key, value, ()) for offset, (key, value) in enumerate(self.state)
        )
        assert partition.journal_start == self.journal[0][0]
        partition.restore_journal(Record(JOURNAL, 0, offset, 0, None, value, ()) for offset, value in self.journal)
        return partition


def empty_partition(*, credentials: bool = False) -> Partition:
    decider = SpawnerDecider(SpawnerPolicy(installation_agents_max=AGENTS_MAX, credentials=credentials), ROLES)
    return Partition(0, decider, service="spawner", partition_of=lambda _: 0)


class Recorder:
    """One partition, whose own requests and grants are its next inputs."""

    def __init__(self, *, credentials: bool = False) -> None:
        self.clock = ManualClock()
        names = topics.concrete_topics(queues=QUEUES, partitions=1)
        self.log = MemoryLog({one.name: 1 for one in names}, self.clock)
        self.partition = empty_partition(credentials=credentials)
        self.state: list[tuple[bytes, bytes | None]] = []
        self.agents: dict[tuple[str, str], str] = {}
        self._count = 0
        told = ("pipeline.commands", "admission", "token.events", "alerts", "reports")
        self._read = dict.fromkeys((*told, *(f"agent.events.{one}" for one in QUEUES)), 0)
        claim = journal.Claim(owner="recorder", now_ms=self.clock.now_ms())
        offset = self.log.append(OutgoingRecord(JOURNAL, None, journal.encode(claim)))
        self.partition.restore_journal(self.log.read(TopicPartition(JOURNAL, 0), offset))
        self.partition.claimed(offset)

    def say(self, topic: str, pipeline_id: str, message: Message, tenant: str = TENANT) -> None:
        self._count += 1
        self.clock.advance(10)
        event = CloudEvent(f"in-{self._count}", "tests", tenant, pipeline_id, self.clock.now_ms(), message)
        self.log.append(codec.encode(event, topic=topic, key=pipeline_id))
        self.decide()

    def decide(self, *injected: Injected) -> None:
        """Decides what waits, until nothing does; each batch is published before the next."""
        inputs: list[Record | Injected] = list(injected)
        while True:
            for topic, offset in self._read.items():
                records = self.log.read(TopicPartition(topic, 0), offset)
                self._read[topic] += len(records)
                inputs += records
            inputs += self.partition.due(self.clock.now_ms(), 100)
            if not inputs:
                return
            self.append(inputs)
            inputs = []

    def append(self, inputs: list[Record | Injected]) -> None:
        draft = self.partition.decide(inputs, self.clock.now_ms())
        offset = self.log.append(OutgoingRecord(JOURNAL, None, draft.value))
        for output in self.partition.appended(draft, offset):
            at = self.log.append(output)
            [record] = self.log.read(TopicPartition(output.topic, 0), at)
            event = codec.decode(record)
            if isinstance(event.data, AgentCreated):
                self.agents[event.subject, event.data.task_id] = event.data.agent_id
        self.partition.published(offset)

    def spawn(self, pipeline_id: str, plan_: Plan) -> None:
        self.say("pipeline.commands", pipeline_id, PipelineSpawn(plan=plan_))

    def who(self, pipeline_id: str, task_id: str, attempt: int = 1, runner: str = "r1") -> dict[str, Any]:
        return {"agent_id": self.agents[pipeline_id, task_id], "attempt": attempt, "runner_id": runner}

    def runner(self, pipeline_id: str, message: Message) -> None:
        self.say("agent.events.general", pipeline_id, message)

    def run(self, pipeline_id: str, task_id: str, attempt: int = 1) -> None:
        who = self.who(pipeline_id, task_id, attempt)
        self.runner(pipeline_id, AgentAttemptStarted(**who))
        self.runner(pipeline_id, turn_of(who, 1))
        artifact = reference("report").model_copy(update={"name": "r.md", "kind": "report"})
        done = AgentSucceeded(**who, summary="done", result=Body(text="x"), artifacts=(artifact,))
        self.runner(pipeline_id, done)

    def grant(self, pipeline_id: str, task_id: str, attempt: int = 1) -> None:
        agent_id, until_ms = self.agents[pipeline_id, task_id], self.clock.now_ms() + 7_200_000
        message = TokenGranted(
            agent_id=agent_id, attempt=attempt, accessor="a1", expires_at_ms=until_ms, ends_at_ms=until_ms,
            grant=Grant(sealed="vault:v1:x", accessor="a1", expires_at_ms=until_ms),
        )  # fmt: skip
        self.say("token.events", pipeline_id, message)

    def question(self) -> str:
        events = [codec.decode(one).data for one in self.log.read(TopicPartition("pipeline.events", 0), 0)]
        return [one.question_id for one in events if isinstance(one, QuestionAsked)][-1]

    def checkpoint(self) -> None:
        changed, end = self.partition.take_dirty()
        self.state += [(key.encode(), one and self.partition.encode_entity(one)) for key, one in changed.items()]
        self.state.append((journal.CHECKPOINT_KEY, journal.encode(end)))
        self.log.trim(TopicPartition(JOURNAL, 0), end.journal_offset + 1)

    def recording(self) -> Recording:
        records = self.log.read(TopicPartition(JOURNAL, 0), 0)
        return Recording(self.state, [(one.offset, one.value or b"") for one in records])


def record_credentials() -> Recording:
    """A pipeline that waits for grants; one that gave its attempt up, and is throttled; one that was revoked."""
    story = Recorder(credentials=True)
    diagnosed = Diagnosed(pipeline_id="another", depth=1)
    story.say("pipeline.commands", "waits", PipelineSpawn(plan=plan("a", "b"), diagnosed=diagnosed))
    story.grant("waits", "a")
    lost = story.who("waits", "a")
    story.runner("waits", AgentAttemptStarted(**lost))
    event = CloudEvent("lease", "spawner", "", "waits", 0, LeaseExpired(agent_id=lost["agent_id"], attempt=1))
    story.decide(Injected(event))
    story.spawn("idle", plan("a"))
    story.grant("idle", "a")
    asks = story.who("idle", "a")
    story.runner("idle", AgentAttemptStarted(**asks))
    story.runner("idle", AgentInputRequested(**asks, request_id="q", question="which?", timeout_s=86_400))
    story.checkpoint()
    story.clock.advance(SpawnerPolicy().token_wait_s * 1_000)
    story.decide()
    alert = AlertRaised(
        condition="api_call_budget_exceeded", action="throttle", observed=101, limit=100, window_ms=60_000,
        breached_at_ms=story.clock.now_ms(), detail="101 calls within 60 s; 100 are allowed",
    )  # fmt: skip
    story.say("alerts", "idle", alert)
    story.spawn("revoked", plan("a"))
    story.grant("revoked", "a")
    story.say("alerts", "revoked", alert.model_copy(update={"action": "revoke_pipeline"}))
    story.spawn("revoked-before", plan("a"))
    denied = TokenDenied(problem=Problem(code="credentials_revoked", detail="all were revoked (manual)"))
    story.say("token.events", "revoked-before", denied)
    return story.recording()


def record_blackboard() -> Recording:
    """A key that was written and one that was deleted; a conflict that is open; answers that no turn has seen."""
    story = Recorder()
    story.spawn("lives", plan("a", "b", on_conflict="first_wins"))
    story.spawn("disagrees", plan("a", "b"))
    for pipeline_id in ("lives", "disagrees"):
        for task_id in ("a", "b"):
            who = story.who(pipeline_id, task_id)
            story.runner(pipeline_id, AgentAttemptStarted(**who))
            story.runner(pipeline_id, turn_of(who, 1))
    first, second = story.who("disagrees", "a"), story.who("disagrees", "b")
    asked: dict[str, Any] = {"turn": 1, "action": "set", "key": "plan"}
    story.runner("disagrees", BlackboardWriteRequested(**first, **asked, request_id="w1", value="roll back"))
    story.checkpoint()
    story.runner("disagrees", BlackboardWriteRequested(**first, **asked, request_id="w2", value="wait", key_version=1))
    story.runner("disagrees", BlackboardWriteRequested(**second, **asked, request_id="w", value="no", key_version=1))
    gone: dict[str, Any] = {"turn": 1, "action": "delete", "key": "gone"}
    story.runner(
        "disagrees", BlackboardWriteRequested(**second, **{**gone, "action": "set"}, request_id="s", value="x")
    )
    story.runner("disagrees", BlackboardWriteRequested(**second, **gone, request_id="d", key_version=1))
    return story.recording()


def record() -> Recording:
    """A pipeline in which everything has happened, two that ended, one that nobody watches, and some that wait."""
    story = Recorder()
    tasks = ["a", "b", "c", "d", "e: c", "f: d?failed", "g", "h", "i: g"]
    options = {"on_failure": "carry_on", "limits": {"max_agents": 5}, "inputs": [reference("in").model_dump()]}
    story.spawn("lives", plan(*tasks, **options))
    story.clock.advance(SPAWN_TIMEOUT_MS)
    story.decide()
    story.spawn("ended", plan("a"))
    story.run("ended", "a")
    story.spawn("cancelled", plan("a"))
    story.say("pipeline.commands", "cancelled", PipelineCancel(reason="enough"))
    story.spawn("unattended", plan("a", unattended=True))
    alone = story.who("unattended", "a")
    story.runner("unattended", AgentAttemptStarted(**alone))
    asked = AgentInputRequested(**alone, request_id="q", question="which?", timeout_s=60)
    story.runner("unattended", asked)
    story.run("lives", "c", attempt=2)
    lost = story.who("lives", "a", 2)
    story.runner("lives", AgentAttemptStarted(**lost))
    story.runner("lives", turn_of(lost, 1))
    event = CloudEvent("lease", "spawner", "", "lives", 0, LeaseExpired(agent_id=lost["agent_id"], attempt=2))
    story.decide(Injected(event))
    story.spawn("wide", plan(*(f"t{number}" for number in range(STARTS_PER_DECISION_MAX_COUNT + 1)), **WIDE))
    story.checkpoint()
    second = story.who("lives", "a", 3, "r2")
    story.runner("lives", AgentAttemptStarted(**second))
    for request_id in ("q1", "q2"):
        asked = AgentInputRequested(**second, request_id=request_id, question="which?", default="a", timeout_s=3_600)
        story.runner("lives", asked)
        if request_id == "q1":
            story.say("pipeline.commands", "lives", PipelineAnswer(question_id=story.question(), answer="a"))
    failed = story.who("lives", "b", 2)
    story.runner("lives", AgentAttemptStarted(**failed))
    problem = Problem(code="rate_limited", detail="429", field="model", limit="calls")
    story.runner("lives", AgentFailed(**failed, problem=problem, retryable=True))
    hopeless = story.who("lives", "d", 2)
    story.runner("lives", AgentAttemptStarted(**hopeless))
    story.runner("lives", AgentFailed(**hopeless, problem=problem, retryable=False))
    story.say("pipeline.commands", "lives", PipelineCancel(reason="not mine"), tenant="another")
    for waiting in ("waits-1", "waits-2", "waits-3"):
        story.spawn(waiting, plan("a", "b", "c", unattended=True))
    return story.recording()


def named(value: Any) -> Any:
    """A value with the names of its fields, without those at their default: a field that is added changes nothing."""
    if isinstance(value, msgspec.Struct):
        told = {one.name: getattr(value, one.name) for one in fields(value) if getattr(value, one.name) != one.default}
        return {"": type(value).__name__, **{name: named(one) for name, one in told.items()}}
    if isinstance(value, list | tuple):
        return [named(one) for one in value]
    return value


def told(partition: Partition) -> dict[str, Any]:
    """What a recording must give back."""
    state: dict[str, Entity] = partition.state
    return {
        "now_ms": partition.now_ms,
        "positions": dict(sorted(partition.positions.items())),
        "unpublished": [[one.topic, dict(one.headers)["ce_id"].decode()] for one in partition.unpublished()],
        "state": {key: named(state[key]) for key in sorted(state)},
    }


STORIES = {"all": record, "credentials": record_credentials, "blackboard": record_blackboard}


def main(story: str, name: str) -> None:
    path = FOLDER / f"{name}.msgpack"
    if path.exists():
        raise SystemExit(f"{path} exists: a recording is never made anew; choose another name")
    recording = STORIES[story]()
    path.write_bytes(msgspec.msgpack.encode(recording))
    text = json.dumps(told(recording.restored()), indent=1, ensure_ascii=False)
    path.with_suffix(".json").write_text(f"{text}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
