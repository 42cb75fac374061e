"""SQL that both processes ask."""

from __future__ import annotations

POSITIONS_QUERY = """
SELECT topic, incarnation, partition, max(at) AS next_offset FROM (
    SELECT topic, incarnation, partition, consumed_through AS at FROM positions
    UNION ALL
    SELECT topic, incarnation, partition, offset + 1 AS at FROM log
    WHERE ingest_time > (SELECT max(recorded_at) FROM positions)
) GROUP BY topic, incarnation, partition
"""
"""The offset after the last one in the log, by place. Why only the newest rows are looked at: `positions_in`."""
