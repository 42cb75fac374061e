"""One running stack for the tests that only use it; those that stop or kill make their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sluice_localstack import LocalStack, Progress
from tests.integration.localstack.tools import ACLS, PRINCIPALS, TOPICS, sleeper, web
from tests.integration.localstack.vault import RunningVault


@pytest.fixture(scope="session")
def reports() -> list[Progress]:
    """What the shared stack reported while it started."""
    return []


@pytest.fixture(scope="session")
def stack_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shared stack's data directory."""
    return tmp_path_factory.mktemp("stack")


@pytest.fixture(scope="session")
def stack(stack_directory: Path, reports: list[Progress]) -> Iterator[LocalStack]:
    """The shared stack. A test leaves its topics, ACLs and services as it found them."""
    running = LocalStack(
        stack_directory,
        topics=TOPICS,
        principals=PRINCIPALS,
        acls=ACLS,
        services=lambda own: (sleeper(), web(own.port("http"))),
        progress=reports.append,
        environment={},
    )
    with running:
        yield running


@pytest.fixture(scope="session")
def vault(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningVault]:
    """A Vault that has what the table says. A test leaves it running, unsealed and as it found it."""
    running = RunningVault(tmp_path_factory.mktemp("vault"))
    with running.server:
        running.apply()
        yield running
