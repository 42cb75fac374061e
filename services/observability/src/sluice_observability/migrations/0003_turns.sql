-- What agents did: a row for each turn, model call and tool call that counts.
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
