"""A whole installation to measure: the local stack with real Kafka and every service as a process of its own."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import hvac
import psutil
import requests
from confluent_kafka.admin import AdminClient, NewTopic

from sluice_client.wiring import API, BROKER, MONITOR, RUNNER, SPAWNER, STORE, Settings, compose
from sluice_contracts import topics
from sluice_localstack import LocalStack, VaultServer
from sluice_localstack.kafka.broker import KafkaBroker
from sluice_localstack.progress import Progress
from sluice_runtime.connection import KafkaConnection

SERVICES = (SPAWNER, BROKER, RUNNER, STORE, API, MONITOR)
PREFIX = "sluice."
PARTITIONS = 8
AGENTS_MAX_COUNT = 1_100
"""So many may live at once: a thousand that are measured, and those that come and go meanwhile."""

FOREIGN_QUEUE = "foreign"
"""A queue of no runner of ours: the measures answer its tasks themselves."""

_FOREIGN_ROLE = f"""\
name: foreign-worker
description: Works outside of our runners.
queue: {FOREIGN_QUEUE}
system_prompt: You work elsewhere.
tools: [finish]
"""


def scenario(turns: int) -> str:
    """A model that answers at once: all turns but the last list the workspace's files, the last one finishes."""
    look = f"      - {{text: look, tool_calls: [{{name: list_files}}], repeat: {turns - 1}}}\n" if turns > 1 else ""
    finish = "{name: finish, arguments: {summary: done, result: done}}"
    return f"agents:\n  - turns:\n{look}      - {{text: done, tool_calls: [{finish}]}}\n"


@dataclass
class Installation:
    """A stack in a directory, which is the caller's to remove.

    Attributes:
        steps_s: How long each step of the last start took, by its name.
        start_s: How long the last start took.
    """

    directory: Path
    steps_s: dict[str, float] = field(default_factory=dict)
    start_s: float = 0.0

    def __post_init__(self) -> None:
        self.directory = self.directory.absolute()
        self._roles = self.directory / "own-roles"
        self._scenarios = self.directory / "scenarios"
        for folder in (self._roles, self._scenarios):
            folder.mkdir(parents=True, exist_ok=True)
        (self._roles / "foreign-worker.yaml").write_text(_FOREIGN_ROLE)
        settings = Settings(
            data_directory=self.directory,
            partitions=PARTITIONS,
            topic_prefix=PREFIX,
            roles_directories=(self._roles,),
            scenarios_directory=self._scenarios,
            service_environment={
                RUNNER: {
                    "SLUICE_QUEUES": "default",
                    "SLUICE_RUNNER_SLOTS": "1000",
                    "SLUICE_RUNNER_BACKLOG_MAX_COUNT": "400",
                },
                SPAWNER: {"SLUICE_MAX_AGENTS": str(AGENTS_MAX_COUNT)},
            },
        )
        self.stack: LocalStack = compose(settings, self._progress)

    def _progress(self, progress: Progress) -> None:
        self.steps_s[progress.what] = progress.seconds

    def start(self) -> None:
        """Starts everything, or starts it again."""
        self.steps_s.clear()
        begun = time.monotonic()
        self.stack.start()
        self.start_s = time.monotonic() - begun

    def stop(self) -> None:
        """Ends everything; the data stays."""
        self.stack.stop()

    def connection(self, principal: str) -> KafkaConnection:
        """How a principal reaches Kafka; `admin` may do anything."""
        return KafkaConnection.from_file(self.credentials(principal))

    def credentials(self, principal: str) -> Path:
        """The file with a principal's credentials."""
        return self.stack.kafka.credentials_file(principal)

    def vault_client(self, role: str) -> hvac.Client:
        """Vault by bare hvac, for one thread, logged in as a service."""
        assert self.stack.vault is not None
        address, login = self.stack.vault.address, self.stack.vault_credentials.read(role)
        assert login is not None, f"role {role} has no files in {self.stack.vault_credentials.directory}"
        session = requests.Session()
        session.trust_env = False
        session.verify = address.ca_file or True
        client = hvac.Client(url=address.url, token="", session=session, timeout=20)
        client.auth.approle.login(*login)
        return client

    def model(self, turns: int) -> str:
        """The name of a scripted model whose agents take so many turns."""
        return self.scenario(f"turns-{turns}", scenario(turns))

    def scenario(self, name: str, text: str) -> str:
        """The name of the scripted model that plays a scenario."""
        path = self._scenarios / f"{name}.yaml"
        if not path.exists():
            path.write_text(text)
        return f"scripted:{path.stem}"

    def rss_mb(self) -> dict[str, float]:
        """Resident memory of each service now."""
        found = {}
        for service in SERVICES:
            pid = self.stack.pid(service)
            assert pid is not None, f"{service} does not run; read {self.stack.log_file(service)}"
            found[service] = psutil.Process(pid).memory_info().rss / 1e6
        return found

    def cpu_s(self) -> dict[str, float]:
        """Processor time that each service, Kafka and Vault have taken since they were started."""
        pids = {service: self.stack.pid(service) for service in SERVICES}
        if isinstance(self.stack.kafka, KafkaBroker):  # a cluster that was given runs elsewhere
            pids["kafka"] = self.stack.kafka.pid
        if isinstance(self.stack.vault, VaultServer):
            pids["vault"] = self.stack.vault.pid
        times = {name: psutil.Process(pid).cpu_times() for name, pid in pids.items() if pid is not None}
        return {name: taken.user + taken.system for name, taken in times.items()}

    @contextmanager
    def without_observers(self) -> Iterator[None]:
        """Lets the store and the api stand still: what is measured has the processor to itself, as its floor has.

        They have no part in a group, so nobody misses them; they read on where they stood.
        """
        pids = [self.stack.pid(service) for service in (STORE, API)]
        for pid in pids:
            psutil.Process(pid).suspend()
        try:
            yield
        finally:
            for pid in pids:
                psutil.Process(pid).resume()

    def create_topics(self, names: Sequence[str], partitions: int) -> None:
        """Creates topics for a floor, if they are not there. They have no prefix: no service sees them."""
        admin = AdminClient({**self.connection("admin").confluent()})
        there = admin.list_topics(timeout=30).topics
        _create(admin, [NewTopic(name, partitions, 1) for name in names if name not in there])

    def create_installation_topics(self, prefix: str, partitions: int) -> None:
        """Creates the contract's topics once more under another prefix, for a part that is measured alone."""
        admin = AdminClient({**self.connection("admin").confluent()})
        wanted = topics.concrete_topics(queues=["default"], partitions=partitions)
        _create(admin, [NewTopic(prefix + one.name, one.partitions, 1, config=one.configs) for one in wanted])


def _create(admin: AdminClient, topics: list[NewTopic]) -> None:
    for future in admin.create_topics(topics).values() if topics else ():
        future.result()
