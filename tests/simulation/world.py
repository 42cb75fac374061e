"""The simulated installation: everything that decides is real, the rest is virtual, and all of it comes from one seed.

Run it again with the seed that a failure prints, and it fails at the same step.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from sluice_contracts import ids, topics
from sluice_contracts.codec import decode, encode
from sluice_contracts.envelope import CloudEvent
from sluice_contracts.messages import Message
from sluice_contracts.messages.pipeline import (
    AgentAttemptLost,
    PipelineAnswer,
    PipelineCancel,
    PipelineSpawn,
    PipelineTick,
    QuestionAsked,
)
from sluice_contracts.messages.plan import Dependency, Plan, TaskSpec
from sluice_runtime.broker import TopicPartition
from sluice_spawner.domain.policy import RoleCatalogue, SpawnerPolicy
from sluice_spawner.handlers import SpawnerDecider
from tests.doubles import ManualClock
from tests.history import History, check
from tests.simulation.runners import QUEUE, ROLE, RunnerInstance, Shared
from tests.simulation.slots import RememberingLog, check_slots
from tests.simulation.spawners import SpawnerInstance

PARTITIONS = 2
FEW_AGENTS = 3
"""That may live at once where the seed is odd: less than two pipelines want."""

BRIEF_RETENTION_S = 3
"""Ended pipelines are forgotten so soon where the seed is a multiple of three: a command that comes again, with the id
that it had, then starts another pipeline of the same id."""

BRIEF_TTL_S = 10
"""Values of a blackboard expire so soon: while their pipeline lives."""

DEAF_MAX_MS = 21_000
"""An instance hears no heartbeats for so long: some leases."""


@dataclass(frozen=True)
class Faults:
    """How often what goes wrong, per step."""

    crash: float = 0.004
    freeze: float = 0.003
    jump: float = 0.002
    redeliver: float = 0.01
    second_instance: float = 0.01
    deaf: float = 0.002
    repeated_command: float = 0.004


class World:
    """One run from one seed.

    Args:
        team: Whether agents share a blackboard; a seed has another course then.
    """

    def __init__(self, seed: int, faults: Faults | None = None, *, team: bool = False) -> None:
        self.random = random.Random(seed)
        self.team = team
        self._faulty = random.Random(f"faults of {seed}")  # of later kinds, so that seeds keep the course they had
        self.clock = ManualClock()
        names = {one.name: one.partitions for one in topics.concrete_topics(queues=[QUEUE], partitions=PARTITIONS)}
        self.log = RememberingLog(names, self.clock)
        self.agents_max = FEW_AGENTS if seed % 2 else SpawnerPolicy().installation_agents_max
        self.forgetful = seed % 3 == 0
        self._topics = [name for name in names if name not in ("pipeline.journal", "pipeline.state")]
        self.shared = Shared()
        self.faults = faults or Faults()
        self.commands: dict[str, CloudEvent[Message]] = {}
        self.spawned: set[str] = set()
        self._made = 0
        self._answered: set[str] = set()
        self.spawners: list[SpawnerInstance] = []
        self.runners: list[RunnerInstance] = []
        self.frozen: list[SpawnerInstance | RunnerInstance] = []
        self.gone: set[str] = set()
        self._new_spawner()
        self._new_runner()

    def inputs(self) -> list[str]:
        """What spawners read."""
        return ["pipeline.commands", "admission", f"agent.events.{QUEUE}"]

    def policy(self) -> SpawnerPolicy:
        """What spawners are told."""
        retention_s = BRIEF_RETENTION_S if self.forgetful else SpawnerPolicy().finished_retention_s
        return SpawnerPolicy(
            installation_agents_max=self.agents_max,
            finished_retention_s=retention_s,
            blackboard_ttl_s=BRIEF_TTL_S if self.team else SpawnerPolicy().blackboard_ttl_s,
        )

    # Processes

    def _name(self, stem: str) -> str:
        self._made += 1
        return f"{stem}-{self._made}"

    def _new_spawner(self) -> None:
        decider = SpawnerDecider(self.policy(), RoleCatalogue(queue_of={ROLE.name: QUEUE}, queues=frozenset({QUEUE})))
        instance = SpawnerInstance(self._name("spawner"), self.log, self.clock, self.random, decider, self.inputs())
        self.spawners.append(instance)
        self._rebalance()

    def _new_runner(self) -> None:
        name = self._name("runner")
        self.runners.append(RunnerInstance(name, self.log, self.clock, self.random, self.shared, team=self.team))

    def _rebalance(self) -> None:
        """As a group coordinator: every partition to one live member. A frozen one is told when it wakes up, or not."""
        for number in range(PARTITIONS):
            owner = self.spawners[number % len(self.spawners)]
            for other in self.spawners:
                if other is not owner:
                    other.give_up(number)
            if number not in owner.owners:
                owner.take(number)

    # What people do

    def spawn(self) -> None:
        dedupe = f"key-{self.random.randrange(1_000_000)}" if self.random.random() < 0.9 else "the-same"
        pipeline = ids.pipeline_id("tenant", dedupe)
        count = self.random.randint(1, 4)
        tasks = [self._task(number) for number in range(count)]
        on_failure = self.random.choice(["fail_fast", "carry_on"])
        plan = Plan(objective="find out", tasks=tuple(tasks), on_failure=on_failure)
        if self.team and self.random.random() < 0.3:
            plan = plan.model_copy(update={"on_conflict": "first_wins"})
        self.spawned.add(pipeline)
        self._command(pipeline, PipelineSpawn(plan=plan, dedupe_key=dedupe))

    def _task(self, number: int) -> TaskSpec:
        earlier = [f"t{n}" for n in range(number) if self.random.random() < 0.5]
        on = "succeeded" if self.random.random() < 0.8 else "finished"
        edges = tuple(Dependency(task=task, on=on) for task in earlier)
        return TaskSpec(id=f"t{number}", objective="work", role=ROLE.name, dependencies=edges, timeout_s=600)

    def _command(self, pipeline: str, data: Message) -> None:
        identity = f"command-{len(self.commands)}"
        event = CloudEvent(identity, "test", "tenant", pipeline, self.clock.now_ms(), data)
        self.commands[identity] = event
        self._send(event)

    def _send(self, event: CloudEvent[Message]) -> None:
        self.log.append(encode(event, topic="pipeline.commands", key=event.subject))

    def answer_questions(self) -> None:
        for number in range(PARTITIONS):
            at = TopicPartition("pipeline.events", number)
            for record in self.log.read(at, 0):
                event = decode(record)
                if isinstance(event.data, QuestionAsked) and event.data.question_id not in self._answered:
                    self._answered.add(event.data.question_id)
                    if self.random.random() < 0.7:
                        self._command(event.subject, PipelineAnswer(question_id=event.data.question_id, answer="yes"))

    # Time

    def step(self, *, calm: bool = False) -> None:
        """One step of one process, and now and then a fault."""
        self.clock.advance(self.random.randrange(40))
        if not calm:
            self._maybe_fault()
        process = self.random.choice([*self.spawners, *self.runners])
        process.step()
        if self.random.random() < 0.05:
            self._rebalance()  # who was fenced has left the group and joined it again
        if self.random.random() < 0.1:
            for runner in self.runners:
                runner.heartbeat()
            for spawner in self.spawners:
                spawner.look_after_leases()
        if self.random.random() < 0.02:
            self.answer_questions()

    def _maybe_fault(self) -> None:
        roll, faults = self.random.random, self.faults
        if roll() < faults.crash:
            self._lose(freeze=False)
        if roll() < faults.freeze:
            self._lose(freeze=True)
        if self.frozen and roll() < faults.freeze * 2:
            self._wake()
        if roll() < faults.jump:
            self.clock.advance(self.random.choice([-30_000, 3_000, 15_000]))
        if roll() < faults.redeliver:
            self._redeliver()
        if self._faulty.random() < faults.deaf:
            self._faulty.choice(self.spawners).deafen(self._faulty.randint(1_000, DEAF_MAX_MS))
        if self.commands and self._faulty.random() < faults.repeated_command:
            self._send(self.commands[self._faulty.choice(list(self.commands))])
        if len(self.spawners) < 2 and roll() < faults.second_instance:
            self._new_spawner()
        if len(self.runners) < 2 and roll() < faults.second_instance:
            self._new_runner()

    def _lose(self, *, freeze: bool) -> None:
        kind: list[SpawnerInstance] | list[RunnerInstance] = (
            self.spawners if self.random.random() < 0.5 else self.runners
        )
        lost = kind.pop(self.random.randrange(len(kind)))
        self.gone.add(lost.name)
        if freeze:
            self.frozen.append(lost)
        if not self.spawners:
            self._new_spawner()
        if not self.runners:
            self._new_runner()
        self._rebalance()

    def _wake(self) -> None:
        """A zombie does some steps with the memory that it had, and only then learns that it lost everything."""
        zombie = self.frozen.pop(self.random.randrange(len(self.frozen)))
        for _ in range(self.random.randint(1, 12)):
            zombie.step()

    def _redeliver(self) -> None:
        """A runner gets a task record again, as after a rebalance."""
        at = TopicPartition(f"agent.tasks.{QUEUE}", self.random.randrange(PARTITIONS))
        records = self.log.read(at, 0)
        if records:
            self.random.choice(self.runners).take(decode(self.random.choice(records)))

    # The whole course

    def run(self, steps: int = 1_500, pipelines: int = 5) -> None:
        """Faulty time, then calm time until nothing moves any more.

        Raises:
            AssertionError: It does not come to rest.
        """
        for number in range(steps):
            if number % (steps // (2 * pipelines)) == 0 and number < steps // 2:
                self.spawn()
            if self.spawned and self.random.random() < 0.001:
                self._command(self.random.choice(sorted(self.spawned)), PipelineCancel(reason="enough"))
            if self.spawned and self._faulty.random() < 0.003:
                self._command(self._faulty.choice(sorted(self.spawned)), PipelineTick())
            self.step()
        while self.frozen:
            self._wake()
        for _ in range(60_000):
            if self._at_rest():
                return
            self.step(calm=True)
        raise AssertionError("the installation does not come to rest")

    def _at_rest(self) -> bool:
        if self.random.random() > 0.02:
            return False  # looking costs more than a step
        now_ms = self.clock.now_ms()
        owners = [owner for one in self.spawners for owner in one.owners.values()]
        if any(runner.busy or (runner.running and not self.forgetful) for runner in self.runners):
            return False  # nobody stops an attempt of a pipeline that is forgotten: it may wait for an answer for ever
        return len(owners) == PARTITIONS and all(owner.idle(now_ms) for owner in owners) and self.all_ended()

    def all_ended(self) -> bool:
        lives = self.history().lives
        return self.spawned <= set(lives) and all(told[-1] for told in lives.values())

    def check(self) -> None:
        """All laws of what stands on the topics, and of the slots at every moment."""
        history = self.history()
        check(history, self.spawned)
        check_slots(self.log.journal, self.agents_max)
        events = history.events("pipeline.events")
        self._check_commands(events)
        self._check_losses(events)

    def _check_commands(self, events: Sequence[CloudEvent[Message]]) -> None:
        """Each has an effect or is refused; but a tick may find nothing to do, and a spawn a pipeline that is there."""
        causes = {event.causation_id for event in events}
        for command in self.commands.values():
            if isinstance(command.data, PipelineAnswer | PipelineCancel):
                assert command.id in causes, f"nobody heard {command}"

    def _check_losses(self, events: Sequence[CloudEvent[Message]]) -> None:
        """Only who crashed or froze lost an attempt by silence."""
        for event in events:
            if isinstance(event.data, AgentAttemptLost) and event.data.problem.code == "lease_expired":
                assert event.data.runner_id in self.gone, f"{event.data.runner_id} lived, and lost {event.data}"

    def history(self) -> History:
        """All that stands on the topics."""
        return History(
            {
                topic: [
                    record
                    for number in range(self.log.partitions(topic))
                    for record in self.log.read(TopicPartition(topic, number), 0)
                ]
                for topic in self._topics
            },
            QUEUE,
        )
