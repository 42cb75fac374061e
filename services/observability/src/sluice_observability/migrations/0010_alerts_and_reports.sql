-- An alert and its revocation belong together by pipeline and id: an alert may bear another tenant than its pipeline.
-- A turn that was refused is no checkpoint: view turns says which count.
CREATE OR REPLACE VIEW alerts
(
    tenant LowCardinality(String) COMMENT 'Tenant.',
    pipeline_id String COMMENT 'The pipeline that broke its budget.',
    alert_id String COMMENT 'Id of the event; it is made of pipeline, condition and what is broken.',
    condition String COMMENT 'error_budget_exceeded, api_call_budget_exceeded, no_progress or policy_violation.',
    action String COMMENT 'What follows: revoke_pipeline, revoke_agent or throttle.',
    agent_id String COMMENT 'Whom the action is about; empty for the whole pipeline.',
    attempt UInt32 COMMENT 'Its attempt; 0 for none.',
    observed UInt64 COMMENT 'Errors or calls in the window; milliseconds without progress; violations.',
    allowed UInt64 COMMENT 'What was allowed, in the same unit.',
    window_ms UInt64 COMMENT 'The window.',
    evidence Array(String) COMMENT 'Ids of the signals that broke it, the last ones.',
    breached_at DateTime64(3, 'UTC') COMMENT 'When what broke it happened, by the event that did; for no_progress, when its time was over.',
    raised_at DateTime64(3, 'UTC') COMMENT 'When the alert was in Kafka. Its event_time is breached_at, so that told again it is the same.',
    detail String COMMENT 'For people.',
    revoked_at Nullable(DateTime64(3, 'UTC')) COMMENT 'When the credentials that it is about were revoked; NULL where none were.'
)
AS SELECT a.tenant AS tenant, a.pipeline_id AS pipeline_id, a.event_id AS alert_id, JSONExtractString(a.payload, 'condition') AS condition,
    JSONExtractString(a.payload, 'action') AS action, a.agent_id AS agent_id, a.attempt AS attempt,
    JSONExtractUInt(a.payload, 'observed') AS observed, JSONExtractUInt(a.payload, 'limit') AS allowed,
    JSONExtractUInt(a.payload, 'window_ms') AS window_ms, JSONExtract(a.payload, 'evidence', 'Array(String)') AS evidence,
    fromUnixTimestamp64Milli(toInt64(least(JSONExtractUInt(a.payload, 'breached_at_ms'), 4102444800000)), 'UTC') AS breached_at,
    a.append_time AS raised_at, JSONExtractString(a.payload, 'detail') AS detail,
    if(r.found > 0, r.at, NULL) AS revoked_at
FROM (SELECT * FROM events WHERE topic = 'alerts' AND type = 'alert.raised'
    AND (topic, partition, offset) NOT IN (SELECT topic, partition, offset FROM dead_letters)) AS a
LEFT JOIN
(
    SELECT pipeline_id, JSONExtractString(payload, 'alert_id') AS alert_id, min(event_time) AS at, count() AS found
    FROM events WHERE topic = 'token.events' AND type = 'token.revoked' AND alert_id != '' GROUP BY pipeline_id, alert_id
) AS r ON r.pipeline_id = a.pipeline_id AND r.alert_id = a.event_id
COMMENT 'Each breach of an error budget, once.';

CREATE OR REPLACE VIEW handoff_reports
(
    tenant LowCardinality(String) COMMENT 'Tenant.',
    pipeline_id String COMMENT 'The pipeline that was handed off.',
    reported_at DateTime64(3, 'UTC') COMMENT 'When the report was written.',
    cause String COMMENT 'revocation: its credentials were ended. demand: somebody asked.',
    cause_id String COMMENT 'Id of token.revoked, or of the request.',
    reason String COMMENT 'Why: error_budget_exceeded, policy_violation, manual, …',
    summary String COMMENT 'One sentence: errors by code, and how far the tasks were.',
    complete Bool COMMENT 'Whether all that was on the topics then is in it; the report says what may be missing.',
    errors UInt64 COMMENT 'Errors of the pipeline until then.',
    agents_affected Array(String) COMMENT 'Agents that had errors or ended without success; a hundred at most.',
    alert_id String COMMENT 'The breach that caused it; empty for none.',
    accessors Array(String) COMMENT 'Credentials that were revoked; a thousand at most are named.',
    revoked_at Nullable(DateTime64(3, 'UTC')) COMMENT 'When they were.',
    tasks UInt64 COMMENT 'Tasks of the plan.',
    tasks_succeeded UInt64 COMMENT 'Those of them that have succeeded by now.',
    last_turn_at Nullable(DateTime64(3, 'UTC')) COMMENT 'The last checkpoint: when an agent finished its last turn that counts.',
    last_transcript_sha256 String COMMENT 'That turn''s link of its transcript.',
    report_sha256 String COMMENT 'The report as JSON, by schema handoff-report: GET /api/artifacts/<sha256>.',
    markdown_sha256 String COMMENT 'The same for people.',
    event_id String COMMENT 'Id of the event.'
)
AS SELECT h.tenant AS tenant, h.pipeline_id AS pipeline_id, h.event_time AS reported_at, JSONExtractString(h.payload, 'cause') AS cause,
    JSONExtractString(h.payload, 'cause_id') AS cause_id, JSONExtractString(h.payload, 'reason') AS reason,
    JSONExtractString(h.payload, 'summary') AS summary,
    NOT JSONHas(h.payload, 'complete') OR JSONExtractBool(h.payload, 'complete') AS complete, JSONExtractUInt(h.payload, 'errors') AS errors,
    JSONExtract(h.payload, 'agents_affected', 'Array(String)') AS agents_affected,
    JSONExtractString(r.payload, 'alert_id') AS alert_id, JSONExtract(r.payload, 'accessors', 'Array(String)') AS accessors,
    if(r.payload = '', NULL, r.event_time) AS revoked_at, t.tasks AS tasks, t.succeeded AS tasks_succeeded,
    if(c.found > 0, c.at, NULL) AS last_turn_at, c.transcript AS last_transcript_sha256,
    JSONExtractString(h.payload, 'report', 'sha256') AS report_sha256, JSONExtractString(h.payload, 'markdown', 'sha256') AS markdown_sha256,
    h.event_id AS event_id
FROM (SELECT * FROM events WHERE topic = 'reports' AND type = 'handoff.reported') AS h
LEFT JOIN (SELECT pipeline_id, event_id, event_time, payload FROM events WHERE topic = 'token.events' AND type = 'token.revoked') AS r
    ON r.pipeline_id = h.pipeline_id AND r.event_id = JSONExtractString(h.payload, 'cause_id')
LEFT JOIN
(
    SELECT tenant, pipeline_id, max(tasks) AS tasks, max(succeeded) AS succeeded FROM
    (
        SELECT tenant, pipeline_id, JSONLength(payload, 'plan', 'tasks') AS tasks, 0 AS succeeded FROM events
        WHERE topic = 'pipeline.events' AND type = 'pipeline.spawned'
        UNION ALL
        SELECT tenant, pipeline_id, 0, uniqExact(task_id) FROM events
        WHERE topic = 'pipeline.events' AND type = 'task.succeeded' GROUP BY tenant, pipeline_id
    ) GROUP BY tenant, pipeline_id
) AS t ON t.tenant = h.tenant AND t.pipeline_id = h.pipeline_id
LEFT JOIN
(
    SELECT tenant, pipeline_id, max(finished_at) AS at, count() AS found, argMax(transcript_sha256, finished_at) AS transcript
    FROM turns GROUP BY tenant, pipeline_id
) AS c ON c.tenant = h.tenant AND c.pipeline_id = h.pipeline_id
COMMENT 'Each handoff report: its summary, and the hashes under which it stands whole.';
