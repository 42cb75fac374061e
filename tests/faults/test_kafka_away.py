"""Kafka is killed with -9 while pipelines run, comes back at once or later, and nothing is lost or done twice."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sluice_contracts.messages.pipeline import AgentAttemptLost, TaskStarted
from tests.faults.verifying import SETTINGS, WORK, verify
from tests.installation import SERVICES, Installation

AWAY_S = 22.0
"""Longer than any service waits for an answer (20 s): all of them must give their clients up and come back."""

LEASE_MS = 6_000
"""A lease begins anew when runners can be heard again: time enough for them to reach Kafka on a busy machine, too."""

SLOW = """
agents:
  - turns:
      - {text: look, tool_calls: [{name: list_files}], delay_ms: 500, repeat: 12}
      - {text: done, tool_calls: [{name: finish, arguments: {summary: done, result: done}}]}
"""


@pytest.fixture(scope="module")
def installation(small_disks: Path) -> Iterator[Installation]:
    spawner = {**SETTINGS["spawner"], "SLUICE_LEASE_MS": str(LEASE_MS)}
    with Installation(small_disks, {**SETTINGS, "spawner": spawner}) as running:
        yield running


@pytest.mark.covers("P12", "O1")
@pytest.mark.parametrize("away_s", [0.0, AWAY_S], ids=["killed", "away"])
def test_kafka_killed(installation: Installation, away_s: float) -> None:
    model = installation.scenario("work", WORK)
    pids = {name: installation.stack.pid(name) for name in SERVICES}
    for _ in range(8):
        installation.spawn(model, tasks=2)
    turns = len(installation.log.records["agent.events.default"])
    installation.until_read(lambda: len(installation.log.records["agent.events.default"]) > turns + 20, what="turns")
    installation.stack.kafka.kill()
    time.sleep(away_s)  # the fault itself
    installation.stack.kafka.restart()
    for _ in range(4):
        installation.spawn(model, tasks=2)
    verify(installation)
    assert {name: installation.stack.pid(name) for name in pids} == pids, "a broker that is away ends no service"


@pytest.mark.covers("P12", "W10")
def test_no_attempt_is_lost_because_nobody_could_be_heard(installation: Installation) -> None:
    model = installation.scenario("slow", SLOW)
    pipelines = [installation.spawn(model) for _ in range(6)]
    for pipeline in pipelines:
        installation.await_event(pipeline, TaskStarted)
    installation.stack.kafka.kill()
    time.sleep(AWAY_S)  # the fault itself
    installation.stack.kafka.restart()
    verify(installation)
    lost = [event.data for pipeline in pipelines for event in installation.events(pipeline, AgentAttemptLost)]
    assert lost == []
