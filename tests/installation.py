"""A whole installation for tests: the local stack with real Kafka and all services, and what a test does with it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from confluent_kafka import KafkaException, Producer

from sluice_client.wiring import Settings, compose
from sluice_contracts import codec, ids
from sluice_contracts.envelope import CloudEvent, OutgoingRecord, Record
from sluice_contracts.messages import Message
from sluice_contracts.messages.pipeline import PipelineResult, PipelineSpawn
from sluice_contracts.messages.plan import Limits, Plan, TaskSpec
from sluice_localstack import LocalStack
from sluice_runtime.connection import KafkaConnection
from tests.history import History
from tests.log import Log

QUEUE = "default"
PREFIX = "sluice."
TENANT = "tenant"
SERVICES = ("spawner", "agent-runner", "vault-broker", "vault-audit", "monitor", "store", "api")
OWN_STORES = ("pipeline.journal", "pipeline.state", "token.journal", "token.state", "monitor.state", "audit.position")
"""Topics that are one service's own."""

RESTART_WAIT_MAX_S = 0.2
"""The supervisor starts a killed service again after it: tests kill often, and wait for the service, not for it."""

M = TypeVar("M", bound=Message)


@dataclass(frozen=True)
class Answer:
    """What an HTTP endpoint answered."""

    status: int
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Beside:
    """A second instance of a service, started by a test."""

    process: subprocess.Popen[bytes]
    port: int

    def metric(self, name: str) -> float:
        """The sum of a metric's series."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith((f"{name} ", f"{name}{{")))


class Installation:
    """A running stack.

    Args:
        directory: Its data directory.
        environment: Settings for single services, by service.
        roles: Folders of roles beside the shipped ones, for all services and the queues.
    """

    def __init__(
        self,
        directory: Path,
        environment: Mapping[str, Mapping[str, str]] | None = None,
        roles: tuple[Path, ...] = (),
    ) -> None:
        self.directory = directory
        self.scenarios = directory / "scenarios"
        self.scenarios.mkdir(parents=True, exist_ok=True)
        self.settings = Settings(
            data_directory=directory,
            scenarios_directory=self.scenarios,
            roles_directories=roles,
            service_environment=environment or {},
        )
        self.stack: LocalStack = compose(self.settings, restart_wait_max_s=RESTART_WAIT_MAX_S)
        self.spawned: set[str] = set()
        self._producers: dict[str, Producer] = {}
        self._log: Log | None = None

    def __enter__(self) -> Installation:
        self.stack.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._log is not None:
            self._log.close()
        self.stack.stop()

    # Speaking

    def scenario(self, name: str, text: str) -> str:
        """Writes a scenario file and returns the model's name that plays it."""
        (self.scenarios / f"{name}.yaml").write_text(text)
        return f"scripted:{name}"

    def connection(self, principal: str = "admin") -> KafkaConnection:
        return KafkaConnection.from_file(self.stack.kafka.credentials_file(principal))

    def send(self, pipeline: str, data: Message, *, identity: str | None = None) -> str:
        """Writes a command as another system would."""
        now_ms = time.time_ns() // 1_000_000
        event = CloudEvent(identity or str(uuid.uuid4()), "test", TENANT, pipeline, now_ms, data)
        self.write([codec.encode(event, topic="pipeline.commands", key=pipeline)])
        return event.id

    def write(
        self,
        records: list[OutgoingRecord],
        principal: str = "operator",
        partition: int | None = None,
        timestamp_ms: int = 0,
    ) -> list[tuple[int, int]]:
        """Writes records as they are; returns partition and offset of each, in their order."""
        producer = self._producers.get(principal)
        if producer is None:
            settings = {"partitioner": "murmur2_random", "log_level": 0, "message.max.bytes": 4_000_000}
            producer = self._producers[principal] = Producer({**self.connection(principal).confluent(), **settings})
        places: dict[int, tuple[int, int]] = {}

        def written(number: int, error: Any, message: Any) -> None:
            assert error is None, error
            places[number] = message.partition(), message.offset()

        for number, record in enumerate(records):
            producer.produce(
                PREFIX + record.topic, record.value, record.key, headers=list(record.headers),
                timestamp=timestamp_ms,
                on_delivery=lambda error, message, number=number: written(number, error, message),
                **({} if partition is None else {"partition": partition}),
            )  # fmt: skip
        assert producer.flush(60) == 0, "Kafka did not take the records in a minute"
        return [places[number] for number in range(len(records))]

    def spawn(self, model: str, *, tasks: int = 1, dedupe_key: str | None = None, **plan: Any) -> str:
        """Starts a pipeline of tasks, each after the one before it; its transcripts are like no other's."""
        specs = tuple(
            TaskSpec(
                id=f"t{number}", objective="work", role="researcher", dependencies=[f"t{number - 1}"] if number else ()
            )
            for number in range(tasks)
        )  # fmt: skip
        limits = Limits(max_iterations=1_000)
        key = dedupe_key or str(uuid.uuid4())
        made = Plan(**{"objective": f"find out {key}", "tasks": specs, "model": model, "limits": limits, **plan})
        return self.submit(made, dedupe_key=key)

    def submit(self, plan: Plan, *, dedupe_key: str | None = None) -> str:
        """Starts a pipeline of a plan."""
        key = dedupe_key or str(uuid.uuid4())
        pipeline = ids.pipeline_id(TENANT, key)
        self.spawned.add(pipeline)
        self.send(pipeline, PipelineSpawn(plan=plan, dedupe_key=key))
        return pipeline

    # Reading

    @property
    def log(self) -> Log:
        """The topics of the contract, with their dead-letter topics."""
        if self._log is None:
            self._log = Log(self.connection(), PREFIX, without=OWN_STORES)
        return self._log

    def history(self) -> History:
        """Everything that stands on the topics now."""
        self.log.catch_up()
        return History(dict(self.log.records), QUEUE)

    def events(self, pipeline: str, of: type[M], topic: str = "pipeline.events") -> list[CloudEvent[M]]:
        """Events of one type about a pipeline, as far as they were read."""
        wanted = of.type.encode()
        found = [
            record for record in self.log.records.get(topic, ())
            if _header(record, "ce_subject") == pipeline.encode() and _header(record, "ce_type") == wanted
        ]  # fmt: skip
        return [codec.decode(record) for record in found]  # type: ignore[misc]

    def sql(self, query: str) -> list[dict[str, Any]]:
        """Asks the store's SQL endpoint."""
        url = f"http://127.0.0.1:{self.stack.port('store')}/?" + urllib.parse.urlencode({"default_format": "JSON"})
        request = urllib.request.Request(url, data=query.encode(), method="POST")
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return list(json.load(answer)["data"])
        except urllib.error.HTTPError as error:
            raise ValueError(f"{error}: {error.read().decode()}") from error

    def get(self, service: str, path: str) -> Answer:
        """Asks a service of the stack."""
        url = f"http://127.0.0.1:{self.stack.port(service)}{path}"
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                return Answer(answer.status, answer.read())
        except urllib.error.HTTPError as error:
            return Answer(error.code, error.read())

    # A second instance

    @contextlib.contextmanager
    def beside(self, service: str) -> Iterator[Beside]:
        """Another process of a service, with the settings of the one that runs, on a port of its own."""
        first = Path(f"/proc/{self.stack.pid(service)}")
        arguments = [one.decode() for one in (first / "cmdline").read_bytes().split(b"\0")[:-1]]
        pairs = [one.decode().partition("=") for one in (first / "environ").read_bytes().split(b"\0")[:-1]]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = int(free.getsockname()[1])
        environment = {name: value for name, _, value in pairs} | {"SLUICE_HTTP_PORT": str(port)}
        with (self.stack.logs_directory / f"{service}-beside.log").open("ab") as output:
            process = subprocess.Popen(
                arguments, env=environment, cwd=self.directory, stdout=output, stderr=output, start_new_session=True
            )
        try:
            url = f"http://127.0.0.1:{port}/readyz"
            self.until(
                lambda: urllib.request.urlopen(url, timeout=5).status == 200, what=f"a second {service} is ready"
            )
            yield Beside(process, port)
        finally:
            process.send_signal(signal.SIGCONT)
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(30)
            process.kill()
            process.wait()

    # Waiting

    def until(self, condition: Callable[[], Any], timeout_s: float = 90, what: str = "the condition") -> Any:
        """Waits for a condition; a fault while asking counts as not yet."""
        until = time.monotonic() + timeout_s
        last: Exception | None = None
        while time.monotonic() < until:
            try:
                if result := condition():
                    return result
            except (OSError, ValueError, KafkaException) as error:
                last = error
            time.sleep(0.1)
        raise AssertionError(f"{what} did not come true in {timeout_s} s; the last error was {last!r}")

    def until_read(self, condition: Callable[[], Any], timeout_s: float = 90, what: str = "the condition") -> Any:
        """Waits for a condition on what stands on the topics."""

        def polled() -> Any:
            self.log.poll()
            return condition()

        return self.until(polled, timeout_s, what)

    def await_event(
        self, pipeline: str, of: type[M], where: Callable[[M], bool] = lambda _: True, topic: str = "pipeline.events"
    ) -> CloudEvent[M]:
        """Waits for an event of a type about a pipeline; returns the first."""
        found: list[CloudEvent[M]] = self.until_read(
            lambda: [one for one in self.events(pipeline, of, topic) if where(one.data)],
            what=f"{of.type} of {pipeline}",
        )
        return found[0]

    def await_ends(self, timeout_s: float = 120) -> None:
        """Waits until every spawned pipeline has ended."""
        ends = {one.type.encode() for one in PipelineResult.__subclasses__()}
        seen, ended = 0, set[str]()

        def all_ended() -> bool:
            nonlocal seen
            records = self.log.records.get("pipeline.events", ())
            for record in records[seen:]:
                if _header(record, "ce_type") in ends and record.key is not None:
                    ended.add(record.key.decode())
            seen = len(records)
            return self.spawned <= ended

        self.until_read(all_ended, timeout_s, f"the end of {len(self.spawned)} pipelines")


def owned_environment(pid: int) -> bytes:
    """What a process has in its environment and on its command line."""
    return b"\0".join(Path(f"/proc/{pid}/{name}").read_bytes() for name in ("environ", "cmdline"))


def fill(directory: Path) -> Path:
    """Takes all free space of a file system; returns the file that has it."""
    ballast = directory / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(1 << 20))
    with ballast.open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(1 << 10))
    assert os.statvfs(directory).f_bavail * os.statvfs(directory).f_frsize < 1 << 16
    return ballast


def _header(record: Record, name: str) -> bytes | None:
    return dict(record.headers).get(name)
