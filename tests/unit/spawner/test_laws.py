"""Laws that hold for every plan and every order of events: fencing, idempotence, one end, the fold, determinism."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sluice_contracts.messages.agent import AgentAnswer, AgentRun, AgentStop
from sluice_contracts.messages.pipeline import AgentAttemptRefused, PipelineRefused, QuestionAsked
from sluice_runtime.deciding import Entity
from sluice_spawner.domain.building import DecisionBuilder
from sluice_spawner.domain.evolving import evolve
from sluice_spawner.domain.policy import SpawnerPolicy
from sluice_spawner.domain.state import AgentEntity, PipelineEntity, PlanEntity, TaskEntity
from sluice_spawner.domain.state_admission import ClaimEntity
from sluice_spawner.domain.view import View
from sluice_spawner.handlers import HANDLERS
from tests.unit.spawner.blackboard_laws import ask_blackboard, check_blackboard
from tests.unit.spawner.world import PIPELINE, ROLES, START_MS, TERMINAL, World, known, of, plan

POLICY = SpawnerPolicy(
    spawn_attempts_max=3, lost_attempts_max=4, questions_per_pipeline_max=5, installation_agents_max=3,
    blackboard_ttl_s=30,
)  # fmt: skip
GUARDED = replace(POLICY, credentials=True, token_wait_s=5)
"""The same with credentials and error budgets."""
AFTERWARDS = (AgentAttemptRefused, AgentStop, PipelineRefused)
DENIALS = {"deny": "unknown_queue", "refuse": "credentials_revoked", "end": "attempt_revoked"}
STEPS_MAX = 60  # below the number of refusals that are remembered, so that every redelivery is known


@dataclass
class Held:
    """What a runner believes to hold, rightly or not: it may have died, or be a zombie."""

    task_id: str
    attempt: int
    runner: str
    turn: int


class Story:
    """Draws one step after the other from a source of randomness, and checks the invariants after each."""

    def __init__(self, choose: random.Random) -> None:
        self.choose = choose
        self.policy = choose.choice([POLICY, GUARDED])
        self.world = World(self.policy)
        self.held: list[Held] = []
        self.turns: dict[str, int] = {}

    def play(self, steps: int) -> None:
        while isinstance(self.world.spawn(self._plan())[0], PipelineRefused):
            self.world = World(self.policy)  # the plan could not run: its conditions contradicted each other
        for _ in range(steps):
            self._step()
            self.check()

    def _plan(self) -> Any:
        choose = self.choose
        names = [f"t{number}" for number in range(choose.randint(1, 6))]
        tasks = []
        for number, name in enumerate(names):
            sources = [source for source in names[:number] if choose.random() < 0.4]
            edges = [
                {"task": s, "on": choose.choice(["succeeded", "succeeded", "failed", "finished"])} for s in sources
            ]
            constraints = ["no-secrets"] if choose.random() < 0.2 else []
            retries = choose.randint(0, 2)
            tasks.append(
                {"id": name, "dependencies": edges, "retries": retries, "timeout_s": 120, "constraints": constraints}
            )
        return plan(
            *tasks,
            on_failure=choose.choice(["fail_fast", "carry_on"]),
            on_conflict=choose.choice(["loser_retries", "loser_retries", "first_wins"]),
            unattended=choose.random() < 0.3,
            limits={"max_agents": choose.randint(1, 4), "max_iterations": 6},
        )

    def _step(self) -> None:
        choose, world = self.choose, self.world
        kind = choose.choices(
            ["grant", "gate", "take", "speak", "again", "lose", "wait", "answer", "tick", "cancel"],
            [20, 3, 20, 50, 15, 6, 5, 8, 2, 1],
        )[0]
        if kind == "grant" and (awaited := self.awaited()):
            world.grant(choose.choice(awaited))
        elif kind == "gate" and self.policy.credentials and (runs := world.all(AgentRun)):
            self._close_the_gate(choose.choice(runs[-3:]))
        elif kind == "take" and (runs := world.all(AgentRun)):
            run = choose.choice(runs[-3:])
            held = Held(run.task.id, run.attempt, choose.choice(["r1", "r2"]), run.turn)
            self.held.append(held)
            world.start(held.task_id, attempt=held.attempt, runner=held.runner)
        elif kind == "speak" and self.held:
            self._speak(choose.choice(self.held[-4:]))
        elif kind == "again":
            self._again()
        elif kind == "lose" and self.held:
            held = choose.choice(self.held)
            world.lose(held.task_id, attempt=held.attempt)
        elif kind == "wait":
            world.wait(choose.choice([1, 11, 70]))
        elif kind == "answer" and (asked := world.all(QuestionAsked)):
            world.answer(choose.choice(asked).question_id, "b")
        elif kind == "tick":
            world.tick()
        elif kind == "cancel":
            world.cancel()

    def awaited(self) -> list[str]:
        """The tasks whose next attempt waits for its grant."""
        agents = [entity for entity in self.world.state.values() if isinstance(entity, AgentEntity)]
        return [agent.task_id for agent in agents if agent.awaits_grant and not agent.ended]

    def _close_the_gate(self, run: AgentRun) -> None:
        """What vault-broker, monitor and api may say, in any order, of an attempt that is or is not the current one."""
        choose, world, task, attempt = self.choose, self.world, run.task.id, run.attempt
        if f"{PIPELINE}/agent/{run.agent_id}" not in world.state:
            return
        kinds = {
            "expire": 3, "revoke": 2, "stuck": 2, "throttle": 2, "deny": 1, "refuse": 1, "end": 2, "stale grant": 2,
            "alert": 1, "revoke all": 1, "report": 1,
        }  # fmt: skip
        kind = choose.choices(list(kinds), list(kinds.values()))[0]
        if kind == "expire":
            world.expire(task, attempt=attempt)
        elif kind == "revoke":
            world.revoke(task, attempt=attempt)
        elif kind == "stuck":
            world.alert("revoke_agent", "no_progress", task, attempt=attempt)
        elif kind == "throttle":
            world.alert("throttle", "api_call_budget_exceeded")
        elif kind in DENIALS and (awaited := self.awaited()):
            world.deny(choose.choice(awaited), DENIALS[kind])
        elif kind == "stale grant":
            world.grant(task, attempt=attempt)
        elif kind == "alert":
            world.alert("revoke_pipeline", "error_budget_exceeded")
        elif kind == "revoke all":
            world.revoke(reason="policy_violation")
        elif kind == "report":
            world.report(cause=choose.choice(["revocation", "demand"]))

    def settle(self) -> None:
        """The others do their part, and time passes: the pipeline must end."""
        for _ in range(1_000):
            for task_id in self.awaited():
                self.world.grant(task_id)
            pipeline = self.world.state.get(f"{PIPELINE}/pipeline")
            if not isinstance(pipeline, PipelineEntity):
                break
            if pipeline.revoked is not None:
                self.world.report(pipeline.revoked)
            self.world.wait(11)
        self.world.wait(10 * 86_400)

    def _speak(self, held: Held) -> None:
        choose, world = self.choose, self.world
        who = {"attempt": held.attempt, "runner": held.runner}
        kinds = {"turn": 60, "succeed": 10, "fail": 8, "ask": 10, "blackboard": 30, "skip a turn": 2}
        kind = choose.choices(list(kinds), list(kinds.values()))[0]
        if kind == "turn":
            held.turn += 1
            world.turn(held.task_id, held.turn, text=f"{held.attempt} {held.runner}", **who)  # type: ignore[arg-type]
        elif kind == "succeed":
            world.succeed(held.task_id, **who)  # type: ignore[arg-type]
        elif kind == "fail":
            world.fail(held.task_id, retryable=choose.random() < 0.7, **who)  # type: ignore[arg-type]
        elif kind == "ask":
            default = choose.choice([None, "a"])
            world.ask(held.task_id, choose.choice(["q1", "q2"]), default=default, **who)  # type: ignore[arg-type]
        elif kind == "blackboard":
            ask_blackboard(choose, world, held.task_id, turn=held.turn, **who)
        else:
            held.turn += 2

    def _again(self) -> None:
        """Any input that was ever heard, again: nothing may change."""
        event = self.choose.choice(self.world.heard)[0]
        before = known(self.world, event)
        assert self.world.hear(event) == []
        assert known(self.world, event) == before

    def check(self) -> None:
        state = self.world.state
        self._check_said()
        agents = {key: entity for key, entity in state.items() if isinstance(entity, AgentEntity)}
        for key, agent in agents.items():
            assert agent.turn - self.turns.get(key, 0) in (0, 1)
            self.turns[key] = agent.turn
        pipeline, plan_ = state.get(f"{PIPELINE}/pipeline"), state.get(f"{PIPELINE}/plan")
        if isinstance(pipeline, PipelineEntity) and isinstance(plan_, PlanEntity):
            alive = [] if pipeline.revoked else [agent for agent in agents.values() if not agent.ended]
            assert pipeline.alive == len(alive) <= pipeline.slots_granted <= pipeline.slots_wanted <= plan_.max_agents
            begun = {agent.task_id for agent in agents.values()}
            tasks_ = {key.rpartition("/")[2]: one for key, one in state.items() if isinstance(one, TaskEntity)}
            ready = [name for name, task in tasks_.items() if _is_ready(task) and name not in begun]
            assert pipeline.ready == len(ready)
            needed = 0 if pipeline.revoked else pipeline.alive + pipeline.ready
            assert pipeline.slots_wanted == min(plan_.max_agents, needed)
            claim = state.get(f"installation/claim/{PIPELINE}", ClaimEntity(tenant=plan_.tenant))
            assert isinstance(claim, ClaimEntity)
            assert (claim.wanted, claim.granted) == (pipeline.slots_wanted, pipeline.slots_granted)
            tasks = [entity for entity in state.values() if isinstance(entity, TaskEntity)]
            assert pipeline.unfinished == sum(not task.ended for task in tasks) > 0
            assert pipeline.questions_pending == sum(len(agent.pending) for agent in agents.values())
            assert (pipeline.state == "NEEDS_INPUT") == (pipeline.questions_pending > 0)
            assert alive or pipeline.revoked, "a living pipeline has somebody who works on it"
            assert self.world.pool.granted == pipeline.slots_granted
        self._check_timers(agents)
        check_blackboard(self.world)

    def _check_said(self) -> None:
        said = [output.event for output in self.world.said if output.topic != "pipeline.commands"]
        assert len({event.id for event in said}) == len(said)
        assert [event.sequence for event in said] == list(range(START_MS, START_MS + len(said)))
        ends = [index for index, event in enumerate(said) if isinstance(event.data, TERMINAL)]
        assert len(ends) <= 1
        if ends:
            assert all(isinstance(event.data, AFTERWARDS) for event in said[ends[0] + 1 :])

    def _check_timers(self, agents: dict[str, AgentEntity]) -> None:
        """Whatever waits has a timer, and nothing else has one."""
        expected = set()
        for key, agent in agents.items():
            agent_id = key.rpartition("/")[2]
            if not agent.ended:
                expected |= {f"question:{question_id}" for question_id in agent.pending}
                if not agent.awaits_grant:
                    expected |= set() if agent.pending else {f"task:{agent_id}"}
                    expected |= {f"spawn:{agent_id}"} if agent.runner_id is None and not agent.idle else set()
        if f"{PIPELINE}/finished" in self.world.state:
            expected = {"retention"}
        waits = {"waiting"} if self.world.pool.first else set()
        timers = {timer.name for timer in self.world.timers() if not timer.name.startswith("wait:")}
        for timer in self.world.timers():
            if timer.name.startswith("wait:"):
                assert agents[f"{PIPELINE}/agent/{timer.name[5:]}"].pending
        pipeline = self.world.state.get(f"{PIPELINE}/pipeline")
        if isinstance(pipeline, PipelineEntity) and pipeline.revoked is not None:
            assert timers <= expected | waits  # they fire, and change nothing
        else:
            assert timers == expected | waits


def _is_ready(task: TaskEntity) -> bool:
    return task.status == "pending" and task.waits_for == 0


@pytest.mark.covers("P12", "P13", "W10")
@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 2**32), st.integers(0, STEPS_MAX))
def test_every_story_keeps_the_laws_and_ends_once(seed: int, steps: int) -> None:
    """Losses, zombies, redelivery, two runners on one attempt, closed gates; then no runner speaks: it must end."""
    story = Story(random.Random(seed))
    story.play(steps)
    story.settle()
    story._check_said()
    story.world.terminal()
    assert story.world.kept() == {}


@pytest.mark.covers("P12")
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 2**32), st.integers(0, STEPS_MAX))
def test_state_is_the_fold_of_the_facts(seed: int, steps: int) -> None:
    """The facts alone, folded over nothing, give the state that the decisions' deltas gave."""
    story = Story(random.Random(seed))
    story.play(steps)
    decided: dict[str, Entity] = {}
    folded: dict[str, Entity] = {}
    for event, now_ms, decision in story.world.heard:
        builder = DecisionBuilder(decided, event, now_ms, story.policy, ROLES)
        HANDLERS[type(event.data)](builder, event.data)
        assert builder.decision() == decision
        _apply(decided, builder.view.deltas)
        for fact in builder.facts:
            view = View(folded, event.subject)
            evolve(view, fact, story.policy)
            _apply(folded, view.deltas)
    assert folded == decided == story.world.state


def _apply(state: dict[str, Entity], deltas: dict[str, Entity | None]) -> None:
    for key, entity in deltas.items():
        if entity is None:
            del state[key]
        else:
            state[key] = entity


@pytest.mark.covers("P10", "P12")
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 2**32))
def test_every_answer_reaches_the_attempt_that_counts(seed: int) -> None:
    """An answer that no finished turn has seen was sent to the current attempt, or will be when it is taken."""
    story = Story(random.Random(seed))
    story.play(STEPS_MAX)
    world = story.world
    for key, agent in world.state.items():
        if isinstance(agent, AgentEntity) and not agent.ended:
            agent_id = key.rpartition("/")[2]
            said = [message.event.data for message in world.said]
            if agent.attempt == 0:
                continue  # it waits for its first grant
            since = max(
                n for n, message in enumerate(said) if isinstance(message, AgentRun) and message.agent_id == agent_id
            )
            run = said[since]
            assert isinstance(run, AgentRun)
            sent = {answer.request_id for answer in run.answers}
            sent |= {told.answer.request_id for told in of(AgentAnswer, said[since:]) if told.agent_id == agent_id}
            if agent.runner_id is not None:
                assert {kept.request_id for kept in agent.answers} <= sent


def digest_of_a_story(seed: int) -> str:
    story = Story(random.Random(seed))
    story.play(STEPS_MAX)
    digest = hashlib.sha256()
    for output in story.world.said:
        digest.update(f"{output.topic} {output.key} {output.event}".encode())
    for key, entity in story.world.state.items():
        digest.update(key.encode() + msgspec.msgpack.encode(entity))
    return digest.hexdigest()


@pytest.mark.covers("P12")
def test_decisions_do_not_depend_on_the_seed_of_hashes() -> None:
    program = "from tests.unit.spawner.test_laws import *; print(*map(digest_of_a_story, range(12)))"
    said = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            check=True,
            capture_output=True,
            text=True,
            timeout=120,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(said) == 1
    assert len(said.pop().split()) == 12
