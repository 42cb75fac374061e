"""The vault-broker is killed with -9 in every window of a token's life, on the whole installation, at chosen calls."""

from __future__ import annotations

import random

import pytest

from tests.faults.verifying import WORK
from tests.gate import BROKER, EVENTS, JOURNAL, Gate, Point, Trap

KILLS = 20

STAYS = """
agents:
  - turns:
      - {text: look, tool_calls: [{name: list_files}], delay_ms: 400, repeat: 8}
      - {text: done, tool_calls: [{name: finish, arguments: {summary: done, result: done}}]}
"""
"""Longer than the time between two renewals."""

SECRET_ID = "auth/approle/role/pipeline-orchestrator/secret-id"
WINDOWS: dict[str, tuple[Point, ...]] = {
    "mint": (Point(SECRET_ID), Point("auth/approle/login", past=SECRET_ID), Point("auth/token/create")),
    "record": (Point(JOURNAL, past="auth/token/create"), Point(JOURNAL, past="transit/encrypt/sluice-broker")),
    "seal": (Point("transit/encrypt/sluice-queue"), Point("transit/encrypt/sluice-broker")),
    "publish": (Point(EVENTS, past=JOURNAL),),
    "renew": (Point("auth/token/renew-accessor"),),
    "revoke": (Point("auth/token/revoke-accessor"), Point(JOURNAL, past="auth/token/revoke-accessor")),
}
"""What lies between two steps of a token's life, by the call at which it is reached."""


@pytest.mark.covers("V1", "V4", "V6", "V7", "V8")
@pytest.mark.timeout(900)
@pytest.mark.parametrize("window", WINDOWS)
def test_the_broker_is_killed_in_each_window(gate: Gate, window: str) -> None:
    kill_in_window(gate, window, f"test-{window}", KILLS)
    gate.settle()


def kill_in_window(gate: Gate, window: str, seed: str, kills: int) -> None:
    """Keeps pipelines coming, revokes some by hand, and kills the broker so often in the window.

    Half of the kills wait until it is ready again; the others strike while it takes over.
    """
    rng, trap = random.Random(seed), Trap(gate)
    model = gate.scenario("stays", STAYS) if window == "renew" else gate.scenario("work", WORK)
    for _ in range(kills):
        if rng.random() < 0.5:
            gate.stack.wait_ready(BROKER, 60)
        trap.arm(rng.choice(WINDOWS[window]), done=rng.random() < 0.5, skip=rng.randrange(3))

        def reached() -> bool:
            gate.spawn(model)
            pipeline = gate.spawn(model, tasks=2)
            if rng.random() < 0.2:
                gate.revoke(pipeline)
            return trap.struck.wait(3)

        gate.until(reached, 90, f"the broker reaches {window}")
