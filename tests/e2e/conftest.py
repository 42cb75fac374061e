"""One installation for all tests here: quick retries of models, and a few roles of our own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.installation import Installation

HASTY = """
name: hasty
description: Asks, and does not wait long.
system_prompt: You ask.
tools: [ask_human, finish]
limits: {question_timeout_s: 1}
"""
LOST = """
name: lost
description: Its queue was never created.
queue: nowhere
system_prompt: You wait.
tools: [finish]
"""
GHOST = """
name: ghost
description: The spawner knows it, and no runner does.
system_prompt: You are not there.
tools: [finish]
"""


@pytest.fixture(scope="package")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    directory: Path = tmp_path_factory.mktemp("e2e")
    spawners, runners = directory / "roles-of-spawners", directory / "roles-of-runners"
    for folder, roles in ((spawners, (HASTY, LOST, GHOST)), (runners, (HASTY,))):
        folder.mkdir()
        for role in roles:
            (folder / f"{role.split()[1]}.yaml").write_text(role)
    settings = {
        # Agents fail often here, on purpose; who wants to see a budget broken sets his own.
        "monitor": {"SLUICE_ERRORS_PER_MINUTE": "1000"},
        "spawner": {"SLUICE_ROLES_DIRECTORIES": str(spawners), "SLUICE_LEASE_MS": "2500"},
        "agent-runner": {
            "SLUICE_ROLES_DIRECTORIES": str(runners),
            "SLUICE_MODEL_BACKOFF_MIN_S": "0.01",
            "SLUICE_MODEL_BACKOFF_MAX_S": "0.05",
            "SLUICE_MODEL_BREAKER_FAILURES_COUNT": "10000",
        },
    }
    with Installation(directory, settings) as running:
        yield running
