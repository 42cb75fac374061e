"""The whole gate in the simulation: spawners that wait for grants, vault-brokers on a Vault in memory, runners.

The monitor and the api are played: alerts come out of nowhere, also about pipelines whose spawn has not been heard,
and each full revocation is reported, now and then twice and often before the spawner has heard of anything else. All
else is real.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sluice_contracts.codec import decode, encode
from sluice_contracts.envelope import CloudEvent
from sluice_contracts.ids import derived_id
from sluice_contracts.messages import Message
from sluice_contracts.messages.agent import AgentRun
from sluice_contracts.messages.alert import AlertRaised
from sluice_contracts.messages.base import ArtifactRef
from sluice_contracts.messages.pipeline import PipelineCancelled, PipelineFailed, PipelineSpawn
from sluice_contracts.messages.report import HandoffReported
from sluice_contracts.messages.token import FULL_REVOCATIONS, TokenGranted, TokenRequest, TokenRevoke, TokenRevoked
from sluice_runtime.broker import TopicPartition
from sluice_spawner.domain.policy import SpawnerPolicy
from sluice_vault_broker.adapters.acts import Terms
from sluice_vault_broker.domain.policy import BrokerPolicy
from sluice_vault_broker.handlers import BrokerDecider
from sluice_vault_broker.ports import VaultAway
from tests.credentials import check_people_are_answered, each_once
from tests.doubles import ManualClock
from tests.simulation import world as spine
from tests.simulation.brokers import BrokerInstance
from tests.simulation.runners import QUEUE
from tests.vault import MemoryStore, MemoryVault

INSTALLATION = "ours."
TERMS = Terms(ttl_s=40, max_ttl_s=150)
POLICY = BrokerPolicy(renewal_interval_ms=8_000, queues=frozenset({QUEUE}))
"""Short lives, so that tokens are renewed, reach their end, and expire while Vault is away, in half a minute."""


@dataclass(frozen=True)
class GateFaults:
    """How often what goes wrong with the gate, per step or per call of Vault."""

    crash: float = 0.004
    freeze: float = 0.003
    away: float = 0.001
    lost_answer: float = 0.03
    alert: float = 0.002
    early: float = 0.15
    """Of the spawns: revoked before the spawner reads them, since he is behind; the id was known."""


class GateWorld(spine.World):
    """One run from one seed."""

    def __init__(self, seed: int, gate: GateFaults | None = None) -> None:
        self._gate = gate or GateFaults()
        self._vault_clock = ManualClock()
        self.store = MemoryStore(self._vault_clock)
        self.store.fault = self._strike
        self._away_until_ms = 0
        self._calm = False
        self.brokers: list[BrokerInstance] = []
        self._frozen_brokers: list[BrokerInstance] = []
        self._reported: set[str] = set()
        self._late: list[tuple[int, CloudEvent[Message]]] = []
        super().__init__(seed)
        self._new_broker()

    def inputs(self) -> list[str]:
        return [*super().inputs(), "token.events", "alerts", "reports"]

    def policy(self) -> SpawnerPolicy:
        return SpawnerPolicy(
            installation_agents_max=self.agents_max, credentials=True, token_wait_s=10, diagnostic_depth_max=0
        )

    def _new_broker(self) -> None:
        vault = MemoryVault(self.store, INSTALLATION, queues=frozenset({QUEUE}))
        name = self._name("broker")
        decider = BrokerDecider(POLICY)
        self.brokers.append(BrokerInstance(name, self.log, self.clock, self._faulty, decider, vault, TERMS))
        self._rebalance()

    def _rebalance(self) -> None:
        super()._rebalance()
        for number in range(spine.PARTITIONS) if self.brokers else ():
            owner = self.brokers[number % len(self.brokers)]
            for other in self.brokers:
                if other is not owner:
                    other.give_up(number)
            if number not in owner.owners:
                owner.take(number)

    def _strike(self, name: str, after: bool) -> None:
        if self._calm:
            return
        if after and self._faulty.random() < self._gate.lost_answer:
            raise VaultAway(f"{name}: the answer was lost")
        if not after and self._vault_clock.now_ms() < self._away_until_ms:
            raise VaultAway(f"{name}: away")

    # The monitor and the api

    def _events(self, topic: str) -> list[CloudEvent[Any]]:
        return [
            decode(record)
            for number in range(self.log.partitions(topic))
            for record in self.log.read(TopicPartition(topic, number), 0)
        ]

    def _say(self, topic: str, source: str, identity: str, pipeline: str, data: Message) -> None:
        event = CloudEvent(identity, source, "tenant", pipeline, self.clock.now_ms(), data)
        self.log.append(encode(event, topic=topic, key=pipeline))

    def _send(self, event: CloudEvent[Message]) -> None:
        """Now and then a spawn comes so late that its pipeline was revoked, and that was reported, or soon is."""
        if isinstance(event.data, PipelineSpawn) and self._faulty.random() < self._gate.early:
            self._alarm(event.subject)
            self._late.append((self.clock.now_ms() + self._faulty.choice([50, 1_000, 10_000]), event))
        else:
            super()._send(event)

    def _send_late(self, *, calm: bool) -> None:
        late, self._late = self._late, []
        for due_ms, event in late:
            if calm or due_ms <= self.clock.now_ms():
                super()._send(event)
            else:
                self._late.append((due_ms, event))

    def _alarm(self, pipeline: str) -> None:
        """A breach, of whom it may be; or a person revokes."""
        number = self._faulty.randrange(2)
        identity = derived_id("alert", pipeline, number)
        runs = [one for one in self._events(f"agent.tasks.{QUEUE}") if one.subject == pipeline]
        kind = self._faulty.choice(["revoke_pipeline", "throttle", "revoke_agent", "manual", "manual, one"])
        if kind == "manual":
            self._say("token.commands", "operator", derived_id("command", pipeline, number), pipeline, TokenRevoke())
            return
        if kind == "manual, one":
            asked = [one.data for one in self._events("token.commands") if one.subject == pipeline]
            agents = sorted({one.agent_id for one in asked if isinstance(one, TokenRequest) and one.agent_id})
            if agents:
                one = TokenRevoke(agent_id=self._faulty.choice(agents))
                self._say("token.commands", "operator", f"{identity}, {self.clock.now_ms()}", pipeline, one)
            return
        if kind == "revoke_agent" and not runs:
            return
        about: dict[str, Any] = {}
        if kind == "revoke_agent":
            run = self._faulty.choice(runs).data
            about = {"agent_id": run.agent_id, "attempt": run.attempt}
            identity = derived_id("alert", run.agent_id, run.attempt)
        condition = {
            "revoke_pipeline": "error_budget_exceeded", "throttle": "api_call_budget_exceeded",
            "revoke_agent": "no_progress",
        }[kind]  # fmt: skip
        alert = AlertRaised(
            condition=condition, action=kind, observed=6, limit=5, window_ms=60_000, breached_at_ms=1,  # type: ignore[arg-type]
            detail="too much", **about,
        )  # fmt: skip
        self._say("alerts", "monitor", identity, pipeline, alert)

    def _report(self) -> None:
        """The api answers each full revocation with one report; a repetition is the same, and follows it at once."""
        reference = ArtifactRef(sha256="0" * 64, size_bytes=1)
        for event in self._events("token.events"):
            full = isinstance(event.data, TokenRevoked) and event.data.agent_id is None
            if not full or event.data.reason not in FULL_REVOCATIONS:
                continue
            if event.id in self._reported:
                continue
            self._reported.add(event.id)
            report = HandoffReported(
                cause="revocation", cause_id=event.id, reason=event.data.reason, summary="s", report=reference,
                markdown=reference,
            )  # fmt: skip
            for _ in range(1 + (self._faulty.random() < 0.1)):
                self._say("reports", "observability-api", derived_id(event.id, "report"), event.subject, report)

    # Time

    def step(self, *, calm: bool = False) -> None:
        """A step of the spine, and one of the gate."""
        before_ms = self.clock.now_ms()
        super().step(calm=calm)
        self._send_late(calm=calm)
        self._vault_clock.advance(max(0, self.clock.now_ms() - before_ms))
        self._calm = calm
        roll = self._faulty.random
        if not calm:
            if roll() < self._gate.away:
                self._away_until_ms = self._vault_clock.now_ms() + self._faulty.choice([500, 5_000, 60_000])
            if roll() < self._gate.crash:
                self._lose_broker(freeze=False)
            if roll() < self._gate.freeze:
                self._lose_broker(freeze=True)
            if self._frozen_brokers and roll() < self._gate.freeze * 2:
                self._wake_broker()
            if self.spawned and roll() < self._gate.alert:
                self._alarm(self._faulty.choice(sorted(self.spawned)))
        for broker in self.brokers:
            broker.step()
        if roll() < 0.05:
            self._report()

    def _lose_broker(self, *, freeze: bool) -> None:
        lost = self.brokers.pop(self._faulty.randrange(len(self.brokers)))
        if freeze:
            self._frozen_brokers.append(lost)
        if not self.brokers:
            self._new_broker()
        self._rebalance()

    def _wake_broker(self) -> None:
        zombie = self._frozen_brokers.pop(self._faulty.randrange(len(self._frozen_brokers)))
        for _ in range(self._faulty.choice([5, 20, 120])):
            zombie.step()

    def run(self, steps: int = 1_500, pipelines: int = 5) -> None:
        """As the spine's; then everything is reconciled."""
        super().run(steps, pipelines)
        while self._frozen_brokers:
            self._wake_broker()
        for _ in range(3):
            self._until_idle()
            for broker in self.brokers:
                for _ in range(2):  # what is left of a round that was under way, and a whole one
                    while not broker.reconcile():
                        pass
        self._until_idle()

    def _until_idle(self) -> None:
        for _ in range(20_000):
            owned = sum(len(broker.owners) for broker in self.brokers)
            if owned == spine.PARTITIONS and all(broker.idle(self.clock.now_ms()) for broker in self.brokers):
                return
            self.step(calm=True)
        raise AssertionError("the brokers do not come to rest")

    def check(self) -> None:
        """The laws of the spine, and those of the gate."""
        super().check()
        granted = {
            (one.data.agent_id, one.data.attempt): one.data
            for one in self._events("token.events")
            if isinstance(one.data, TokenGranted)
        }
        for event in self._events(f"agent.tasks.{QUEUE}"):
            run = event.data
            assert isinstance(run, AgentRun)
            assert run.grant is not None, "no task without its grant"
            assert run.grant == granted[run.agent_id, run.attempt].grant, "each attempt has its own"
        living = [one for one in self.store.tokens.values() if one.installation == INSTALLATION]
        assert living == [], "no pipeline lives any more, and no token"
        commands = {one.id: one for one in self._events("token.commands") if one.source == "operator"}
        check_people_are_answered(each_once(self._events("token.events")), list(commands.values()))
        self._check_ends()

    def _check_ends(self) -> None:
        """Whoever was revoked and reported while he lived has failed for that reason, unless he was cancelled."""
        ends = {one.subject: one for one in self._events("pipeline.events") if isinstance(one.data, PipelineFailed)}
        cancelled = {one.subject for one in self._events("pipeline.events") if isinstance(one.data, PipelineCancelled)}
        reports = {one.id: one for one in self._events("reports")}
        for pipeline, end in ends.items():
            if end.causation_id in reports:
                assert end.data.reason == reports[end.causation_id].data.reason
            assert pipeline not in cancelled
