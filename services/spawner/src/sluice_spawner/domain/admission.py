"""The limit of agents per installation (P13): one arbiter, in the partition of the installation's id.

Every request of every pipeline comes here, in one order. Slots are given first come first served, in part where there
are not enough for all that is wanted; whoever is not served whole waits, and nobody behind him is served before. What
is granted is never more than the limit: what a pipeline gives up it has stopped to use before it says so.
"""

from __future__ import annotations

from sluice_contracts.messages.admission import AdmissionGranted, AdmissionRequested
from sluice_spawner.domain import slots, tasks
from sluice_spawner.domain.building import DecisionBuilder
from sluice_spawner.domain.facts import WAITING_TIMER, LookPlanned, SlotsClaimed
from sluice_spawner.domain.policy import GRANTS_PER_DECISION_MAX_COUNT, WAITING_LOOK_MS

# The arbiter


def requested(builder: DecisionBuilder, message: AdmissionRequested) -> None:
    """A pipeline wants other slots than before. A request that is not newer than its claim is a repetition.

    It is answered if it is granted more than it has heard of: grants that answered an older request do not count.
    """
    view, pipeline_id = builder.view, message.pipeline_id
    claim = view.find_claim(pipeline_id)
    if message.slots == 0 if claim is None else message.number <= claim.number:
        return
    builder.accept(SlotsClaimed(pipeline_id=pipeline_id, slots=message.slots, number=message.number))
    served = serve(builder)
    claim = view.find_claim(pipeline_id)
    if claim is not None and claim.granted > message.held and pipeline_id not in served:
        builder.grant(pipeline_id, claim.granted)


def serve(builder: DecisionBuilder) -> list[str]:
    """Gives what is free to those who wait, the first first; a timer looks again while somebody waits.

    Returns the pipelines that were told of more.
    """
    view, limit = builder.view, builder.policy.installation_agents_max
    served = []
    for _ in range(GRANTS_PER_DECISION_MAX_COUNT):
        pool = view.pool()
        free = limit - pool.granted
        if pool.first is None or free <= 0:
            break
        claim = view.claim(pool.first)
        served.append(pool.first)
        builder.grant(pool.first, min(claim.wanted, claim.granted + free))
    pool = view.pool()
    if pool.first is not None and pool.granted < limit:
        builder.accept(LookPlanned(due_at_ms=builder.now_ms))
    elif pool.first is not None and view.find_timer(WAITING_TIMER) is None:
        builder.accept(LookPlanned(due_at_ms=builder.now_ms + WAITING_LOOK_MS))
    return served


# The pipelines


def granted(builder: DecisionBuilder, message: AdmissionGranted) -> None:
    """A pipeline has slots. Only an answer to its latest request counts; of those, each says more than the last."""
    pipeline = builder.view.find_pipeline()
    if pipeline is None or pipeline.revoked is not None:
        slots.give_back(builder)
    elif message.number == pipeline.request_number and message.slots > pipeline.slots_granted:
        builder.accept(message)
        tasks.advance(builder)
