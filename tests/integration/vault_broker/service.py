"""The vault-broker as a process on real Kafka and real Vault, and whoever commands it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from confluent_kafka import Producer

from sluice_contracts import codec, topics
from sluice_contracts.envelope import CloudEvent
from sluice_contracts.messages import Message
from sluice_contracts.messages.token import TokenDenied, TokenExpired, TokenGranted, TokenRequest, TokenRevoked
from tests.kafka import TestKafka
from tests.log import Log
from tests.vault import RealVault

T = TypeVar("T")
M = TypeVar("M", bound=Message)
WAIT_S = 60.0
PARTITIONS = 2
QUEUES = ["default", "q"]


def wait_for(what: str, ask: Callable[[], T], wait_s: float = WAIT_S) -> T:
    deadline = time.monotonic() + wait_s
    while not (answer := ask()):
        assert time.monotonic() < deadline, f"waited {wait_s} s for {what}; the last answer was {answer!r}"
        time.sleep(0.02)
    return answer


class BrokerProcess:
    """One instance of the service, or with an argument of its other process."""

    def __init__(self, directory: Path, environment: Mapping[str, str], *arguments: str) -> None:
        self.log_file = directory / f"vault-broker-{uuid.uuid4().hex[:6]}.log"
        own = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        with self.log_file.open("wb") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "sluice_vault_broker", *arguments], env={**own, **environment}, stderr=file
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def stop(self) -> int:
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(40)

    @property
    def running(self) -> bool:
        return self._process.poll() is None


class World:
    """An installation's topics, its commands, and what was answered."""

    def __init__(self, kafka: TestKafka, vault: RealVault, directory: Path, **settings: object) -> None:
        self.prefix = f"t{uuid.uuid4().hex[:8]}."
        self.vault = vault
        self.directory = directory
        kafka.create_topics(self.prefix, QUEUES, PARTITIONS)
        connection = kafka.connection
        credentials = directory / "kafka.json"
        credentials.write_text(
            json.dumps(
                {
                    "bootstrap_servers": connection.bootstrap_servers, "username": connection.username,
                    "password": connection.password, "security_protocol": connection.security_protocol,
                }
            )
        )  # fmt: skip
        self.environment = {
            "SLUICE_KAFKA_CREDENTIALS_FILE": str(credentials),
            "SLUICE_TOPIC_PREFIX": self.prefix,
            "SLUICE_QUEUES": ",".join(QUEUES),
            "SLUICE_SESSION_TIMEOUT_MS": "1000",
            "SLUICE_RECONCILE_INTERVAL_S": "1",
            **vault.environment(),
            **{f"SLUICE_{name.upper()}": str(value) for name, value in settings.items()},
        }
        self._producer = Producer({**connection.confluent(), "linger.ms": 0, "partitioner": "murmur2_random"})
        self.log = self._open_log(kafka)
        self.processes: list[BrokerProcess] = []
        self.sequence = int(time.time() * 1_000)

    def _open_log(self, kafka: TestKafka) -> Log:
        """Of all topics: a broker that has just created some tells of them one after the other."""
        wanted = {one.name for one in topics.concrete_topics(queues=QUEUES, partitions=PARTITIONS)}
        without = {topics.TOKEN_JOURNAL.name, topics.TOKEN_STATE.name}
        deadline = time.monotonic() + WAIT_S
        while True:
            log = Log(kafka.connection, self.prefix, without=sorted(without))
            if set(log.topics) == wanted - without:
                return log
            log.close()
            assert time.monotonic() < deadline, "the topics do not come"

    def start(self) -> BrokerProcess:
        self.processes.append(BrokerProcess(self.directory, self.environment))
        return self.processes[-1]

    def close(self) -> None:
        for process in self.processes:
            if process.running:
                process.stop()
        self.log.close()

    def say(self, pipeline_id: str, message: Message, *, source: str = "spawner/test", id_: str = "") -> str:
        self.sequence += 1
        identity = id_ or str(uuid.uuid4())
        sequence = self.sequence if source.startswith("spawner") else None
        event = CloudEvent(identity, source, "acme", pipeline_id, int(time.time() * 1_000), message, sequence=sequence)
        record = codec.encode(event, topic=topics.topic_of(type(message)).name, key=pipeline_id)
        self._producer.produce(self.prefix + record.topic, record.value, record.key, headers=list(record.headers))
        self._producer.flush(30)
        return identity

    def request(self, pipeline_id: str, agent_id: str, attempt: int = 1, **more: object) -> str:
        message = TokenRequest(agent_id=agent_id, attempt=attempt, queue="q", **more)  # type: ignore[arg-type]
        return self.say(pipeline_id, message)

    def events(self, pipeline_id: str | None = None) -> list[CloudEvent[Message]]:
        self.log.poll(0.02)
        found = [codec.decode(record) for record in self.log.records.get(topics.TOKEN_EVENTS.name, [])]
        return [event for event in found if pipeline_id in (None, event.subject)]

    def all(self, cls: type[M], pipeline_id: str | None = None) -> list[M]:
        return [event.data for event in self.events(pipeline_id) if isinstance(event.data, cls)]

    def granted(self, pipeline_id: str, agent_id: str | None, attempt: int | None = 1) -> TokenGranted:
        def look() -> list[TokenGranted]:
            found = self.all(TokenGranted, pipeline_id)
            return [one for one in found if (one.agent_id, one.attempt) == (agent_id, attempt)]

        return wait_for(f"a grant of {agent_id} {attempt}", look)[0]

    def revoked(self, pipeline_id: str, agent_id: str | None) -> TokenRevoked:
        def look() -> list[TokenRevoked]:
            return [one for one in self.all(TokenRevoked, pipeline_id) if one.agent_id == agent_id]

        return wait_for(f"the revocation of {agent_id}", look)[0]

    def live(self, *, logins: bool = True) -> dict[str, str]:
        """Accessors of this installation's tokens, as Vault has them, with their pipelines."""
        admin, found = self.vault.admin, {}
        for accessor in admin.list("auth/token/accessors"):
            try:
                data = admin.write("auth/token/lookup-accessor", {"accessor": accessor})["data"]
            except Exception:
                continue  # it ended meanwhile
            if not logins and "sluice-orchestrator" in data["policies"]:
                continue
            meta = data.get("meta") or {}
            if meta.get("installation") == self.prefix:
                found[accessor] = meta["pipeline_id"]
        return found


__all__ = ["BrokerProcess", "TokenDenied", "TokenExpired", "World", "wait_for"]
