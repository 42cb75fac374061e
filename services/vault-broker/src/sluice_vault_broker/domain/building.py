"""A decision in the making: every fact changes the state as it is made, so that the next step sees it."""

from __future__ import annotations

from sluice_contracts import topics
from sluice_contracts.envelope import SYSTEM_TENANT, CloudEvent
from sluice_contracts.ids import derived_id
from sluice_contracts.messages.base import Message, Problem
from sluice_contracts.messages.token import DeniedCommand, TokenDenied, TokenRenew, TokenRevoke
from sluice_runtime.deciding import Decision, Output, State
from sluice_runtime.tracing import child_of
from sluice_vault_broker.domain.evolving import evolve
from sluice_vault_broker.domain.facts import CommandDecided, CommandHeard, Fact, PipelineClaimed
from sluice_vault_broker.domain.policy import BrokerPolicy
from sluice_vault_broker.domain.state import TokenEntity
from sluice_vault_broker.domain.view import View

SOURCE = "vault-broker"
"""Not the instance: after a crash another one says the same again, and it must be the same."""


_COMMANDS: dict[type[Message], DeniedCommand] = {TokenRevoke: "token.revoke", TokenRenew: "token.renew"}


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

    def __init__(self, state: State, cause: CloudEvent[Message], now_ms: int, policy: BrokerPolicy) -> None:
        self.view = View(state, cause.subject)
        self.cause = cause
        self.pipeline_id = cause.subject
        self.now_ms = now_ms
        self.policy = policy
        self.facts: list[Fact] = []
        self._outputs: list[Output] = []

    def accept(self, message: Message) -> None:
        """Folds an input, or a fact that nobody else needs to hear."""
        self._fold(Fact(message, self.now_ms, self.cause.id, self.tenant, None, self.cause.traceparent))

    def publish(
        self,
        message: Message,
        *,
        causation_id: str | None = None,
        traceparent: str | None = None,
        tenant: str | None = None,
    ) -> None:
        """Emits an event of the pipeline's credentials to all.

        Args:
            message: The event.
            causation_id: Of what it answers, where that is not the input.
            traceparent: Of what it answers.
            tenant: Who hears of it, where it is not the pipeline's.
        """
        cause, sequence = self.cause, self._next_sequence()
        # Other producers' ids are unique per source only. An input of ours that comes about a pipeline of which nothing
        # is known has an id of its own, and says one thing.
        event_id = derived_id(cause.source, cause.id, self.pipeline_id, message.type, sequence or len(self._outputs))
        tenant = tenant or self.tenant
        event: CloudEvent[Message] = CloudEvent(
            id=event_id,
            source=SOURCE,
            tenant=tenant,
            subject=self.pipeline_id,
            time_ms=self.now_ms,
            data=message,
            causation_id=causation_id or cause.id,
            sequence=sequence,
            traceparent=child_of(traceparent or cause.traceparent, event_id),
        )
        self._outputs.append(Output(topics.TOKEN_EVENTS.name, self.pipeline_id, event))
        self._fold(Fact(message, self.now_ms, cause.id, tenant, sequence, event.traceparent))

    def deny(
        self, code: str, detail: str, *, agent_id: str | None, attempt: int | None, earlier: TokenEntity | None = None
    ) -> None:
        """Answers a command that it will not be done: the one that is being decided, or an earlier request.

        Args:
            code: Of the problem.
            detail: For people.
            agent_id: Whose credential it is about; None: the pipeline's own.
            attempt: Which attempt's.
            earlier: What was wanted by the earlier request.
        """
        request_id = self.cause.id if earlier is None else earlier.request_id
        since_ms = self.cause.time_ms if earlier is None else earlier.wanted_at_ms
        if request_id in self.view.decided_commands().ids:
            return
        own = request_id == self.cause.id
        self.accept(CommandDecided(command_id=request_id))
        message = TokenDenied(
            agent_id=agent_id, attempt=attempt, problem=Problem(code=code, detail=detail),
            command=_COMMANDS.get(type(self.cause.data), "token.request") if own else "token.request",
            latency_ms=max(0, self.now_ms - since_ms),
        )  # fmt: skip
        # Whoever asks hears of it: another tenant's request is not the pipeline's business.
        self.publish(message, causation_id=request_id, tenant=self.cause.tenant if own else None)

    def decision(self) -> Decision:
        """What the processor makes durable."""
        return Decision(self.view.deltas, tuple(self._outputs))

    # Repetitions

    @property
    def repeated(self) -> bool:
        """Whether the command is the spawner's, and was decided before (decision 0003)."""
        pipeline, finished = self.view.find_pipeline(), self.view.find_finished()
        if self.spawner_sequence is None:
            return False
        if pipeline is not None:
            return self.spawner_sequence <= pipeline.heard
        return finished is not None and self.spawner_sequence <= finished.ended_by

    @property
    def decided(self) -> bool:
        """Whether the command was remembered by its id (`remember`, `deny`)."""
        return self.cause.id in self.view.decided_commands().ids

    def remember(self) -> None:
        """The command is done; if it comes again, it changes nothing."""
        self.accept(CommandDecided(command_id=self.cause.id))

    def claim(self) -> None:
        """The spawner's word counts for whose a pipeline is, of which only others spoke so far."""
        pipeline = self.view.find_pipeline()
        if pipeline is not None and pipeline.foretold and self.spawner_sequence is not None:
            self.accept(PipelineClaimed(owner=self.cause.tenant))

    def heard(self) -> None:
        """The command that is being decided is decided."""
        if self.spawner_sequence is not None and self.view.find_pipeline() is not None:
            self.accept(CommandHeard(sequence=self.spawner_sequence))

    @property
    def spawner_sequence(self) -> int | None:
        """The number by which the spawner's messages about a pipeline are in order; None: it is another producer's."""
        source = self.cause.source.partition("/")[0]
        return self.cause.sequence if source == topics.Principal.SPAWNER else None

    # Context

    @property
    def lawful(self) -> bool:
        """Whether the pipeline is known, and the command comes from its tenant or from the installation itself."""
        pipeline = self.view.find_pipeline()
        return pipeline is not None and self.cause.tenant in (pipeline.tenant, SYSTEM_TENANT)

    @property
    def tenant(self) -> str:
        """The pipeline's; the input's where nothing is known of the pipeline."""
        known = self.view.find_pipeline() or self.view.find_finished()
        return self.cause.tenant if known is None else known.tenant

    def _next_sequence(self) -> int | None:
        known = self.view.find_pipeline() or self.view.find_finished()
        return None if known is None else known.sequence + 1

    def _fold(self, fact: Fact) -> None:
        self.facts.append(fact)
        evolve(self.view, fact, self.policy)
