"""What is done in Vault for what the state wants, step by step: one call of Vault between two yields.

Whoever drives an act may stop at any yield, as a crash does. What an act left behind is then found by the reconciler,
or done again by the next owner: so each act may be repeated.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

from sluice_contracts.messages.base import Message
from sluice_runtime.clock import Clock
from sluice_runtime.vault.names import grant_context
from sluice_vault_broker.adapters.holdings import Wanted
from sluice_vault_broker.domain.facts import VaultGone, VaultMinted, VaultRenewed, VaultRevoked
from sluice_vault_broker.domain.state import RevocationEntity, TokenEntity
from sluice_vault_broker.ports import Label, TokenUnknown, Vault

Act = Generator[None, None, Message]
"""Ends with what the decider is told."""


@dataclass(frozen=True, slots=True)
class Terms:
    """How long tokens live.

    Attributes:
        ttl_s: Until they end unless they are renewed (V1).
        max_ttl_s: Until they end in any case.
    """

    ttl_s: int = 2 * 3_600
    max_ttl_s: int = 24 * 3_600


def act_for(vault: Vault, clock: Clock, terms: Terms, wanted: Wanted) -> Act:
    """The act that something wanted needs."""
    entity = wanted.entity
    if isinstance(entity, RevocationEntity):
        return _revoke(vault, wanted.pipeline_id, entity)
    if entity.lives:
        return _renew(vault, clock, terms, entity)
    if wanted.parent is None:
        return _mint_root(vault, clock, terms, wanted, entity)
    return _mint_child(vault, clock, terms, wanted, entity, wanted.parent)


def _mint_root(vault: Vault, clock: Clock, terms: Terms, wanted: Wanted, entity: TokenEntity) -> Act:
    label = Label(wanted.tenant, wanted.pipeline_id, entity.number)
    # Before: what we count must not last longer than what Vault counts.
    asked_at_ms = clock.now_ms()
    login = vault.log_in(label)
    yield
    minted = vault.mint_root(login.token, label, ttl_s=terms.ttl_s, max_ttl_s=terms.max_ttl_s)
    yield
    kept = vault.keep(wanted.pipeline_id, minted.token)
    yield
    return VaultMinted(
        number=entity.number,
        accessor=minted.accessor,
        top=login.accessor,
        kept=kept,
        policies=minted.policies,
        minted_at_ms=asked_at_ms,
        expires_at_ms=asked_at_ms + min(login.ttl_s, minted.ttl_s) * 1_000,
        ends_at_ms=asked_at_ms + terms.max_ttl_s * 1_000,
    )


def _mint_child(
    vault: Vault, clock: Clock, terms: Terms, wanted: Wanted, entity: TokenEntity, parent: TokenEntity
) -> Act:
    assert entity.agent_id is not None
    assert entity.attempt is not None
    assert entity.queue is not None
    label = Label(wanted.tenant, wanted.pipeline_id, entity.number, entity.agent_id, entity.attempt)
    try:
        with_token = vault.unkeep(wanted.pipeline_id, parent.kept)
        yield
        asked_at_ms = clock.now_ms()
        max_ttl_s = max(1, min(terms.max_ttl_s, (parent.ends_at_ms - asked_at_ms) // 1_000))
        minted = vault.mint_child(
            with_token,
            label,
            ttl_s=min(terms.ttl_s, max_ttl_s),
            max_ttl_s=max_ttl_s,
            may_have_agents=entity.may_have_agents,
        )
        del with_token
        yield
    except TokenUnknown:
        return VaultGone(agent_id=parent.agent_id, accessor=parent.accessor)
    context = grant_context(wanted.pipeline_id, entity.agent_id, entity.attempt)
    sealed = vault.seal(entity.queue, context, minted.token)
    yield
    kept = ""
    if entity.may_have_agents:
        kept = vault.keep(wanted.pipeline_id, minted.token)
        yield
    return VaultMinted(
        agent_id=entity.agent_id,
        attempt=entity.attempt,
        number=entity.number,
        accessor=minted.accessor,
        parent_accessor=parent.accessor,
        kept=kept,
        sealed=sealed,
        policies=minted.policies,
        minted_at_ms=asked_at_ms,
        expires_at_ms=asked_at_ms + minted.ttl_s * 1_000,
        ends_at_ms=asked_at_ms + max_ttl_s * 1_000,
    )


def _renew(vault: Vault, clock: Clock, terms: Terms, entity: TokenEntity) -> Act:
    asked_at_ms = clock.now_ms()
    try:
        ttl_s = vault.renew(entity.accessor, terms.ttl_s)
        yield
        if entity.top is not None:
            ttl_s = min(ttl_s, vault.renew(entity.top, terms.ttl_s))
            yield
    except TokenUnknown:
        return VaultGone(agent_id=entity.agent_id, accessor=entity.accessor)
    return VaultRenewed(
        agent_id=entity.agent_id,
        accessor=entity.accessor,
        renewed_at_ms=asked_at_ms,
        expires_at_ms=asked_at_ms + ttl_s * 1_000,
    )


def _revoke(vault: Vault, pipeline_id: str, entity: RevocationEntity) -> Act:
    for accessor in (entity.accessor, *entity.also):
        vault.revoke(accessor)
        yield
    if entity.last:
        vault.delete_entity(pipeline_id)
        yield
    return VaultRevoked(accessor=entity.accessor, also=entity.also)
