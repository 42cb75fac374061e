-- The event log: one row for each record of each topic, never updated.
CREATE TABLE log
(
    tenant LowCardinality(String) COMMENT 'Whom the record belongs to (ce_tenant); system where it belongs to no tenant.',
    pipeline_id String COMMENT 'CloudEvents subject, else the record''s key: the pipeline; for heartbeats the runner.',
    event_time DateTime64(3, 'UTC') COMMENT 'When its source says that it happened (ce_time); append_time where it says nothing that can be read.',
    type LowCardinality(String) COMMENT 'CloudEvents type, such as pipeline.spawned; empty where the record has none.',
    type_version UInt16 COMMENT 'Version of the message, from ce_dataschema; 1 where none is given.',
    event_id String COMMENT 'CloudEvents id; incarnation/partition/offset where the record has none, or a secret in its place.',
    source LowCardinality(String) COMMENT 'CloudEvents source: service/instance; other producers choose their own.',
    service LowCardinality(String) ALIAS splitByChar('/', source)[1] COMMENT 'The source up to its first slash.',
    causation_id String COMMENT 'Id of the message that caused this one; empty where there is none.',
    sequence Nullable(UInt64) COMMENT 'Number among its service''s messages about one subject.',
    trace_id String COMMENT 'W3C trace id, 32 hexadecimal digits; empty without a trace.',
    span_id String COMMENT 'W3C parent id, 16 hexadecimal digits; empty without a trace.',
    agent_id String MATERIALIZED JSONExtractString(payload, 'agent_id') COMMENT 'Agent that the message is about; empty where it names none.',
    task_id String MATERIALIZED if(type = 'agent.run', JSONExtractString(payload, 'task', 'id'), JSONExtractString(payload, 'task_id')) COMMENT 'Task that the message is about; empty where it names none.',
    attempt UInt32 MATERIALIZED JSONExtractUInt(payload, 'attempt') COMMENT 'Attempt of the agent; 0 where the message names none.',
    turn UInt32 MATERIALIZED JSONExtractUInt(payload, 'turn') COMMENT 'Turn of the agent; 0 where the message names none.',
    payload String CODEC(ZSTD(1)) COMMENT 'The value as text: JSON, if the record is valid. Empty where it is not UTF-8 (see raw).',
    raw String CODEC(ZSTD(1)) COMMENT 'The value''s bytes where they are not UTF-8; else empty.',
    value_bytes UInt32 COMMENT 'Size of the value in bytes.',
    has_value Bool COMMENT 'False for a null value.',
    key String COMMENT 'The record''s key.',
    headers Map(LowCardinality(String), String) CODEC(ZSTD(1)) COMMENT 'The headers that have no column of their own. Bytes that are not UTF-8 show as \\xNN, a null value as \\N. Empty where the name of one is not UTF-8. At most those among the first 128.',
    refusal_reason String ALIAS headers['dlq_reason'] COMMENT 'Of a dead letter: why the record was refused.',
    refused_by String ALIAS headers['dlq_refused_by'] COMMENT 'Of a dead letter: the service that refused the record.',
    topic LowCardinality(String) COMMENT 'Topic without the installation''s prefix.',
    incarnation LowCardinality(String) COMMENT 'Kafka''s topic id: a topic deleted and made again is another incarnation.',
    partition UInt32 COMMENT 'Partition of the topic.',
    offset UInt64 COMMENT 'Offset in the partition. With topic, incarnation and partition it names the row; offsets have holes.',
    append_time DateTime64(3, 'UTC') COMMENT 'Kafka''s timestamp of the record.',
    ingest_time DateTime64(3, 'UTC') COMMENT 'When the store took the record: one moment for each insert, strictly growing.'
)
ENGINE = MergeTree
-- One insert has one ingest_time, so it falls into one partition and is one part: all of it is there, or nothing.
PARTITION BY toYYYYMM(ingest_time)
ORDER BY (tenant, pipeline_id, append_time, topic, partition, offset)
-- Small parts come five times a second: merged ten at a time, each row is written less often.
-- An insert that is sent again has the token of the first one, which may still be under way: only one of both counts.
SETTINGS min_parts_to_merge_at_once = 10, non_replicated_deduplication_window = 1000
COMMENT 'The event log: one row for each (topic, incarnation, partition, offset).';

CREATE TABLE positions
(
    topic LowCardinality(String) COMMENT 'Topic without the prefix.',
    incarnation LowCardinality(String) COMMENT 'Kafka''s topic id.',
    partition UInt32 COMMENT 'Partition.',
    consumed_through UInt64 COMMENT 'Every record below this offset is in the log.',
    end_offset UInt64 COMMENT 'The partition''s end as the store saw it last.',
    recorded_at DateTime64(3, 'UTC') COMMENT 'When. Whatever was ingested until then lies below consumed_through.'
)
ENGINE = ReplacingMergeTree(recorded_at)
ORDER BY (topic, incarnation, partition)
COMMENT 'How far the store has come, at least once a second while records arrive.';

CREATE TABLE gaps
(
    topic LowCardinality(String) COMMENT 'Topic without the prefix.',
    incarnation LowCardinality(String) COMMENT 'Kafka''s topic id.',
    partition UInt32 COMMENT 'Partition.',
    first_offset UInt64 COMMENT 'First offset that the log lacks.',
    next_offset UInt64 COMMENT 'First offset after the gap.',
    reason LowCardinality(String) COMMENT 'retention: Kafka deleted the records before they were read. recreated: the topic was deleted. truncated: Kafka lost its end.',
    detail String COMMENT 'For people.',
    found_at DateTime64(3, 'UTC') COMMENT 'When the store found it.'
)
ENGINE = ReplacingMergeTree(found_at)
ORDER BY (topic, incarnation, partition, first_offset, reason)
COMMENT 'Records that the log lacks, and why. Empty is good.';

CREATE VIEW log_completeness
(
    topic LowCardinality(String) COMMENT 'Topic without the prefix.',
    incarnation LowCardinality(String) COMMENT 'Kafka''s topic id.',
    partition UInt32 COMMENT 'Partition.',
    rows UInt64 COMMENT 'Rows in the log.',
    repeated_rows UInt64 COMMENT 'Rows whose offset the log has already: must be 0.',
    first_offset UInt64 COMMENT 'Lowest offset in the log.',
    last_offset UInt64 COMMENT 'Highest offset in the log.',
    consumed_through UInt64 COMMENT 'Every record below this offset is in the log, but for gaps.',
    end_offset UInt64 COMMENT 'The partition''s end as the store saw it last.',
    recorded_at DateTime64(3, 'UTC') COMMENT 'When it saw it.',
    gaps UInt64 COMMENT 'Gaps found in this partition.',
    missing_offsets UInt64 COMMENT 'Offsets in those gaps.',
    complete Bool COMMENT 'Everything up to the end is in the log, once.'
)
AS SELECT
    p.topic AS topic, p.incarnation AS incarnation, p.partition AS partition,
    l.rows AS rows, l.rows - l.offsets AS repeated_rows, l.first_offset AS first_offset, l.last_offset AS last_offset,
    p.consumed_through AS consumed_through, p.end_offset AS end_offset, p.recorded_at AS recorded_at,
    g.gaps AS gaps, g.missing_offsets AS missing_offsets,
    p.consumed_through >= p.end_offset AND g.gaps = 0 AND l.rows = l.offsets AS complete
FROM
(
    SELECT topic, incarnation, partition,
        argMax(positions.consumed_through, positions.recorded_at) AS consumed_through,
        argMax(positions.end_offset, positions.recorded_at) AS end_offset,
        max(positions.recorded_at) AS recorded_at
    FROM positions GROUP BY topic, incarnation, partition
) AS p
LEFT JOIN
(
    SELECT topic, incarnation, partition, count() AS rows, uniqExact(offset) AS offsets,
        min(offset) AS first_offset, max(offset) AS last_offset
    FROM log GROUP BY topic, incarnation, partition
) AS l ON l.topic = p.topic AND l.incarnation = p.incarnation AND l.partition = p.partition
LEFT JOIN
(
    SELECT topic, incarnation, partition, count() AS gaps, sum(next_offset - first_offset) AS missing_offsets
    FROM gaps FINAL GROUP BY topic, incarnation, partition
) AS g ON g.topic = p.topic AND g.incarnation = p.incarnation AND g.partition = p.partition
COMMENT 'The log against the topics'' ends, by partition.';
