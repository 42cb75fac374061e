"""Every limit of the runner's domain, with its unit in its name and its reason beside it."""

TOOL_CALLS_MAX_COUNT = 128
"""Tool calls in one model answer. A provider that sends more is not talking sense; a role allows far fewer."""

ARGUMENTS_MAX_BYTES = 1024 * 1024
"""Arguments of one tool call: a written artifact is the largest lawful one."""

ARGUMENTS_MAX_DEPTH = 20
"""Arguments stand in `agent.turn_finished` below two levels of it; the contract reads 32."""

ARGUMENTS_INLINE_MAX_BYTES = 8 * 1024
"""The contract's own limit for `ToolCall.arguments`; larger ones travel by reference."""

CALL_ID_MAX_CHARACTERS = 64
"""Providers name calls in 9 to 40 characters; the contract takes 128."""

TOOL_NAME_MAX_CHARACTERS = 64
"""What OpenAI's protocol allows for a function's name."""

RESULT_MAX_BYTES = 256 * 1024
"""A task's result as JSON. Larger things are artifacts."""

ARTIFACT_CONTENT_MAX_CHARACTERS = 512 * 1024
"""One written artifact: a model writes it in one answer, so anything near this is a runaway."""

ARTIFACTS_MAX_COUNT = 100
"""Artifacts of one agent: their references must fit into one `agent.succeeded`."""

MODEL_TEXT_MAX_CHARACTERS = 1024 * 1024
"""Text of one model answer: above the output limit of every model known."""

QUESTION_MAX_CHARACTERS = 4_000
"""A person has to read it."""

ANSWER_MAX_CHARACTERS = 4_000
"""A question's default. The spawner hands agents answers of 4 KiB; the contract takes more."""

BOARD_NAME_MAX_CHARACTERS = 1_024
BOARD_VALUE_MAX_CHARACTERS = 32_000
"""What the contract takes. The spawner allows far less, and says so; what is larger would never reach it."""

OPTION_MAX_CHARACTERS = 500
OPTIONS_MAX_COUNT = 20
"""More is a form, not a question."""

PROBLEM_DETAIL_MAX_CHARACTERS = 2_000
"""Errors are read by people; a provider's page of HTML is not."""

NAME_MAX_CHARACTERS = 255
NAME_COMPONENT_MAX_BYTES = 255
"""The file system's own limit for one component."""

NAME_MAX_DEPTH = 16
"""Deeper trees are accidents or attacks."""

SCHEMA_MAX_BYTES = 64 * 1024
"""A task's output schema rides in its `agent.run`, which is bounded alike."""

SCHEMA_STEPS_MAX_COUNT = 500_000
"""Steps of one validation, some microseconds each. The largest lawful result (256 KiB of numbers in one array) takes
260,000; a schema can be made to unfold exponentially."""

META_SCHEMA_STEPS_MAX_COUNT = 2_000_000
"""Steps of the check of a schema itself, whose unfolding is ours: 64 KiB of tiny subschemas take below a million."""

SCHEMA_ERRORS_MAX_COUNT = 5
"""Errors told to the model at once."""

HELD_MAX_COUNT = 1_400
"""Attempts that a runner may hold: one heartbeat names them all, at most 180 bytes each, in one message."""
