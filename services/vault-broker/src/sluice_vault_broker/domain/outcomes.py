"""What Vault answered, and what time brings. An answer may be lost, late, or come twice: accessor and number tell."""

from __future__ import annotations

from sluice_contracts.messages.token import (
    Grant,
    RevocationReason,
    TokenExpired,
    TokenGranted,
    TokenRenewed,
    TokenRevoked,
)
from sluice_runtime.deciding import TimerDue
from sluice_vault_broker.domain.building import DecisionBuilder
from sluice_vault_broker.domain.evolving import expiry_told_ms, renewal_due_ms
from sluice_vault_broker.domain.facts import (
    RETENTION_TIMER,
    OrphanFound,
    PipelineForgotten,
    RenewalWanted,
    RevocationWanted,
    TokenLooked,
    TokenLost,
    TokenWanted,
    TokenWantedAgain,
    VaultGone,
    VaultMinted,
    VaultRenewed,
    VaultRevoked,
)
from sluice_vault_broker.domain.policy import REVOKED_NAMED_MAX_COUNT
from sluice_vault_broker.domain.revoking import subtree
from sluice_vault_broker.domain.state import TokenEntity


def minted(builder: DecisionBuilder, message: VaultMinted) -> None:
    """A token exists: it is granted, if it is the one that is wanted; else it ends."""
    view = builder.view
    token = view.find_token(message.agent_id)
    if token is not None and token.number == message.number and not token.lives:
        parent = view.parent_of(token)
        if token.agent_id is None or (parent is not None and parent.accessor == message.parent_accessor):
            _grant(builder, message, token)
            return
        builder.accept(TokenWantedAgain(agent_id=token.agent_id))  # what it is below has ended, and so has it, or will
    elif token is not None and token.accessor == message.accessor:
        return
    _revoke_stray(builder, message.top or message.accessor, message.agent_id, message.attempt)


def _grant(builder: DecisionBuilder, message: VaultMinted, token: TokenEntity) -> None:
    builder.accept(message)
    grant = None
    if message.sealed is not None:
        grant = Grant(sealed=message.sealed, accessor=message.accessor, expires_at_ms=message.expires_at_ms)
    builder.publish(
        TokenGranted(
            agent_id=token.agent_id,
            attempt=token.attempt,
            accessor=message.accessor,
            latency_ms=max(0, builder.now_ms - token.wanted_at_ms),
            reason="implied" if token.implied else "requested",
            policies=message.policies,
            parent_accessor=message.parent_accessor,
            queue=token.queue,
            grant=grant,
            expires_at_ms=message.expires_at_ms,
            ends_at_ms=message.ends_at_ms,
        ),
        causation_id=token.request_id,
        traceparent=token.traceparent,
    )


def renewed(builder: DecisionBuilder, message: VaultRenewed) -> None:
    """A token was renewed."""
    token = builder.view.find_token(message.agent_id)
    if token is None or token.accessor != message.accessor or token.renewing_since_ms is None:
        return
    since_ms, command_id = token.renewing_since_ms, token.renewal_command_id
    builder.accept(message)
    builder.publish(
        TokenRenewed(
            agent_id=token.agent_id,
            attempt=token.attempt,
            accessor=token.accessor,
            latency_ms=max(0, builder.now_ms - since_ms),
            reason="due" if command_id is None else "manual",
            expires_at_ms=message.expires_at_ms,
        ),
        causation_id=command_id,
        traceparent=token.traceparent,
    )


def revoked(builder: DecisionBuilder, message: VaultRevoked) -> None:
    """Vault has ended a token that had to end."""
    wanted = builder.view.find_revocation(message.accessor)
    if wanted is None or not set(wanted.also) <= set(message.also):
        return  # begun before it was known what else has to end: it is done again
    builder.accept(message)
    builder.publish(
        TokenRevoked(
            agent_id=wanted.agent_id,
            attempt=wanted.attempt,
            accessors=wanted.accessors,
            reason=wanted.reason,
            detail=wanted.detail,
            alert_id=wanted.alert_id,
            latency_ms=max(0, builder.now_ms - wanted.decided_at_ms),
        ),
        causation_id=wanted.cause_id,
        traceparent=wanted.traceparent,
        tenant=wanted.tenant,
    )


def gone(builder: DecisionBuilder, message: VaultGone) -> None:
    """Vault does not know a token any more that we believed alive."""
    token = builder.view.find_token(message.agent_id)
    if token is not None and token.accessor == message.accessor:
        _expire(builder, token)


def orphan_found(builder: DecisionBuilder, message: OrphanFound) -> None:
    """Vault knows a token that nobody was seen to know: it ends, unless somebody does."""
    token = builder.view.find_token(message.agent_id)
    if token is not None:
        on_its_way = token.number == message.number and not token.lives
        if on_its_way or message.accessor in (token.accessor, token.top):
            return
    _revoke_stray(builder, message.accessor, message.agent_id, message.attempt)


def timer_due(builder: DecisionBuilder, message: TimerDue) -> None:
    """A timer fired. One that was deleted or set anew meanwhile is ignored."""
    timer = builder.view.find_timer(message.name)
    if timer is None or timer.generation != message.generation:
        return
    if message.name == RETENTION_TIMER:
        builder.accept(PipelineForgotten())
        return
    agent_id = message.name.partition(":")[2] or None
    token = builder.view.token(agent_id)
    renewal_ms = renewal_due_ms(token, builder.policy)
    if builder.now_ms >= expiry_told_ms(token):
        unsure = token.renewing_since_ms is not None  # Vault may have renewed it, and the answer was lost
        if unsure:
            _revoke_unsure(builder, token)
        _expire(builder, token)
    elif renewal_ms is not None and builder.now_ms >= renewal_ms:
        builder.accept(RenewalWanted(agent_id=agent_id))
    else:
        builder.accept(TokenLooked(agent_id=agent_id))


def _expire(builder: DecisionBuilder, token: TokenEntity) -> None:
    """A token ended by itself, and with it all that lived below it. What was only wanted below it is wanted still."""
    wanted = False
    for one in subtree(builder.view, token.agent_id):
        if one.lives:
            builder.accept(TokenLost(agent_id=one.agent_id))
            builder.publish(
                TokenExpired(agent_id=one.agent_id, attempt=one.attempt, accessor=one.accessor),
                traceparent=one.traceparent,
            )
        else:
            wanted = True
    if wanted and builder.view.find_token(None) is None:
        builder.accept(TokenWanted(request_id=builder.cause.id, implied=True))


def _revoke_unsure(builder: DecisionBuilder, token: TokenEntity) -> None:
    tree = subtree(builder.view, token.agent_id)
    accessors = tuple(one.accessor for one in tree if one.lives)
    builder.accept(
        RevocationWanted(
            accessor=token.ended_by, accessors=accessors[:REVOKED_NAMED_MAX_COUNT], tenant=builder.tenant,
            reason="orphaned", agent_id=token.agent_id, attempt=token.attempt,
        )
    )  # fmt: skip


def _revoke_stray(builder: DecisionBuilder, accessor: str, agent_id: str | None, attempt: int | None) -> None:
    """Ends a token that nobody has: it was minted for what is not wanted any more, or its record was lost."""
    if builder.view.find_revocation(accessor) is not None:
        return
    agent = None if agent_id is None else builder.view.find_agent(agent_id)
    superseded = agent is not None and attempt is not None and attempt < agent.attempt
    reason: RevocationReason = "attempt_superseded" if superseded else "orphaned"
    builder.accept(
        RevocationWanted(
            accessor=accessor, accessors=(accessor,), tenant=builder.tenant, reason=reason, agent_id=agent_id,
            attempt=attempt, last=builder.view.find_token(None) is None,
        )
    )  # fmt: skip
