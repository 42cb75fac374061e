"""The audit file's follower on real Kafka beside a real Vault: killed while Vault is used and its file is rotated."""

from __future__ import annotations

import json
import random
import signal
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest
from pydantic import SecretStr

from sluice_contracts import codec, topics
from sluice_contracts.messages.audit import VaultUsed
from sluice_localstack import VaultServer
from sluice_vault_broker.ports import Label, TokenUnknown
from tests.integration.vault_broker.service import QUEUES, BrokerProcess, wait_for
from tests.kafka import TestKafka
from tests.log import Log
from tests.vault import RealVault, provisioned

SEEDS = (1, 2)
KILLS = 12
PARTITIONS = 2
CANARY = "canary-in-a-secret-0123456789"
SECRET = "secret/data/api-keys/openrouter"


class World:
    """A Vault of its own, who uses it, who rotates its file, and what stands on the topic."""

    def __init__(self, kafka: TestKafka, vault: RealVault, directory: Path) -> None:
        self.prefix = f"t{uuid.uuid4().hex[:8]}."
        self.vault, self.directory = vault, directory
        kafka.create_topics(self.prefix, QUEUES, PARTITIONS)
        credentials, connection = directory / "kafka.json", kafka.connection
        login = {name: getattr(connection, name) for name in ("bootstrap_servers", "username", "password")}
        credentials.write_text(json.dumps(login | {"security_protocol": connection.security_protocol}))
        self.environment = {
            "SLUICE_KAFKA_CREDENTIALS_FILE": str(credentials),
            "SLUICE_TOPIC_PREFIX": self.prefix,
            "SLUICE_VAULT_AUDIT_FILE": str(vault.server.audit_file),
        }
        others = [one.name for one in topics.concrete_topics(queues=QUEUES, partitions=PARTITIONS)]
        self.log = Log(connection, self.prefix, without=[one for one in others if one != topics.VAULT_AUDIT.name])
        self.secrets = [CANARY, vault.server.keys.needed().root_token]
        self.secrets += [file.read_text().strip() for file in vault.credentials.directory.rglob("*-id")]
        self.processes: list[BrokerProcess] = []
        self.rotations = 0
        self._stop = threading.Event()
        self._users = [threading.Thread(target=self._use, args=(number,), daemon=True) for number in range(2)]

    # Vault

    def _use(self, number: int) -> None:
        connected = self.vault.connect(self.prefix)
        asked = connected._connection
        while not self._stop.is_set():
            label = Label("acme", str(uuid.uuid4()), number)
            login = connected.log_in(label)
            token = connected.mint_root(login.token, label, ttl_s=60, max_ttl_s=60)
            self.secrets += [login.token.get_secret_value(), token.token.get_secret_value()]
            asked.ask_with(token.token, "POST", f"secret/data/agents/{label.pipeline_id}/x", {"data": {"key": CANARY}})
            asked.ask_with(token.token, "GET", SECRET)
            connected.revoke(login.accessor)
            self.use_and_be_refused(token.token)

    def use_and_be_refused(self, token: SecretStr) -> None:
        with pytest.raises(TokenUnknown):
            self.vault.connect(self.prefix)._connection.ask_with(token, "GET", SECRET)

    def begin(self) -> None:
        self.vault.admin.write(SECRET, {"data": {"key": CANARY}})
        for user in self._users:
            user.start()

    def end(self) -> None:
        self._stop.set()
        for user in self._users:
            if user.is_alive():
                user.join(30)

    def rotate(self) -> None:
        self.rotations += 1
        file = self.vault.server.audit_file
        file.rename(file.with_name(f"{file.name}.{self.rotations}"))
        self.vault.server.kill(signal.SIGHUP)
        wait_for("a new audit file", lambda: file.exists())

    def expected(self) -> dict[tuple[str, int], str]:
        """By place, the request's id of every answer in any file."""
        found = {}
        for file in self.vault.server.directory.glob("audit.log*"):
            content = file.read_bytes()
            head, offset = sha256(content.partition(b"\n")[0][:4096]).hexdigest(), 0
            for line in content.splitlines():
                entry = json.loads(line)
                if entry["type"] == "response":
                    found[head, offset] = entry["request"]["id"]
                offset += len(line) + 1
        return found

    # The follower

    def start(self) -> BrokerProcess:
        self.processes.append(BrokerProcess(self.directory, self.environment, "audit"))
        return self.processes[-1]

    def told(self) -> list[VaultUsed]:
        self.log.poll(0.05)
        data = [codec.decode(record).data for record in self.log.records.get(topics.VAULT_AUDIT.name, [])]
        assert all(isinstance(one, VaultUsed) for one in data), [one for one in data if not isinstance(one, VaultUsed)]
        return data  # type: ignore[return-value]

    def close(self) -> None:
        self.end()
        for process in self.processes:
            if process.running:
                process.kill()
        self.log.close()


@pytest.fixture
def world(kafka: TestKafka, tmp_path: Path) -> Iterator[World]:
    with VaultServer(tmp_path / "vault") as server:
        made = World(kafka, provisioned(server, tmp_path / "credentials"), tmp_path)
        try:
            yield made
        finally:
            made.close()


@pytest.mark.covers("V4", "V7")
@pytest.mark.parametrize("seed", SEEDS)
def test_killed_while_vault_is_used_and_its_file_rotated(world: World, seed: int) -> None:
    dice = random.Random(seed)
    world.begin()
    beside: BrokerProcess | None = None
    for kill in range(KILLS):
        process = world.start()
        if beside is not None:  # two at once, for a while: the later one fences the other
            time.sleep(dice.uniform(0.2, 0.8))
            beside.kill()
        time.sleep(dice.uniform(0.6, 1.6))
        if kill % 2:
            world.rotate()
            time.sleep(dice.uniform(0.0, 0.3))
        if dice.random() < 0.3:
            beside = process
        else:
            process.kill()
            beside = None
    if beside is not None:
        beside.kill()
    world.end()
    last = world.start()
    world.vault.connect(world.prefix).accessors()  # which nobody but the last one can tell
    expected = world.expected()
    wait_for("all of it", lambda: len(world.told()) >= len(expected))
    assert last.stop() == 0
    world.log.catch_up()
    told = world.told()
    places = Counter((one.place.file, one.place.offset) for one in told)
    assert set(places) == set(expected), "each line is told, and nothing else"
    assert max(places.values()) == 1, "and once"
    assert {(one.place.file, one.place.offset): one.request_id for one in told} == expected
    assert len(expected) > 100
    assert world.rotations >= KILLS // 2
    assert sum(one.latency_us is not None for one in told) > len(told) // 2
    refused = [one for one in told if one.outcome == "refused"]
    known = {one.token_hmac for one in told if one.accessor}
    assert refused
    assert {one.token_hmac for one in refused} <= known, "a token that has ended is known by its HMAC"
    _nothing_secret(world)


@pytest.mark.covers("V7")
def test_what_two_of_them_and_a_truncation_leave(world: World) -> None:
    """Both live all the time; the file is copied and truncated while nobody uses Vault."""
    both = [world.start(), world.start()]
    world.begin()
    wait_for("some uses", lambda: len(world.told()) > 30)
    world.end()
    file = world.vault.server.audit_file
    for number in (1, 2):
        before = file.read_bytes()
        file.with_name(f"audit.log.{number}").write_bytes(before)
        assert file.read_bytes() == before, "Vault is used by nobody now"
        with file.open("r+b") as opened:
            opened.truncate(0)
        world.vault.admin.write(SECRET, {"data": {"key": CANARY}})
    expected = world.expected()
    wait_for("all of it", lambda: len(world.told()) >= len(expected))
    assert [process.stop() for process in both] == [0, 0]
    world.log.catch_up()
    assert Counter((one.place.file, one.place.offset) for one in world.told()) == Counter(expected.keys())


def _nothing_secret(world: World) -> None:
    assert len(world.secrets) > 20
    texts = [process.log_file.read_bytes() for process in world.processes]
    for record in world.log.records[topics.VAULT_AUDIT.name]:
        texts += [record.key or b"", record.value or b"", *(value or b"" for _, value in record.headers)]
    whole = b"\0".join(texts)
    assert [secret for secret in world.secrets if secret.encode() in whole] == []
    assert b"hvs." not in whole
