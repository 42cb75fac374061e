"""Leases of attempts (W10): turns heartbeats, which are soft and frequent, into the one input that matters.

A heartbeat is never decided and never journalled: an instance keeps in memory when each held attempt was last named.
Only when an attempt was not named for a whole lease does the decider hear of it, as an input like any other. After a
takeover every attempt begins with a full lease, so a restart can delay an expiry and never hasten one.

Silence counts only as far as we have listened: a broker that is away makes us deaf, and tells us nothing of runners.
"""

from __future__ import annotations

from dataclasses import dataclass

from sluice_contracts.envelope import CloudEvent
from sluice_contracts.ids import derived_id
from sluice_contracts.messages.agent import RunnerHeartbeat
from sluice_runtime.clock import Clock
from sluice_runtime.deciding import Entity, LeaseExpired
from sluice_runtime.processor.partition import Injected
from sluice_spawner.domain.state import AgentEntity

DEAF_MAX_MS = 2_000
"""Time that lies this much behind the time until which we had heard all shows that we were deaf meanwhile: the broker,
the topic's leader or we ourselves (SIGSTOP, a frozen machine) were away. Runners could not be heard, and may need a
moment to speak again, so every lease begins anew. So it does if the clock jumps back."""


@dataclass(slots=True)
class _Lease:
    pipeline_id: str
    partition: int
    attempt: int
    runner_id: str
    heard_at_ms: int


class LeaseWatch:
    """Knows the attempts that runners hold in the partitions of this instance.

    Args:
        lease_ms: How long an attempt lives without a heartbeat that names it.
    """

    def __init__(self, clock: Clock, *, lease_ms: int) -> None:
        self._clock = clock
        self._lease_ms = lease_ms
        self._leases: dict[str, _Lease] = {}
        self._heard_through_ms = clock.now_ms()

    def observe(self, partition: int, key: str, entity: Entity | None) -> None:
        """Told of every change in the state: an attempt that a runner holds has a lease, and no other."""
        pipeline_id, _, rest = key.partition("/")
        kind, _, agent_id = rest.partition("/")
        if kind != "agent":
            return
        if not isinstance(entity, AgentEntity) or entity.runner_id is None:
            self._leases.pop(agent_id, None)
            return
        lease = self._leases.get(agent_id)
        if lease is None or lease.attempt != entity.attempt or lease.runner_id != entity.runner_id:
            now_ms = self._clock.now_ms()
            self._leases[agent_id] = _Lease(pipeline_id, partition, entity.attempt, entity.runner_id, now_ms)

    def forget(self, partition: int) -> None:
        """The partition is no longer ours."""
        self._leases = {agent: lease for agent, lease in self._leases.items() if lease.partition != partition}

    def heard(self, heartbeat: RunnerHeartbeat) -> None:
        """A runner names the attempts that it has. One that has an attempt which another holds keeps no lease alive."""
        now_ms = self._clock.now_ms()
        for held in heartbeat.attempts:
            lease = self._leases.get(held.agent_id)
            if lease is not None and (lease.attempt, lease.runner_id) == (held.attempt, heartbeat.runner_id):
                lease.heard_at_ms = now_ms

    def expired(self, heard_through_ms: int) -> dict[int, list[Injected]]:
        """The attempts whose lease ran out, as inputs by partition; each is told once a lease until it is decided.

        Args:
            heard_through_ms: Until when `heard` was told all that runners said.
        """
        now_ms = self._clock.now_ms()
        jumped = heard_through_ms > now_ms or heard_through_ms < self._heard_through_ms
        deaf = heard_through_ms - self._heard_through_ms > DEAF_MAX_MS
        self._heard_through_ms = heard_through_ms
        found: dict[int, list[Injected]] = {}
        for agent_id, lease in self._leases.items():
            if jumped or deaf:
                lease.heard_at_ms = now_ms
            elif heard_through_ms - lease.heard_at_ms > self._lease_ms:
                lease.heard_at_ms = now_ms
                event = CloudEvent(
                    id=derived_id("lease", agent_id, lease.attempt),
                    source="spawner",
                    tenant="",
                    subject=lease.pipeline_id,
                    time_ms=now_ms,
                    data=LeaseExpired(agent_id=agent_id, attempt=lease.attempt),
                )
                found.setdefault(lease.partition, []).append(Injected(event))
        return found
