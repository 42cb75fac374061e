-- The blackboard of a pipeline: what was accepted, and what came second.
CREATE VIEW blackboard
(
    tenant LowCardinality(String) COMMENT 'Tenant.',
    pipeline_id String COMMENT 'The pipeline whose blackboard it is.',
    key String COMMENT 'The key.',
    version UInt64 COMMENT 'Its version by this write: 1, 2, 3, … without holes in one life of the pipeline''s id.',
    action LowCardinality(String) COMMENT 'set or delete.',
    value String COMMENT 'What it says from then on; empty for a deletion.',
    agent_id String COMMENT 'Whose write it is.',
    written_at DateTime64(3, 'UTC') COMMENT 'When it was accepted.',
    expires_at Nullable(DateTime64(3, 'UTC')) COMMENT 'From then on it is as if deleted; NULL for a deletion.',
    sequence Nullable(UInt64) COMMENT 'Its place among all that the spawner says of the pipeline.',
    event_id String COMMENT 'Id of the event.'
)
AS SELECT tenant, pipeline_id, JSONExtractString(payload, 'key') AS key, JSONExtractUInt(payload, 'key_version') AS version,
    if(type = 'blackboard.written', 'set', 'delete') AS action, JSONExtractString(payload, 'value') AS value, agent_id,
    event_time AS written_at,
    if(type = 'blackboard.written', fromUnixTimestamp64Milli(JSONExtractInt(payload, 'expires_at_ms'), 'UTC'), NULL) AS expires_at,
    sequence, event_id
FROM events WHERE topic = 'pipeline.events' AND type IN ('blackboard.written', 'blackboard.deleted')
COMMENT 'Every accepted write of a blackboard, in its order: ORDER BY sequence.';

CREATE VIEW conflicts
(
    tenant LowCardinality(String) COMMENT 'Tenant.',
    pipeline_id String COMMENT 'The pipeline.',
    conflict_id String COMMENT 'The conflict.',
    key String COMMENT 'The key of the blackboard.',
    agent_id String COMMENT 'The agent whose write came second.',
    action LowCardinality(String) COMMENT 'What it asked for: set or delete.',
    expected_version UInt64 COMMENT 'The version that it had read; 0: that the key did not exist.',
    version UInt64 COMMENT 'The key''s when the write came.',
    written_by String COMMENT 'The agent whose write came first.',
    detected_at DateTime64(3, 'UTC') COMMENT 'When the second one came.',
    resolution LowCardinality(String) COMMENT 'retried: the loser wrote the key anew. let_be: its task ended. first_wins: so says the plan. Empty: it is open.',
    resolved_at Nullable(DateTime64(3, 'UTC')) COMMENT 'When it was settled.',
    open_ms Nullable(UInt64) COMMENT 'How long it was open.'
)
AS SELECT tenant, pipeline_id, conflict_id, JSONExtractString(detected, 'key') AS key, loser AS agent_id,
    JSONExtractString(detected, 'action') AS action, JSONExtractUInt(detected, 'expected_version') AS expected_version,
    JSONExtractUInt(detected, 'key_version') AS version, JSONExtractString(detected, 'written_by') AS written_by, detected_at,
    JSONExtractString(resolved, 'resolution') AS resolution, if(is_resolved, settled_at, NULL) AS resolved_at,
    if(is_resolved, toUnixTimestamp64Milli(settled_at) - toUnixTimestamp64Milli(detected_at), NULL) AS open_ms
FROM
(
    SELECT tenant, pipeline_id, JSONExtractString(payload, 'conflict_id') AS conflict_id, any(events.agent_id) AS loser,
        anyIf(events.payload, type = 'blackboard.conflict_detected') AS detected,
        minIf(event_time, type = 'blackboard.conflict_detected') AS detected_at,
        anyIf(events.payload, type = 'blackboard.conflict_resolved') AS resolved,
        minIf(event_time, type = 'blackboard.conflict_resolved') AS settled_at,
        countIf(type = 'blackboard.conflict_resolved') > 0 AS is_resolved
    FROM events
    WHERE topic = 'pipeline.events' AND type IN ('blackboard.conflict_detected', 'blackboard.conflict_resolved')
    GROUP BY tenant, pipeline_id, conflict_id HAVING countIf(type = 'blackboard.conflict_detected') > 0
)
COMMENT 'Each conflict on a blackboard, and how it was settled.';
