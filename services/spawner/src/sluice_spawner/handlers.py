"""What the spawner does with each message. The table at the end says it all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sluice_contracts.envelope import CloudEvent
from sluice_contracts.messages import admission as messages
from sluice_contracts.messages import agent, alert, pipeline, report, token
from sluice_contracts.messages import blackboard as asked
from sluice_contracts.messages.base import Message
from sluice_runtime import deciding
from sluice_runtime.deciding import Decision, State
from sluice_spawner.domain import admission, attempts, blackboard, breaches, credentials, pipelines, questions
from sluice_spawner.domain.building import DecisionBuilder
from sluice_spawner.domain.policy import RoleCatalogue, SpawnerPolicy
from sluice_spawner.domain.state import ENTITY_TYPE

Handler = Callable[[DecisionBuilder, Any], None]


class SpawnerDecider:
    """The spawner's decisions (`sluice_runtime.deciding.Decider`).

    Guarantee: an input that was decided already gives an empty decision. That is seen by what the state says of
    attempts, turns, questions and pipelines; of refused inputs the last ones of each pipeline are remembered. One
    exception: of a pipeline that has given all its slots back the arbiter knows nothing, so a request that comes again
    after that is granted once more, and what was granted is given back.

    Args:
        policy: Settings of the decisions.
        roles: The roles and queues that exist.
    """

    entity_type: Any = ENTITY_TYPE

    def __init__(self, policy: SpawnerPolicy, roles: RoleCatalogue) -> None:
        self._policy = policy
        self._roles = roles

    def decide(self, state: State, event: CloudEvent[Message], now_ms: int) -> Decision:
        """Decides one input.

        Args:
            state: The partition's; only the entities of the message's subject are read.
            event: A message of the topics that the spawner reads, or an input of the processor.
            now_ms: Milliseconds since the Unix epoch.

        Raises:
            LookupError: The message is none that the spawner handles: the processor was given a wrong topic.
        """
        handler = HANDLERS.get(type(event.data))
        if handler is None:
            raise LookupError(f"the spawner has no handler for {event.type}; see which topics its processor reads")
        builder = DecisionBuilder(state, event, now_ms, self._policy, self._roles)
        handler(builder, event.data)
        return builder.decision()


HANDLERS: dict[type[Message], Handler] = {
    pipeline.PipelineSpawn: pipelines.spawn,
    pipeline.PipelineCancel: pipelines.cancel,
    pipeline.PipelineAnswer: pipelines.answer,
    pipeline.PipelineTick: pipelines.tick,
    agent.AgentAttemptStarted: attempts.started,
    agent.AgentTurnFinished: attempts.turn_finished,
    agent.AgentSucceeded: attempts.succeeded,
    agent.AgentFailed: attempts.failed,
    agent.AgentInputRequested: questions.input_requested,
    agent.AgentGrantOpened: credentials.opened,
    agent.AgentGrantRefused: credentials.open_refused,
    asked.BlackboardReadRequested: blackboard.read_requested,
    asked.BlackboardWriteRequested: blackboard.write_requested,
    token.TokenGranted: credentials.granted,
    token.TokenDenied: credentials.denied,
    token.TokenRenewed: credentials.renewed,
    token.TokenRevoked: credentials.revoked,
    token.TokenExpired: credentials.expired,
    alert.AlertRaised: breaches.alert_raised,
    report.HandoffReported: breaches.reported,
    messages.AdmissionRequested: admission.requested,
    messages.AdmissionGranted: admission.granted,
    deciding.LeaseExpired: attempts.lease_expired,
    deciding.TimerDue: pipelines.timer_due,
}
