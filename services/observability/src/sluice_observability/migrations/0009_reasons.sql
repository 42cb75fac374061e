-- Why a credential was granted or renewed, and grants that a runner could not open.
CREATE OR REPLACE VIEW credentials
(
    tenant LowCardinality(String) COMMENT 'Tenant.',
    pipeline_id String COMMENT 'Its pipeline.',
    at DateTime64(3, 'UTC') COMMENT 'When.',
    type LowCardinality(String) COMMENT 'token.request, token.revoke, token.renew: what was asked; agent.grant_opened: a runner has it; agent.grant_refused: it could not open it; the others: what happened.',
    service LowCardinality(String) COMMENT 'Who asked, or told.',
    agent_id String COMMENT 'Whose it is; empty for the pipeline''s own, or for all.',
    attempt UInt32 COMMENT 'The attempt whose it is; 0 for none, or for all.',
    accessors Array(String) COMMENT 'Vault''s names of the tokens, which can''t be used; a revocation names a thousand at most.',
    reason String COMMENT 'requested or implied of a grant, due or manual of a renewal; why it was revoked; the problem''s code where it was denied or not opened; empty otherwise.',
    detail String COMMENT 'For people.',
    latency_ms UInt64 COMMENT 'From the decision until it was done: Vault''s time, and the wait for Vault.',
    alert_id String COMMENT 'The breach that caused it; empty for none.',
    causation_id String COMMENT 'Id of the message that caused it.',
    event_id String COMMENT 'Id of the event.'
)
AS SELECT tenant, pipeline_id, event_time AS at, type, service, agent_id, attempt,
    if(JSONHas(payload, 'accessor'), [JSONExtractString(payload, 'accessor')], JSONExtract(payload, 'accessors', 'Array(String)')) AS accessors,
    -- What is at its default is not written.
    multiIf(type IN ('token.denied', 'agent.grant_refused'), JSONExtractString(payload, 'problem', 'code'),
        JSONHas(payload, 'reason'), JSONExtractString(payload, 'reason'),
        transform(type, ['token.granted', 'token.renewed', 'token.revoke'], ['requested', 'due', 'manual'], '')) AS reason,
    if(type IN ('token.denied', 'agent.grant_refused'), JSONExtractString(payload, 'problem', 'detail'), JSONExtractString(payload, 'detail')) AS detail,
    JSONExtractUInt(payload, 'latency_ms') AS latency_ms, JSONExtractString(payload, 'alert_id') AS alert_id, causation_id, event_id
FROM events
WHERE (topic IN ('token.commands', 'token.events') OR (startsWith(topic, 'agent.events.') AND type IN ('agent.grant_opened', 'agent.grant_refused')))
    AND (topic, partition, offset) NOT IN (SELECT topic, partition, offset FROM dead_letters)
COMMENT 'Every use of credentials: asked for, granted, opened or not, renewed, revoked, denied, expired.';

CREATE OR REPLACE VIEW errors
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
    AND type NOT IN ('agent.attempt_refused', 'agent.grant_refused')
    AND NOT (type = 'token.denied' AND JSONExtractString(payload, 'command') IN ('token.revoke', 'token.renew'))
    AND (topic, partition, offset) NOT IN (SELECT topic, partition, offset FROM dead_letters)
COMMENT 'Events that carry a problem; errors and violations that were reported; breaches of budgets. Refused attempts are counted in agents.messages_refused; a grant that could not be opened is the error of the agent.failed after it; a command about credentials that changed nothing is no error.';
