"""The topic table: all that is known about a topic, in one place.

Topic creation, ACLs, the AsyncAPI document and the operators' documentation are generated from it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Literal

from sluice_contracts import limits
from sluice_contracts.messages import (
    Message,
    admission,
    agent,
    alert,
    audit,
    blackboard,
    pipeline,
    report,
    signal,
    token,
)

DAY_MS = 86_400_000


class Principal(StrEnum):
    """Kafka principals: one for each service, one for people and other systems, one for replaying dead letters."""

    SPAWNER = "spawner"
    AGENT_RUNNER = "agent-runner"
    OBSERVABILITY = "observability"
    MONITOR = "monitor"
    VAULT_BROKER = "vault-broker"
    VAULT_AUDIT = "vault-audit"
    OPERATOR = "operator"
    DLQ_OPERATOR = "dlq-operator"


SERVICES = (
    Principal.SPAWNER, Principal.AGENT_RUNNER, Principal.OBSERVABILITY, Principal.MONITOR, Principal.VAULT_BROKER,
    Principal.VAULT_AUDIT,
)  # fmt: skip
"""The principals whose names no other producer may give as its source."""

Key = Literal[
    "pipeline_id", "pipeline_id/entity", "pipeline_id/installation", "agent_id", "runner_id", "partition", "scope"
]
Partitioning = Literal["pipeline", "agent", "single"]


@dataclass(frozen=True, slots=True)
class Topic:
    """One row of the table. `name` has no prefix; `<q>` in it stands for a queue.

    Attributes:
        key: What the record's key holds.
        partitioning: Topics of one group have one partition count, so that what a service folds together meets in
            one partition.
        retention_ms: None keeps for ever.
        writers: The one class of writers (architecture §3): Kafka's ACL lets nobody else.
        readers: Who may read.
        refused_by: Who puts an invalid record onto the dead-letter topic; None where nothing is refused.
        messages: What may stand on it; empty where the format is the owner's own.
        doc: One sentence for people.
        append_time: Whether the record's time is Kafka's own, of when it appended it, whatever the producer says.
    """

    name: str
    key: Key
    partitioning: Partitioning
    cleanup: Literal["delete", "compact"]
    retention_ms: int | None
    writers: tuple[Principal, ...]
    readers: tuple[Principal, ...]
    refused_by: Principal | None
    messages: tuple[type[Message], ...]
    doc: str
    append_time: bool = False

    @property
    def per_queue(self) -> bool:
        """Whether there is one such topic for each queue."""
        return "<q>" in self.name

    @property
    def internal(self) -> bool:
        """Whether it is one service's own store, which nobody else reads and the event log leaves out."""
        return not self.messages

    def for_queue(self, queue: str) -> str:
        """The topic's name for a queue."""
        return self.name.replace("<q>", queue)


_LOOKING_BACK = (Principal.SPAWNER, Principal.VAULT_BROKER, Principal.MONITOR)
"""Who looks, when it takes a partition over, at what was written before, to publish only what lacks."""

_IN_TRANSACTIONS = (Principal.SPAWNER, Principal.VAULT_BROKER, Principal.OBSERVABILITY, Principal.VAULT_AUDIT)
"""Who writes transactions: checkpoints; reports, and uses of Vault, with the position after what they tell of."""

_DEAD_LETTER_READERS = (Principal.OBSERVABILITY, Principal.OPERATOR, Principal.DLQ_OPERATOR)
_S, _R, _O = Principal.SPAWNER, Principal.AGENT_RUNNER, Principal.OBSERVABILITY
_M, _V, _A, _P = Principal.MONITOR, Principal.VAULT_BROKER, Principal.VAULT_AUDIT, Principal.OPERATOR

PIPELINE_COMMANDS = Topic(
    "pipeline.commands", "pipeline_id", "pipeline", "delete", 7 * DAY_MS,
    writers=(_P, _O, _S), readers=(_S, _O), refused_by=_S,
    messages=(pipeline.PipelineSpawn, pipeline.PipelineCancel, pipeline.PipelineAnswer, pipeline.PipelineTick),
    doc="What people and other systems want of the spawner.",
)  # fmt: skip
PIPELINE_EVENTS = Topic(
    "pipeline.events", "pipeline_id", "pipeline", "delete", 365 * DAY_MS,
    writers=(_S,), readers=(_O, _P), refused_by=_O,
    messages=(
        pipeline.PipelineSpawned, pipeline.PipelineRefused, pipeline.PipelineStateChanged, pipeline.PipelineReported,
        pipeline.PipelineCompleted, pipeline.PipelineFailed, pipeline.PipelineCancelled,
        pipeline.TaskAssigned, pipeline.TaskStarted, pipeline.TaskRetried, pipeline.TaskSucceeded,
        pipeline.TaskFailed, pipeline.TaskSkipped, pipeline.TaskCancelled,
        pipeline.AgentCreated, pipeline.AgentStateChanged, pipeline.AgentAttemptLost, pipeline.AgentAttemptRefused,
        pipeline.QuestionAsked, pipeline.QuestionAnswered,
        blackboard.BlackboardWritten, blackboard.BlackboardDeleted,
        blackboard.BlackboardConflictDetected, blackboard.BlackboardConflictResolved,
    ),
    doc="What the spawner decided, in its order.",
)  # fmt: skip
PIPELINE_JOURNAL = Topic(
    "pipeline.journal", "partition", "pipeline", "delete", None,
    writers=(_S,), readers=(_S,), refused_by=None, messages=(),
    doc="The spawner's decisions: state deltas, outputs and input offsets in one record each. Trimmed at checkpoints.",
)  # fmt: skip
PIPELINE_STATE = Topic(
    "pipeline.state", "pipeline_id/entity", "pipeline", "compact", None,
    writers=(_S,), readers=(_S,), refused_by=None, messages=(),
    doc="The spawner's state at its last checkpoint.",
)  # fmt: skip
AGENT_TASKS = Topic(
    "agent.tasks.<q>", "agent_id", "agent", "delete", 7 * DAY_MS,
    writers=(_S,), readers=(_R, _O), refused_by=_R, messages=(agent.AgentRun,),
    doc="Attempts for the runners of a queue.",
)  # fmt: skip
AGENT_INBOX = Topic(
    "agent.inbox.<q>", "agent_id", "agent", "delete", 7 * DAY_MS,
    writers=(_S,), readers=(_R, _O), refused_by=_R, messages=(agent.AgentStop, agent.AgentAnswer, agent.AgentThrottle),
    doc="What running agents of a queue must hear at once.",
)  # fmt: skip
AGENT_EVENTS = Topic(
    "agent.events.<q>", "pipeline_id", "pipeline", "delete", 365 * DAY_MS,
    writers=(_R,), readers=(_S, _O, _P), refused_by=_S,
    messages=(
        agent.AgentAttemptStarted, agent.AgentTurnFinished, agent.AgentSucceeded, agent.AgentFailed,
        agent.AgentInputRequested, agent.AgentGrantOpened, agent.AgentGrantRefused,
        blackboard.BlackboardReadRequested, blackboard.BlackboardWriteRequested,
    ),
    doc="What the runners of a queue report and ask.",
)  # fmt: skip
ADMISSION = Topic(
    "admission", "pipeline_id/installation", "pipeline", "delete", 7 * DAY_MS,
    writers=(_S,), readers=(_S, _O), refused_by=_S,
    messages=(admission.AdmissionRequested, admission.AdmissionGranted),
    doc="How many agents each pipeline may have at once, of all that the installation may have.",
)  # fmt: skip
TOKEN_COMMANDS = Topic(
    "token.commands", "pipeline_id", "pipeline", "delete", 7 * DAY_MS,
    writers=(_S, _O, _P), readers=(_V, _O), refused_by=_V,
    messages=(token.TokenRequest, token.TokenRevoke, token.TokenRenew),
    doc="Which credentials the spawner needs, and which it, or anybody with the right, wants to end.",
)  # fmt: skip
TOKEN_EVENTS = Topic(
    "token.events", "pipeline_id", "pipeline", "delete", 365 * DAY_MS,
    writers=(_V,), readers=(_S, _O, _P), refused_by=_S,
    messages=(
        token.TokenGranted, token.TokenDenied, token.TokenRenewed, token.TokenRevoked, token.TokenExpired,
    ),
    doc="The life of every credential, in the order in which the vault-broker decided it.",
)  # fmt: skip
TOKEN_JOURNAL = Topic(
    "token.journal", "partition", "pipeline", "delete", None,
    writers=(_V,), readers=(_V,), refused_by=None, messages=(),
    doc="The vault-broker's decisions. Trimmed at checkpoints.",
)  # fmt: skip
TOKEN_STATE = Topic(
    "token.state", "pipeline_id/entity", "pipeline", "compact", None,
    writers=(_V,), readers=(_V,), refused_by=None, messages=(),
    doc="The vault-broker's state at its last checkpoint.",
)  # fmt: skip
VAULT_AUDIT = Topic(
    "vault.audit", "pipeline_id/installation", "pipeline", "delete", 90 * DAY_MS,
    writers=(_A,), readers=(_O, _P), refused_by=_O,
    messages=(audit.VaultUsed, audit.AuditLineRefused, audit.AuditLinesLost),
    doc="Each use of Vault, as its audit file tells: who used which credential for what, refused uses too.",
)  # fmt: skip
AUDIT_POSITION = Topic(
    "audit.position", "partition", "single", "delete", None,
    writers=(_A,), readers=(_A,), refused_by=None, messages=(),
    doc="How far Vault's audit file has been read: its last record counts. Trimmed.",
)  # fmt: skip
SIGNALS = Topic(
    "signals", "pipeline_id", "pipeline", "delete", 7 * DAY_MS,
    writers=(_R, _S, _P), readers=(_M, _O), refused_by=_M,
    messages=(signal.WatchChanged, signal.ProgressReported, signal.ErrorReported, signal.ViolationReported),
    doc="What error budgets are counted by: errors, API calls, progress, violations, and nothing else.",
    append_time=True,
)  # fmt: skip
BUDGETS = Topic(
    "budgets", "scope", "single", "compact", None,
    writers=(_P,), readers=(_M, _O), refused_by=_M, messages=(alert.BudgetSet,),
    doc="The limits of error budgets, where they differ from the installation's settings.",
)  # fmt: skip
ALERTS = Topic(
    "alerts", "pipeline_id", "pipeline", "delete", 365 * DAY_MS,
    writers=(_M,), readers=(_V, _S, _O, _P), refused_by=_V, messages=(alert.AlertRaised,),
    doc="Each breach of an error budget, once.",
)  # fmt: skip
MONITOR_STATE = Topic(
    "monitor.state", "pipeline_id", "pipeline", "compact", None,
    writers=(_M,), readers=(_M,), refused_by=None, messages=(),
    doc="The monitor's table: what of each pipeline's signals can still matter to its budgets.",
    append_time=True,
)  # fmt: skip
REPORTS = Topic(
    "reports", "pipeline_id", "pipeline", "delete", 365 * DAY_MS,
    writers=(_O,), readers=(_S, _O, _P), refused_by=_S, messages=(report.HandoffReported,),
    doc="Handoff reports: their summaries, and where they stand in the artifact store.",
)  # fmt: skip
RUNNER_HEARTBEATS = Topic(
    "runner.heartbeats", "runner_id", "single", "delete", DAY_MS,
    writers=(_R,), readers=(_S, _O), refused_by=_S, messages=(agent.RunnerHeartbeat,),
    doc="One record for all attempts of a runner, every second.",
)  # fmt: skip

TOPICS: tuple[Topic, ...] = (
    PIPELINE_COMMANDS, PIPELINE_EVENTS, PIPELINE_JOURNAL, PIPELINE_STATE,
    AGENT_TASKS, AGENT_INBOX, AGENT_EVENTS, ADMISSION, RUNNER_HEARTBEATS,
    TOKEN_COMMANDS, TOKEN_EVENTS, TOKEN_JOURNAL, TOKEN_STATE, VAULT_AUDIT, AUDIT_POSITION,
    SIGNALS, BUDGETS, ALERTS, MONITOR_STATE, REPORTS,
)  # fmt: skip


def dead_letter_topic(topic: str) -> str:
    """The name of a topic's dead-letter topic."""
    return f"dlq.{topic}"


@dataclass(frozen=True, slots=True)
class ConcreteTopic:
    """A topic as it is created in Kafka. `name` has no prefix."""

    name: str
    row: Topic
    partitions: int
    configs: dict[str, str]


def concrete_topics(*, queues: Sequence[str], partitions: int) -> list[ConcreteTopic]:
    """All topics of an installation, dead-letter topics included, in the table's order.

    Args:
        queues: The queues that exist.
        partitions: Count for co-partitioned topics. It is fixed at creation: changing it would send a pipeline's next
            message to another partition than its last.
    """
    found = []
    for row in TOPICS:
        for name in [row.for_queue(queue) for queue in queues] if row.per_queue else [row.name]:
            count = 1 if row.partitioning == "single" else partitions
            found.append(ConcreteTopic(name, row, count, _configs(row)))
            if row.refused_by is not None:
                configs = {"cleanup.policy": "delete", "retention.ms": str(365 * DAY_MS)}
                configs["max.message.bytes"] = str(2 * limits.RECORD_MAX_BYTES)
                found.append(ConcreteTopic(dead_letter_topic(name), row, 1, configs))
    return found


def _configs(row: Topic) -> dict[str, str]:
    size = limits.STORE_RECORD_MAX_BYTES if row.internal else limits.RECORD_MAX_BYTES
    # Uncompressed: whatever codec a producer uses every reader can read, and 30 KB can't become 30 MB in its memory.
    configs = {"cleanup.policy": row.cleanup, "max.message.bytes": str(size), "compression.type": "uncompressed"}
    if row.append_time:
        configs["message.timestamp.type"] = "LogAppendTime"
    if row.cleanup == "delete":
        configs["retention.ms"] = str(-1 if row.retention_ms is None else row.retention_ms)
    return configs


@lru_cache(maxsize=4_096)
def find(name: str) -> Topic | None:
    """The row of a topic's name (without prefix), or None if the table has none. Asked for every record: cached."""
    for row in TOPICS:
        if row.name == name:
            return row
        if row.per_queue:
            stem = row.name.removesuffix("<q>")
            if name.startswith(stem) and len(name) > len(stem):
                return row
    return None


def topic_of(message: type[Message]) -> Topic:
    """The row of the one topic on which a message may stand.

    Raises:
        LookupError: No topic, or more than one, lists the message.
    """
    rows = [row for row in TOPICS if message in row.messages]
    if len(rows) != 1:
        raise LookupError(f"message {message.type} stands on {len(rows)} topics; it must stand on one")
    return rows[0]


@dataclass(frozen=True, slots=True)
class AclRule:
    """One right of one principal."""

    principal: Principal
    resource_type: Literal["topic", "group", "transactional_id"]
    pattern: Literal["literal", "prefixed"]
    resource: str
    operations: tuple[str, ...]


def acls(topics: Iterable[ConcreteTopic], *, prefix: str) -> list[AclRule]:
    """The least rights with which every principal can do its work, and nothing else (D2)."""
    rules: list[AclRule] = []

    def topic(principal: Principal, name: str, *operations: str) -> None:
        rules.append(AclRule(principal, "topic", "literal", prefix + name, (*operations, "describe")))

    for concrete in topics:
        row, name = concrete.row, concrete.name
        if name.startswith("dlq."):
            for principal in Principal:
                looks_back = principal is row.refused_by and principal in _LOOKING_BACK
                operations = ["read"] if principal in _DEAD_LETTER_READERS or looks_back else []
                operations += ["write"] if principal is row.refused_by else []
                if operations:
                    topic(principal, name, *operations)
            continue
        for principal in Principal:
            looks_back = principal in row.writers and principal in _LOOKING_BACK
            operations = ["read"] if principal in row.readers or looks_back else []
            if principal in row.writers or (principal is Principal.DLQ_OPERATOR and row.refused_by):
                operations.append("write")
            if row.key == "partition" and principal in row.writers:
                operations.append("delete")  # DeleteRecords trims the journal at a checkpoint
            if operations:
                topic(principal, name, *operations)
    for principal in Principal:
        group = f"{prefix}{principal}"
        rules.append(AclRule(principal, "group", "prefixed", group, ("read", "describe")))
    for principal in _IN_TRANSACTIONS:
        own = f"{prefix}{principal}"
        rules.append(AclRule(principal, "transactional_id", "prefixed", own, ("write", "describe")))
    return sorted(rules, key=lambda rule: (rule.principal, rule.resource_type, rule.resource))
