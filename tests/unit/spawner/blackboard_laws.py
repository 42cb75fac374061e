"""What must hold of a blackboard after every step of a story, and what agents may ask of it in one."""

from __future__ import annotations

import random
from collections import defaultdict
from typing import Any

from sluice_contracts.messages.blackboard import (
    BlackboardConflictDetected,
    BlackboardConflictResolved,
    BlackboardDeleted,
    BlackboardWritten,
)
from sluice_spawner.domain.state import AgentEntity, PipelineEntity
from sluice_spawner.domain.state_blackboard import BlackboardEntity, KeyEntity
from tests.unit.spawner.world import PIPELINE, World, of

KEYS = ("plan", "cause")


def ask_blackboard(choose: random.Random, world: World, task_id: str, *, turn: int, **who: Any) -> None:
    """One request of an agent, as often as not on the version that the key has."""
    request_id = f"b{choose.randint(1, 8)}"
    key = choose.choice(KEYS)
    known = world.state.get(f"{PIPELINE}/blackboard/{key}", KeyEntity(version=0, agent_id=""))
    assert isinstance(known, KeyEntity)
    present = known.version if known.lives(world.now_ms) else 0
    version = choose.choice([present, present, 0, max(0, known.version - 1), known.version])
    kind = choose.choice(["read", "list", "set", "set", "set", "delete"])
    if kind == "read":
        world.read(task_id, key, request_id, turn=turn, **who)
    elif kind == "list":
        world.read(task_id, request_id=request_id, turn=turn, **who)
    else:
        world.write(task_id, key, version, choose.choice("xyz"), request_id, action=kind, turn=turn, **who)


def check_blackboard(world: World) -> None:
    """Versions rise by one; each conflict is settled once, and none is open after the end; what is kept is what was."""
    said = [output.event.data for output in world.said]
    versions: dict[str, list[int]] = defaultdict(list)
    for message in said:
        if isinstance(message, BlackboardWritten | BlackboardDeleted):
            versions[message.key].append(message.key_version)
    assert all(numbers == list(range(1, len(numbers) + 1)) for numbers in versions.values())
    detected = [one.conflict_id for one in of(BlackboardConflictDetected, said)]
    resolved = [one.conflict_id for one in of(BlackboardConflictResolved, said)]
    assert len(set(detected)) == len(detected)
    assert len(set(resolved)) == len(resolved)
    unresolved = set(detected) - set(resolved)
    assert set(resolved) <= set(detected)
    kept = {key: one.version for key, one in world.state.items() if isinstance(one, KeyEntity)}
    pipeline = world.state.get(f"{PIPELINE}/pipeline")
    if not isinstance(pipeline, PipelineEntity):
        assert not unresolved
        assert not kept
        return
    agents = [one for one in world.state.values() if isinstance(one, AgentEntity)]
    assert unresolved == {conflict.conflict_id for agent in agents for conflict in agent.conflicts}
    assert (pipeline.conflicts_detected, pipeline.conflicts_unresolved) == (len(detected), len(unresolved))
    assert kept == {f"{PIPELINE}/blackboard/{key}": numbers[-1] for key, numbers in versions.items()}
    index = world.state.get(f"{PIPELINE}/blackboard", BlackboardEntity())
    assert isinstance(index, BlackboardEntity)
    assert set(index.keys) == set(versions)
