"""What the spawner knows of a pipeline: small entities, each under its own key. Of the slots of all: `state_admission`,
of the blackboard: `state_blackboard`.

What never changes (plan, specifications) is apart from what does, so that a decision rewrites little: a finished turn
touches one agent. Keys begin with the pipeline's id; `view` is their one place.

**What was written stays readable.** Journals and checkpoints of earlier releases are read with these classes; the small
ones are written as arrays, where a field's place is its name. So fields are only appended, and have a default; names,
places, tags and defaults never change (what is at its default is not written), and what means something else is another
field. Recorded histories in `tests/unit/spawner/recorded` are read back by a test; a new field needs a new one.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from sluice_contracts.limits import COST_DIGITS, COST_MAX_USD, COUNT_MAX
from sluice_contracts.messages.base import AgentState, ArtifactRef, PipelineState, Problem, TaskStatus, Usage
from sluice_runtime.deciding import Entity, Timer
from sluice_spawner.domain.state_admission import ClaimEntity, PoolEntity
from sluice_spawner.domain.state_blackboard import BlackboardEntity, KeyEntity, OpenConflict
from sluice_spawner.domain.workflow import Condition

AttemptEnd = Literal["succeeded", "failed", "lost", "stopped"]


class Artifact(msgspec.Struct, frozen=True, array_like=True):
    """An artifact's reference, as it is kept."""

    sha256: str
    size_bytes: int
    media_type: str
    name: str | None = None
    kind: str | None = None

    @classmethod
    def of(cls, ref: ArtifactRef) -> Artifact:
        """From the contract's reference."""
        return cls(ref.sha256, ref.size_bytes, ref.media_type, ref.name, ref.kind)

    def ref(self) -> ArtifactRef:
        """To the contract's reference."""
        return ArtifactRef(
            sha256=self.sha256, size_bytes=self.size_bytes, media_type=self.media_type, name=self.name, kind=self.kind
        )


class Fault(msgspec.Struct, frozen=True, array_like=True):
    """A problem, as it is kept."""

    code: str
    detail: str
    field: str | None = None
    limit: str | None = None

    @classmethod
    def of(cls, problem: Problem) -> Fault:
        """From the contract's problem."""
        return cls(problem.code, problem.detail, problem.field, problem.limit)

    def problem(self) -> Problem:
        """To the contract's problem."""
        return Problem(code=self.code, detail=self.detail, field=self.field, limit=self.limit)


class Spent(msgspec.Struct, frozen=True, array_like=True):
    """What model calls used. Costs in US dollars."""

    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float = 0.0

    def plus(self, input_tokens: int, output_tokens: int, cost_usd: float) -> Spent:
        """The sum."""
        return Spent(
            min(self.input_tokens + input_tokens, COUNT_MAX),
            min(self.output_tokens + output_tokens, COUNT_MAX),
            min(round(self.cost_usd + cost_usd, COST_DIGITS), COST_MAX_USD),
        )

    def usage(self) -> Usage:
        """As the contract tells it."""
        return Usage(input_tokens=self.input_tokens, output_tokens=self.output_tokens, cost_usd=self.cost_usd)


class PipelineEntity(Entity, frozen=True, tag="pipeline"):
    """What changes as a pipeline lives. It exists from `pipeline.spawned` to the terminal event.

    Attributes:
        state: P1.
        unfinished: Tasks that have not ended.
        alive: Agents whose task has not ended; at most `slots_granted`. None, once all credentials were revoked.
        ready_first: Head of the queue of tasks that may start; each names the next (`TaskEntity.next_ready`).
        ready: How many are in that queue.
        slots_wanted: The slots of its latest request: `alive` and `ready`, but at most the plan's `max_agents`.
        slots_granted: What it has of them.
        request_number: Of its latest request. It begins with the time of the spawn, so that it rises from one life of
            an id to the next, too: a repetition out of a former life does no harm.
        fault: The first failure of a task.
        last_question: Head of the list of all questions; each names the one before it.
        deferrals: How often starting tasks was put off; the generation of the timer that goes on with it.
        revoked: Why it lost all its credentials. Nothing of it goes on; its handoff report ends it.
        alert_id: The alert that said so first.
        api_calls_per_minute: What each of its agents may make, where that was throttled.
        root_denied: The first message by which its own token was denied, since all were revoked; empty once
            `token.revoked` was heard after that.
        conflicts_detected: On its blackboard, in its life.
        conflicts_unresolved: How many of those are open.
    """

    created_at_ms: int
    unfinished: int
    state: PipelineState = "SPAWNED"
    alive: int = 0
    agents_used: int = 0
    succeeded: int = 0
    spent: Spent = Spent()
    ready_first: str | None = None
    ready_last: str | None = None
    ready: int = 0
    slots_wanted: int = 0
    slots_granted: int = 0
    request_number: int = 0
    fault: Fault | None = None
    questions: int = 0
    questions_pending: int = 0
    last_question: str | None = None
    deferrals: int = 0
    revoked: str | None = None
    alert_id: str | None = None
    api_calls_per_minute: int | None = None
    root_denied: str | None = None
    conflicts_detected: int = 0
    conflicts_unresolved: int = 0


class PlanEntity(Entity, frozen=True, tag="plan"):
    """What never changes of a pipeline.

    Attributes:
        task_ids: In the plan's order; all that is enumerated goes in this order.
        traceparent: Of the command; what a timer causes carries it on.
        credentials: Whether it has a token of its own, and its agents' attempts grants (V1).
        diagnosis_depth: Of a diagnostic: 1, or 2 where it is about a diagnostic. 0 of every other.
        first_wins: Whether a conflict on the blackboard is settled with its first write.
    """

    tenant: str
    objective: str
    task_ids: tuple[str, ...]
    max_agents: int
    max_iterations: int
    carry_on: bool = False
    unattended: bool = False
    inputs: tuple[Artifact, ...] = ()
    traceparent: str | None = None
    credentials: bool = False
    diagnosis_depth: int = 0
    first_wins: bool = False


class TaskSpecEntity(Entity, frozen=True, tag="spec"):
    """What never changes of a task.

    Attributes:
        spec: The contract's `TaskSpec` as JSON, with the plan's model filled in.
        incoming: Sources of its edges, in the plan's order.
        outgoing: Pairs of dependent task and condition.
        needs_grant: Whether each attempt needs a credential.
    """

    role: str
    timeout_s: int
    retries: int
    spec: str
    incoming: tuple[str, ...] = ()
    outgoing: tuple[tuple[str, Condition], ...] = ()
    needs_grant: bool = False


class TaskEntity(Entity, frozen=True, tag="task"):
    """What changes of a task.

    Attributes:
        waits_for: Edges that have yet to be satisfied.
        next_ready: The next in the queue of tasks that may start.
    """

    status: TaskStatus = "pending"
    waits_for: int = 0
    next_ready: str | None = None
    retries_used: int = 0
    summary: str = ""
    artifacts: tuple[Artifact, ...] = ()
    fault: Fault | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.status not in ("pending", "assigned", "running")


class AttemptRecord(msgspec.Struct, frozen=True, array_like=True):
    """An attempt that a runner held and that is over: what it said until then is known by this, and not repeated.

    Attributes:
        turns_before: Turns finished when it began.
        turns: Turns finished when it ended.
    """

    attempt: int
    runner_id: str
    turns_before: int
    turns: int
    end: AttemptEnd


class KeptAnswer(msgspec.Struct, frozen=True, array_like=True):
    """An answer that no finished turn has seen yet.

    Attributes:
        sent_to: The last attempt to which it was sent.
        of_person: Whether a person was asked; else the blackboard.
    """

    request_id: str
    sent_to: int
    answer: str | None = None
    fault: Fault | None = None
    of_person: bool = True


class AgentEntity(Entity, frozen=True, tag="agent"):
    """An agent: the hottest entity, rewritten with every turn.

    A runner holds its current attempt if, and only if, `runner_id` is given: that is what a lease is kept for.

    Attributes:
        ended: Whether its task has ended. Until then the agent is alive, and counts against `max_agents`.
        attempt: The current attempt; 0 before the first.
        turns_before: Turns finished when the current attempt began.
        untaken: Attempts in a row that no runner took.
        lost: Attempts whose lease ran out, or whose credential ended.
        deadline_at_ms: Of the task, over all attempts. It stands still from `waiting_since_ms` on.
        deadline_generation: Of the task's timer.
        pending: Questions of it that have no answer yet.
        records: Attempts that are over and were held; bounded by the limits of retries and losses.
        requested: The latest attempt for which a grant was asked; above `attempt` while it waits for it.
        request_reason: Why that attempt follows, for when it is assigned.
        idle: Whether it gave its attempt up, since it waits for a person; its answers start the next one.
        conflicts: Those on the blackboard that it lost and has not settled.
    """

    task_id: str
    role: str
    queue: str
    state: AgentState = "CREATED"
    ended: bool = False
    attempt: int = 0
    runner_id: str | None = None
    turns_before: int = 0
    turn: int = 0
    transcript: Artifact | None = None
    spent: Spent = Spent()
    untaken: int = 0
    lost: int = 0
    deadline_at_ms: int = 0
    deadline_generation: int = 0
    waiting_since_ms: int | None = None
    pending: tuple[str, ...] = ()
    answers: tuple[KeptAnswer, ...] = ()
    records: tuple[AttemptRecord, ...] = ()
    requested: int = 0
    request_reason: str = ""
    idle: bool = False
    conflicts: tuple[OpenConflict, ...] = ()

    @property
    def awaits_grant(self) -> bool:
        """Whether its next attempt waits for a credential."""
        return self.requested > self.attempt

    @property
    def has_attempt(self) -> bool:
        """Whether its current attempt is neither over nor the last one before the one that it waits for."""
        return self.attempt > 0 and not self.ended and not self.awaits_grant and not self.idle

    def offered(self, attempt: int) -> bool:
        """Whether this attempt is the current one, and no runner has taken it."""
        return self.has_attempt and attempt == self.attempt and self.runner_id is None

    def held_by(self, attempt: int, runner_id: str) -> bool:
        """Whether this runner holds this attempt, and it is the current one."""
        return attempt == self.attempt and runner_id == self.runner_id


class QuestionEntity(Entity, frozen=True, tag="question"):
    """A question of an agent, pending or settled; a settled one is kept so that it is not asked again.

    Attributes:
        asked_by: Ids of the requests that asked it: more than one where a later attempt asked again.
        previous: The question before it in this pipeline.
        settled: Whether it has its answer, or needs none any more.
        command_id: The id of the command that answered it.
    """

    agent_id: str
    request_id: str
    asked_by: tuple[str, ...]
    previous: str | None = None
    default: str | None = None
    settled: bool = False
    command_id: str | None = None


class RequestEntity(Entity, frozen=True, tag="request"):
    """A request that asked a question, under the request's id: it is not obeyed again when it is read again.

    By its own key, since a pipeline may ask a thousand questions, and each request looks for itself.
    """

    question_id: str


class SequenceEntity(Entity, frozen=True, tag="sequence"):
    """The number of a pipeline's last event; apart from the pipeline, since most events leave that unchanged.

    The first has the time of the spawn, so that numbers rise from one life of an id to the next, too: a life says less
    than one event a millisecond between its spawn and the end of its retention.
    """

    last: int


class RefusalsEntity(Entity, frozen=True, tag="refusals"):
    """The ids of the last inputs that were refused, so that a redelivery is not refused again."""

    ids: tuple[str, ...] = ()


class FinishedAgent(msgspec.Struct, frozen=True, array_like=True):
    """What is known of an agent of a finished pipeline: enough to tell a repeated message from a late one."""

    agent_id: str
    queue: str
    records: tuple[AttemptRecord, ...]


class FinishedPipeline(Entity, frozen=True, tag="finished"):
    """What remains of a pipeline after its terminal event, for a retention.

    Attributes:
        sequence: Of its last event.
        commands: Ids of the commands that were obeyed: they are not refused when they come again.
        request_number: Of its last request for slots: no other request of it is newer.
    """

    tenant: str
    state: PipelineState
    sequence: int
    agents: tuple[FinishedAgent, ...] = ()
    commands: tuple[str, ...] = ()
    request_number: int = 0


ENTITY_TYPE = (
    PipelineEntity
    | PlanEntity
    | TaskSpecEntity
    | TaskEntity
    | AgentEntity
    | QuestionEntity
    | RequestEntity
    | SequenceEntity
    | RefusalsEntity
    | FinishedPipeline
    | BlackboardEntity
    | KeyEntity
    | PoolEntity
    | ClaimEntity
    | Timer
)
"""The union of all that the state holds, for decoding."""
