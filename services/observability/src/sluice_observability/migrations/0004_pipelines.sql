-- What came of it: pipelines, tasks, agents and what belongs to them, each in its present state.
CREATE VIEW pipelines
(
    tenant LowCardinality(String) COMMENT 'Tenant.',
    pipeline_id String COMMENT 'The pipeline.',
    objective String COMMENT 'What it is to do.',
    labels Map(String, String) COMMENT 'Labels of its plan: labels[''team''].',
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
    on_failure String COMMENT 'What its plan says of a task that fails: fail_fast or carry_on.',
    model String COMMENT 'Model of its plan, for tasks that name none; empty where it names none.',
    dedupe_key String COMMENT 'The key under which it was spawned; empty without.',
    parent_pipeline_id String COMMENT 'Its parent; empty without.',
    trace_id String COMMENT 'W3C trace id.'
)
AS SELECT
    tenant, pipeline_id, objective, labels,
    multiIf(last_type = 'pipeline.completed', 'COMPLETED', last_type = 'pipeline.failed', 'FAILED',
        last_type = 'pipeline.cancelled', 'CANCELLED', last_state = '', 'SPAWNED', last_state) AS state,
    if(last_type = 'pipeline.spawned', '', JSONExtractString(last_payload, 'reason')) AS reason,
    JSONExtractString(last_payload, 'problem', 'code') AS problem_code, spawned_at,
    if(finished, last_time, NULL) AS finished_at,
    if(finished, JSONExtractUInt(last_payload, 'duration_ms'), NULL) AS duration_ms, tasks, agents_used,
    JSONExtractUInt(last_payload, 'usage', 'input_tokens') AS input_tokens,
    JSONExtractUInt(last_payload, 'usage', 'output_tokens') AS output_tokens,
    JSONExtractFloat(last_payload, 'usage', 'cost_usd') AS cost_usd, on_failure, model,
    dedupe_key, parent_pipeline_id, trace_id
FROM
(
    SELECT tenant, pipeline_id,
        -- The last beginning: a key that is given again after the spawner has forgotten the first names the same id.
        argMaxIf(events.payload, rank, type = 'pipeline.spawned') AS begun,
        JSONExtractString(begun, 'plan', 'objective') AS objective,
        JSONExtract(begun, 'plan', 'labels', 'Map(String, String)') AS labels,
        if(JSONHas(begun, 'plan', 'on_failure'), JSONExtractString(begun, 'plan', 'on_failure'), 'fail_fast') AS on_failure,
        JSONExtractString(begun, 'plan', 'model') AS model, JSONExtractString(begun, 'dedupe_key') AS dedupe_key,
        JSONExtractString(begun, 'parent_pipeline_id') AS parent_pipeline_id,
        JSONLength(begun, 'plan', 'tasks') AS tasks,
        argMaxIf(events.trace_id, rank, type = 'pipeline.spawned') AS trace_id,
        argMaxIf(events.event_time, rank, type = 'pipeline.spawned') AS spawned_at,
        argMaxIf(type, rank, is_state) AS last_type,
        argMaxIf(JSONExtractString(events.payload, 'to_state'), rank, is_state) AS last_state,
        argMaxIf(events.payload, rank, is_state) AS last_payload,
        argMaxIf(events.event_time, rank, is_state) AS last_time,
        last_type IN ('pipeline.completed', 'pipeline.failed', 'pipeline.cancelled') AS finished,
        maxIf(ifNull(sequence, 0), type = 'pipeline.spawned') AS since,
        arrayCount(number -> number > since, groupArrayIf(ifNull(sequence, 0), type = 'agent.created')) AS agents_used
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
    type String COMMENT 'What kind of task the plan says it is.',
    objective String COMMENT 'What it is to do.',
    role String COMMENT 'The role of its agent.',
    queue String COMMENT 'The queue that it was handed to; empty before.',
    status String COMMENT 'pending, assigned, running, succeeded, failed, skipped or cancelled.',
    agent_id String COMMENT 'Its agent; empty before.',
    attempts UInt32 COMMENT 'Attempts of its agent.',
    retries UInt64 COMMENT 'Times that it failed and went on.',
    turns UInt32 COMMENT 'Turns that its agent has finished.',
    summary String COMMENT 'What came out of it, or why it was skipped or cancelled.',
    problem_code String COMMENT 'Code of the problem that it failed of.',
    problem_detail String COMMENT 'That problem.',
    input_tokens UInt64 COMMENT 'Tokens sent to models in those turns.',
    output_tokens UInt64 COMMENT 'Tokens received from models in those turns.',
    cost_usd Float64 COMMENT 'Cost of those turns.',
    assigned_at Nullable(DateTime64(3, 'UTC')) COMMENT 'When it was first assigned.',
    finished_at Nullable(DateTime64(3, 'UTC')) COMMENT 'When it ended.'
)
AS WITH spawned AS
(
    SELECT tenant, pipeline_id, max(sequence) AS since, argMax(events.payload, tuple(sequence, offset)) AS begun
    FROM events WHERE topic = 'pipeline.events' AND type = 'pipeline.spawned' GROUP BY tenant, pipeline_id
),
planned AS
(
    SELECT tenant, pipeline_id, JSONExtractString(spec, 'id') AS task_id, JSONExtractString(spec, 'objective') AS objective,
        JSONExtractString(spec, 'role') AS role, if(JSONHas(spec, 'type'), JSONExtractString(spec, 'type'), 'task') AS type
    FROM (SELECT tenant, pipeline_id, arrayJoin(JSONExtractArrayRaw(begun, 'plan', 'tasks')) AS spec FROM spawned)
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
    WHERE topic = 'pipeline.events' AND startsWith(type, 'task.') AND sequence > since
    GROUP BY tenant, pipeline_id, task_id
),
used AS
(
    SELECT tenant, pipeline_id, agent_id, max(turns.turn) AS turns, sum(turns.input_tokens) AS input_tokens,
        sum(turns.output_tokens) AS output_tokens, sum(turns.cost_usd) AS cost_usd
    FROM turns GROUP BY tenant, pipeline_id, agent_id
)
SELECT p.tenant AS tenant, p.pipeline_id AS pipeline_id, p.task_id AS task_id, p.type AS type,
    p.objective AS objective, p.role AS role, t.queue AS queue,
    transform(t.last_type, ['task.assigned', 'task.started', 'task.retried', 'task.succeeded', 'task.failed', 'task.skipped', 'task.cancelled'],
        ['assigned', 'running', 'assigned', 'succeeded', 'failed', 'skipped', 'cancelled'], 'pending') AS status,
    t.agent_id AS agent_id, t.attempts AS attempts, t.retries AS retries,
    u.turns AS turns,
    if(status IN ('skipped', 'cancelled'), JSONExtractString(t.last_payload, 'reason'),
        JSONExtractString(t.last_payload, 'summary')) AS summary,
    JSONExtractString(t.last_payload, 'problem', 'code') AS problem_code,
    JSONExtractString(t.last_payload, 'problem', 'detail') AS problem_detail,
    u.input_tokens AS input_tokens, u.output_tokens AS output_tokens, u.cost_usd AS cost_usd,
    if(t.was_assigned, t.first_assigned, NULL) AS assigned_at,
    if(status IN ('succeeded', 'failed', 'skipped', 'cancelled'), t.last_time, NULL) AS finished_at
FROM planned AS p LEFT JOIN told AS t ON t.tenant = p.tenant AND t.pipeline_id = p.pipeline_id AND t.task_id = p.task_id
LEFT JOIN used AS u ON u.tenant = p.tenant AND u.pipeline_id = p.pipeline_id AND u.agent_id = t.agent_id
COMMENT 'Each task of each plan with its status; of pipelines as in pipelines.';

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
    messages_refused UInt64 COMMENT 'Messages of outdated attempts that were refused.',
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
    countIf(type = 'agent.attempt_refused') AS messages_refused, minIf(event_time, type = 'agent.created') AS created_at,
    maxIf(event_time, type IN ('agent.created', 'agent.state_changed')) AS state_since
FROM events WHERE topic = 'pipeline.events' AND events.agent_id != ''
GROUP BY tenant, pipeline_id, agent_id HAVING countIf(type = 'agent.created') > 0
COMMENT 'Each agent with its state. A pipeline whose id is used again has other agents.';

CREATE VIEW attempts
(
    tenant LowCardinality(String) COMMENT 'Tenant.',
    pipeline_id String COMMENT 'Its pipeline.',
    task_id String COMMENT 'Its task.',
    agent_id String COMMENT 'Its agent.',
    attempt UInt32 COMMENT 'Its number among the agent''s attempts, from 1.',
    role String COMMENT 'The agent''s role.',
    queue String COMMENT 'The queue that it was handed to.',
    runner_id String COMMENT 'The runner that held it; empty where none took it.',
    outcome String COMMENT 'succeeded, failed or lost (its lease ran out); empty while it runs, or where it was stopped.',
    problem_code String COMMENT 'Code of the problem that ended it; empty without.',
    problem_detail String COMMENT 'That problem.',
    turns UInt64 COMMENT 'Turns that it has finished and that count.',
    input_tokens UInt64 COMMENT 'Tokens sent to models in those turns.',
    output_tokens UInt64 COMMENT 'Tokens received from models in those turns.',
    cost_usd Float64 COMMENT 'Cost of those turns.',
    messages_refused UInt64 COMMENT 'Messages of it that did not count: another attempt was current.',
    assigned_at DateTime64(3, 'UTC') COMMENT 'When it was assigned.',
    started_at Nullable(DateTime64(3, 'UTC')) COMMENT 'When a runner took it.',
    ended_at Nullable(DateTime64(3, 'UTC')) COMMENT 'When it succeeded, failed or was lost.'
)
AS WITH told AS
(
    SELECT tenant, pipeline_id, events.agent_id AS agent_id, events.attempt AS attempt,
        anyIf(events.task_id, type = 'task.assigned') AS task_id,
        anyIf(JSONExtractString(payload, 'role'), type = 'task.assigned') AS role,
        anyIf(JSONExtractString(payload, 'queue'), type = 'task.assigned') AS queue,
        anyIf(JSONExtractString(payload, 'runner_id'), type = 'task.started') AS runner_id,
        argMinIf(type, event_time, is_end) AS last_type, argMinIf(events.payload, event_time, is_end) AS last_payload,
        minIf(event_time, is_end) AS last_time, countIf(is_end) > 0 AS has_ended,
        countIf(type = 'agent.attempt_refused') AS messages_refused,
        minIf(event_time, type = 'task.assigned') AS assigned_at,
        minIf(event_time, type = 'task.started') AS first_started, countIf(type = 'task.started') > 0 AS was_started
    FROM
    (
        SELECT *, type IN ('agent.succeeded', 'agent.failed', 'agent.attempt_lost') AS is_end FROM events
        WHERE (topic = 'pipeline.events' AND type IN ('task.assigned', 'task.started', 'agent.attempt_lost', 'agent.attempt_refused'))
            OR (startsWith(topic, 'agent.events.') AND type IN ('agent.succeeded', 'agent.failed')
                AND event_id NOT IN (SELECT JSONExtractString(payload, 'refused_id') FROM log WHERE topic = 'pipeline.events' AND type = 'agent.attempt_refused')
                AND (topic, partition, offset) NOT IN (SELECT topic, partition, offset FROM dead_letters))
    ) AS events
    GROUP BY tenant, pipeline_id, agent_id, attempt HAVING countIf(type = 'task.assigned') > 0
),
used AS
(
    SELECT tenant, pipeline_id, agent_id, attempt, count() AS turns, sum(turns.input_tokens) AS input_tokens,
        sum(turns.output_tokens) AS output_tokens, sum(turns.cost_usd) AS cost_usd
    FROM turns GROUP BY tenant, pipeline_id, agent_id, attempt
)
SELECT t.tenant AS tenant, t.pipeline_id AS pipeline_id, t.task_id AS task_id, t.agent_id AS agent_id, t.attempt AS attempt,
    t.role AS role, t.queue AS queue, t.runner_id AS runner_id,
    transform(t.last_type, ['agent.succeeded', 'agent.failed', 'agent.attempt_lost'], ['succeeded', 'failed', 'lost'], '') AS outcome,
    JSONExtractString(t.last_payload, 'problem', 'code') AS problem_code,
    JSONExtractString(t.last_payload, 'problem', 'detail') AS problem_detail,
    u.turns AS turns, u.input_tokens AS input_tokens, u.output_tokens AS output_tokens, u.cost_usd AS cost_usd,
    t.messages_refused AS messages_refused, t.assigned_at AS assigned_at,
    if(t.was_started, t.first_started, NULL) AS started_at, if(t.has_ended, t.last_time, NULL) AS ended_at
FROM told AS t LEFT JOIN used AS u
    ON u.tenant = t.tenant AND u.pipeline_id = t.pipeline_id AND u.agent_id = t.agent_id AND u.attempt = t.attempt
COMMENT 'Each attempt of each agent: where it ran, what it took, how it ended.';

CREATE VIEW questions
(
    tenant LowCardinality(String) COMMENT 'Tenant.',
    pipeline_id String COMMENT 'The pipeline that waits.',
    question_id String COMMENT 'The question.',
    agent_id String COMMENT 'The agent that asks.',
    question String COMMENT 'What it asks.',
    options Array(String) COMMENT 'Answers that it offers; any other is taken too.',
    default_answer String COMMENT 'The answer where nobody gives one; empty without.',
    asked_at DateTime64(3, 'UTC') COMMENT 'When it was asked.',
    deadline_at DateTime64(3, 'UTC') COMMENT 'Until when it may be answered.',
    answer String COMMENT 'The answer that counts; empty before.',
    answered_by String COMMENT 'command, default or deadline; empty before.',
    answered_at Nullable(DateTime64(3, 'UTC')) COMMENT 'When it was settled. It stays open where its pipeline ends before.',
    waited_ms Nullable(UInt64) COMMENT 'From the question to the answer.'
)
AS SELECT tenant, pipeline_id, question_id, agent_id, JSONExtractString(asked, 'question') AS question,
    JSONExtract(asked, 'options', 'Array(String)') AS options, JSONExtractString(asked, 'default') AS default_answer, asked_at,
    fromUnixTimestamp64Milli(JSONExtractInt(asked, 'deadline_at_ms'), 'UTC') AS deadline_at,
    JSONExtractString(settled, 'answer') AS answer, JSONExtractString(settled, 'answered_by') AS answered_by,
    if(is_settled, settled_at, NULL) AS answered_at,
    if(is_settled, toUnixTimestamp64Milli(settled_at) - toUnixTimestamp64Milli(asked_at), NULL) AS waited_ms
FROM
(
    SELECT tenant, pipeline_id, JSONExtractString(payload, 'question_id') AS question_id,
        any(events.agent_id) AS agent_id, anyIf(events.payload, type = 'question.asked') AS asked,
        minIf(event_time, type = 'question.asked') AS asked_at,
        anyIf(events.payload, type = 'question.answered') AS settled,
        minIf(event_time, type = 'question.answered') AS settled_at, countIf(type = 'question.answered') > 0 AS is_settled
    FROM events WHERE topic = 'pipeline.events' AND type IN ('question.asked', 'question.answered')
    GROUP BY tenant, pipeline_id, question_id HAVING countIf(type = 'question.asked') > 0
)
COMMENT 'Each question to a person, with its answer.';

CREATE VIEW artifacts
(
    tenant LowCardinality(String) COMMENT 'Tenant.',
    pipeline_id String COMMENT 'Its pipeline.',
    task_id String COMMENT 'The task that left it.',
    agent_id String COMMENT 'The agent that wrote it.',
    name String COMMENT 'Its name in the workspace; empty without.',
    kind String COMMENT 'requirements, design, code, review, report, …; empty without.',
    media_type String COMMENT 'Its media type.',
    size_bytes UInt64 COMMENT 'Its size.',
    sha256 String COMMENT 'SHA-256 of its bytes: GET /api/artifacts/<sha256>.',
    made_at DateTime64(3, 'UTC') COMMENT 'When the task succeeded.',
    event_id String COMMENT 'Id of the event.'
)
AS SELECT tenant, pipeline_id, task_id, agent_id, JSONExtractString(made, 'name') AS name,
    JSONExtractString(made, 'kind') AS kind,
    if(JSONHas(made, 'media_type'), JSONExtractString(made, 'media_type'), 'text/plain; charset=utf-8') AS media_type,
    JSONExtractUInt(made, 'size_bytes') AS size_bytes, JSONExtractString(made, 'sha256') AS sha256,
    event_time AS made_at, event_id
FROM (SELECT *, arrayJoin(JSONExtractArrayRaw(events.payload, 'artifacts')) AS made
    FROM events WHERE topic = 'pipeline.events' AND type = 'task.succeeded')
COMMENT 'What the tasks that succeeded have left.';

CREATE VIEW admission_waiting
(
    pipeline_id String COMMENT 'The pipeline that waits for agents.',
    wanted UInt64 COMMENT 'Agents that it wants to have at once.',
    granted UInt64 COMMENT 'Agents that it may have at once by now.',
    asked_at DateTime64(3, 'UTC') COMMENT 'When it asked for so many.'
)
AS SELECT pipeline_id, argMax(asked, number) AS wanted, argMax(given, number) AS granted, argMax(first_asked, number) AS asked_at
FROM
(
    SELECT if(type = 'admission.requested', JSONExtractString(payload, 'pipeline_id'), log.pipeline_id) AS pipeline_id,
        JSONExtractUInt(payload, 'number') AS number,
        maxIf(JSONExtractUInt(payload, 'slots'), type = 'admission.requested') AS asked,
        max(JSONExtractUInt(payload, if(type = 'admission.granted', 'slots', 'held'))) AS given,
        minIf(event_time, type = 'admission.requested') AS first_asked
    FROM log WHERE topic = 'admission' GROUP BY pipeline_id, number
)
GROUP BY pipeline_id HAVING wanted > granted
COMMENT 'Pipelines that have fewer agents than they want, because the installation has as many as it may.';
