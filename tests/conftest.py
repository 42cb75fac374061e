"""Fixtures that several suites share: the real components, started once for a run."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator, Iterator
from pathlib import Path

import hypothesis
import pytest

from sluice_client.cli.progress import StepLines
from sluice_localstack import VaultServer, cache_directory
from sluice_localstack.kafka.broker import KafkaBroker as LocalKafka
from sluice_localstack.vault.build import ensure_program, given_binary
from sluice_runtime.connection import KafkaConnection
from tests.kafka import TestKafka
from tests.vault import RealVault, provisioned

# A shell that runs the tests in the background has them ignore Ctrl-C, and so would every process that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)

# A law holds however slow the machine is: no example has a deadline, and none is called too slow to make.
hypothesis.settings.register_profile(
    "sluice",
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.data_too_large],
)
hypothesis.settings.load_profile("sluice")


STARTS_VAULT = {"integration", "e2e", "faults"}
"""Folders with tests that start it."""


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> None:
    """Build Vault before the first test: on a fresh machine that takes minutes, more than one test may."""
    folders = {part for item in session.items for part in item.path.parts}
    if folders & STARTS_VAULT and not session.config.option.collectonly and given_binary(os.environ) is None:
        ensure_program(cache_directory(), StepLines())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What a test has printed can travel to whoever shows it, lone surrogates and all."""
    report = yield
    report.sections = [(title, text.encode(errors="backslashreplace").decode()) for title, text in report.sections]
    return report


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestKafka]:
    """A real broker for the whole run."""
    directory: Path = tmp_path_factory.mktemp("kafka")
    with LocalKafka(directory) as broker:
        yield TestKafka(KafkaConnection.from_file(broker.credentials_file("admin")))


@pytest.fixture(scope="session")
def vault(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealVault]:
    """A real Vault for the whole run, with all that Sluice needs of it."""
    directory: Path = tmp_path_factory.mktemp("vault")
    with VaultServer(directory / "data") as server:
        yield provisioned(server, directory / "credentials")
