"""How tokens end before their time: by a command, by an alert, with their attempt, with their pipeline.

What ends is taken out of the state at once, with all below it, so that nothing is made with it any more; a revocation
takes its place, until Vault has confirmed it.
"""

from __future__ import annotations

from sluice_contracts.messages.alert import AlertRaised
from sluice_contracts.messages.token import FULL_REVOCATIONS, RevocationReason, TokenRevoke, TokenRevoked
from sluice_vault_broker.domain import redacting, refusing
from sluice_vault_broker.domain.building import DecisionBuilder
from sluice_vault_broker.domain.facts import (
    AttemptClosed,
    PipelineEnded,
    PipelineOpened,
    PipelineRevoked,
    RevocationWanted,
    TokenLost,
)
from sluice_vault_broker.domain.policy import REVOKED_NAMED_MAX_COUNT
from sluice_vault_broker.domain.refusing import CLOSED_CODE, ENDED_CODE, REVOKED_CODE, revoked_detail
from sluice_vault_broker.domain.state import TokenEntity
from sluice_vault_broker.domain.view import View


def revoke(builder: DecisionBuilder, message: TokenRevoke) -> None:
    """Ends a pipeline's tokens, or an agent's."""
    message = message.model_copy(update={"detail": redacting.told(message.detail)})
    if message.reason == "manual":
        _by_hand(builder, message)
        return
    full = message.agent_id is None and message.reason in FULL_REVOCATIONS
    if builder.view.find_pipeline() is None:
        if full and builder.view.find_finished() is None:
            close(builder, message.reason, message.detail)
        return
    if not builder.lawful:
        return
    if message.agent_id is not None:
        _revoke_agent(builder, message.agent_id, message.attempt, message.reason, message.detail)
    elif message.reason == "pipeline_ended":
        _end(builder, message)
    elif full:
        close(builder, message.reason, message.detail)
    else:
        revoke_tree(
            builder, None, message.reason, code=CLOSED_CODE, told=f"it was ended: {message.reason}",
            detail=message.detail,
        )  # fmt: skip


def alert(builder: DecisionBuilder, message: AlertRaised) -> None:
    """Ends what a breach of a budget is about, without asking anybody (decision 0008)."""
    detail = redacting.told(message.detail)
    if message.action == "revoke_pipeline":
        if builder.view.find_finished() is None:
            close(builder, message.condition, detail, alert_id=builder.cause.id)
    elif message.action == "revoke_agent" and message.agent_id is not None and builder.view.find_pipeline() is not None:
        _revoke_agent(builder, message.agent_id, message.attempt, message.condition, detail, alert_id=builder.cause.id)


def close(builder: DecisionBuilder, reason: RevocationReason, detail: str = "", *, alert_id: str | None = None) -> None:
    """Ends all tokens of a pipeline for good. The first cause counts: a second one changes nothing.

    It is told when Vault honours none of them any more. Where there is no token that is at once: whoever waits for the
    end of the pipeline's credentials goes on. Where tokens were given up, and Vault has not confirmed it, this takes
    the place of that.
    """
    if builder.view.find_pipeline() is None:
        builder.accept(PipelineOpened(foretold=builder.spawner_sequence is None))
    if builder.view.pipeline().revoked is not None:
        return
    builder.accept(PipelineRevoked(reason=reason))
    earlier = builder.view.pipeline().ending
    revoke_tree(
        builder, None, reason, code=REVOKED_CODE, told=revoked_detail(reason), detail=detail, alert_id=alert_id,
        last=True,
    )  # fmt: skip
    if earlier:
        _take_over(builder, reason, detail, alert_id)
    elif not builder.view.pipeline().ending:
        builder.publish(TokenRevoked(accessors=(), reason=reason, detail=detail, alert_id=alert_id))


def _take_over(builder: DecisionBuilder, reason: RevocationReason, detail: str, alert_id: str | None) -> None:
    """Makes one revocation, for this reason, of all that Vault has not confirmed."""
    *also, accessor = builder.view.pipeline().ending
    named: dict[str, None] = {}
    for one in (accessor, *also):
        wanted = builder.view.find_revocation(one)
        named |= dict.fromkeys(() if wanted is None else wanted.accessors)
    taken = RevocationWanted(
        accessor=accessor, accessors=tuple(named)[:REVOKED_NAMED_MAX_COUNT], tenant=builder.tenant, reason=reason,
        detail=detail, alert_id=alert_id, last=True, also=tuple(also),
    )  # fmt: skip
    builder.accept(taken)


def revoke_tree(
    builder: DecisionBuilder,
    agent_id: str | None,
    reason: RevocationReason,
    *,
    code: str,
    told: str,
    detail: str = "",
    alert_id: str | None = None,
    last: bool = False,
) -> None:
    """Ends a token and all below it, if there is one.

    Args:
        builder: The decision.
        agent_id: Whose token; None: the pipeline's own, and so all.
        reason: Told with the revocation.
        code: Of the problem by which requests are denied that were not granted yet.
        told: Its detail.
        detail: Told with the revocation.
        alert_id: The alert that caused it.
        last: Whether the pipeline gets no token any more.
    """
    top = builder.view.find_token(agent_id)
    if top is None:
        return
    tree = subtree(builder.view, agent_id)
    accessors = tuple(token.accessor for token in tree if token.lives)
    if top.lives:
        wanted = RevocationWanted(
            accessor=top.ended_by, accessors=accessors[:REVOKED_NAMED_MAX_COUNT], tenant=builder.tenant, reason=reason,
            agent_id=top.agent_id, attempt=top.attempt, detail=detail, alert_id=alert_id, last=last,
        )  # fmt: skip
        builder.accept(wanted)
    for token in tree:
        builder.accept(TokenLost(agent_id=token.agent_id))
        if not token.lives and not token.implied:
            builder.deny(code, told, agent_id=token.agent_id, attempt=token.attempt, earlier=token)


def subtree(view: View, agent_id: str | None) -> list[TokenEntity]:
    """A token and all below it, wanted ones too, each behind the one that it is below.

    One that lives is where Vault made it: below the pipeline's own, if its parent's was not there then.
    """
    top = view.token(agent_id)
    rest = [token for token in view.tokens() if token is not top]
    if agent_id is None:
        return [top, *rest]
    tree, agents, accessors = [top], {agent_id}, {top.accessor} - {""}
    found = True
    while found:
        found = False
        for token in rest:
            below = token.parent_accessor in accessors if token.lives else token.parent_agent_id in agents
            if below and token.agent_id is not None and token.agent_id not in agents:
                found = True
                tree.append(token)
                agents.add(token.agent_id)
                accessors |= {token.accessor} - {""}
    return tree


def _by_hand(builder: DecisionBuilder, message: TokenRevoke) -> None:
    """A person's command. What was revoked already is not revoked again: it would be handed off again."""
    agent_id, attempt = message.agent_id, message.attempt
    if not refusing.open_to_people(builder, agent_id, attempt):
        return
    if agent_id is None:
        close(builder, "manual", message.detail)
        builder.remember()
        return
    token = builder.view.find_token(agent_id)
    if token is None:
        detail = (
            f"agent {agent_id} of pipeline {builder.pipeline_id} has no credential to revoke; see which there are: "
            f"sluice tokens {builder.pipeline_id}"
        )
        builder.deny(refusing.NONE_CODE, detail, agent_id=agent_id, attempt=attempt)
    elif attempt is not None and token.attempt is not None and attempt < token.attempt:
        detail = (
            f"agent {agent_id} of pipeline {builder.pipeline_id} has no credential of attempt {attempt} any more: "
            f"attempt {token.attempt} took its place; name that one, or none"
        )
        builder.deny(refusing.SUPERSEDED_CODE, detail, agent_id=agent_id, attempt=attempt)
    else:
        _revoke_agent(builder, agent_id, attempt, "manual", message.detail)
        if not token.lives:  # so there is nothing to end in Vault, and nothing to wait for
            ended = TokenRevoked(
                agent_id=agent_id, attempt=token.attempt, accessors=(), reason="manual", detail=message.detail
            )
            builder.publish(ended)
        builder.remember()


def _revoke_agent(
    builder: DecisionBuilder,
    agent_id: str,
    attempt: int | None,
    reason: RevocationReason,
    detail: str,
    *,
    alert_id: str | None = None,
) -> None:
    """Ends an agent's token, unless it is a newer attempt's than the one that is meant."""
    agent = builder.view.find_agent(agent_id)
    if agent is not None and attempt is not None and attempt < agent.attempt:
        return
    ended = attempt if attempt is not None else agent.attempt if agent is not None else 0
    if reason != "waiting" and ended > (0 if agent is None else agent.closed):
        builder.accept(AttemptClosed(agent_id=agent_id, attempt=ended))
    token = builder.view.find_token(agent_id)
    if token is None:
        return
    revoke_tree(
        builder, agent_id, reason, code=CLOSED_CODE, told=f"it was ended: {reason}", detail=detail, alert_id=alert_id
    )


def _end(builder: DecisionBuilder, message: TokenRevoke) -> None:
    revoke_tree(
        builder, None, "pipeline_ended", code=ENDED_CODE, told=f"pipeline {builder.pipeline_id} has ended",
        detail=message.detail, last=True,
    )  # fmt: skip
    builder.heard()
    builder.accept(PipelineEnded())
