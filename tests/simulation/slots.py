"""The limit of agents per installation (P13), at every moment of a run: read from the journals as they grew."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sluice_contracts.envelope import OutgoingRecord
from sluice_runtime.clock import Clock
from sluice_runtime.deciding import Entity
from sluice_runtime.memory import MemoryLog
from sluice_runtime.processor import journal
from sluice_runtime.processor.journal import Claim, EntityCodec
from sluice_spawner.domain.state import ENTITY_TYPE, PipelineEntity
from sluice_spawner.domain.state_admission import ClaimEntity, PoolEntity

POOL = "installation/pool"
Appended = tuple[int, int, bytes]
"""Partition, offset and value of a journal record."""


class RememberingLog(MemoryLog):
    """Keeps every journal record in the order in which all partitions got theirs; trimming takes none away."""

    def __init__(self, topics: Mapping[str, int], clock: Clock) -> None:
        super().__init__(topics, clock)
        self.journal: list[Appended] = []

    def append(self, record: OutgoingRecord, partition: int | None = None) -> int:
        offset = super().append(record, partition)
        if record.topic == "pipeline.journal":
            assert partition is not None
            assert record.value is not None
            self.journal.append((partition, offset, record.value))
        return offset


def check_slots(appended: Iterable[Appended], limit: int) -> None:
    """Checks, after every batch that counts, who has slots and who uses them; in the end nobody has any."""
    codec = EntityCodec(ENTITY_TYPE)
    epochs: dict[int, int] = {}
    state: dict[str, Entity] = {}
    for number, offset, value in appended:
        entry = journal.decode(value)
        if isinstance(entry, Claim):
            epochs[number] = offset
        elif entry.epoch == epochs.get(number):
            for key, raw in entry.deltas.items():
                entity = None if raw is None else codec.decode(raw)
                if isinstance(entity, PipelineEntity | ClaimEntity | PoolEntity):
                    state[key] = entity
                elif entity is None:
                    state.pop(key, None)
            _check(state, limit)
    left = {key: entity for key, entity in state.items() if not isinstance(entity, PipelineEntity)}
    pool = left.pop(POOL)
    assert isinstance(pool, PoolEntity)
    assert (pool.granted, pool.first, pool.last, left) == (0, None, None, {}), f"not given back: {pool}, {left}"


def _check(state: dict[str, Entity], limit: int) -> None:
    claims = {key.rpartition("/")[2]: one for key, one in state.items() if isinstance(one, ClaimEntity)}
    alive = used = 0
    for key, pipeline in state.items():
        if isinstance(pipeline, PipelineEntity):
            pipeline_id = key.partition("/")[0]
            granted = claims[pipeline_id].granted if pipeline_id in claims else 0
            assert pipeline.alive <= pipeline.slots_granted <= granted, f"{pipeline_id}: {pipeline}, granted {granted}"
            alive += pipeline.alive
            used += pipeline.slots_granted
    assert alive <= used <= limit, f"{alive} agents live on {used} slots; at most {limit} may"
    pool = state.get(POOL, PoolEntity())
    assert isinstance(pool, PoolEntity)
    assert pool.granted == sum(claim.granted for claim in claims.values()) <= limit
