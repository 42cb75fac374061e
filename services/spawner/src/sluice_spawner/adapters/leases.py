"""Leases of attempts (W10): turns heartbeats, which are soft and frequent, into the one input that matters.

A heartbeat is never decided and never journalled: an instance keeps in memory when each held attempt was last named.
Only when an attempt was not named for a whole lease does the decider hear of it, as an input like any other. After a
takeover every attempt begins with a full lease, so a restart can delay an expiry and never hasten one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from sluice_contracts.envelope import CloudEvent
from sluice_contracts.ids import derived_id
from sluice_contracts.messages.agent import RunnerHeartbeat
from sluice_runtime.clock import Clock
from sluice_runtime.deciding import Entity, LeaseExpired
from sluice_runtime.processor.partition import Injected
from sluice_spawner.domain.state import AgentEntity

PAUSE_MAX_MS = 2_000
"""A look that comes this much later than the last one shows that we were paused (SIGSTOP, a frozen machine): in that
time we could not hear heartbeats, so every lease begins anew."""


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
        self._looked_at_ms = clock.now_ms()

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
        now_ms = self._clock.now_ms()
        fresh = _Lease(pipeline_id, partition, entity.attempt, entity.runner_id, now_ms)
        if lease is None or replace(lease, heard_at_ms=now_ms) != fresh:
            self._leases[agent_id] = fresh

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

    def expired(self) -> dict[int, list[Injected]]:
        """The attempts whose lease ran out, as inputs by partition; each is told once a lease until it is decided."""
        now_ms = self._clock.now_ms()
        paused = now_ms - self._looked_at_ms > PAUSE_MAX_MS
        self._looked_at_ms = now_ms
        found: dict[int, list[Injected]] = {}
        for agent_id, lease in self._leases.items():
            if paused:
                lease.heard_at_ms = now_ms
            elif now_ms - lease.heard_at_ms > self._lease_ms:
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
