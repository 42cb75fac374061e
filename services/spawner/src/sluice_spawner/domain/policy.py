"""What an operator may set of the spawner's decisions, and the limits that nobody may."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sluice_contracts.constraints import NO_SECRETS, READ_ONLY, SANDBOX_ONLY

AGENT_RUN_MAX_BYTES = 80 * 1024
"""An `agent.run` stays below this: it is written for every attempt, and read by runners that hold hundreds."""

TASK_MAX_BYTES = 36 * 1024
"""What of an `agent.run` is fixed by the plan (task, objective, inputs). A plan with more is refused."""

ANSWER_MAX_BYTES = 4 * 1024
"""One answer as JSON. `QUESTIONS_PER_AGENT_MAX_COUNT` of them must fit into an `agent.run`."""

QUESTIONS_PER_AGENT_MAX_COUNT = 4
"""Questions of one agent that are pending, or answered and not yet seen in a finished turn."""

BLACKBOARD_KEYS_MAX_COUNT = 128
"""Keys of one pipeline, in its life: a key that was deleted keeps its version. With keys of the longest kind the index
is 16 KiB, which every new key rewrites."""

BLACKBOARD_KEY_MAX_CHARACTERS = 128
"""An identifier: it is part of a key of the state, and a value in ClickHouse."""

BLACKBOARD_VALUE_MAX_BYTES = 3 * 1024
"""A value with its escapes, as it stands in an answer of `ANSWER_MAX_BYTES`. Larger things are artifacts."""

BLACKBOARD_REQUESTS_PER_TURN_MAX_COUNT = 16
"""Requests of one agent whose answers no finished turn has seen: as many as a role runs tool calls in a turn."""

BLACKBOARD_ANSWERS_MAX_BYTES = 16 * 1024
"""All their answers together: they ride in an `agent.run`, beside those of people."""

BLACKBOARD_TTL_MAX_S = 7 * 86_400
"""Longer than a pipeline lives, as questions wait at most."""

CONFLICTS_PER_AGENT_MAX_COUNT = 16
"""Conflicts that one agent has lost and not settled: some 200 bytes each in an entity that every turn rewrites."""

QUESTION_MAX_BYTES = 64 * 1024
"""A request with its options; it stands in one `question.asked`."""

PLAN_MAX_BYTES = 192 * 1024
"""A plan as we write it (names of dependencies are edges by then): `pipeline.spawned` carries it with its envelope."""

OUTCOME_MAX_BYTES = 32 * 1024
"""A task's summary and artifacts as they are kept: they ride in state and in the records of later tasks. The hundred
artifacts that an agent of ours may write fit with names of usual length."""

REPORT_MAX_BYTES = 128 * 1024
"""All outcomes of a `pipeline.reported`, shortened evenly if they are more."""

STARTS_PER_DECISION_MAX_COUNT = 16
"""Attempts handed out by one decision: 16 records of at most 80 KiB keep it near 1 MiB. A timer brings the rest."""

TIMERS_PER_DECISION_MAX_COUNT = 16
"""Timers that one `pipeline.tick` fires: each may hand out an attempt, beside the starts of the whole decision."""

GRANTS_PER_DECISION_MAX_COUNT = 256
"""Pipelines that one decision of the arbiter serves: 256 records of half a KiB stay far below a batch. A timer brings
the rest."""

WAITING_LOOK_MS = 30_000
"""While a pipeline waits for slots, the arbiter looks this often whether there are some: a limit that was raised is
noticed without anybody's request, for one journal record each time."""

REMEMBERED_REFUSALS_MAX_COUNT = 64
"""Refused inputs that a pipeline remembers, so that a redelivery is not refused again. A redelivery follows closely."""

KNOWN_CONSTRAINTS = (NO_SECRETS, READ_ONLY, SANDBOX_ONLY)
"""The constraints of a task (P3) that runners enforce; a plan with another is refused."""


@dataclass(frozen=True, slots=True)
class SpawnerPolicy:
    """Settings of the decisions. Changing one changes what is decided from then on, never what was."""

    spawn_timeout_s: int = 10
    """From the assignment of an attempt until a runner says that it holds it (P13)."""

    spawn_attempts_max: int = 30
    """Attempts in a row that no runner took; then the task fails. Thirty bridge five minutes without runners."""

    lost_attempts_max: int = 100
    """Attempts of one agent whose lease ran out, or whose credential ended; then the task fails. A task may last a day,
    and each leaves 60 bytes in the agent's entity."""

    questions_per_pipeline_max: int = 1_000
    """Questions of one pipeline over its life: each leaves some 200 bytes in the state until the pipeline ends."""

    blackboard_ttl_s: int = 3_600
    """How long a value of a blackboard lasts, if its writer does not say (A4)."""

    installation_agents_max: int = 50
    """Agents that live at once in the whole installation (P13): what its runners, its models and its budget can take.
    Lowered, nobody loses what he has; nothing is granted until as much was given back."""

    credentials: bool = False
    """Whether pipelines that are spawned from now on have credentials (V1), and error budgets that end them."""

    token_wait_s: int = 1_800
    """An agent that waits for a person for longer gives its credential up, and gets another when it goes on (V1)."""

    diagnostic_depth_max: int = 1
    """0: nothing is diagnosed unasked; 1: a pipeline that lost its credentials is, a diagnostic that did is not; 2:
    that is too (O6)."""

    finished_retention_s: int = 8 * 86_400
    """How long a finished pipeline is known, so that a second spawn meets the first. Longer than commands and signals
    are kept (7 days), and than the monitor remembers what it told of it: a command that is read again must not start
    what has ended, nor another life of an id inherit what was told of the last."""


@dataclass(frozen=True, slots=True)
class RoleCatalogue:
    """The roles that exist, and the queues that were created.

    Attributes:
        queue_of: Role name to the name of its queue.
        queues: Queues that have their topics.
    """

    queue_of: Mapping[str, str]
    queues: frozenset[str]
