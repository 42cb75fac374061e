"""A decision in the making: every fact changes the state as it is made, so that the next step sees it."""

from __future__ import annotations

from sluice_contracts import topics
from sluice_contracts.envelope import CloudEvent
from sluice_contracts.ids import derived_id
from sluice_contracts.messages.agent import AgentAnswer, AgentRun, AgentStop
from sluice_contracts.messages.base import Message, Problem
from sluice_contracts.messages.pipeline import PipelineRefused, PipelineSpawned
from sluice_runtime.deciding import Decision, Output, State
from sluice_runtime.tracing import child_of, root
from sluice_spawner.domain.evolving import evolve
from sluice_spawner.domain.facts import Fact, InputRefused
from sluice_spawner.domain.policy import RoleCatalogue, SpawnerPolicy
from sluice_spawner.domain.view import View

SOURCE = "spawner"
"""Not the instance: after a crash another one says the same again, and it must be the same."""


class DecisionBuilder:
    """Collects what one input changes.

    Guarantee: the deltas are the fold of the facts by `evolve`, and of nothing else.

    Attributes:
        view: The state with this decision's changes.
        cause: The input.
        pipeline_id: Of the pipeline that is decided about.
        now_ms: The time of the decision.
        facts: In their order, for those who replay them.
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
        self._outputs: list[Output] = []

    def accept(self, message: Message) -> None:
        """Folds an input, or a fact that nobody else needs to hear."""
        self._fold(Fact(message, self.now_ms, self.cause.id, self.cause.tenant))

    def publish(self, message: Message) -> None:
        """Emits an event of the pipeline to all."""
        self._emit(topics.PIPELINE_EVENTS.name, self.pipeline_id, message)

    def assign(self, queue: str, message: AgentRun) -> None:
        """Emits an attempt to a queue's runners."""
        self._emit(topics.AGENT_TASKS.for_queue(queue), message.agent_id, message)

    def tell(self, queue: str, message: AgentStop | AgentAnswer) -> None:
        """Emits a message to a running agent."""
        self._emit(topics.AGENT_INBOX.for_queue(queue), message.agent_id, message)

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
        cause = self.cause
        tenant, sequence, traceparent = self._context(message)
        # Other producers' ids are unique per source only, and the careless ones not even across pipelines.
        event_id = derived_id(cause.source, cause.id, self.pipeline_id, message.type, len(self._outputs))
        event: CloudEvent[Message] = CloudEvent(
            id=event_id,
            source=SOURCE,
            tenant=tenant,
            subject=self.pipeline_id,
            time_ms=self.now_ms,
            data=message,
            causation_id=cause.id,
            sequence=sequence,
            traceparent=child_of(traceparent, event_id),
        )
        self._outputs.append(Output(topic, key, event))
        self._fold(Fact(message, self.now_ms, cause.id, tenant, sequence, traceparent))

    def _context(self, message: Message) -> tuple[str, int | None, str | None]:
        """Tenant, sequence and trace of the next event: the pipeline's, where there is one."""
        if isinstance(message, PipelineSpawned):
            return self.cause.tenant, 1, self.cause.traceparent or root(self.cause.id).traceparent
        tenant, sequence, traceparent = self._pipeline_context()
        if isinstance(message, PipelineRefused):
            tenant = self.cause.tenant  # whoever commands hears of it, and nobody else
        return tenant, sequence, traceparent

    def _pipeline_context(self) -> tuple[str, int | None, str | None]:
        plan, counted = self.view.find_plan(), self.view.find_sequence()
        if plan is not None and counted is not None:
            return plan.tenant, counted.last + 1, self.cause.traceparent or plan.traceparent
        finished = self.view.find_finished()
        if finished is not None:
            return finished.tenant, finished.sequence + 1, self.cause.traceparent
        return self.cause.tenant, None, self.cause.traceparent
