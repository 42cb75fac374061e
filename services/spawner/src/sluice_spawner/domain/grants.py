"""What is asked of the vault-broker (V1–V5): a root token for each pipeline, a grant for each attempt, their ends.

Without credentials (`SpawnerPolicy.credentials`), and for tasks that may have none (`no-secrets`), nothing is asked and
nothing is waited for.
"""

from __future__ import annotations

from sluice_contracts.messages.signal import WatchChanged
from sluice_contracts.messages.token import RevocationReason, TokenRequest, TokenRevoke
from sluice_spawner.domain.building import DecisionBuilder


def needed(builder: DecisionBuilder, agent_id: str) -> bool:
    """Whether an agent's attempts need a grant."""
    return builder.view.spec(builder.view.agent(agent_id).task_id).needs_grant


def request_root(builder: DecisionBuilder) -> None:
    """Has the pipeline's own token made, while its first agents wait for their slots."""
    if builder.view.plan().credentials:
        builder.ask_broker(TokenRequest())


def request(builder: DecisionBuilder, agent_id: str, reason: str) -> None:
    """Asks for the grant of an agent's next attempt; `credentials.granted` goes on. Earlier attempts' tokens end.

    An attempt that was denied its grant has used its number up, though it was never handed out.
    """
    agent = builder.view.agent(agent_id)
    attempt = max(agent.attempt, agent.requested) + 1
    builder.ask_broker(TokenRequest(agent_id=agent_id, attempt=attempt, queue=agent.queue), reason)


def release(builder: DecisionBuilder, agent_id: str) -> None:
    """Has an ended agent's token revoked. Of a pipeline that has ended too, all are."""
    if builder.view.find_pipeline() is not None:
        agent = builder.view.agent(agent_id)
        if agent.requested > 0:
            revoke(builder, "agent_ended", agent_id, agent.requested)


def release_all(builder: DecisionBuilder) -> None:
    """Has the tokens of a pipeline that ends revoked, whatever its end is."""
    if builder.view.plan().credentials:
        revoke(builder, "pipeline_ended")


def revoke(
    builder: DecisionBuilder, reason: RevocationReason, agent_id: str | None = None, attempt: int | None = None
) -> None:
    """Has an agent's token revoked, or all of the pipeline's."""
    builder.ask_broker(TokenRevoke(agent_id=agent_id, attempt=attempt, reason=reason))


def watch(builder: DecisionBuilder, agent_id: str, watched: bool) -> None:
    """Tells the monitor whether progress is expected of an agent's current attempt."""
    if builder.view.plan().credentials:
        attempt = builder.view.agent(agent_id).attempt
        builder.signal(WatchChanged(agent_id=agent_id, attempt=attempt, watched=watched))
