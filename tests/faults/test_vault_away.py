"""Vault answers 429 or 5xx, hangs, loses its answers, is sealed, is killed: on the whole installation."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sluice_contracts.messages.agent import AgentAttemptStarted, AgentGrantOpened, AgentRun, AgentTurnFinished
from sluice_contracts.messages.alert import AlertRaised
from sluice_contracts.messages.pipeline import (
    AgentAttemptLost,
    PipelineCompleted,
    PipelineFailed,
    PipelineSpawned,
    TaskRetried,
)
from sluice_contracts.messages.token import TokenGranted, TokenRevoked
from tests.credentials import each_once
from tests.faults.verifying import WORK
from tests.gate import EVENTS, SETTINGS, Gate
from tests.installation import QUEUE
from tests.token_lives import alive, lives_by_fold
from tests.vault_proxy import FAULTS, Call, Fault

AWAY_S = 2.0
LOST_OF_EACH = 3
SAID, TASKS = f"agent.events.{QUEUE}", f"agent.tasks.{QUEUE}"

GOES_ON = """
agents:
  - turns:
      - {text: look, tool_calls: [{name: list_files}], delay_ms: 250, repeat: 24}
      - {text: done, tool_calls: [{name: finish, arguments: {summary: done, result: done}}]}
"""
"""Longer than Vault is away, so that it is seen to go on meanwhile."""


@contextmanager
def failing(gate: Gate, how: str) -> Iterator[None]:
    """Vault is away for the broker and the runner, in that way."""
    if how in FAULTS:
        for proxy in (gate.broker_vault, gate.runner_vault):
            proxy.fail(FAULTS[how])
    elif how == "sealed":
        gate.vault.seal()
    else:
        gate.vault.kill()
    try:
        yield
    finally:
        for proxy in (gate.broker_vault, gate.runner_vault):
            proxy.heal()
        if how == "sealed":
            gate.vault.unseal()
        elif how == "killed":
            gate.vault.restart()


def turns(gate: Gate, pipeline: str) -> int:
    gate.log.poll()
    return len(gate.events(pipeline, AgentTurnFinished, SAID))


def ended(gate: Gate, pipeline: str) -> bool:
    return gate.events(pipeline, PipelineCompleted) != []


@pytest.mark.covers("V4", "V5", "V6", "V8")
@pytest.mark.timeout(300)
@pytest.mark.parametrize("how", [*FAULTS, "sealed", "killed"])
def test_without_vault_nothing_starts_what_runs_goes_on_and_afterwards_all_is_done(gate: Gate, how: str) -> None:
    model = gate.scenario("goes-on", GOES_ON)
    leaves = gate.spawn(gate.scenario("stays", GOES_ON.replace("repeat: 24", "repeat: 800")))
    gate.await_event(leaves, AgentTurnFinished, topic=SAID)
    runs = gate.spawn(model)
    gate.await_event(runs, AgentTurnFinished, topic=SAID)
    before = gate.broker_vault.faults_count
    with failing(gate, how):
        had, asked_ms = turns(gate, runs), time.time_ns() // 1_000_000
        waits = gate.spawn(model)
        gate.revoke(leaves)
        gate.await_event(waits, PipelineSpawned)
        gate.until_read(lambda: turns(gate, runs) > had + 1 or ended(gate, runs), what="what runs goes on")
        if how in FAULTS:
            gate.until(lambda: gate.broker_vault.faults_count > before + 1, what="the broker hears of it")
        time.sleep(AWAY_S)
        gate.log.catch_up()
        assert not gate.events(waits, TokenGranted, EVENTS), "nobody says that there is a token"
        assert not gate.events(waits, AgentRun, TASKS), "no task without its grant"
        told = [one.data.reason for one in gate.events(leaves, TokenRevoked, EVENTS)]
        assert "manual" not in told, "nobody says that it is revoked before Vault has said so"
        assert not gate.events(runs, TaskRetried)
    revoked = gate.await_event(leaves, TokenRevoked, lambda one: one.reason == "manual", topic=EVENTS)
    assert not set(revoked.data.accessors) & set(gate.vault.admin().list("auth/token/accessors"))
    assert revoked.data.latency_ms > AWAY_S * 1_000 * 0.9
    gate.await_event(leaves, PipelineFailed)
    for pipeline in (runs, waits):
        gate.await_event(pipeline, PipelineCompleted)
    [opened, *_] = gate.events(waits, AgentGrantOpened, SAID)
    assert opened.time_ms > asked_ms + AWAY_S * 1_000 * 0.9
    gate.settle()


HANGS = """
agents:
  - turns:
      - {text: look, tool_calls: [{name: list_files}]}
      - {text: look, tool_calls: [{name: list_files}], delay_ms: 20000}
      - {text: done, tool_calls: [{name: finish, arguments: {summary: done, result: done}}]}
"""
PROGRESS_TIMEOUT_S = 5

LEAVES = ("killed", "sealed")
TIMES = 5


@pytest.mark.covers("V6", "V8")
@pytest.mark.timeout(300)
@pytest.mark.parametrize("how", LEAVES)
def test_vault_leaves_at_random_moments_and_comes_back(gate: Gate, how: str) -> None:
    leave_at_random(gate, how, f"test-{how}", TIMES)
    gate.settle()


def leave_at_random(gate: Gate, how: str, seed: str, times: int) -> None:
    """Keeps pipelines coming, revokes some by hand, and has Vault leave so often, for a moment or longer."""
    rng, model = random.Random(seed), gate.scenario("work", WORK)
    for _ in range(times):
        gate.spawn(model, tasks=2)
        pipeline = gate.spawn(model)
        time.sleep(rng.uniform(0, 1.0))
        if rng.random() < 0.3:
            gate.revoke(pipeline)
        with failing(gate, how):
            gate.spawn(model)
            time.sleep(rng.choice([0, rng.uniform(0, 2.0)]))


@pytest.mark.covers("V4", "V8")
@pytest.mark.parametrize("how", ["429", "503", "answer lost", "slow"])
def test_a_runner_that_cannot_open_its_grant_waits_and_then_works(gate: Gate, how: str) -> None:
    gate.runner_vault.fail(lambda call: FAULTS[how] if "transit/decrypt" in call.path else None)
    before = gate.runner_vault.faults_count
    try:
        pipeline = gate.spawn(gate.scenario("goes-on", GOES_ON))
        gate.await_event(pipeline, AgentAttemptStarted, topic=SAID)
        gate.until(lambda: gate.runner_vault.faults_count > before + 1, what="the runner has tried again")
        gate.log.catch_up()
        assert not gate.events(pipeline, AgentGrantOpened, SAID)
        assert turns(gate, pipeline) == 0
    finally:
        gate.runner_vault.heal()
    gate.await_event(pipeline, PipelineCompleted)
    assert len(gate.events(pipeline, AgentGrantOpened, SAID)) == 1
    assert not gate.events(pipeline, TaskRetried)
    gate.settle()


@pytest.mark.covers("V6", "V8")
def test_answers_that_are_lost_after_a_mint_leave_no_token(gate: Gate) -> None:
    """Each is made in Vault, and nobody hears of it: the broker makes another, and ends the first."""
    lost: Counter[str] = Counter()

    def rule(call: Call) -> Fault | None:
        if not call.path.startswith("auth/token/create") or lost[call.path] == LOST_OF_EACH:
            return None
        lost[call.path] += 1
        return FAULTS["answer lost"]

    gate.broker_vault.fail(rule)
    pipelines = [gate.spawn(gate.scenario("long", GOES_ON.replace("repeat: 24", "repeat: 60"))) for _ in range(3)]
    for pipeline in pipelines:
        gate.await_event(pipeline, AgentTurnFinished, topic=SAID)
    assert list(lost.values()) == [LOST_OF_EACH] * 2, "the pipelines' own, and the agents'"
    known = {one.data.accessor for pipeline in pipelines for one in gate.events(pipeline, TokenGranted, EVENTS)}
    gate.none_left(lambda: unknown(gate, known), "in Vault, and nobody was told of them")
    assert known <= gate.tokens().keys(), "those that somebody has live on"
    orphaned = [
        gate.await_event(pipeline, TokenRevoked, lambda one: one.reason == "orphaned", EVENTS) for pipeline in pipelines
    ]
    assert known.isdisjoint(accessor for one in orphaned for accessor in one.data.accessors)
    gate.log.catch_up()
    shown = alive(lives_by_fold(each_once(gate.history().events(EVENTS))))
    held = known & gate.tokens().keys()
    assert held, "the pipelines have ended before their strays"
    assert held <= shown, "what Vault still holds is shown as ended"
    gate.settle()


def unknown(gate: Gate, known: set[str]) -> list[str]:
    """Tokens that Vault has, and nobody was told of: without the logins, which stand in no event."""
    gate.log.catch_up()
    alive = gate.tokens()
    return [one for one, data in alive.items() if one not in known and "sluice-orchestrator" not in data["policies"]]


@pytest.fixture
def hasty(tmp_path: Path) -> Iterator[Gate]:
    """Tokens live for seconds."""
    brief = {**SETTINGS["vault-broker"], "SLUICE_TOKEN_TTL_S": "15", "SLUICE_RENEWAL_INTERVAL_S": "4"}
    with Gate(tmp_path / "hasty", {**SETTINGS, "vault-broker": brief}) as running:
        yield running


@pytest.mark.covers("V1", "V8", "W10")
@pytest.mark.timeout(300)
def test_what_runs_goes_on_until_its_token_ends_then_stops_and_goes_on_afterwards(hasty: Gate) -> None:
    model = hasty.scenario("long", GOES_ON.replace("repeat: 24", "repeat: 100"))
    pipeline = hasty.spawn(model)
    hasty.await_event(pipeline, AgentTurnFinished, topic=SAID)
    hasty.vault.seal()
    try:
        lost = hasty.await_event(pipeline, AgentAttemptLost)
        assert lost.data.problem.code == "credential_expired"
        stopped = turns_at_rest(hasty, pipeline)
        assert stopped > 1
        assert not hasty.events(pipeline, PipelineFailed)
    finally:
        hasty.vault.unseal()
    hasty.await_event(pipeline, PipelineCompleted)
    said = hasty.events(pipeline, AgentTurnFinished, SAID)
    grants = [one.data for one in hasty.events(pipeline, TokenGranted, EVENTS) if one.data.agent_id is not None]
    assert [one.attempt for one in grants][:2] == [1, 2]
    again = min(one.data.turn for one in said if one.data.attempt == 2)
    assert again == stopped + 1, "from the last finished turn on"
    hasty.settle()


@pytest.fixture
def impatient(tmp_path: Path) -> Iterator[Gate]:
    """Whoever does not come on for some seconds loses its credential."""
    often = {**SETTINGS["agent-runner"], "SLUICE_PROGRESS_INTERVAL_S": "0.5"}
    hasty = {"monitor": {"SLUICE_PROGRESS_TIMEOUT_S": str(PROGRESS_TIMEOUT_S)}}
    with Gate(tmp_path / "impatient", {**SETTINGS, **hasty, "agent-runner": often}) as running:
        yield running


@pytest.mark.covers("V5", "V8")
@pytest.mark.timeout(300)
def test_who_waits_for_vault_longer_than_it_may_be_stuck_keeps_its_credential_and_its_retries(impatient: Gate) -> None:
    stuck = impatient.spawn(impatient.scenario("hangs", HANGS))
    impatient.await_event(stuck, AgentTurnFinished, topic=SAID)
    impatient.runner_vault.fail(lambda call: FAULTS["503"] if "transit/decrypt" in call.path else None)
    try:
        waits = impatient.spawn(impatient.scenario("goes-on", GOES_ON))
        impatient.await_event(waits, AgentAttemptStarted, topic=SAID)
        alert = impatient.await_event(stuck, AlertRaised, topic="alerts")
        time.sleep(2 * PROGRESS_TIMEOUT_S)  # longer than who is stuck is waited for
    finally:
        impatient.runner_vault.heal()
    impatient.await_event(waits, PipelineCompleted)
    assert not impatient.events(waits, AlertRaised, "alerts")
    assert not impatient.events(waits, TaskRetried)
    assert len(impatient.events(waits, AgentGrantOpened, SAID)) == 1
    assert alert.data.condition == "no_progress", "who hangs in its model's call is told of meanwhile"


def turns_at_rest(gate: Gate, pipeline: str) -> int:
    """How many turns there are once no more come."""
    seen: list[int] = []

    def at_rest() -> bool:
        time.sleep(1)
        seen.append(turns(gate, pipeline))
        return len(seen) > 1 and seen[-1] == seen[-2]

    gate.until(at_rest, what="the attempt stops")
    return seen[-1]
