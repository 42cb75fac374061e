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

-- As before, with the blackboard.
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
        JSONExtractString(payload, 'key') AS key_name,
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
            type = 'blackboard.read_requested', concat(agent, ' reads the blackboard: ', if(key_name = '', concat('keys ', JSONExtractString(payload, 'prefix'), '*'), key_name)),
            type = 'blackboard.write_requested', concat(agent, ' asks to ', JSONExtractString(payload, 'action'), ' ', key_name, ' on version ', toString(JSONExtractUInt(payload, 'key_version'))),
            type = 'blackboard.written', concat(agent, ' wrote ', key_name, ', version ', toString(JSONExtractUInt(payload, 'key_version')), ': ', leftUTF8(JSONExtractString(payload, 'value'), 200)),
            type = 'blackboard.deleted', concat(agent, ' deleted ', key_name, ', version ', toString(JSONExtractUInt(payload, 'key_version'))),
            type = 'blackboard.conflict_detected', concat(agent, ' came second on ', key_name, ': it had read version ', toString(JSONExtractUInt(payload, 'expected_version')), ', and agent ', leftUTF8(JSONExtractString(payload, 'written_by'), 8), ' had written ', toString(JSONExtractUInt(payload, 'key_version'))),
            type = 'blackboard.conflict_resolved', concat('conflict of ', agent, ' on ', key_name, ' is settled: ', JSONExtractString(payload, 'resolution')),
            type = 'question.answered', concat('answered by ', JSONExtractString(payload, 'answered_by'), ': ', leftUTF8(JSONExtractString(payload, 'answer'), 200)),
            type) AS what
    FROM events
    WHERE topic IN ('pipeline.commands', 'pipeline.events', 'token.commands', 'token.events', 'alerts', 'reports')
        OR startsWith(topic, 'agent.events.') OR (topic = 'signals' AND type IN ('error.reported', 'violation.reported'))
)
COMMENT 'What happened in a pipeline, line by line: SELECT at, actor, what FROM pipeline_story WHERE pipeline_id = … ORDER BY position.';
