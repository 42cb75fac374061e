"""Talking to the arbiter of the installation's agents in tests, and looking at what it keeps."""

from __future__ import annotations

from sluice_contracts import ids
from sluice_contracts.messages.admission import AdmissionGranted, AdmissionRequested
from sluice_spawner.domain.policy import SpawnerPolicy
from sluice_spawner.domain.state_admission import ClaimEntity
from tests.unit.spawner.world import World


def world_of(agents: int) -> World:
    """A world with so many slots."""
    return World(SpawnerPolicy(installation_agents_max=agents))


def request(world: World, pipeline: str, slots: int, number: int, *, held: int = 0, tenant: str = "acme") -> None:
    """A pipeline of another partition asks."""
    world.elsewhere.add(pipeline)
    message = AdmissionRequested(pipeline_id=pipeline, slots=slots, held=held, number=number)
    world.say(message, pipeline_id=ids.INSTALLATION_ID, tenant=tenant)


def claims(world: World) -> dict[str, tuple[int, int]]:
    """Wanted and granted of each claim."""
    return {
        key.rpartition("/")[2]: (entity.wanted, entity.granted)
        for key, entity in world.state.items() if isinstance(entity, ClaimEntity)
    }  # fmt: skip


def queue(world: World) -> list[str]:
    """Who waits, the first first; the links are the same from both ends."""
    found: list[str] = []
    at, before = world.pool.first, None
    while at is not None:
        entity = world.state[f"installation/claim/{at}"]
        assert isinstance(entity, ClaimEntity)
        assert entity.previous == before
        assert entity.waits
        found.append(at)
        at, before = entity.next, at
    assert world.pool.last == before
    return found


def talk(world: World) -> list[str]:
    """What pipelines and arbiter said to each other, in few letters."""
    lines = []
    for output in world.admission:
        data = output.event.data
        if isinstance(data, AdmissionRequested):
            lines.append(f"{data.pipeline_id} wants {data.slots}")
        elif isinstance(data, AdmissionGranted):
            lines.append(f"{output.event.subject} has {data.slots}")
    return lines
