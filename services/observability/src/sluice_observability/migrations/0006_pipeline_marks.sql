-- Which pipelines live, without a look at all that ever happened.
CREATE TABLE pipeline_marks
(
    pipeline_id String COMMENT 'The pipeline.',
    tenant LowCardinality(String) COMMENT 'Its tenant.',
    type LowCardinality(String) COMMENT 'pipeline.spawned while it may live, else the type of the event that ended it.',
    append_time DateTime64(3, 'UTC') COMMENT 'Kafka''s timestamp of that event.'
)
-- The last row inserted counts where times are equal: the events of a pipeline come from one partition, in its order.
ENGINE = ReplacingMergeTree(append_time)
ORDER BY (pipeline_id, tenant)
COMMENT 'The last beginning or end of each pipeline. Ask it with FINAL; written before the log has the event.';

INSERT INTO pipeline_marks (pipeline_id, tenant, type, append_time)
SELECT pipeline_id, tenant, type, append_time FROM log
WHERE topic = 'pipeline.events' AND type IN ('pipeline.spawned', 'pipeline.completed', 'pipeline.failed', 'pipeline.cancelled')
ORDER BY tenant, pipeline_id, append_time, topic, partition, offset;
