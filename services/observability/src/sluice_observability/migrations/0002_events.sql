-- What analysts read. A view never hides what the log has: whatever is left out stands in a view of its own.
CREATE VIEW events
(
    tenant LowCardinality(String) COMMENT 'Whom the event belongs to.',
    pipeline_id String COMMENT 'The pipeline; for heartbeats the runner.',
    event_time DateTime64(3, 'UTC') COMMENT 'When its source says that it happened.',
    type LowCardinality(String) COMMENT 'CloudEvents type; empty where the record has none.',
    type_version UInt16 COMMENT 'Version of the message.',
    event_id String COMMENT 'CloudEvents id, or the record''s place where it has none.',
    service LowCardinality(String) COMMENT 'The source up to its first slash.',
    source LowCardinality(String) COMMENT 'CloudEvents source.',
    causation_id String COMMENT 'Id of the message that caused this one.',
    sequence Nullable(UInt64) COMMENT 'Number among its service''s messages about one subject.',
    trace_id String COMMENT 'W3C trace id.',
    span_id String COMMENT 'W3C parent id.',
    agent_id String COMMENT 'Agent that the message is about.',
    task_id String COMMENT 'Task that the message is about.',
    attempt UInt32 COMMENT 'Attempt of the agent; 0 for none.',
    turn UInt32 COMMENT 'Turn of the agent; 0 for none.',
    payload String COMMENT 'The message as JSON, without the sealed tokens of grants.',
    key String COMMENT 'The record''s key.',
    headers Map(String, String) COMMENT 'Further headers; at most those among the first 128.',
    topic LowCardinality(String) COMMENT 'Topic without the prefix.',
    incarnation LowCardinality(String) COMMENT 'Kafka''s topic id.',
    partition UInt32 COMMENT 'Partition.',
    offset UInt64 COMMENT 'Offset.',
    append_time DateTime64(3, 'UTC') COMMENT 'Kafka''s timestamp.',
    ingest_time DateTime64(3, 'UTC') COMMENT 'When the store took it.'
)
AS SELECT
    tenant, pipeline_id, event_time, type, type_version, event_id, service, source, causation_id, sequence,
    trace_id, span_id, agent_id, task_id, attempt, turn,
    -- A sealed token is of use to nobody but its queue's runners, so it is shown to nobody; table log has it.
    if(log.type IN ('token.granted', 'agent.run') OR startsWith(log.topic, 'dlq.'), replaceRegexpAll(log.payload, '"sealed"\\s*:\\s*"[^"]*"', '"sealed":"…"'), log.payload) AS payload,
    key, headers, topic, incarnation, partition, offset, append_time, ingest_time
FROM log
ORDER BY tenant, pipeline_id, append_time, topic, partition, offset
-- A CloudEvents id is unique for its source; instances of one service are one source, since another instance
-- repeats what a killed one had published. A condition on tenant and pipeline_id is pushed down below this.
LIMIT 1 BY tenant, pipeline_id, service, event_id
COMMENT 'The first row of each event.';

CREATE VIEW duplicates
(
    tenant LowCardinality(String) COMMENT 'Tenant.',
    pipeline_id String COMMENT 'Pipeline.',
    service LowCardinality(String) COMMENT 'Service that wrote the event.',
    event_id String COMMENT 'The event.',
    type LowCardinality(String) COMMENT 'Its type.',
    copies UInt64 COMMENT 'Rows of it in the log beyond the first.',
    differing_copies UInt64 COMMENT 'Contents beyond the first: above 0 one id was given to two things.'
)
AS SELECT tenant, pipeline_id, service, event_id, any(log.type) AS type, count() - 1 AS copies,
    uniqExact(log.payload) - 1 AS differing_copies
FROM log GROUP BY tenant, pipeline_id, service, event_id HAVING copies > 0
COMMENT 'Events that stand in the log more than once: counted, not hidden.';

CREATE VIEW dead_letters
(
    refused_at DateTime64(3, 'UTC') COMMENT 'When it was refused.',
    topic LowCardinality(String) COMMENT 'Topic on which the refused record stood.',
    partition UInt32 COMMENT 'Its partition.',
    offset UInt64 COMMENT 'Its offset.',
    reason String COMMENT 'Why it was refused: the contract''s Refusal.',
    detail String COMMENT 'The thing, its value and what was expected.',
    refused_by String COMMENT 'The service that refused it.',
    original_time DateTime64(3, 'UTC') COMMENT 'Kafka''s timestamp of the refused record.',
    original_type String COMMENT 'The type that it claimed.',
    original_source String COMMENT 'The source that it claimed.',
    key String COMMENT 'Its key.',
    payload String COMMENT 'Its value where that is UTF-8.',
    raw String COMMENT 'Its value''s bytes where they are not.',
    value_bytes UInt32 COMMENT 'Size of its value.',
    letter_id String COMMENT 'Id of the dead letter.',
    letter_topic LowCardinality(String) COMMENT 'Topic of the dead letter.',
    letter_partition UInt32 COMMENT 'Partition of the dead letter.',
    letter_offset UInt64 COMMENT 'Offset of the dead letter.'
)
AS SELECT
    letter.event_time AS refused_at, headers['dlq_topic'] AS topic,
    toUInt32OrZero(headers['dlq_partition']) AS partition, toUInt64OrZero(headers['dlq_offset']) AS offset,
    headers['dlq_reason'] AS reason, headers['dlq_detail'] AS detail, headers['dlq_refused_by'] AS refused_by,
    fromUnixTimestamp64Milli(toInt64OrZero(headers['dlq_timestamp_ms']), 'UTC') AS original_time,
    headers['dlq_original_ce_type'] AS original_type, headers['dlq_original_ce_source'] AS original_source,
    letter.key AS key, replaceRegexpAll(letter.payload, '"sealed"\\s*:\\s*"[^"]*"', '"sealed":"…"') AS payload, letter.raw AS raw, letter.value_bytes AS value_bytes,
    letter.event_id AS letter_id, letter.topic AS letter_topic, letter.partition AS letter_partition,
    letter.offset AS letter_offset
FROM log AS letter WHERE startsWith(letter.topic, 'dlq.')
ORDER BY letter.append_time, letter.topic, letter.incarnation, letter.partition, letter.offset
LIMIT 1 BY letter.topic, letter.event_id, headers['dlq_timestamp_ms']
COMMENT 'Refused records, each once.';

CREATE VIEW errors
(
    tenant LowCardinality(String) COMMENT 'Tenant.',
    pipeline_id String COMMENT 'Its pipeline.',
    event_time DateTime64(3, 'UTC') COMMENT 'When.',
    type LowCardinality(String) COMMENT 'The event that tells of it.',
    code String COMMENT 'What kind of problem, such as agent_timeout.',
    detail String COMMENT 'The thing, its value and the next step.',
    agent_id String COMMENT 'The agent; empty where none is concerned.',
    task_id String COMMENT 'The task; empty where none is concerned.',
    attempt UInt32 COMMENT 'The attempt; 0 for none.',
    event_id String COMMENT 'Id of the event.'
)
AS SELECT tenant, pipeline_id, event_time, type,
    multiIf(type = 'error.reported', JSONExtractString(payload, 'code'), type = 'violation.reported', JSONExtractString(payload, 'policy'),
        type = 'alert.raised', JSONExtractString(payload, 'condition'), JSONExtractString(payload, 'problem', 'code')) AS code,
    multiIf(type = 'violation.reported', concat(JSONExtractString(payload, 'severity'), ': ', JSONExtractString(payload, 'detail')),
        type IN ('error.reported', 'alert.raised'), JSONExtractString(payload, 'detail'), JSONExtractString(payload, 'problem', 'detail')) AS detail,
    agent_id, task_id, attempt, event_id
FROM events
WHERE (topic IN ('pipeline.events', 'token.events', 'alerts', 'signals') OR startsWith(topic, 'agent.events.')) AND code != ''
    AND type != 'agent.attempt_refused'
    AND NOT (type = 'token.denied' AND JSONExtractString(payload, 'command') IN ('token.revoke', 'token.renew'))
    AND (topic, partition, offset) NOT IN (SELECT topic, partition, offset FROM dead_letters)
COMMENT 'Events that carry a problem; errors and violations that were reported; breaches of budgets. Refused attempts are counted in agents.messages_refused; a command about credentials that changed nothing is no error.';
