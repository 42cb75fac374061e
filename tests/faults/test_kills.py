"""Every service is killed with -9 at random moments of running pipelines, and nothing is lost or done twice."""

from __future__ import annotations

import random
import signal
import time

import pytest

from tests.faults.verifying import WORK, verify
from tests.installation import Installation

KILLS = 20


@pytest.mark.covers("P12", "W10", "O1")
@pytest.mark.timeout(600)
@pytest.mark.parametrize("service", ["spawner", "agent-runner", "store", "api"])
def test_kills(installation: Installation, service: str, request: pytest.FixtureRequest) -> None:
    kill_at_random(installation, service, seed=request.node.name, kills=KILLS)
    verify(installation)


def kill_at_random(installation: Installation, service: str, seed: str, kills: int) -> None:
    """Keeps pipelines coming and kills the service, half of the times while it works, half while it comes back."""
    rng = random.Random(seed)
    model = installation.scenario("work", WORK)
    for _ in range(kills):
        if rng.random() < 0.5:
            installation.stack.wait_ready(service, 60)
        else:
            installation.until(lambda: installation.stack.pid(service), what=f"{service} runs")
        for _ in range(2):
            installation.spawn(model, tasks=2)
        time.sleep(rng.uniform(0, 1.0))
        installation.stack.kill_service(service, signal.SIGKILL)
    installation.stack.wait_ready(service, 60)
