"""A decision in the making: every fact changes the state as it is made, so that the next step sees it."""

from __future__ import annotations

from sluice_contracts import ids, topics
from sluice_contracts.envelope import CloudEvent
from sluice_contracts.ids import derived_id
from sluice_contracts.messages.admission import AdmissionGranted, AdmissionRequested
from sluice_contracts.messages.agent import AgentAnswer, AgentRun, AgentStop, AgentThrottle
from sluice_contracts.messages.base import Message, Problem
from sluice_contracts.messages.pipeline import PipelineRefused, PipelineSpawn, PipelineSpawned
from sluice_contracts.messages.signal import WatchChanged
from sluice_contracts.messages.token import TokenRequest, TokenRevoke
from sluice_runtime.deciding import Decision, Output, State
from sluice_runtime.tracing import child_of, root
from sluice_spawner.domain.evolving import evolve
from sluice_spawner.domain.facts import Fact, GrantAwaited, InputRefused, SlotsGranted
from sluice_spawner.domain.policy import RoleCatalogue, SpawnerPolicy
from sluice_spawner.domain.view import View

SOURCE = "spawner"
"""Not the instance: after a crash another one says the same again, and it must be the same."""

Context = tuple[str, int | None, str | None]
"""Tenant, sequence and trace of an event."""


class DecisionBuilder:
    """Collects what one input changes.

    Guarantee: the deltas are the fold of the facts by `evolve`, and of nothing else.

    Attributes:
        view: The state with this decision's changes.
        cause: The input.
        pipeline_id: Of the pipeline that is decided about; the installation's id, where its slots are.
        now_ms: The time of the decision.
        facts: In their order, for those who replay them.
        attempts: How many this decision hands out.
    """

    def __init__(
        self, state: State, cause: CloudEvent[Message], now_ms: int, policy: SpawnerPolicy, roles: RoleCatalogue
    ) -> None:
        self.view = View(state, cause.subject)
        self.cause = cause
        self.pipeline_id = cause.subject
        self.now_ms = now_ms
        self.policy = policy
        self.roles = roles
        self.facts: list[Fact] = []
        self.attempts = 0
        self._outputs: list[Output] = []

    def accept(self, message: Message) -> None:
        """Folds an input, or a fact that nobody else needs to hear."""
        self._fold(Fact(message, self.now_ms, self.cause.id, self.cause.tenant))

    def publish(self, message: Message) -> None:
        """Emits an event of the pipeline to all."""
        self._emit(topics.PIPELINE_EVENTS.name, self.pipeline_id, message)

    def assign(self, queue: str, message: AgentRun) -> None:
        """Emits an attempt to a queue's runners."""
        self.attempts += 1
        self._emit(topics.AGENT_TASKS.for_queue(queue), message.agent_id, message)

    def tell(self, queue: str, message: AgentStop | AgentAnswer | AgentThrottle) -> None:
        """Emits a message to a running agent."""
        self._emit(topics.AGENT_INBOX.for_queue(queue), message.agent_id, message)

    def ask_broker(self, message: TokenRequest | TokenRevoke, reason: str = "") -> None:
        """Asks the vault-broker for a credential, or to end some. `reason` is kept for the attempt that waits."""
        self._emit(topics.TOKEN_COMMANDS.name, self.pipeline_id, message)
        if isinstance(message, TokenRequest) and message.agent_id is not None:
            assert message.attempt is not None
            self.accept(GrantAwaited(agent_id=message.agent_id, attempt=message.attempt, reason=reason))

    def signal(self, message: WatchChanged) -> None:
        """Tells the monitor."""
        self._emit(topics.SIGNALS.name, self.pipeline_id, message)

    def spawn(self, pipeline_id: str, message: PipelineSpawn) -> None:
        """Commands another pipeline of the same tenant. It has no sequence: that would be this pipeline's."""
        tenant, _, traceparent = self._pipeline_context()
        self._append(topics.PIPELINE_COMMANDS.name, pipeline_id, message, 0, (tenant, None, traceparent), pipeline_id)

    def request(self, message: AdmissionRequested) -> None:
        """Asks the installation for slots. It has no sequence: that would be the pipeline's, under the key of all."""
        tenant, _, traceparent = self._pipeline_context()
        context = tenant, None, traceparent
        self._append(topics.ADMISSION.name, ids.INSTALLATION_ID, message, message.number, context)
        self._fold(Fact(message, self.now_ms, self.cause.id, tenant))

    def grant(self, pipeline_id: str, slots: int) -> None:
        """Gives slots to a pipeline, which need not be the one that asked now.

        The ordinal in its id is a count of all grants: a request that is repeated when its claim is long gone may be
        answered otherwise than it was. It has no trace, since the cause's may be another pipeline's.
        """
        claim = self.view.claim(pipeline_id)
        message = AdmissionGranted(slots=slots, number=claim.number)
        ordinal = self.view.pool().grants
        self._append(topics.ADMISSION.name, pipeline_id, message, ordinal, (claim.tenant, None, None), pipeline_id)
        self.accept(SlotsGranted(pipeline_id=pipeline_id, slots=slots))

    def refuse(self, problem: Problem) -> None:
        """Refuses the command that is being decided; nothing else of it may have been emitted."""
        if not self.refused_before():
            self.accept(InputRefused())
            self.publish(PipelineRefused(command_id=self.cause.id, command_type=self.cause.type, problem=problem))

    def refused_before(self) -> bool:
        """Whether this very input was refused already: it is a redelivery."""
        return self.cause.id in self.view.refusals().ids

    def decision(self) -> Decision:
        """What the processor makes durable."""
        return Decision(self.view.deltas, tuple(self._outputs))

    def _fold(self, fact: Fact) -> None:
        self.facts.append(fact)
        evolve(self.view, fact, self.policy)

    def _emit(self, topic: str, key: str, message: Message) -> None:
        context = tenant, sequence, traceparent = self._context(message)
        self._append(topic, key, message, len(self._outputs) if sequence is None else sequence, context)
        self._fold(Fact(message, self.now_ms, self.cause.id, tenant, sequence, traceparent))

    def _append(
        self, topic: str, key: str, message: Message, ordinal: int, context: Context, pipeline_id: str | None = None
    ) -> None:
        cause, pipeline_id = self.cause, pipeline_id or self.pipeline_id
        tenant, sequence, traceparent = context
        # Other producers' ids are unique per source only, and the careless ones not even across pipelines. Between two
        # lives of one id a cause may repeat; its outputs' ordinals do not (decision 0003).
        event_id = derived_id(cause.source, cause.id, pipeline_id, message.type, ordinal)
        event: CloudEvent[Message] = CloudEvent(
            id=event_id,
            source=SOURCE,
            tenant=tenant,
            subject=message.only_subject or pipeline_id,
            time_ms=self.now_ms,
            data=message,
            causation_id=cause.id,
            sequence=sequence,
            traceparent=child_of(traceparent, event_id),
        )
        self._outputs.append(Output(topic, key, event))

    def _context(self, message: Message) -> Context:
        """The next event's: the pipeline's, where there is one."""
        if isinstance(message, PipelineSpawned):
            return self.cause.tenant, self.now_ms, self.cause.traceparent or root(self.cause.id).traceparent
        tenant, sequence, traceparent = self._pipeline_context()
        if isinstance(message, PipelineRefused):
            tenant = self.cause.tenant  # whoever commands hears of it, and nobody else
        return tenant, sequence, traceparent

    def _pipeline_context(self) -> Context:
        plan, counted = self.view.find_plan(), self.view.find_sequence()
        if plan is not None and counted is not None:
            return plan.tenant, counted.last + 1, self.cause.traceparent or plan.traceparent
        finished = self.view.find_finished()
        if finished is not None:
            return finished.tenant, finished.sequence + 1, self.cause.traceparent
        return self.cause.tenant, None, self.cause.traceparent
