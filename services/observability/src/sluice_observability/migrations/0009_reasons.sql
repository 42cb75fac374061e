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

-- Another sentence for each of them.
CREATE OR REPLACE VIEW pipeline_story
(
    tenant LowCardinality(String) COMMENT 'Tenant.',
    pipeline_id String COMMENT 'The pipeline whose story it is: always give one.',
    at DateTime64(3, 'UTC') COMMENT 'When.',
    actor String COMMENT 'Who: service, runner or agent''s task.',
    what String COMMENT 'What happened, in a sentence.',
    type LowCardinality(String) COMMENT 'The event.',
    position UInt64 COMMENT 'Order in the story.'
)
AS SELECT tenant, pipeline_id, event_time AS at, actor, what, type,
    row_number() OVER (PARTITION BY tenant, pipeline_id ORDER BY event_time, log_order, sequence, offset) AS position
FROM
(
    SELECT tenant, pipeline_id, event_time, type, sequence, offset,
        multiIf(startsWith(topic, 'agent.events.') OR topic = 'signals', 0, topic IN ('pipeline.commands', 'token.commands'), -1, 1) AS log_order,
        multiIf(startsWith(topic, 'agent.events.'), concat('runner ', JSONExtractString(payload, 'runner_id')), service) AS actor,
        JSONExtractString(payload, 'problem', 'detail') AS problem,
        JSONExtractString(payload, 'reason') AS reason,
        leftUTF8(JSONExtractString(payload, 'summary'), 200) AS summary,
        concat('agent ', leftUTF8(agent_id, 8)) AS agent,
        if(agent_id = '', 'the pipeline', concat(agent, if(attempt = 0, '', concat(', attempt ', toString(attempt))))) AS holder,
        JSONExtractString(payload, 'detail') AS detail,
        multiIf(
            type = 'pipeline.spawn', concat('asks for a pipeline: ', leftUTF8(JSONExtractString(payload, 'plan', 'objective'), 200)),
            type = 'pipeline.cancel', concat('asks to cancel: ', reason),
            type = 'pipeline.answer', concat('answers: ', leftUTF8(JSONExtractString(payload, 'answer'), 200)),
            type = 'pipeline.tick', 'asks to look at it again',
            type = 'pipeline.spawned', concat('pipeline spawned with ', toString(JSONLength(payload, 'plan', 'tasks')), ' task(s)'),
            type = 'pipeline.refused', concat('refuses ', JSONExtractString(payload, 'command_type'), ': ', problem),
            type = 'pipeline.state_changed', concat('pipeline ', JSONExtractString(payload, 'from_state'), ' → ', JSONExtractString(payload, 'to_state'), if(reason = '', '', concat(': ', reason))),
            type = 'pipeline.reported', concat('report on ', toString(JSONLength(payload, 'outcomes')), ' task(s)'),
            type IN ('pipeline.completed', 'pipeline.failed', 'pipeline.cancelled'), concat(upper(substring(type, 10)), ' after ', toString(JSONExtractUInt(payload, 'duration_ms')), ' ms: ', reason),
            type = 'task.assigned', concat('task ', task_id, ' → queue ', JSONExtractString(payload, 'queue'), ' as ', JSONExtractString(payload, 'role'), ', attempt ', toString(attempt)),
            type = 'task.started', concat('task ', task_id, ' runs on ', JSONExtractString(payload, 'runner_id'), ', attempt ', toString(attempt)),
            type = 'task.retried', concat('task ', task_id, ' tries again: ', problem),
            type = 'task.succeeded', concat('task ', task_id, ' succeeded in ', toString(JSONExtractUInt(payload, 'turns')), ' turn(s): ', summary),
            type = 'task.failed', concat('task ', task_id, ' failed: ', problem),
            type = 'task.skipped', concat('task ', task_id, ' skipped: ', reason),
            type = 'task.cancelled', concat('task ', task_id, ' cancelled: ', reason),
            type = 'agent.created', concat(agent, ' created for task ', task_id, ', role ', JSONExtractString(payload, 'role')),
            type = 'agent.state_changed', concat(agent, ' ', JSONExtractString(payload, 'from_state'), ' → ', JSONExtractString(payload, 'to_state')),
            type = 'agent.attempt_lost', concat(agent, ' lost attempt ', toString(attempt), ': ', problem),
            type = 'agent.attempt_refused', concat('refuses ', JSONExtractString(payload, 'refused_type'), ' of ', agent, ', attempt ', toString(attempt), ': ', problem),
            type = 'agent.attempt_started', concat(agent, ' starts attempt ', toString(attempt)),
            type = 'agent.turn_finished', concat(agent, ' finished turn ', toString(turn), ': ', if(JSONLength(payload, 'tool_calls') = 0, leftUTF8(JSONExtractString(payload, 'response', 'text'), 120), arrayStringConcat(arrayMap(call -> JSONExtractString(call, 'name'), JSONExtractArrayRaw(payload, 'tool_calls')), ', '))),
            type = 'agent.succeeded', concat(agent, ' succeeded: ', summary),
            type = 'agent.failed', concat(agent, ' failed: ', problem),
            type = 'agent.input_requested', concat(agent, ' asks: ', leftUTF8(JSONExtractString(payload, 'question'), 200)),
            type = 'question.asked', concat('question: ', leftUTF8(JSONExtractString(payload, 'question'), 200)),
            type = 'agent.grant_opened', concat(agent, ' opened its credential ', JSONExtractString(payload, 'accessor')),
            type = 'agent.grant_refused', concat(agent, ' could not open its credential ', JSONExtractString(payload, 'accessor'), ': ', problem),
            type = 'token.request', concat('asks for a credential for ', holder),
            type = 'token.revoke', concat('asks to revoke the credentials of ', holder, ': ', reason, if(detail = '', '', concat(', ', detail))),
            type = 'token.renew', 'asks to renew all credentials',
            type = 'token.granted', concat('credential ', JSONExtractString(payload, 'accessor'), ' granted to ', holder, ' in ', toString(JSONExtractUInt(payload, 'latency_ms')), ' ms', if(reason = 'implied', ', for one below it', '')),
            type = 'token.denied', concat(multiIf(JSONExtractString(payload, 'command') = 'token.revoke', 'revocation refused for ', JSONExtractString(payload, 'command') = 'token.renew', 'renewal refused for ', 'no credential for '), holder, ': ', problem),
            type = 'token.renewed', concat('credential ', JSONExtractString(payload, 'accessor'), ' of ', holder, ' renewed', if(reason = 'manual', ' by hand', '')),
            type = 'token.revoked', concat('credentials of ', holder, ' revoked (', toString(JSONLength(payload, 'accessors')), ' named): ', reason, if(detail = '', '', concat(', ', detail))),
            type = 'token.expired', concat('credential ', JSONExtractString(payload, 'accessor'), ' of ', holder, ' expired'),
            type = 'error.reported', concat('error ', JSONExtractString(payload, 'code'), ' of ', holder, ': ', detail),
            type = 'violation.reported', concat(JSONExtractString(payload, 'severity'), ' violation of ', JSONExtractString(payload, 'policy'), ' by ', holder, ': ', detail),
            type = 'alert.raised', concat('budget broken by ', holder, ', ', JSONExtractString(payload, 'condition'), ': ', detail),
            type = 'handoff.reported', concat('handed off: ', summary),
            type = 'question.answered', concat('answered by ', JSONExtractString(payload, 'answered_by'), ': ', leftUTF8(JSONExtractString(payload, 'answer'), 200)),
            type) AS what
    FROM events
    WHERE topic IN ('pipeline.commands', 'pipeline.events', 'token.commands', 'token.events', 'alerts', 'reports')
        OR startsWith(topic, 'agent.events.') OR (topic = 'signals' AND type IN ('error.reported', 'violation.reported'))
)
COMMENT 'What happened in a pipeline, line by line: SELECT at, actor, what FROM pipeline_story WHERE pipeline_id = … ORDER BY position.';
