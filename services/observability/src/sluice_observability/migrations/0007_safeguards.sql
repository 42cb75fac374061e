-- Credentials, breaches of budgets, handoff reports and diagnoses. No view shows a token or its sealed form.
CREATE VIEW credentials
(
    tenant LowCardinality(String) COMMENT 'Tenant.',
    pipeline_id String COMMENT 'Its pipeline.',
    at DateTime64(3, 'UTC') COMMENT 'When.',
    type LowCardinality(String) COMMENT 'token.request, token.revoke, token.renew: what was asked; agent.grant_opened: a runner has it; the others: what happened.',
    service LowCardinality(String) COMMENT 'Who asked, or told.',
    agent_id String COMMENT 'Whose it is; empty for the pipeline''s own, or for all.',
    attempt UInt32 COMMENT 'The attempt whose it is; 0 for none, or for all.',
    accessors Array(String) COMMENT 'Vault''s names of the tokens, which can''t be used; a revocation names a thousand at most.',
    reason String COMMENT 'Why it was revoked or denied; empty otherwise.',
    detail String COMMENT 'For people.',
    latency_ms UInt64 COMMENT 'From the decision until it was done: Vault''s time, and the wait for Vault.',
    alert_id String COMMENT 'The breach that caused it; empty for none.',
    causation_id String COMMENT 'Id of the message that caused it.',
    event_id String COMMENT 'Id of the event.'
)
AS SELECT tenant, pipeline_id, event_time AS at, type, service, agent_id, attempt,
    if(JSONHas(payload, 'accessor'), [JSONExtractString(payload, 'accessor')], JSONExtract(payload, 'accessors', 'Array(String)')) AS accessors,
    if(type = 'token.denied', JSONExtractString(payload, 'problem', 'code'), JSONExtractString(payload, 'reason')) AS reason,
    if(type = 'token.denied', JSONExtractString(payload, 'problem', 'detail'), JSONExtractString(payload, 'detail')) AS detail,
    JSONExtractUInt(payload, 'latency_ms') AS latency_ms, JSONExtractString(payload, 'alert_id') AS alert_id, causation_id, event_id
FROM events
WHERE (topic IN ('token.commands', 'token.events') OR (startsWith(topic, 'agent.events.') AND type = 'agent.grant_opened'))
    AND (topic, partition, offset) NOT IN (SELECT topic, partition, offset FROM dead_letters)
COMMENT 'Every use of credentials: asked for, granted, opened, renewed, revoked, denied, expired.';

CREATE VIEW token_lives
(
    tenant LowCardinality(String) COMMENT 'Tenant.',
    pipeline_id String COMMENT 'Its pipeline.',
    accessor String COMMENT 'Vault''s name of the token, which can''t be used.',
    agent_id String COMMENT 'Whose it is; empty for the pipeline''s own.',
    attempt UInt32 COMMENT 'The attempt whose it is; 0 for the pipeline''s own.',
    parent_accessor String COMMENT 'The token that it is a child of; empty for none.',
    state String COMMENT 'granted, renewed, revoked or expired.',
    requested_at Nullable(DateTime64(3, 'UTC')) COMMENT 'When it was asked for.',
    granted_at DateTime64(3, 'UTC') COMMENT 'When it was granted.',
    opened_at Nullable(DateTime64(3, 'UTC')) COMMENT 'When a runner opened it.',
    renewals UInt64 COMMENT 'Times that it was renewed.',
    expires_at DateTime64(3, 'UTC') COMMENT 'When it ends unless it is renewed.',
    revoked_at Nullable(DateTime64(3, 'UTC')) COMMENT 'When it was revoked.',
    expired_at Nullable(DateTime64(3, 'UTC')) COMMENT 'When it ended by itself.',
    reason String COMMENT 'Why it was revoked; empty otherwise.',
    detail String COMMENT 'For people.',
    alert_id String COMMENT 'The breach that caused the revocation; empty for none.',
    grant_ms UInt64 COMMENT 'From the decision to grant it until Vault had made it.',
    revoke_ms UInt64 COMMENT 'From the decision to revoke it until Vault had done so.',
    lived_ms Nullable(UInt64) COMMENT 'From the grant to the end; NULL while it lives.'
)
AS WITH told AS
(
    SELECT tenant, pipeline_id, event_time, type, agent_id, attempt, payload, JSONExtractString(payload, 'accessor') AS accessor,
        ifNull(sequence, 0) AS number
    FROM events WHERE topic = 'token.events'
        OR (startsWith(topic, 'agent.events.') AND type = 'agent.grant_opened')
),
lives AS
(
    SELECT tenant, pipeline_id, accessor, anyIf(told.agent_id, type = 'token.granted') AS holder,
        anyIf(told.attempt, type = 'token.granted') AS of_attempt,
        anyIf(JSONExtractString(payload, 'parent_accessor'), type = 'token.granted') AS parent_accessor,
        minIf(event_time, type = 'token.granted') AS granted_at, minIf(told.number, type = 'token.granted') AS granted_by,
        minIf(event_time, type = 'agent.grant_opened') AS first_opened, countIf(type = 'agent.grant_opened') > 0 AS was_opened,
        countIf(type = 'token.renewed') AS renewals, max(JSONExtractUInt(payload, 'expires_at_ms')) AS expires_at_ms,
        anyIf(JSONExtractUInt(payload, 'latency_ms'), type = 'token.granted') AS grant_ms
    FROM told WHERE accessor != ''
    GROUP BY tenant, pipeline_id, accessor HAVING countIf(type = 'token.granted') > 0
),
ends AS
(
    SELECT tenant, pipeline_id, agent_id,
        if(type = 'token.expired', [accessor], JSONExtract(payload, 'accessors', 'Array(String)')) AS accessors,
        JSONExtractUInt(payload, 'latency_ms') AS took_ms,
        tuple(number, type, event_time, event_time - toIntervalMillisecond(took_ms), JSONExtractString(payload, 'reason'),
            JSONExtractString(payload, 'detail'), JSONExtractString(payload, 'alert_id'), took_ms)
            ::Tuple(number UInt64, type String, at DateTime64(3, 'UTC'), decided_at DateTime64(3, 'UTC'), reason String, detail String, alert_id String, took_ms UInt64) AS ending
    FROM told WHERE type IN ('token.revoked', 'token.expired')
),
named AS
(
    SELECT tenant, pipeline_id, accessor, groupArray(ending) AS endings
    FROM (SELECT tenant, pipeline_id, ending, arrayJoin(accessors) AS accessor FROM ends) GROUP BY tenant, pipeline_id, accessor
),
-- At most a thousand are named. These mean all that the pipeline had when they were decided; a stray's end means it alone.
whole AS
(
    SELECT tenant, pipeline_id, groupArray(ending) AS endings
    FROM ends WHERE ending.type = 'token.revoked' AND agent_id = '' AND ending.reason IN
        ('manual', 'error_budget_exceeded', 'api_call_budget_exceeded', 'policy_violation', 'pipeline_ended', 'waiting')
    GROUP BY tenant, pipeline_id
),
asked AS
(
    SELECT tenant, pipeline_id, agent_id, attempt, min(event_time) AS at
    FROM events WHERE topic = 'token.commands' AND type = 'token.request' GROUP BY tenant, pipeline_id, agent_id, attempt
)
SELECT l.tenant AS tenant, l.pipeline_id AS pipeline_id, l.accessor AS accessor, l.holder AS agent_id, l.of_attempt AS attempt,
    l.parent_accessor AS parent_accessor,
    multiIf(is_expired, 'expired', is_revoked, 'revoked', l.renewals > 0, 'renewed', 'granted') AS state,
    if(a.at = toDateTime64(0, 3, 'UTC'), NULL, a.at) AS requested_at, l.granted_at AS granted_at,
    if(l.was_opened, l.first_opened, NULL) AS opened_at, l.renewals AS renewals,
    fromUnixTimestamp64Milli(toInt64(least(l.expires_at_ms, 4102444800000)), 'UTC') AS expires_at,
    if(is_revoked, l.ending.at, NULL) AS revoked_at, if(is_expired, l.ending.at, NULL) AS expired_at,
    l.ending.reason AS reason, l.ending.detail AS detail, l.ending.alert_id AS alert_id, l.grant_ms AS grant_ms,
    if(is_revoked, l.ending.took_ms, 0) AS revoke_ms,
    if(is_expired OR is_revoked, toUnixTimestamp64Milli(l.ending.at) - toUnixTimestamp64Milli(l.granted_at), NULL) AS lived_ms
FROM
(
    SELECT l.*,
        arraySort(arrayConcat(n.endings, arrayFilter(one -> one.number > l.granted_by AND one.decided_at >= l.granted_at, w.endings)))[1] AS ending,
        ending.type = 'token.expired' AS is_expired, ending.type = 'token.revoked' AS is_revoked
    FROM lives AS l
    LEFT JOIN named AS n ON n.tenant = l.tenant AND n.pipeline_id = l.pipeline_id AND n.accessor = l.accessor
    LEFT JOIN whole AS w ON w.tenant = l.tenant AND w.pipeline_id = l.pipeline_id
) AS l
LEFT JOIN asked AS a ON a.tenant = l.tenant AND a.pipeline_id = l.pipeline_id AND a.agent_id = l.holder AND a.attempt = l.of_attempt
COMMENT 'Each credential from its grant to its end.';

CREATE VIEW alerts
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
    SELECT tenant, pipeline_id, JSONExtractString(payload, 'alert_id') AS alert_id, min(event_time) AS at, count() AS found
    FROM events WHERE topic = 'token.events' AND type = 'token.revoked' AND alert_id != '' GROUP BY tenant, pipeline_id, alert_id
) AS r ON r.tenant = a.tenant AND r.pipeline_id = a.pipeline_id AND r.alert_id = a.event_id
COMMENT 'Each breach of an error budget, once.';

CREATE VIEW signals
(
    tenant LowCardinality(String) COMMENT 'Tenant.',
    pipeline_id String COMMENT 'Its pipeline.',
    at DateTime64(3, 'UTC') COMMENT 'When it happened.',
    type LowCardinality(String) COMMENT 'watch.changed, progress.reported, error.reported or violation.reported.',
    service LowCardinality(String) COMMENT 'Who says so.',
    agent_id String COMMENT 'The agent; empty for none.',
    attempt UInt32 COMMENT 'Its attempt; 0 for none.',
    code String COMMENT 'Code of an error, or the policy that was broken; empty otherwise.',
    severity String COMMENT 'Of a violation; empty otherwise.',
    api_calls UInt64 COMMENT 'API calls since the attempt''s last signal.',
    watched Nullable(Bool) COMMENT 'Whether progress is expected from here on; NULL where nothing is said of it.',
    detail String COMMENT 'For people.',
    event_id String COMMENT 'Id of the event: it counts once.'
)
AS SELECT tenant, pipeline_id, event_time AS at, type, service, agent_id, attempt,
    multiIf(type = 'error.reported', JSONExtractString(payload, 'code'), type = 'violation.reported', JSONExtractString(payload, 'policy'), '') AS code,
    JSONExtractString(payload, 'severity') AS severity, JSONExtractUInt(payload, 'api_calls') AS api_calls,
    if(type = 'watch.changed', JSONExtractBool(payload, 'watched'), NULL) AS watched, JSONExtractString(payload, 'detail') AS detail, event_id
FROM events WHERE topic = 'signals' AND (topic, partition, offset) NOT IN (SELECT topic, partition, offset FROM dead_letters)
COMMENT 'What error budgets are counted by.';

CREATE VIEW handoff_reports
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
    last_turn_at Nullable(DateTime64(3, 'UTC')) COMMENT 'The last checkpoint: when an agent finished its last turn.',
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
LEFT JOIN (SELECT tenant, pipeline_id, event_id, event_time, payload FROM events WHERE topic = 'token.events' AND type = 'token.revoked') AS r
    ON r.tenant = h.tenant AND r.pipeline_id = h.pipeline_id AND r.event_id = JSONExtractString(h.payload, 'cause_id')
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
    SELECT tenant, pipeline_id, max(event_time) AS at, count() AS found,
        argMax(JSONExtractString(payload, 'transcript', 'sha256'), event_time) AS transcript
    FROM events WHERE startsWith(topic, 'agent.events.') AND type = 'agent.turn_finished' GROUP BY tenant, pipeline_id
) AS c ON c.tenant = h.tenant AND c.pipeline_id = h.pipeline_id
COMMENT 'Each handoff report: its summary, and the hashes under which it stands whole.';

CREATE VIEW diagnoses
(
    tenant LowCardinality(String) COMMENT 'Tenant.',
    pipeline_id String COMMENT 'The pipeline that failed.',
    diagnostic_id String COMMENT 'The pipeline that finds out why.',
    alert_id String COMMENT 'The breach that it is about; empty for none.',
    depth UInt64 COMMENT '2: it is a diagnostic of a diagnostic.',
    state String COMMENT 'The diagnostic''s state.',
    spawned_at DateTime64(3, 'UTC') COMMENT 'When it was spawned.',
    finished_at Nullable(DateTime64(3, 'UTC')) COMMENT 'When it ended.',
    summary String COMMENT 'What it says in short; empty before its end.',
    cause String COMMENT 'The probable cause.',
    evidence Array(String) COMMENT 'What speaks for it, each with its place.',
    recommendations Array(String) COMMENT 'What to do, in the order in which it should be done.',
    result_sha256 String COMMENT 'The findings as an artifact, where they are large; empty otherwise.',
    cost_usd Float64 COMMENT 'What it cost.'
)
AS SELECT d.tenant AS tenant, d.about AS pipeline_id, d.pipeline_id AS diagnostic_id, d.alert_id AS alert_id, d.depth AS depth,
    p.state AS state, p.spawned_at AS spawned_at, p.finished_at AS finished_at, f.summary AS summary,
    JSONExtractString(f.result, 'cause') AS cause, JSONExtract(f.result, 'evidence', 'Array(String)') AS evidence,
    JSONExtract(f.result, 'recommendations', 'Array(String)') AS recommendations, f.result_sha256 AS result_sha256, p.cost_usd AS cost_usd
FROM
(
    SELECT tenant, pipeline_id, JSONExtractString(begun, 'diagnosed', 'pipeline_id') AS about,
        JSONExtractString(begun, 'diagnosed', 'alert_id') AS alert_id,
        if(JSONHas(begun, 'diagnosed', 'depth'), JSONExtractUInt(begun, 'diagnosed', 'depth'), 1) AS depth
    FROM
    (
        SELECT tenant, pipeline_id, argMax(events.payload, tuple(sequence, offset)) AS begun
        FROM events WHERE topic = 'pipeline.events' AND type = 'pipeline.spawned' GROUP BY tenant, pipeline_id
    ) WHERE about != ''
) AS d
INNER JOIN pipelines AS p ON p.tenant = d.tenant AND p.pipeline_id = d.pipeline_id
LEFT JOIN
(
    SELECT tenant, pipeline_id, argMax(JSONExtractString(events.payload, 'summary'), event_time) AS summary,
        argMax(JSONExtractString(events.payload, 'result', 'text'), event_time) AS result,
        argMax(JSONExtractString(events.payload, 'result', 'ref', 'sha256'), event_time) AS result_sha256
    FROM events WHERE startsWith(topic, 'agent.events.') AND type = 'agent.succeeded'
        AND (topic, partition, offset) NOT IN (SELECT topic, partition, offset FROM dead_letters)
        AND event_id NOT IN (SELECT JSONExtractString(payload, 'refused_id') FROM log WHERE topic = 'pipeline.events' AND type = 'agent.attempt_refused')
    GROUP BY tenant, pipeline_id
) AS f ON f.tenant = d.tenant AND f.pipeline_id = d.pipeline_id
COMMENT 'Pipelines that find out why others failed, and what they have found.';
