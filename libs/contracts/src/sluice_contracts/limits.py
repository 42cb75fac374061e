"""Every limit of the contract, with its unit in its name and its reason beside it."""

MESSAGE_VALUE_MAX_BYTES = 256 * 1024
"""A value larger than this is refused: state, journal records and batches stay bounded. Bodies travel by reference."""

INLINE_BODY_MAX_BYTES = 64 * 1024
"""A prompt, response or result up to this size stands in its event; a larger one is an artifact named by its hash."""

RECORD_MAX_BYTES = 2 * 1024 * 1024
"""`max.message.bytes` of the topics: above the contract's own limit, so that an oversized record can be refused. It
bounds a batch of records as they are read: the broker undoes compression."""

STORE_RECORD_MAX_BYTES = 16 * 1024 * 1024
"""`max.message.bytes` of a service's own topics: a batch of decisions is one record."""

JSON_MAX_DEPTH = 32
"""No message of ours nests deeper than eight; a hostile one must not reach a recursive parser."""

HEADERS_MAX_COUNT = 64
"""CloudEvents and tracing need about fifteen. A dead letter keeps as many of its record's: each name is
longer there by a prefix, and half a million of them would make a letter that no topic takes."""

ATTRIBUTE_MAX_CHARACTERS = 1_024
"""One CloudEvents attribute: ids and sources become parts of keys, state and the headers of what they cause."""

TEXT_MAX_CHARACTERS = 32_000
"""An objective, a criterion, a question, an answer: more belongs into an artifact."""

SUMMARY_MAX_CHARACTERS = 4_000
"""A result's summary rides in state and in the records of later tasks; the whole result is an artifact."""

TASKS_MAX_COUNT = 1_000
"""Tasks in one plan: a plan must fit into one message."""

IDENTIFIER_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.\-]{0,127}$"
"""Names that become keys, file names and ClickHouse values."""

BLACKBOARD_NAME_MAX_CHARACTERS = 1_024
"""A key of the blackboard as it is asked for. A lawful one is an identifier; what is longer is answered, up to this."""

COUNT_MAX = 2**53 - 1
"""The largest integer that every reader of JSON keeps exactly (RFC 8259 §6). What is folded into state fits in it."""

COST_MAX_USD = 1e9
"""A billion dollars: what costs more is a mistake. Infinity and what is not a number are none."""

COST_DIGITS = 9
"""Costs are summed to a billionth of a dollar, a thousandth of a token's price: no binary fractions show."""

UNTAKEN_MAX_S = 60
"""The longest that the spawner may wait for an attempt to be taken, before it hands out the next. An older `agent.run`
is passed over by runners: so when their group is rewound, what ended long ago is not paid for again."""

SEALED_MAX_CHARACTERS = 1_024
"""A sealed token: Vault's are some hundred characters, and with its cipher's overhead some two hundred."""
