"""A4: what SQL and the read model show of a blackboard."""

from __future__ import annotations

import pytest

from sluice_contracts.envelope import CloudEvent
from sluice_contracts.messages import Message
from sluice_contracts.messages.blackboard import (
    BlackboardConflictDetected,
    BlackboardConflictResolved,
    BlackboardDeleted,
    BlackboardWritten,
)
from sluice_observability.adapters.clickhouse import ClickHouse
from sluice_observability.domain.read_model import ReadModel
from tests.unit.observability.events import START_MS, Teller, spawning
from tests.unit.observability.test_views import all_of, stored


def disagreement(teller: Teller) -> list[CloudEvent[Message]]:
    """Two agents write the same key on the same version; a third one's conflict stays open."""
    events = list(spawning(teller))
    lost = {"key": "plan", "key_version": 1, "expected_version": 0, "written_by": "a"}
    detected = {**lost, "action": "set"}
    written = {"key": "plan", "expires_at_ms": START_MS + 3_600_000}
    events += map(
        teller.spawner,
        [
            BlackboardWritten(**written, key_version=1, agent_id="a", value="roll back"),
            BlackboardConflictDetected(**detected, agent_id="b", conflict_id="c1"),
            BlackboardConflictDetected(**detected, agent_id="c", conflict_id="c2"),
            BlackboardWritten(**written, key_version=2, agent_id="b", value="wait"),
            BlackboardConflictResolved(
                **{**lost, "key_version": 2}, agent_id="b", conflict_id="c1", resolution="retried"
            ),
            BlackboardDeleted(key="plan", key_version=3, agent_id="a"),
        ],
    )
    return events


@pytest.mark.covers("A4", "O2")
def test_sql_shows_every_write_in_its_order_and_how_each_conflict_was_settled(engine: ClickHouse) -> None:
    events = disagreement(Teller("p1"))
    stored(engine, [*events, events[-1], *disagreement(Teller("p2"))])
    query = "SELECT version, action, value, agent_id, expires_at IS NULL FROM blackboard"
    assert all_of(engine, f"{query} WHERE pipeline_id = 'p1' ORDER BY sequence") == [
        (1, "set", "roll back", "a", 0), (2, "set", "wait", "b", 0), (3, "delete", "", "a", 1),
    ]  # fmt: skip
    columns = "conflict_id, key, agent_id, action, expected_version, version, written_by, resolution, open_ms"
    query = f"SELECT {columns} FROM conflicts WHERE pipeline_id = 'p1' ORDER BY conflict_id"
    assert all_of(engine, query) == [
        ("c1", "plan", "b", "set", 0, 1, "a", "retried", 3), ("c2", "plan", "c", "set", 0, 1, "a", "", None),
    ]  # fmt: skip


@pytest.mark.covers("A4", "U1")
def test_the_read_model_has_each_key_s_last_write_and_counts_conflicts() -> None:
    model = ReadModel(10)
    events = disagreement(Teller("p1"))
    assert all(map(model.apply, events))
    assert not any(map(model.apply, events)), "what comes again is no news"
    view = model.pipeline("p1")
    assert view is not None
    assert (view.conflicts_detected, view.conflicts_resolved) == (2, 1)
    plan = view.blackboard["plan"]
    assert (plan.version, plan.agent_id, plan.deleted, plan.expires_at_ms) == (3, "a", True, None)
