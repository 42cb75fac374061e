"""What people see of pipelines: plain values, folded from events by `read_model`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import Field

from sluice_contracts.handoff import TokenState
from sluice_contracts.messages.alert import AlertAction, AlertCondition
from sluice_contracts.messages.base import AgentState, ArtifactRef, PipelineState, Problem, TaskStatus, Usage

TERMINAL: frozenset[PipelineState] = frozenset({"COMPLETED", "FAILED", "CANCELLED"})


@dataclass(slots=True)
class TaskView:
    """A task of a pipeline."""

    task_id: str
    objective: str
    role: str
    status: TaskStatus = "pending"
    queue: str | None = None
    agent_id: str | None = None
    attempt: int = 0
    retries: int = 0
    turns: int = 0
    summary: str = ""
    problem: Problem | None = None
    usage: Usage = field(default_factory=Usage)
    artifacts: tuple[ArtifactRef, ...] = ()
    updated_at_ms: int = 0


@dataclass(slots=True)
class AgentView:
    """An agent of a pipeline. While it runs, `turns` and `usage` are what its runners said; the end's are exact."""

    agent_id: str
    pipeline_id: str
    tenant: str
    task_id: str = ""
    role: str = ""
    queue: str = ""
    state: AgentState = "CREATED"
    attempt: int = 0
    attempts_lost: int = 0
    messages_refused: int = 0
    runner_id: str | None = None
    model: str | None = None
    turns: int = 0
    usage: Usage = field(default_factory=Usage)
    last_problem: Problem | None = None
    transcript: ArtifactRef | None = None
    turn_finished_at_ms: int = 0
    updated_at_ms: int = 0
    told: Annotated[Any, Field(exclude=True)] = None
    """What `told_turns` keeps of its turns, to take back what is refused. Not shown."""


@dataclass(slots=True)
class QuestionView:
    """A question that waits for an answer."""

    question_id: str
    agent_id: str
    question: str
    options: tuple[str, ...]
    default: str | None
    deadline_at_ms: int


@dataclass(slots=True)
class KeyView:
    """A key of the blackboard, after its last write. Its value stands in the log."""

    key: str
    version: int
    agent_id: str
    deleted: bool
    written_at_ms: int
    expires_at_ms: int | None = None


@dataclass(slots=True)
class TokenView:
    """The life of a credential. `accessor` is Vault's name of it, and unknown while it is only asked for."""

    accessor: str | None
    agent_id: str | None
    attempt: int | None
    state: TokenState
    parent_accessor: str | None = None
    requested_at_ms: int | None = None
    granted_at_ms: int | None = None
    renewed_at_ms: int | None = None
    renewals: int = 0
    expires_at_ms: int | None = None
    ends_at_ms: int | None = None
    ended_at_ms: int | None = None
    reason: str | None = None
    detail: str = ""
    alert_id: str | None = None
    latency_ms: int | None = None


@dataclass(slots=True)
class AlertView:
    """A breach of a budget. When its alert was raised stands in the log."""

    alert_id: str
    pipeline_id: str
    tenant: str
    condition: AlertCondition
    action: AlertAction
    agent_id: str | None
    attempt: int | None
    observed: int
    limit: int
    window_ms: int
    detail: str
    breached_at_ms: int
    evidence: tuple[str, ...] = ()


@dataclass(slots=True)
class ErrorsView:
    """Errors of one kind that one agent had, or nobody in particular. `detail` is the last one's; `details` counts the
    first few that differ.
    """

    code: str
    type: str
    agent_id: str | None
    count: int
    first_at_ms: int
    last_at_ms: int
    detail: str
    details: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class HandoffView:
    """A handoff report, by its references."""

    event_id: str
    cause: str
    cause_id: str
    reason: str
    summary: str
    complete: bool
    errors: int
    report: ArtifactRef
    markdown: ArtifactRef
    reported_at_ms: int


@dataclass(slots=True)
class DiagnosedView:
    """What a diagnostic pipeline is about."""

    pipeline_id: str
    alert_id: str | None
    depth: int


@dataclass(slots=True)
class FindingsView:
    """What a diagnostic pipeline has found."""

    summary: str = ""
    cause: str = ""
    evidence: tuple[str, ...] = ()
    recommendations: tuple[str, ...] = ()


@dataclass(slots=True)
class DiagnosticView:
    """A pipeline that finds out why this one failed."""

    pipeline_id: str
    state: PipelineState
    findings: FindingsView | None


@dataclass(slots=True)
class PipelineSummary:
    """A pipeline in a list."""

    pipeline_id: str
    tenant: str
    objective: str
    state: PipelineState
    reason: str
    spawned_at_ms: int
    updated_at_ms: int
    tasks_total: int
    tasks_succeeded: int
    tasks_failed: int
    questions_pending: int
    labels: dict[str, str]


@dataclass(slots=True)
class PipelineView:
    """A pipeline whole."""

    pipeline_id: str
    tenant: str
    spawned: bool = False
    objective: str = ""
    model: str | None = None
    state: PipelineState = "SPAWNED"
    reason: str = ""
    problem: Problem | None = None
    spawned_at_ms: int = 0
    updated_at_ms: int = 0
    finished_at_ms: int | None = None
    duration_ms: int | None = None
    agents_used: int = 0
    usage: Usage = field(default_factory=Usage)
    dedupe_key: str | None = None
    parent_pipeline_id: str | None = None
    labels: dict[str, str] = field(default_factory=dict)
    sequence: int = 0
    tasks: dict[str, TaskView] = field(default_factory=dict)
    agents: dict[str, AgentView] = field(default_factory=dict)
    questions: dict[str, QuestionView] = field(default_factory=dict)
    blackboard: dict[str, KeyView] = field(default_factory=dict)
    conflicts_detected: int = 0
    conflicts_resolved: int = 0
    tokens: dict[str, TokenView] = field(default_factory=dict)
    alerts: list[AlertView] = field(default_factory=list)
    errors: dict[str, ErrorsView] = field(default_factory=dict)
    handoffs: list[HandoffView] = field(default_factory=list)
    diagnosed: DiagnosedView | None = None
    findings: FindingsView | None = None
    findings_told: Annotated[dict[str, tuple[int, FindingsView] | None], Field(exclude=True)] = field(
        default_factory=dict
    )
    """Of a diagnostic, by the event that told them, when and what was found; None where that event was refused. Not
    shown."""
    diagnostics: list[DiagnosticView] = field(default_factory=list)

    @property
    def finished(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.state in TERMINAL

    def summary(self) -> PipelineSummary:
        """The pipeline for a list."""
        statuses = [task.status for task in self.tasks.values()]
        return PipelineSummary(
            self.pipeline_id, self.tenant, self.objective, self.state, self.reason, self.spawned_at_ms,
            self.updated_at_ms, len(statuses), statuses.count("succeeded"), statuses.count("failed"),
            len(self.questions), self.labels,
        )  # fmt: skip
