"""The two processes as they run, a producer that puts records where the services do, and questions by SQL."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import httpx
from confluent_kafka import Producer

from sluice_contracts import codec
from sluice_contracts.envelope import CloudEvent, OutgoingRecord
from sluice_contracts.messages import Message
from sluice_contracts.topics import topic_of
from sluice_runtime.connection import KafkaConnection

T = TypeVar("T")

PARTITIONS = 2
WAIT_S = 60.0
"""Far above what anything here takes: only a defect waits so long."""


def wait_for(what: str, ask: Callable[[], T | None], wait_s: float = WAIT_S) -> T:
    """Asks until the answer is true, and fails with the last answer."""
    deadline = time.monotonic() + wait_s
    while True:
        answer = ask()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {wait_s} s for {what}; the last answer was {answer!r}")
        time.sleep(0.05)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Service:
    """A process of the package, started as an operator starts it."""

    def __init__(self, process: str, directory: Path, environment: dict[str, str]) -> None:
        self.port = free_port()
        self._name = process
        self._log = directory / f"{process}-{self.port}.log"
        self._environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(sys.path),
            "SLUICE_HTTP_PORT": str(self.port),
            **environment,
        }
        self._child: subprocess.Popen[bytes] | None = None
        self.url = f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._child = subprocess.Popen(
                [sys.executable, "-m", "sluice_observability", self._name],
                env=self._environment, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def ready(self) -> None:
        wait_for(f"{self._name} to be ready", self._is_ready)

    def _is_ready(self) -> bool:
        assert self._child is not None
        if self._child.poll() is not None:
            raise AssertionError(f"{self._name} ended with {self._child.returncode}:\n{self.log()[-3_000:]}")
        try:
            return httpx.get(f"{self.url}/readyz", timeout=5).status_code == 200
        except httpx.HTTPError:
            return False

    def log(self) -> str:
        return self._log.read_text()

    def metric(self, name: str) -> float:
        """The sum of a metric's series."""
        lines = httpx.get(f"{self.url}/metrics", timeout=10).text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith((f"{name} ", f"{name}{{")))

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        return self._end(signal.SIGTERM)

    def send(self, number: signal.Signals) -> None:
        assert self._child is not None
        self._child.send_signal(number)

    def _end(self, number: signal.Signals) -> int:
        if self._child is None:
            return 0
        self._child.send_signal(number)
        code = self._child.wait(60)
        self._child = None
        return code

    def sql(self, query: str, **parameters: str) -> list[dict[str, Any]]:
        given = {f"param_{name}": value for name, value in parameters.items()}
        answer = httpx.post(
            self.url, params={"default_format": "JSONEachRow", **given}, content=query, timeout=60
        )  # fmt: skip
        assert answer.status_code == 200, answer.text
        return [json.loads(line) for line in answer.content.splitlines()]

    def count(self, query: str) -> int | None:
        """The one number that a query gives; None while the store is away."""
        try:
            [row] = self.sql(query)
        except httpx.HTTPError:
            return None
        return int(next(iter(row.values())))


class Writer:
    """Writes records as the services do: same partitioner, and nothing lost by a retry."""

    def __init__(self, connection: KafkaConnection, prefix: str) -> None:
        self._prefix = prefix
        self._producer = Producer(
            {**connection.confluent(), "partitioner": "murmur2_random", "enable.idempotence": True, "linger.ms": 1}
        )
        self.written: list[tuple[str, int, int]] = []

    def write(self, records: Iterable[OutgoingRecord]) -> None:
        for record in records:
            self._producer.produce(
                self._prefix + record.topic, record.value, record.key, headers=list(record.headers),
                on_delivery=self._delivered,
            )  # fmt: skip
        assert self._producer.flush(60) == 0

    def _delivered(self, error: Any, message: Any) -> None:
        assert error is None, error
        self.written.append((message.topic().removeprefix(self._prefix), message.partition(), message.offset()))

    def tell(self, *events: CloudEvent[Message], topic: str | None = None) -> None:
        """Writes events, keyed by their subject, each to its topic."""
        self.write(
            codec.encode(event, topic=topic or topic_of(type(event.data)).for_queue("default"), key=event.subject)
            for event in events
        )


def places(service: Service) -> list[tuple[str, int, int]]:
    """What the log has, with repetitions."""
    rows = service.sql("SELECT topic, partition, offset FROM log")
    return [(row["topic"], row["partition"], row["offset"]) for row in rows]


def store_environment(connection: KafkaConnection, directory: Path, prefix: str) -> dict[str, str]:
    """Settings of a store; the credentials file is made here."""
    credentials = directory / "kafka.json"
    credentials.write_text(
        json.dumps(
            {
                "bootstrap_servers": connection.bootstrap_servers,
                "username": connection.username,
                "password": connection.password,
            }
        )
    )
    return {
        "SLUICE_KAFKA_CREDENTIALS_FILE": str(credentials),
        "SLUICE_CLICKHOUSE_DIRECTORY": str(directory / "clickhouse"),
        "SLUICE_ARTIFACTS_URL": f"file://{directory}/artifacts",
        "SLUICE_TOPIC_PREFIX": prefix,
    }


def names(rows: Sequence[dict[str, Any]], column: str) -> list[Any]:
    """One column of rows."""
    return [row[column] for row in rows]
