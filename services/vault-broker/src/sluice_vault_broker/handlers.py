"""What the vault-broker does with each message. The table at the end says it all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sluice_contracts.envelope import CloudEvent
from sluice_contracts.messages import alert, token
from sluice_contracts.messages.base import Message
from sluice_runtime import deciding
from sluice_runtime.deciding import Decision, State
from sluice_vault_broker.domain import facts, outcomes, requests, revoking
from sluice_vault_broker.domain.building import DecisionBuilder
from sluice_vault_broker.domain.policy import BrokerPolicy
from sluice_vault_broker.domain.state import ENTITY_TYPE

Handler = Callable[[DecisionBuilder, Any], None]


class BrokerDecider:
    """The vault-broker's decisions (`sluice_runtime.deciding.Decider`).

    Guarantee: an input that was decided already gives an empty decision. The spawner's commands are known by their
    sequence (decision 0003), others by agent, attempt and id as long as their pipeline may have credentials, answers of
    Vault by accessor and number.

    Args:
        policy: Settings of the decisions.
    """

    entity_type: Any = ENTITY_TYPE

    def __init__(self, policy: BrokerPolicy) -> None:
        self._policy = policy

    def decide(self, state: State, event: CloudEvent[Message], now_ms: int) -> Decision:
        """Decides one input.

        Args:
            state: The partition's; only the entities of the message's subject are read.
            event: A message of the topics that the broker reads, an answer of Vault, or an input of the processor.
            now_ms: Milliseconds since the Unix epoch.

        Raises:
            LookupError: The message is none that the broker handles: the processor was given a wrong topic.
        """
        handler = HANDLERS.get(type(event.data))
        if handler is None:
            raise LookupError(f"the vault-broker has no handler for {event.type}; see which topics its processor reads")
        builder = DecisionBuilder(state, event, now_ms, self._policy)
        handler(builder, event.data)
        return builder.decision()


def _command(handler: Handler) -> Handler:
    """A command, once: the spawner's carry a sequence, and what is not greater than the last one came again."""

    def once(builder: DecisionBuilder, message: Message) -> None:
        if not builder.repeated:
            builder.claim()
            handler(builder, message)
            builder.heard()

    return once


HANDLERS: dict[type[Message], Handler] = {
    token.TokenRequest: _command(requests.request),
    token.TokenRevoke: _command(revoking.revoke),
    token.TokenRenew: _command(requests.renew),
    alert.AlertRaised: revoking.alert,
    facts.VaultMinted: outcomes.minted,
    facts.VaultRenewed: outcomes.renewed,
    facts.VaultRevoked: outcomes.revoked,
    facts.VaultGone: outcomes.gone,
    facts.OrphanFound: outcomes.orphan_found,
    deciding.TimerDue: outcomes.timer_due,
}
"""What the vault-broker can be told."""
