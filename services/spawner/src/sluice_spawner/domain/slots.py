"""A pipeline's side of the limit of agents per installation (P13): how many slots it needs, and when it says so.

An agent takes a slot from its creation to the end of its task, also while it waits for a person; or until its pipeline
loses all credentials. A pipeline starts an agent only on a slot that it was granted, so what it has granted is never
less than what lives. A slot that a task leaves is taken by the pipeline's next task without asking anybody.
"""

from __future__ import annotations

from sluice_contracts.messages.admission import AdmissionRequested
from sluice_spawner.domain.building import DecisionBuilder
from sluice_spawner.domain.facts import InputRefused


def balance(builder: DecisionBuilder) -> None:
    """Asks for as many slots as the pipeline needs, if that has changed. What it does not need it has no longer."""
    pipeline = builder.view.pipeline()
    needed = min(builder.view.plan().max_agents, pipeline.alive + pipeline.ready)
    if needed != pipeline.slots_wanted:
        _request(builder, needed)


def release(builder: DecisionBuilder) -> None:
    """Gives all back: the pipeline ends, or has lost its credentials and waits for its report."""
    if builder.view.pipeline().slots_wanted > 0:
        _request(builder, 0)


def give_back(builder: DecisionBuilder) -> None:
    """Returns what was granted to a pipeline that has ended, or needs none any more.

    Mostly it was under way when the pipeline ended, and what this says changes nothing. But requests that an instance
    published late, long after it had lost its partition, were granted anew; nobody else would ever give that back.
    They may be several, so its number is above all that the pipeline has made: that of its last one, or, where that is
    forgotten, the time, which is long after its spawn and not after the next.
    """
    if not builder.refused_before():
        known = builder.view.find_pipeline() or builder.view.find_finished()
        number = builder.now_ms if known is None else known.request_number
        builder.accept(InputRefused())
        builder.request(AdmissionRequested(pipeline_id=builder.pipeline_id, slots=0, number=number))


def _request(builder: DecisionBuilder, slots: int) -> None:
    pipeline = builder.view.pipeline()
    builder.request(
        AdmissionRequested(
            pipeline_id=builder.pipeline_id,
            slots=slots,
            held=min(slots, pipeline.slots_granted),
            number=pipeline.request_number + 1,
        )
    )
