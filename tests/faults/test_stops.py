"""A process is frozen past its session or its lease, and wakes: it is fenced, and nothing is lost or done twice."""

from __future__ import annotations

import signal
import time

import pytest

from sluice_contracts.messages.agent import AgentTurnFinished
from sluice_contracts.messages.pipeline import AgentAttemptRefused, PipelineCompleted
from tests.faults.verifying import WORK, verify
from tests.installation import Beside, Installation

SLOW = """
agents:
  - turns:
      - {text: look, tool_calls: [{name: list_files}], delay_ms: 400, repeat: 15}
      - {text: done, tool_calls: [{name: finish, arguments: {summary: done, result: done}}]}
"""
"""Longer than lease and session together, so that a frozen runner wakes in the middle of its turns."""

PARTITIONS = 8

SOCKET_TIMEOUT_S = 60
"""librdkafka's `socket.timeout.ms`, the longest timeout of the store: who sleeps longer finds all that he waits for
overdue."""


def owned(beside: Beside) -> float:
    """How many partitions a spawner decides on."""
    return beside.metric("sluice_partitions_owned")


@pytest.mark.covers("P12", "W10")
def test_a_spawner_that_wakes_after_its_session_changes_nothing(installation: Installation) -> None:
    """Half of the partitions are each one's; the frozen one's go to the other, and it wakes while they are decided."""
    model = installation.scenario("work", WORK)
    with installation.beside("spawner") as second:
        installation.until(lambda: 0 < owned(second) < PARTITIONS, what="both spawners have partitions")
        for _ in range(8):
            installation.spawn(model, tasks=2)
        installation.until_read(lambda: installation.log.records["agent.events.default"], what="the first turn")
        installation.stack.kill_service("spawner", signal.SIGSTOP)
        try:
            for _ in range(8):
                installation.spawn(model, tasks=2)
            installation.until(lambda: owned(second) == PARTITIONS, what="the second has all partitions")
        finally:
            installation.stack.kill_service("spawner", signal.SIGCONT)
        for _ in range(4):
            installation.spawn(model, tasks=2)
        installation.await_ends()
        installation.until(lambda: owned(second) < PARTITIONS, what="the first has partitions again")
    installation.spawn(model)
    installation.stack.wait_ready("spawner", 60)
    verify(installation)


@pytest.mark.covers("W10", "P12")
def test_a_runner_that_wakes_after_its_lease_is_refused(installation: Installation) -> None:
    """What it still says has an old attempt's number; the other runner has gone on from the last turn that counts."""
    model = installation.scenario("slow", SLOW)
    said = "agent.events.default"
    with installation.beside("agent-runner"):
        pipelines: list[str] = []
        holders: set[str] = set()
        while len(holders) < 2:
            pipelines.append(installation.spawn(model))
            holders.add(installation.await_event(pipelines[-1], AgentTurnFinished, topic=said).data.runner_id)
        installation.stack.kill_service("agent-runner", signal.SIGSTOP)
        try:
            installation.until_read(
                lambda: any(
                    event.data.attempt > 1
                    for pipeline in pipelines
                    for event in installation.events(pipeline, AgentTurnFinished, said)
                ),
                what="the other runner goes on",
            )
        finally:
            woken_ms = time.time_ns() // 1_000_000
            installation.stack.kill_service("agent-runner", signal.SIGCONT)
        for pipeline in pipelines:
            installation.await_event(pipeline, PipelineCompleted)
        # Whether it ends its turn before it hears that the attempt is over, is its luck; it begins no other.
        for pipeline in pipelines:
            turns = installation.events(pipeline, AgentTurnFinished, said)
            newest = max(turn.data.attempt for turn in turns)
            late = [turn for turn in turns if turn.data.attempt < newest and turn.time_ms >= woken_ms]
            refused = {event.data.refused_id for event in installation.events(pipeline, AgentAttemptRefused)}
            assert len(late) <= 1
            assert {turn.id for turn in late} <= refused
    verify(installation)


@pytest.mark.covers("O1")
def test_a_store_that_was_frozen_past_its_timeouts_goes_on_where_it_was(installation: Installation) -> None:
    model = installation.scenario("work", WORK)
    installation.spawn(model, tasks=2)
    installation.stack.kill_service("store", signal.SIGSTOP)
    wakes = time.monotonic() + SOCKET_TIMEOUT_S + 1
    try:
        for _ in range(6):
            installation.spawn(model, tasks=2)
        installation.await_ends()
        time.sleep(max(0.0, wakes - time.monotonic()))
    finally:
        installation.stack.kill_service("store", signal.SIGCONT)
    verify(installation)
