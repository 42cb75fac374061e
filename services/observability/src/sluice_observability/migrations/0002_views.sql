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
    payload String COMMENT 'The message as JSON.',
    key String COMMENT 'The record''s key.',
    headers Map(String, String) COMMENT 'Further headers.',
    topic LowCardinality(String) COMMENT 'Topic without the prefix.',
    incarnation LowCardinality(String) COMMENT 'Kafka''s topic id.',
    partition UInt32 COMMENT 'Partition.',
    offset UInt64 COMMENT 'Offset.',
    append_time DateTime64(3, 'UTC') COMMENT 'Kafka''s timestamp.',
    ingest_time DateTime64(3, 'UTC') COMMENT 'When the store took it.'
)
AS SELECT
    tenant, pipeline_id, event_time, type, type_version, event_id, service, source, causation_id, sequence,
    trace_id, span_id, agent_id, task_id, attempt, turn, payload, key, headers,
    topic, incarnation, partition, offset, append_time, ingest_time
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
    letter.key AS key, letter.payload AS payload, letter.raw AS raw, letter.value_bytes AS value_bytes,
    letter.event_id AS letter_id, letter.topic AS letter_topic, letter.partition AS letter_partition,
    letter.offset AS letter_offset
FROM log AS letter WHERE startsWith(letter.topic, 'dlq.')
ORDER BY letter.append_time, letter.topic, letter.incarnation, letter.partition, letter.offset
LIMIT 1 BY letter.topic, letter.event_id, headers['dlq_timestamp_ms']
COMMENT 'Refused records, each once.';

CREATE VIEW pipelines
(
    tenant LowCardinality(String) COMMENT 'Tenant.',
    pipeline_id String COMMENT 'The pipeline.',
    objective String COMMENT 'What it is to do.',
    state String COMMENT 'SPAWNED, RUNNING, NEEDS_INPUT, REPORT, COMPLETED, FAILED or CANCELLED.',
    reason String COMMENT 'Why it is in that state.',
    problem_code String COMMENT 'Code of the problem that ended it; empty without.',
    spawned_at DateTime64(3, 'UTC') COMMENT 'When it was spawned.',
    finished_at Nullable(DateTime64(3, 'UTC')) COMMENT 'When it reached its terminal state.',
    duration_ms Nullable(UInt64) COMMENT 'From spawning to the end.',
    tasks UInt64 COMMENT 'Tasks of its plan.',
    agents_used UInt64 COMMENT 'Agents created so far.',
    input_tokens UInt64 COMMENT 'Tokens sent to models, as the terminal event counts them.',
    output_tokens UInt64 COMMENT 'Tokens received from models, as the terminal event counts them.',
    cost_usd Float64 COMMENT 'Cost, as the terminal event counts it.',
    dedupe_key String COMMENT 'The key under which it was spawned; empty without.',
    parent_pipeline_id String COMMENT 'Its parent; empty without.',
    trace_id String COMMENT 'W3C trace id.'
)
AS SELECT
    tenant, pipeline_id, objective,
    multiIf(last_type = 'pipeline.completed', 'COMPLETED', last_type = 'pipeline.failed', 'FAILED',
        last_type = 'pipeline.cancelled', 'CANCELLED', last_state = '', 'SPAWNED', last_state) AS state,
    if(last_type = 'pipeline.spawned', '', JSONExtractString(last_payload, 'reason')) AS reason,
    JSONExtractString(last_payload, 'problem', 'code') AS problem_code, spawned_at,
    if(finished, last_time, NULL) AS finished_at,
    if(finished, JSONExtractUInt(last_payload, 'duration_ms'), NULL) AS duration_ms, tasks, agents_used,
    JSONExtractUInt(last_payload, 'usage', 'input_tokens') AS input_tokens,
    JSONExtractUInt(last_payload, 'usage', 'output_tokens') AS output_tokens,
    JSONExtractFloat(last_payload, 'usage', 'cost_usd') AS cost_usd, dedupe_key, parent_pipeline_id, trace_id
FROM
(
    SELECT tenant, pipeline_id,
        argMaxIf(JSONExtractString(events.payload, 'plan', 'objective'), rank, type = 'pipeline.spawned') AS objective,
        argMaxIf(JSONExtractString(events.payload, 'dedupe_key'), rank, type = 'pipeline.spawned') AS dedupe_key,
        argMaxIf(JSONExtractString(events.payload, 'parent_pipeline_id'), rank, type = 'pipeline.spawned') AS parent_pipeline_id,
        argMaxIf(JSONLength(events.payload, 'plan', 'tasks'), rank, type = 'pipeline.spawned') AS tasks,
        argMaxIf(events.trace_id, rank, type = 'pipeline.spawned') AS trace_id,
        argMaxIf(events.event_time, rank, type = 'pipeline.spawned') AS spawned_at,
        maxIf(ifNull(sequence, 0), type = 'pipeline.spawned') AS begun,
        argMaxIf(type, rank, is_state) AS last_type,
        argMaxIf(JSONExtractString(events.payload, 'to_state'), rank, is_state) AS last_state,
        argMaxIf(events.payload, rank, is_state) AS last_payload,
        argMaxIf(events.event_time, rank, is_state) AS last_time,
        last_type IN ('pipeline.completed', 'pipeline.failed', 'pipeline.cancelled') AS finished,
        arrayCount(number -> number > begun, groupArrayIf(ifNull(sequence, 0), type = 'agent.created')) AS agents_used
    FROM
    (
        SELECT *, tuple(sequence, offset) AS rank,
            type IN ('pipeline.spawned', 'pipeline.state_changed', 'pipeline.completed', 'pipeline.failed', 'pipeline.cancelled') AS is_state
        FROM events WHERE topic = 'pipeline.events'
    ) AS events
    GROUP BY tenant, pipeline_id HAVING countIf(type = 'pipeline.spawned') > 0
)
COMMENT 'Each pipeline with its state; where its id was used again after its retention, the last pipeline of that id.';

CREATE VIEW tasks
(
    tenant LowCardinality(String) COMMENT 'Tenant.',
    pipeline_id String COMMENT 'Its pipeline.',
    task_id String COMMENT 'The task.',
    objective String COMMENT 'What it is to do.',
    role String COMMENT 'The role of its agent.',
    queue String COMMENT 'The queue that it was handed to; empty before.',
    status String COMMENT 'pending, assigned, running, succeeded, failed, skipped or cancelled.',
    agent_id String COMMENT 'Its agent; empty before.',
    attempts UInt32 COMMENT 'Attempts of its agent.',
    retries UInt64 COMMENT 'Times that it failed and went on.',
    turns UInt32 COMMENT 'Turns that it took, once it succeeded.',
    summary String COMMENT 'What came out of it, or why it was skipped or cancelled.',
    problem_code String COMMENT 'Code of the problem that it failed of.',
    problem_detail String COMMENT 'That problem.',
    input_tokens UInt64 COMMENT 'Tokens sent to models, once it succeeded.',
    output_tokens UInt64 COMMENT 'Tokens received from models, once it succeeded.',
    cost_usd Float64 COMMENT 'Cost, once it succeeded.',
    assigned_at Nullable(DateTime64(3, 'UTC')) COMMENT 'When it was first assigned.',
    finished_at Nullable(DateTime64(3, 'UTC')) COMMENT 'When it ended.'
)
AS WITH spawned AS
(
    SELECT tenant, pipeline_id, max(sequence) AS begun, argMax(events.payload, tuple(sequence, offset)) AS spawn
    FROM events WHERE topic = 'pipeline.events' AND type = 'pipeline.spawned' GROUP BY tenant, pipeline_id
),
planned AS
(
    SELECT tenant, pipeline_id, JSONExtractString(spec, 'id') AS task_id, JSONExtractString(spec, 'objective') AS objective,
        JSONExtractString(spec, 'role') AS role
    FROM (SELECT tenant, pipeline_id, arrayJoin(JSONExtractArrayRaw(spawn, 'plan', 'tasks')) AS spec FROM spawned)
),
told AS
(
    SELECT tenant, pipeline_id, events.task_id AS task_id,
        argMax(type, tuple(sequence, offset)) AS last_type, argMax(events.payload, tuple(sequence, offset)) AS last_payload,
        argMaxIf(JSONExtractString(events.payload, 'queue'), tuple(sequence, offset), type = 'task.assigned') AS queue,
        argMaxIf(events.agent_id, tuple(sequence, offset), type = 'task.assigned') AS agent_id,
        maxIf(events.attempt, type = 'task.assigned') AS attempts, countIf(type = 'task.retried') AS retries,
        minIf(event_time, type = 'task.assigned') AS first_assigned, max(event_time) AS last_time,
        countIf(type = 'task.assigned') > 0 AS was_assigned
    FROM events INNER JOIN spawned ON events.tenant = spawned.tenant AND events.pipeline_id = spawned.pipeline_id
    WHERE topic = 'pipeline.events' AND startsWith(type, 'task.') AND sequence > begun
    GROUP BY tenant, pipeline_id, task_id
)
SELECT p.tenant AS tenant, p.pipeline_id AS pipeline_id, p.task_id AS task_id, p.objective AS objective,
    p.role AS role, t.queue AS queue,
    transform(t.last_type, ['task.assigned', 'task.started', 'task.retried', 'task.succeeded', 'task.failed', 'task.skipped', 'task.cancelled'],
        ['assigned', 'running', 'assigned', 'succeeded', 'failed', 'skipped', 'cancelled'], 'pending') AS status,
    t.agent_id AS agent_id, t.attempts AS attempts, t.retries AS retries,
    JSONExtractUInt(t.last_payload, 'turns') AS turns,
    if(status IN ('skipped', 'cancelled'), JSONExtractString(t.last_payload, 'reason'),
        JSONExtractString(t.last_payload, 'summary')) AS summary,
    JSONExtractString(t.last_payload, 'problem', 'code') AS problem_code,
    JSONExtractString(t.last_payload, 'problem', 'detail') AS problem_detail,
    JSONExtractUInt(t.last_payload, 'usage', 'input_tokens') AS input_tokens,
    JSONExtractUInt(t.last_payload, 'usage', 'output_tokens') AS output_tokens,
    JSONExtractFloat(t.last_payload, 'usage', 'cost_usd') AS cost_usd,
    if(t.was_assigned, t.first_assigned, NULL) AS assigned_at,
    if(status IN ('succeeded', 'failed', 'skipped', 'cancelled'), t.last_time, NULL) AS finished_at
FROM planned AS p LEFT JOIN told AS t ON t.tenant = p.tenant AND t.pipeline_id = p.pipeline_id AND t.task_id = p.task_id
COMMENT 'Each task of each plan with its status; of pipelines as in pipelines.';

CREATE VIEW turns
(
    tenant LowCardinality(String) COMMENT 'Tenant.',
    pipeline_id String COMMENT 'Its pipeline.',
    agent_id String COMMENT 'Its agent.',
    turn UInt32 COMMENT 'Its number among the agent''s turns.',
    attempt UInt32 COMMENT 'The attempt that ran it.',
    runner_id String COMMENT 'The runner that ran it.',
    finished_at DateTime64(3, 'UTC') COMMENT 'When it was finished.',
    provider String COMMENT 'Provider of the model.',
    model String COMMENT 'The model.',
    finish_reason String COMMENT 'Why the model stopped.',
    model_calls UInt32 COMMENT 'Calls with the retries.',
    model_ms UInt64 COMMENT 'Time that the model took.',
    input_tokens UInt64 COMMENT 'Tokens sent.',
    output_tokens UInt64 COMMENT 'Tokens received.',
    cost_usd Float64 COMMENT 'Cost.',
    prompt String COMMENT 'What the turn added to the conversation before the answer; empty where it is an artifact.',
    prompt_sha256 String COMMENT 'The artifact that holds it where it is larger than 64 KiB.',
    response String COMMENT 'The model''s answer; empty where it is an artifact.',
    response_sha256 String COMMENT 'The artifact that holds it where it is larger than 64 KiB.',
    transcript_sha256 String COMMENT 'The artifact that holds the transcript up to here.',
    tool_calls Array(String) COMMENT 'Its tool calls, as JSON.',
    event_id String COMMENT 'Id of the event.'
)
AS SELECT tenant, pipeline_id, agent_id, turn, attempt, JSONExtractString(payload, 'runner_id') AS runner_id,
    event_time AS finished_at, JSONExtractString(payload, 'provider') AS provider,
    JSONExtractString(payload, 'model') AS model, JSONExtractString(payload, 'finish_reason') AS finish_reason,
    if(JSONHas(payload, 'model_calls'), JSONExtractUInt(payload, 'model_calls'), 1) AS model_calls,
    JSONExtractUInt(payload, 'model_ms') AS model_ms,
    JSONExtractUInt(payload, 'usage', 'input_tokens') AS input_tokens,
    JSONExtractUInt(payload, 'usage', 'output_tokens') AS output_tokens,
    JSONExtractFloat(payload, 'usage', 'cost_usd') AS cost_usd,
    JSONExtractString(payload, 'prompt', 'text') AS prompt,
    JSONExtractString(payload, 'prompt', 'ref', 'sha256') AS prompt_sha256,
    JSONExtractString(payload, 'response', 'text') AS response,
    JSONExtractString(payload, 'response', 'ref', 'sha256') AS response_sha256,
    JSONExtractString(payload, 'transcript', 'sha256') AS transcript_sha256,
    JSONExtractArrayRaw(payload, 'tool_calls') AS tool_calls, event_id
FROM events
WHERE type = 'agent.turn_finished' AND startsWith(topic, 'agent.events.')
    AND event_id NOT IN (SELECT JSONExtractString(payload, 'refused_id') FROM log WHERE topic = 'pipeline.events' AND type = 'agent.attempt_refused')
    AND (topic, partition, offset) NOT IN (SELECT topic, partition, offset FROM dead_letters)
COMMENT 'Turns that count: neither refused as an older attempt''s, nor invalid.';

CREATE VIEW model_calls
(
    tenant LowCardinality(String) COMMENT 'Tenant.',
    pipeline_id String COMMENT 'Its pipeline.',
    agent_id String COMMENT 'Its agent.',
    turn UInt32 COMMENT 'Its turn.',
    provider String COMMENT 'Provider.',
    model String COMMENT 'Model.',
    finished_at DateTime64(3, 'UTC') COMMENT 'When the turn was finished.',
    calls UInt32 COMMENT 'Calls with the retries.',
    model_ms UInt64 COMMENT 'Time that they took.',
    input_tokens UInt64 COMMENT 'Tokens sent.',
    output_tokens UInt64 COMMENT 'Tokens received.',
    cost_usd Float64 COMMENT 'Cost.',
    finish_reason String COMMENT 'Why the model stopped.'
)
AS SELECT tenant, pipeline_id, agent_id, turn, provider, model, finished_at, turns.model_calls AS calls, model_ms,
    input_tokens, output_tokens, cost_usd, finish_reason FROM turns
COMMENT 'What models were asked, what it took and what it cost.';

CREATE VIEW tool_calls
(
    tenant LowCardinality(String) COMMENT 'Tenant.',
    pipeline_id String COMMENT 'Its pipeline.',
    agent_id String COMMENT 'Its agent.',
    turn UInt32 COMMENT 'Its turn.',
    ordinal UInt32 COMMENT 'Its place in the turn, from 1.',
    finished_at DateTime64(3, 'UTC') COMMENT 'When the turn was finished.',
    call_id String COMMENT 'The id that the model gave it.',
    tool String COMMENT 'The tool.',
    arguments String COMMENT 'Its arguments as JSON; empty where they are an artifact.',
    arguments_sha256 String COMMENT 'The artifact that holds them where they are large.',
    result String COMMENT 'Its result; empty where it is an artifact.',
    result_sha256 String COMMENT 'The artifact that holds it where it is large.',
    is_error Bool COMMENT 'Whether it failed.',
    duration_ms UInt64 COMMENT 'How long it took.'
)
AS SELECT tenant, pipeline_id, agent_id, turn, ordinal, finished_at,
    JSONExtractString(call, 'call_id') AS call_id, JSONExtractString(call, 'name') AS tool,
    JSONExtractRaw(call, 'arguments') AS arguments, JSONExtractString(call, 'arguments_ref', 'sha256') AS arguments_sha256,
    JSONExtractString(call, 'result', 'text') AS result, JSONExtractString(call, 'result', 'ref', 'sha256') AS result_sha256,
    JSONExtractBool(call, 'is_error') AS is_error, JSONExtractUInt(call, 'duration_ms') AS duration_ms
FROM turns ARRAY JOIN turns.tool_calls AS call, arrayEnumerate(turns.tool_calls) AS ordinal
COMMENT 'Tool calls of the turns that count.';

CREATE VIEW agents
(
    tenant LowCardinality(String) COMMENT 'Tenant.',
    pipeline_id String COMMENT 'Its pipeline.',
    agent_id String COMMENT 'The agent.',
    task_id String COMMENT 'Its task.',
    role String COMMENT 'Its role.',
    queue String COMMENT 'Its queue.',
    state String COMMENT 'CREATED, BUSY, WAITING, SUCCEEDED, ERROR or TERMINATED.',
    attempts UInt32 COMMENT 'Attempts so far.',
    attempts_lost UInt64 COMMENT 'Attempts whose lease ran out.',
    attempts_refused UInt64 COMMENT 'Messages of outdated attempts that were refused.',
    created_at DateTime64(3, 'UTC') COMMENT 'When it was created.',
    state_since DateTime64(3, 'UTC') COMMENT 'When it came into its state.'
)
AS SELECT tenant, pipeline_id, events.agent_id AS agent_id,
    anyIf(events.task_id, type = 'agent.created') AS task_id,
    anyIf(JSONExtractString(payload, 'role'), type = 'agent.created') AS role,
    anyIf(JSONExtractString(payload, 'queue'), type = 'agent.created') AS queue,
    if(countIf(type = 'agent.state_changed') = 0, 'CREATED',
        argMaxIf(JSONExtractString(payload, 'to_state'), tuple(sequence, offset), type = 'agent.state_changed')) AS state,
    maxIf(events.attempt, type = 'task.assigned') AS attempts, countIf(type = 'agent.attempt_lost') AS attempts_lost,
    countIf(type = 'agent.attempt_refused') AS attempts_refused, minIf(event_time, type = 'agent.created') AS created_at,
    maxIf(event_time, type IN ('agent.created', 'agent.state_changed')) AS state_since
FROM events WHERE topic = 'pipeline.events' AND events.agent_id != ''
GROUP BY tenant, pipeline_id, agent_id HAVING countIf(type = 'agent.created') > 0
COMMENT 'Each agent with its state. A pipeline whose id is used again has other agents.';

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
AS SELECT tenant, pipeline_id, event_time, type, JSONExtractString(payload, 'problem', 'code') AS code,
    JSONExtractString(payload, 'problem', 'detail') AS detail, agent_id, task_id, attempt, event_id
FROM events
WHERE (topic = 'pipeline.events' OR startsWith(topic, 'agent.events.')) AND code != ''
    AND type != 'agent.attempt_refused'
    AND (topic, partition, offset) NOT IN (SELECT topic, partition, offset FROM dead_letters)
COMMENT 'Events that carry a problem. What is said of refused attempts stands in agents.attempts_refused.';

CREATE VIEW pipeline_story
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
        multiIf(startsWith(topic, 'agent.events.'), 0, topic = 'pipeline.commands', -1, 1) AS log_order,
        multiIf(startsWith(topic, 'agent.events.'), concat('runner ', JSONExtractString(payload, 'runner_id')), service) AS actor,
        JSONExtractString(payload, 'problem', 'detail') AS problem,
        JSONExtractString(payload, 'reason') AS reason,
        leftUTF8(JSONExtractString(payload, 'summary'), 200) AS summary,
        concat('agent ', leftUTF8(agent_id, 8)) AS agent,
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
            type = 'question.answered', concat('answered by ', JSONExtractString(payload, 'answered_by'), ': ', leftUTF8(JSONExtractString(payload, 'answer'), 200)),
            type) AS what
    FROM events
    WHERE topic IN ('pipeline.commands', 'pipeline.events') OR startsWith(topic, 'agent.events.')
)
COMMENT 'What happened in a pipeline, line by line: SELECT at, actor, what FROM pipeline_story WHERE pipeline_id = … ORDER BY position.';
