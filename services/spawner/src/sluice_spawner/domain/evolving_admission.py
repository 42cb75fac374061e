"""How slots change, a pipeline's and those of all. Called by `evolving` alone."""

from __future__ import annotations

from msgspec.structs import replace

from sluice_contracts.envelope import SYSTEM_TENANT
from sluice_contracts.messages.admission import AdmissionGranted, AdmissionRequested
from sluice_spawner.domain.facts import WAITING_TIMER, Fact, LookPlanned, SlotsClaimed, SlotsGranted
from sluice_spawner.domain.policy import SpawnerPolicy
from sluice_spawner.domain.state_admission import ClaimEntity
from sluice_spawner.domain.view import View

# A pipeline


def requested(view: View, message: AdmissionRequested, fact: Fact, policy: SpawnerPolicy) -> None:
    """The pipeline wants other slots than before, and has no more than it wants. One that has ended keeps nothing."""
    entity = view.find_pipeline()
    if entity is not None:
        entity = replace(entity, slots_wanted=message.slots, slots_granted=message.held, request_number=message.number)
        view.put_pipeline(entity)


def granted(view: View, message: AdmissionGranted, fact: Fact, policy: SpawnerPolicy) -> None:
    """The pipeline has more slots than before."""
    view.put_pipeline(replace(view.pipeline(), slots_granted=message.slots))


# The slots of all


def slots_claimed(view: View, message: SlotsClaimed, fact: Fact, policy: SpawnerPolicy) -> None:
    """A claim wants more or less. What it has beyond that is free at once; whoever waits already keeps his place."""
    before = view.find_claim(message.pipeline_id) or ClaimEntity(tenant=fact.tenant)
    after = replace(before, number=message.number, wanted=message.slots, granted=min(before.granted, message.slots))
    view.put_claim(message.pipeline_id, after)
    _count(view, after.granted - before.granted)
    if before.waits and not after.waits:
        _dequeue(view, message.pipeline_id)
    elif after.waits and not before.waits:
        _enqueue(view, message.pipeline_id)
    if after.wanted == 0:
        view.put_claim(message.pipeline_id, None)


def slots_granted(view: View, message: SlotsGranted, fact: Fact, policy: SpawnerPolicy) -> None:
    """A claim has slots; if it has all that it wants, it waits no longer."""
    before = view.claim(message.pipeline_id)
    after = replace(before, granted=message.slots)
    view.put_claim(message.pipeline_id, after)
    _count(view, after.granted - before.granted)
    pool = view.pool()
    view.put_pool(replace(pool, grants=pool.grants + 1))
    if before.waits and not after.waits:
        _dequeue(view, message.pipeline_id)


def look_planned(view: View, message: LookPlanned, fact: Fact, policy: SpawnerPolicy) -> None:
    """The timer of those who wait is set."""
    pool = view.pool()
    pool = replace(pool, looks=pool.looks + 1)
    view.put_pool(pool)
    view.set_timer(WAITING_TIMER, message.due_at_ms, pool.looks, SYSTEM_TENANT)


def _count(view: View, more: int) -> None:
    pool = view.pool()
    view.put_pool(replace(pool, granted=pool.granted + more))


def _enqueue(view: View, pipeline_id: str) -> None:
    pool = view.pool()
    if pool.last is None:
        view.put_pool(replace(pool, first=pipeline_id, last=pipeline_id))
        return
    view.put_claim(pool.last, replace(view.claim(pool.last), next=pipeline_id))
    view.put_claim(pipeline_id, replace(view.claim(pipeline_id), previous=pool.last))
    view.put_pool(replace(pool, last=pipeline_id))


def _dequeue(view: View, pipeline_id: str) -> None:
    """Takes a claim out of the queue, wherever it stands. With the last one the timer goes."""
    claim, pool = view.claim(pipeline_id), view.pool()
    if claim.previous is None:
        pool = replace(pool, first=claim.next)
    else:
        view.put_claim(claim.previous, replace(view.claim(claim.previous), next=claim.next))
    if claim.next is None:
        pool = replace(pool, last=claim.previous)
    else:
        view.put_claim(claim.next, replace(view.claim(claim.next), previous=claim.previous))
    view.put_claim(pipeline_id, replace(claim, previous=None, next=None))
    view.put_pool(pool)
    if pool.first is None:
        view.delete_timer(WAITING_TIMER)
