-- Vault's audit file: who used which credential for what, as Vault itself tells. No token and no secret is in it.
CREATE VIEW vault_audit
(
    tenant LowCardinality(String) COMMENT 'Tenant; system for whoever is no pipeline.',
    pipeline_id String COMMENT 'Whose token was used, as its metadata say; empty for services, people, and tokens that nobody knows.',
    at DateTime64(3, 'UTC') COMMENT 'When Vault answered.',
    agent_id String COMMENT 'The agent; empty for a pipeline''s own token, and for whoever is no agent.',
    attempt UInt32 COMMENT 'Its attempt; 0 for none.',
    operation LowCardinality(String) COMMENT 'read, create, update, delete, list, …',
    path String COMMENT 'What it was about.',
    outcome LowCardinality(String) COMMENT 'done, refused or failed.',
    error String COMMENT 'What Vault said; empty where it was done.',
    accessor String COMMENT 'Vault''s name of the token: token_lives.accessor. Empty for a token that Vault does not know, if it was never seen before.',
    known_by LowCardinality(String) COMMENT 'token: Vault knew it. earlier_use: it had ended, and was recognised by its HMAC. Empty: nobody knows whose it was.',
    made_accessor String COMMENT 'The token that was made or renewed; empty for none.',
    token_hmac String COMMENT 'An HMAC of the token, the same in all its uses; Vault alone has the key.',
    display_name String COMMENT 'Vault''s name of who asked, such as approle or token-sluice.',
    policies Array(String) COMMENT 'Policies of the token.',
    entity_id String COMMENT 'Vault''s entity; empty for none.',
    mount_type LowCardinality(String) COMMENT 'kv, transit, token, approle, system, …',
    remote_address String COMMENT 'From where.',
    latency_ms Nullable(Float64) COMMENT 'From the request to the answer; NULL where the request was not seen.',
    request_id String COMMENT 'Vault''s id of the request.',
    event_id String COMMENT 'Id of the event.'
)
AS WITH used AS
(
    -- Not by way of events, and repetitions are looked for by pipeline: a condition on it is pushed down below this.
    SELECT tenant, pipeline_id, event_time, agent_id, attempt, payload, event_id,
        JSONExtractString(payload, 'accessor') AS accessor, JSONExtractString(payload, 'token_hmac') AS hmac
    FROM log WHERE topic = 'vault.audit' AND type = 'vault.used'
        AND (topic, partition, offset) NOT IN (SELECT topic, partition, offset FROM dead_letters)
    LIMIT 1 BY tenant, pipeline_id, event_id
),
-- Of a token that has ended Vault tells the HMAC and nothing else; so it stands with the installation's.
unknown AS
(
    SELECT tenant, event_time, payload, event_id, hmac FROM used WHERE pipeline_id = 'installation' AND accessor = ''
),
known AS
(
    SELECT tenant, pipeline_id, hmac, any(used.agent_id) AS of_agent, any(used.attempt) AS of_attempt,
        any(used.accessor) AS of_accessor
    FROM used WHERE hmac != '' AND accessor != '' AND hmac IN (SELECT hmac FROM unknown) GROUP BY tenant, pipeline_id, hmac
)
SELECT tenant, pipeline_id, event_time AS at, agent_id, attempt,
    JSONExtractString(payload, 'operation') AS operation, JSONExtractString(payload, 'path') AS path,
    JSONExtractString(payload, 'outcome') AS outcome, JSONExtractString(payload, 'error') AS error, accessor, known_by,
    JSONExtractString(payload, 'made_accessor') AS made_accessor, hmac AS token_hmac,
    JSONExtractString(payload, 'display_name') AS display_name, JSONExtract(payload, 'policies', 'Array(String)') AS policies,
    JSONExtractString(payload, 'entity_id') AS entity_id, JSONExtractString(payload, 'mount_type') AS mount_type,
    JSONExtractString(payload, 'remote_address') AS remote_address,
    if(JSONHas(payload, 'latency_us'), JSONExtractUInt(payload, 'latency_us') / 1000, NULL) AS latency_ms,
    JSONExtractString(payload, 'request_id') AS request_id, event_id
FROM
(
    SELECT tenant, pipeline_id, event_time, agent_id, attempt, accessor, if(accessor != '', 'token', '') AS known_by, hmac, payload, event_id
    FROM used WHERE pipeline_id != 'installation'
    UNION ALL
    SELECT tenant, '' AS pipeline_id, event_time, agent_id, attempt, accessor, 'token' AS known_by, hmac, payload, event_id
    FROM used WHERE used.pipeline_id = 'installation' AND accessor != ''
    UNION ALL
    SELECT k.tenant AS tenant, k.pipeline_id AS pipeline_id, u.event_time AS event_time, k.of_agent AS agent_id, k.of_attempt AS attempt,
        k.of_accessor AS accessor, 'earlier_use' AS known_by, u.hmac AS hmac, u.payload AS payload, u.event_id AS event_id
    FROM unknown AS u INNER JOIN known AS k ON k.hmac = u.hmac WHERE k.pipeline_id != 'installation'
    UNION ALL
    SELECT k.tenant AS tenant, '' AS pipeline_id, u.event_time AS event_time, k.of_agent AS agent_id, k.of_attempt AS attempt,
        k.of_accessor AS accessor, 'earlier_use' AS known_by, u.hmac AS hmac, u.payload AS payload, u.event_id AS event_id
    FROM unknown AS u INNER JOIN known AS k ON k.hmac = u.hmac WHERE k.pipeline_id = 'installation'
    UNION ALL
    SELECT u.tenant AS tenant, '' AS pipeline_id, u.event_time AS event_time, '' AS agent_id, toUInt32(0) AS attempt, '' AS accessor,
        '' AS known_by, u.hmac AS hmac, u.payload AS payload, u.event_id AS event_id
    FROM unknown AS u LEFT ANTI JOIN known AS k ON k.hmac = u.hmac
)
COMMENT 'Every use of Vault, refused ones too, as its audit file tells.';

CREATE VIEW vault_audit_faults
(
    at DateTime64(3, 'UTC') COMMENT 'When it was found.',
    type LowCardinality(String) COMMENT 'audit.line_refused: a line can''t be read. audit.lines_lost: a file was gone before it was read to its end.',
    file String COMMENT 'SHA-256 of the file''s first line, 4 KiB at most.',
    offset UInt64 COMMENT 'Where in it.',
    reason String COMMENT 'not_utf8, not_json, no_entry, too_large or incomplete; empty for lines lost.',
    detail String COMMENT 'For people.',
    event_id String COMMENT 'Id of the event.'
)
AS SELECT event_time AS at, type,
    if(type = 'audit.lines_lost', JSONExtractString(payload, 'file'), JSONExtractString(payload, 'place', 'file')) AS file,
    if(type = 'audit.lines_lost', JSONExtractUInt(payload, 'offset'), JSONExtractUInt(payload, 'place', 'offset')) AS offset,
    JSONExtractString(payload, 'reason') AS reason, JSONExtractString(payload, 'detail') AS detail, event_id
FROM
(
    SELECT event_time, type, payload, event_id FROM log AS l WHERE topic = 'vault.audit' AND startsWith(type, 'audit.')
        AND (l.topic, l.partition, l.offset) NOT IN (SELECT topic, partition, offset FROM dead_letters)
    LIMIT 1 BY event_id
)
COMMENT 'What of Vault''s audit file is in no use: empty is good.';
