"""What must hold of the whole installation after any fault."""

from __future__ import annotations

from collections import Counter

from tests.history import History, check
from tests.installation import Installation

SETTINGS = {
    "spawner": {"SLUICE_LEASE_MS": "2500", "SLUICE_SESSION_TIMEOUT_MS": "2500"},
    "agent-runner": {"SLUICE_SESSION_TIMEOUT_MS": "2500"},
}
"""Short leases and sessions, so that a fault is noticed soon."""

WORK = """
agents:
  - turns:
      - {text: look, tool_calls: [{name: list_files}], delay_ms: 15, repeat: 12}
      - {text: done, tool_calls: [{name: finish, arguments: {summary: done, result: done}}]}
"""
"""Twelve short turns, and the end."""


def verify(installation: Installation) -> History:
    """The laws of the topics, and the log against the topics: each record once, none missing, none invented."""
    installation.await_ends(180)
    history = installation.history()
    check(history, installation.spawned)
    topics = [topic for topic in installation.log.topics if topic != "runner.heartbeats"]
    expected = {
        (record.topic, record.partition, record.offset) for topic in topics for record in history.records(topic)
    }
    where = "FROM log WHERE topic != 'runner.heartbeats'"
    installation.until(
        lambda: int(installation.sql(f"SELECT count() AS n {where}")[0]["n"]) >= len(expected),
        90,
        "the log is complete",
    )
    logged = Counter(
        (row["topic"], int(row["partition"]), int(row["offset"]))
        for row in installation.sql(f"SELECT topic, partition, offset {where}")
    )
    assert {place for place, count in logged.items() if count > 1} == set()
    assert expected - logged.keys() == set()
    ends = installation.log.ends()
    assert {place for place in logged if place[2] >= ends[place[:2]]} == set()
    assert installation.sql("SELECT * FROM gaps") == []
    return history
