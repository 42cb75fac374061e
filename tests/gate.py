"""A whole installation with the gate under test: between its vault-broker, runner, Kafka and Vault stand proxies.

What is found here holds of the real thing: processes, Kafka and Vault are real, and so is each call that gets through.
"""

from __future__ import annotations

import json
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sluice_contracts import codec, topics
from sluice_contracts.envelope import CloudEvent
from sluice_contracts.messages.pipeline import PipelineCompleted, PipelineFailed, PipelineResult
from sluice_contracts.messages.token import TokenRequest, TokenRevoke
from sluice_localstack.errors import LoginRefused, ProvisioningFailed
from sluice_localstack.vault.server import VaultServer
from sluice_runtime.vault import names
from tests.credentials import (
    check_all_ended,
    check_answers,
    check_ends,
    check_revocations_are_final,
    check_sequences,
    each_once,
    living,
)
from tests.history import History, check
from tests.installation import PREFIX, TENANT, Installation
from tests.kafka_proxy import KafkaProxy
from tests.token_lives import Life, check_shown, life_of, lives_by_fold
from tests.vault_proxy import Call, VaultProxy

BROKER, RUNNER = "vault-broker", "agent-runner"
SETTINGS = {
    "spawner": {"SLUICE_LEASE_MS": "10000", "SLUICE_SESSION_TIMEOUT_MS": "2500"},
    "agent-runner": {"SLUICE_SESSION_TIMEOUT_MS": "2500", "SLUICE_VAULT_LOOK_UP_INTERVAL_S": "1"},
    "vault-broker": {
        "SLUICE_SESSION_TIMEOUT_MS": "1000", "SLUICE_RECONCILE_INTERVAL_S": "1", "SLUICE_VAULT_TIMEOUT_S": "1",
        "SLUICE_RENEWAL_INTERVAL_S": "1", "SLUICE_TOKEN_TTL_S": "120",
    },
}  # fmt: skip
"""Faults are noticed soon, and renewals come often; no token ends because its broker was killed, and no attempt is lost
because a busy machine kept its runner waiting."""

BY_HAND = ("manual", "credentials_revoked")
"""How a pipeline ends that was revoked by hand; the latter where that was done before it was spawned."""

SETTLED_MAX_S = 60
"""For the reconciler, which looks every second, and for what a killed instance had begun."""

NOBODYS = {"root", names.BROKER, names.RUNNER, "response-wrapping"}
"""Policies of tokens that are no pipeline's: our services' own, which end by their time where one is killed; and what a
SecretID is handed over in, for a minute at most."""

JOURNAL, EVENTS, COMMANDS = topics.TOKEN_JOURNAL.name, topics.TOKEN_EVENTS.name, topics.TOKEN_COMMANDS.name


class Gate(Installation):
    """An installation whose broker and runner reach Vault, and whose broker reaches Kafka, through proxies.

    Args:
        directory: Its data directory.
        settings: For single services, by service.

    Attributes:
        policies: Names of those that Vault had before the first pipeline.
        revoked: The pipelines that were revoked by hand. They may fail for it; no other one may fail.
    """

    def __init__(self, directory: Path, settings: Mapping[str, Mapping[str, str]]) -> None:
        self.broker_vault, self.runner_vault = (VaultProxy(lambda: self.vault.address.url) for _ in range(2))
        self.broker_kafka = KafkaProxy(self._kafka_port, [PREFIX + JOURNAL, PREFIX + EVENTS])
        self.policies: set[str] = set()
        self.revoked: set[str] = set()
        self._closing = ExitStack()
        super().__init__(directory, _Wiring(self, settings))

    @property
    def vault(self) -> VaultServer:
        assert isinstance(self.stack.vault, VaultServer)
        return self.stack.vault

    def __enter__(self) -> Gate:
        for proxy in (self.broker_vault, self.runner_vault, self.broker_kafka):
            self._closing.enter_context(proxy)
        super().__enter__()
        self.policies = set(self.vault.admin().list("sys/policies/acl"))
        return self

    def __exit__(self, *error: object) -> None:
        self.broker_vault.heal()
        self.runner_vault.heal()
        super().__exit__(*error)
        self._closing.close()

    def wired(self, service: str, own: Mapping[str, str]) -> dict[str, str]:
        """The settings by which a service goes through the proxies. Kafka and Vault run by then."""
        if service == RUNNER:
            return {**own, "SLUICE_VAULT_ADDR": self.runner_vault.url}
        if service != BROKER:
            return dict(own)
        login = json.loads(self.stack.credentials_file(BROKER).read_text())
        file = self.directory / "credentials" / f"{BROKER}-through-proxy.json"
        file.touch(0o600)
        file.write_text(json.dumps({**login, "bootstrap_servers": self.broker_kafka.address}))
        through = {"SLUICE_KAFKA_CREDENTIALS_FILE": str(file), "SLUICE_VAULT_ADDR": self.broker_vault.url}
        return {**own, **through}

    def _kafka_port(self) -> int:
        return int(self.stack.bootstrap_servers.rpartition(":")[2])

    def revoke(self, pipeline: str) -> None:
        """A person revokes all that a pipeline has, by a record."""
        self.revoked.add(pipeline)
        event = CloudEvent(str(uuid.uuid4()), "test", TENANT, pipeline, time.time_ns() // 1_000_000, TokenRevoke())
        self.write([codec.encode(event, topic=COMMANDS, key=pipeline)])

    # What Vault has

    def tokens(self) -> dict[str, dict[str, Any]]:
        """All that are a pipeline's, by accessor; while none is made: Vault forgets one that is looked up meanwhile."""
        admin, found = self.vault.admin(), {}
        for accessor in admin.list("auth/token/accessors"):
            try:
                data = admin.write("auth/token/lookup-accessor", {"accessor": accessor})["data"]
            except (LoginRefused, ProvisioningFailed):
                continue  # it has ended meanwhile, or Vault was killed while it made it: nobody can use it
            if not NOBODYS & set(data["policies"]):
                found[accessor] = data
        return found

    def left_over(self) -> list[str]:
        """What Vault holds of pipelines: nothing, once all of them have ended and the reconciler has looked.

        One entity is no pipeline's: Vault itself keeps it for all logins of an AppRole role.
        """
        admin = self.vault.admin()
        found = [f"token {accessor}" for accessor in self.tokens()]
        found += [f"policy {name}" for name in admin.list("sys/policies/acl") if name not in self.policies]
        for name in admin.list("identity/entity/name"):
            entity = admin.read(f"identity/entity/name/{name}") or {"data": {}}
            if any(one in f"{name} {entity['data'].get('metadata')}" for one in self.spawned):
                found.append(f"entity {name}")
        return found

    def lives_by_sql(self) -> Mapping[str, Life]:
        """Each credential as analysts see it."""
        return life_of(lambda query: [tuple(row.values()) for row in self.sql(query)])

    # What must hold

    def none_left(self, look: Callable[[], list[str]], where: str) -> None:
        """Waits until nothing is left.

        Raises:
            AssertionError: Something stays.
        """
        until = time.monotonic() + SETTLED_MAX_S
        while left := look():
            assert time.monotonic() < until, f"{len(left)} are still {where}: {left[:8]}"
            time.sleep(0.2)

    def settle(self) -> History:
        """Waits until everything has ended, and checks all laws: of the topics, of credentials, and of Vault."""
        self.broker_vault.heal()
        self.runner_vault.heal()
        self.stack.wait_ready(BROKER, 60)
        self.await_ends(180)
        self.none_left(self.left_over, "in Vault, though all pipelines have ended")
        self.none_left(
            lambda: sorted(living(each_once(self.history().events(EVENTS)))),
            "alive as the log says, though not in Vault",
        )
        history = self.history()
        check(history, self.spawned)
        told = each_once(history.events(EVENTS))
        check_sequences(told)
        check_answers(told, [one for one in history.events(COMMANDS) if isinstance(one.data, TokenRequest)])
        check_revocations_are_final(told)
        check_ends(told)
        check_all_ended(told)
        check_shown(told)
        shown = lives_by_fold(told)
        self.until(lambda: self.lives_by_sql() == shown, what="SQL shows each credential's life as the read model does")
        for topic in (COMMANDS, "alerts"):
            assert not history.records(f"dlq.{topic}")
        ends = [one for one in history.events("pipeline.events") if isinstance(one.data, PipelineResult)]
        for end in ends:
            by_hand = isinstance(end.data, PipelineFailed) and end.data.reason in BY_HAND
            assert isinstance(end.data, PipelineCompleted) or (by_hand and end.subject in self.revoked), end
        return history


class _Wiring(Mapping[str, Mapping[str, str]]):
    """Settings that are asked for when Kafka and Vault run, and not before."""

    def __init__(self, gate: Gate, settings: Mapping[str, Mapping[str, str]]) -> None:
        self._gate, self._settings = gate, settings

    def __getitem__(self, service: str) -> Mapping[str, str]:
        return self._gate.wired(service, self._settings.get(service, {}))

    def __iter__(self) -> Iterator[str]:
        return iter({*self._settings, BROKER, RUNNER})

    def __len__(self) -> int:
        return len(set(self))


@dataclass(frozen=True)
class Point:
    """Where the broker is killed: at a call of Vault whose path begins so, or at a produce to a topic.

    Attributes:
        past: Only once such a call was done, or such a topic was written.
    """

    at: str
    past: str | None = None


class Trap:
    """Kills the broker with -9 at a point, right before what it does there happens, or right after, unheard."""

    def __init__(self, gate: Gate) -> None:
        self._stack = gate.stack
        self._lock = threading.Lock()
        self._point: Point | None = None
        self._past: str | None = None
        self._done = False
        self._skip = 0
        self.struck = threading.Event()
        gate.broker_vault.watch = self._called
        gate.broker_kafka.watch = lambda topic, done: self._passed(topic.removeprefix(PREFIX), done)

    def arm(self, point: Point, *, done: bool, skip: int) -> None:
        """Has it strike at the point, after so many that go by; before it happens, or when it is done."""
        with self._lock:
            self.struck.clear()
            self._point, self._past, self._done, self._skip = point, point.past, done, skip

    def _called(self, call: Call, done: bool) -> bool:
        return self._passed(call.path, done)

    def _passed(self, what: str, done: bool) -> bool:
        with self._lock:
            if self._point is None:
                return False
            if self._past is not None:
                self._past = None if done and what.startswith(self._past) else self._past
                return False
            if not what.startswith(self._point.at) or done != self._done:
                return False
            self._skip -= 1
            if self._skip >= 0:
                return False
            self._point = None
        self._stack.kill_service(BROKER, signal.SIGKILL)
        self.struck.set()
        return True
