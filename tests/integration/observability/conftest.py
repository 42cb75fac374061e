"""An installation's topics on the run's broker, and the processes that a test starts on them."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.integration.observability.support import PARTITIONS, Service, Writer, store_environment
from tests.kafka import TestKafka

StartService = Callable[..., Service]


def new_prefix(kafka: TestKafka) -> str:
    """A prefix of one's own, with the topics of one queue."""
    own = f"t{uuid.uuid4().hex[:12]}."
    kafka.create_topics(own, ["default"], PARTITIONS)
    return own


@contextmanager
def starting(kafka: TestKafka, prefix: str, directory: Path) -> Iterator[StartService]:
    """Makes and starts processes; ends what is left of them."""
    made: list[Service] = []
    environment = store_environment(kafka.connection, directory, prefix)

    def start_one(process: str, **more: str) -> Service:
        service = Service(process, directory, {**environment, **more})
        made.append(service)
        service.start()
        return service

    try:
        yield start_one
    finally:
        for service in made:
            service.kill()


@pytest.fixture
def prefix(kafka: TestKafka) -> str:
    return new_prefix(kafka)


@pytest.fixture
def writer(kafka: TestKafka, prefix: str) -> Writer:
    return Writer(kafka.connection, prefix)


@pytest.fixture
def start(kafka: TestKafka, prefix: str, tmp_path: Path) -> Iterator[StartService]:
    with starting(kafka, prefix, tmp_path) as start_one:
        yield start_one


@pytest.fixture
def store(start: StartService) -> Service:
    """A store that is ready."""
    service = start("store")
    service.ready()
    return service


@pytest.fixture(scope="module")
def shared_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shared")


@pytest.fixture(scope="module")
def shared_http(kafka: TestKafka, shared_directory: Path) -> Iterator[httpx.Client]:
    """An api and its store for the tests of a module that write nothing onto topics."""
    with starting(kafka, new_prefix(kafka), shared_directory) as start_one:
        store = start_one("store")
        api = start_one("api", SLUICE_SQL_URL=store.url)
        api.ready()
        with httpx.Client(base_url=api.url, timeout=60) as client:
            yield client
