"""The simulated installation of the vault-broker: it and all that it uses is real but Kafka, Vault and the clock.

All comes from one seed. Run it again with the seed that a failure prints, and it fails at the same step.
"""

from __future__ import annotations

import logging
import random
from collections import defaultdict
from collections.abc import Callable
from uuid import UUID

from sluice_contracts import topics
from sluice_contracts.codec import decode, encode
from sluice_contracts.envelope import CloudEvent, Record
from sluice_contracts.messages import Message
from sluice_contracts.messages.alert import AlertAction, AlertRaised
from sluice_contracts.messages.token import (
    FULL_REVOCATIONS,
    TokenGranted,
    TokenRenew,
    TokenRequest,
    TokenRevoke,
    TokenRevoked,
)
from sluice_runtime.broker import TopicPartition
from sluice_runtime.memory import MemoryLog
from sluice_vault_broker.adapters.acts import Terms
from sluice_vault_broker.adapters.holdings import Wanted
from sluice_vault_broker.domain.policy import BrokerPolicy
from sluice_vault_broker.domain.state import RevocationEntity
from sluice_vault_broker.handlers import BrokerDecider
from sluice_vault_broker.ports import Label, VaultAway, VaultRefused
from tests.doubles import ManualClock
from tests.simulation.brokers import BrokerInstance
from tests.simulation.vault_faults import VaultFaults
from tests.simulation.vault_laws import TOLD, check, check_expiries
from tests.vault import MemoryStore, MemoryVault

PARTITIONS = 2
QUEUE = "q"
TERMS = Terms(ttl_s=40, max_ttl_s=150)
POLICY = BrokerPolicy(renewal_interval_ms=8_000, queues=frozenset({QUEUE}))
AGENTS = 4
OURS, OTHERS = "ours.", "others."


class _Heard(logging.Handler):
    """All that is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


class VaultWorld:
    """One run from one seed."""

    def __init__(self, seed: int, faults: VaultFaults | None = None) -> None:
        self.random = random.Random(f"vault {seed}")
        self.clock, self._vault_clock = ManualClock(), ManualClock()
        names = {one.name: one.partitions for one in topics.concrete_topics(queues=[QUEUE], partitions=PARTITIONS)}
        self.log = MemoryLog(names, self.clock)
        self.faults = faults or VaultFaults.all()
        self.store = MemoryStore(self._vault_clock)
        self._away_until_ms = 0
        other = MemoryVault(self.store, OTHERS)
        label = Label("acme", str(UUID(int=1)), 1)
        login = other.log_in(label)
        self.foreign = [login, other.mint_root(login.token, label, ttl_s=80_000, max_ttl_s=80_000)]
        for minted in self.foreign:
            self.store.tokens[minted.accessor].expires_at_ms = 2**53
        self.store.unfinished.append("accessor-0")
        self.store.fault = self._strike
        self.commands: list[CloudEvent[Message]] = []
        self.pipelines = [str(UUID(int=self.random.getrandbits(128))) for _ in range(3)]
        self.attempts: dict[tuple[str, str], int] = defaultdict(int)
        self.ended: set[str] = set()
        self.journalled: list[bytes] = []
        self.brokers: list[BrokerInstance] = []
        self.frozen: list[BrokerInstance] = []
        self._read = [0] * PARTITIONS
        self._granted: dict[str, set[str]] = defaultdict(set)
        self._made = 0
        self._calm = False
        self._new_broker()

    # Processes

    def _new_broker(self) -> None:
        self._made += 1
        vault = MemoryVault(self.store, OURS, queues=frozenset({QUEUE}))
        decider = BrokerDecider(POLICY)
        self.brokers.append(
            BrokerInstance(f"broker-{self._made}", self.log, self.clock, self.random, decider, vault, TERMS)
        )
        self._rebalance()

    def _rebalance(self) -> None:
        for number in range(PARTITIONS):
            owner = self.brokers[number % len(self.brokers)]
            for other in self.brokers:
                if other is not owner:
                    other.give_up(number)
            if number not in owner.owners:
                owner.take(number)

    # Vault's faults

    def _strike(self, name: str, after: bool) -> None:
        if self._calm:
            return
        if after:
            if self.random.random() < self.faults.lost_answer:
                raise VaultAway(f"{name}: the answer was lost")
            return
        if self._vault_clock.now_ms() < self._away_until_ms:
            raise VaultAway(f"{name}: away")
        if self.random.random() < self.faults.overloaded:
            raise VaultAway(f"{name}: 429")
        if self.random.random() < self.faults.refused:
            raise VaultRefused(f"{name}: 403")

    # What the spawner, people and the monitor do

    def act(self) -> None:
        pipeline_id = self.random.choice(self.pipelines)
        agent_id = f"agent-{self.random.randrange(AGENTS)}"
        attempt = self.attempts[pipeline_id, agent_id]
        choice = self.random.random()
        if choice < 0.5:
            self._request(pipeline_id, agent_id)
        elif choice < 0.56:
            self._say(pipeline_id, TokenRequest())
        elif choice < 0.66 and attempt:
            self._say(pipeline_id, TokenRevoke(agent_id=agent_id, attempt=attempt, reason="agent_ended"))
        elif choice < 0.74 and attempt:
            self._say(pipeline_id, TokenRevoke(agent_id=agent_id, attempt=attempt, reason="waiting"))
            if self.random.random() < 0.7:
                self._request(pipeline_id, agent_id, again=True)
        elif choice < 0.80 and attempt:
            self._say(pipeline_id, TokenRenew(), source="operator")
        elif choice < 0.84 and attempt:
            self._alert(pipeline_id, "revoke_agent", agent_id, attempt)
        elif choice < 0.87:
            self._alert(pipeline_id, self.random.choice(["revoke_pipeline", "throttle"]))
        elif choice < 0.89:
            self._say(pipeline_id, TokenRevoke(reason="manual"), source="operator")
        elif choice < 0.91:
            self._say(pipeline_id, TokenRevoke(reason="waiting"))
        elif choice < 0.93 and attempt:
            one = self.random.choice([None, attempt, max(1, attempt - 1)])
            self._say(pipeline_id, TokenRevoke(agent_id=agent_id, attempt=one), source="operator")
        elif choice < 0.97:
            self.end(pipeline_id)

    def _request(self, pipeline_id: str, agent_id: str, *, again: bool = False) -> None:
        attempt = self.attempts[pipeline_id, agent_id] = self.attempts[pipeline_id, agent_id] + (0 if again else 1)
        parent = f"agent-{self.random.randrange(AGENTS)}" if self.random.random() < 0.3 else None
        parent = None if parent == agent_id else parent
        message = TokenRequest(
            agent_id=agent_id, attempt=attempt, queue=QUEUE, parent_agent_id=parent,
            may_have_agents=self.random.random() < 0.6,
        )  # fmt: skip
        self._say(pipeline_id, message)

    def end(self, pipeline_id: str) -> None:
        """As at the end of a pipeline; its place is taken by another one."""
        self._say(pipeline_id, TokenRevoke(reason="pipeline_ended"))
        self.ended.add(pipeline_id)
        place = self.pipelines.index(pipeline_id)
        known = any(one.subject == pipeline_id and isinstance(one.data, TokenRequest) for one in self.commands)
        if known and self.random.random() < 0.5:  # late, and refused
            late = TokenRequest(agent_id="agent-0", attempt=99, queue=QUEUE)
            self._say(pipeline_id, late, source="operator")
            self._say(pipeline_id, self.random.choice([TokenRevoke(), TokenRenew()]), source="operator")
        self.pipelines[place] = str(UUID(int=self.random.getrandbits(128)))

    def _alert(self, pipeline_id: str, action: AlertAction, agent_id: str | None = None, attempt: int = 0) -> None:
        message = AlertRaised(
            condition="no_progress" if action == "revoke_agent" else "error_budget_exceeded", action=action,
            agent_id=agent_id, attempt=attempt or None, observed=6, limit=5, window_ms=60_000, breached_at_ms=1,
            detail="too much",
        )  # fmt: skip
        self._say(pipeline_id, message, source="monitor")

    def _say(self, pipeline_id: str, message: Message, *, source: str = "spawner/s") -> None:
        number = len(self.commands)
        sequence = 10**12 + number if source.startswith("spawner") else None
        event = CloudEvent(
            f"command-{number}-{self.random.getrandbits(32)}", source, "acme", pipeline_id, self.clock.now_ms(),
            message, sequence=sequence,
        )  # fmt: skip
        self.commands.append(event)
        self._send(event)

    def _send(self, event: CloudEvent[Message]) -> None:
        self.log.append(encode(event, topic=topics.topic_of(type(event.data)).name, key=event.subject))

    # Time

    def step(self) -> None:
        passed_ms = self.random.randrange(40)
        self.clock.advance(passed_ms)
        self._vault_clock.advance(passed_ms)
        if not self._calm:
            self._maybe_fault()
            if self.random.random() < 0.002:  # long times, in which tokens are renewed or end
                passed_ms = self.random.choice([3_000, 9_000, 30_000])
                self.clock.advance(passed_ms)
                self._vault_clock.advance(passed_ms)
        self.random.choice(self.brokers).step()
        self._check_revocations()
        if self.random.random() < 0.05:
            self._rebalance()

    def _check_revocations(self) -> None:
        """Whoever reads that all of a pipeline was revoked may rely on it: Vault honours nothing that was granted."""
        for number, first in enumerate(self._read):
            told = self.log.read(TopicPartition("token.events", number), first)
            self._read[number] += len(told)
            for event in (decode(record) for record in told):
                data = event.data
                if isinstance(data, TokenGranted):
                    self._granted[event.subject].add(data.accessor)
                elif isinstance(data, TokenRevoked) and data.agent_id is None and data.reason in FULL_REVOCATIONS:
                    living = self._granted[event.subject] & self.store.honoured()
                    assert not living, f"told to be revoked for {data.reason}, and alive: {living}"

    def _maybe_fault(self) -> None:
        roll, faults = self.random.random, self.faults
        if roll() < faults.crash:
            self._lose(freeze=False)
        if roll() < faults.freeze:
            self._lose(freeze=True)
        if self.frozen and roll() < faults.freeze * 2:
            self._wake()
        if roll() < faults.jump:
            self.clock.advance(self.random.choice([-30_000, 3_000, 15_000]))
        if self.commands and roll() < faults.redeliver:
            self._send(self.random.choice(self.commands[-20:]))
        if roll() < faults.away:
            self._away_until_ms = self._vault_clock.now_ms() + self.random.choice([500, 5_000, 60_000])
        if roll() < faults.restarted:
            self._away_until_ms = self._vault_clock.now_ms() + 300
        if len(self.brokers) < 2 and roll() < faults.second_instance:
            self._new_broker()
        if roll() < faults.ended_by_hand:
            ours = [one.accessor for one in self.store.tokens.values() if one.installation == OURS]
            if ours:
                self.store.end(self.random.choice(ours))
        if roll() < faults.entity_deleted and self.pipelines:
            self.store.entities.pop(self.random.choice(self.pipelines), None)
        if roll() < faults.stuck:
            self._get_stuck()

    def _get_stuck(self) -> None:
        """A path, or what is asked of one token, is not answered until further notice."""
        ours = ["", *(one.accessor for one in self.store.tokens.values() if one.installation == OURS)]
        name = self.random.choice(["log_in", "mint_child", "renew", "revoke", "revoke", "delete_entity"])
        self.store.stuck.add((name, self.random.choice(ours) if name in ("renew", "revoke") else ""))

    def _lose(self, *, freeze: bool) -> None:
        lost = self.brokers.pop(self.random.randrange(len(self.brokers)))
        if freeze:
            self.frozen.append(lost)
        if not self.brokers:
            self._new_broker()
        self._rebalance()

    def _wake(self) -> None:
        """A zombie does some steps with the memory that it had, and only then learns that it lost everything."""
        zombie = self.frozen.pop(self.random.randrange(len(self.frozen)))
        for _ in range(self.random.choice([5, 20, 120])):
            zombie.step()

    # The whole course

    def run(self, steps: int = 1_200) -> None:
        """Faulty time, then calm time until nothing moves any more and all was reconciled.

        Raises:
            AssertionError: It does not come to rest.
        """
        self._heard = _Heard()
        root = logging.getLogger()
        level = root.level
        root.addHandler(self._heard)
        root.setLevel(logging.DEBUG)
        try:
            for _ in range(steps):
                if self.random.random() < 0.05:
                    self.act()
                self.step()
            while self.frozen:
                self._wake()
            self._calm = True
            for pipeline_id in list(self.pipelines):
                if self.random.random() < 0.3:
                    self.end(pipeline_id)
            self._until(self._rest_is_done)
            self.store.stuck.clear()
            self._come_to_rest()
        finally:
            root.removeHandler(self._heard)
            root.setLevel(level)

    def _come_to_rest(self) -> None:
        for _ in range(3):
            self._until(lambda: self._idle())
            for broker in self.brokers:
                self._until(broker.reconcile)  # what is left of a round that was under way
                self._until(broker.reconcile)
            self._until(lambda: self._idle())

    def _until(self, done: Callable[[], bool]) -> None:
        for _ in range(20_000):
            if done():
                return
            self.step()
        raise AssertionError("the broker does not come to rest")

    def _idle(self) -> bool:
        now_ms = self.clock.now_ms()
        owned = sum(len(broker.owners) for broker in self.brokers)
        return owned == PARTITIONS and all(broker.idle(now_ms) for broker in self.brokers)

    def _rest_is_done(self) -> bool:
        """Whether all is done but what Vault does not answer, which holds up nothing else."""
        owners = [owner for broker in self.brokers for owner in broker.owners.values()]
        decided = len(owners) == PARTITIONS and all(owner.idle(self.clock.now_ms()) for owner in owners)
        return decided and all(self._is_stuck(one) for broker in self.brokers for one in broker.wanted())

    def _is_stuck(self, wanted: Wanted) -> bool:
        entity, stuck = wanted.entity, self.store.stuck
        if isinstance(entity, RevocationEntity):
            calls = {("revoke", one) for one in ("", entity.accessor, *entity.also)}
            calls |= {("delete_entity", "")} if entity.last else set()
        elif entity.lives:
            calls = {("renew", ""), ("renew", entity.accessor), ("renew", entity.top or "")}
        else:
            calls = {("log_in", "") if wanted.parent is None else ("mint_child", "")}
        return not stuck.isdisjoint(calls)

    def records(self, topic: str) -> list[Record]:
        return [
            record
            for number in range(self.log.partitions(topic))
            for record in self.log.read(TopicPartition(topic, number), 0)
        ]

    def check(self) -> None:
        """All laws of what stands on the topics, and of what Vault holds in the end."""
        told = {topic: self.records(topic) for topic in TOLD}
        check(told, self.commands, self.store, OURS, QUEUE, self.ended, self._heard.lines)
        if not self.faults.jump:
            check_expiries(told["token.events"], self.store)
        for minted in self.foreign:
            assert minted.accessor in self.store.tokens, "another installation's token was ended"
        assert self.store.tokens[self.foreign[1].accessor].entity_id in self.store.entities.values()
