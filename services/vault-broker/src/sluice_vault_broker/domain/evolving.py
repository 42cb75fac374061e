"""`evolve`: the one place where state changes. State is the fold of the facts; `_EVOLUTIONS` at the end says how."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from typing import Any

from msgspec.structs import replace

from sluice_contracts.messages.base import Message
from sluice_vault_broker.domain import facts
from sluice_vault_broker.domain.facts import RETENTION_TIMER, Fact, token_timer
from sluice_vault_broker.domain.policy import (
    EXPIRY_SLACK_MS,
    REMEMBERED_COMMANDS_MAX_COUNT,
    RENEWABLE_MIN_MS,
    BrokerPolicy,
)
from sluice_vault_broker.domain.state import (
    AgentEntity,
    DecidedCommandsEntity,
    FinishedPipeline,
    PipelineEntity,
    RevocationEntity,
    TokenEntity,
)
from sluice_vault_broker.domain.view import View

Evolution = Callable[[View, Any, Fact, BrokerPolicy], None]


def evolve(view: View, fact: Fact, policy: BrokerPolicy) -> None:
    """Folds one fact into the state of a pipeline's credentials.

    A fact that changes nothing but the count of events has no evolution.
    """
    evolution = _EVOLUTIONS.get(type(fact.message))
    if evolution is not None:
        evolution(view, fact.message, fact, policy)
    if fact.sequence is not None:
        _count(view, fact.sequence)


def renewal_due_ms(entity: TokenEntity, policy: BrokerPolicy) -> int | None:
    """When a living token is to be renewed; None where a renewal is under way, or would not prolong it.

    Tokens that were granted together are renewed apart: each has a place of its own within the spread, by the hash of
    its accessor.
    """
    if entity.renewing_since_ms is not None or entity.ends_at_ms - entity.expires_at_ms < RENEWABLE_MIN_MS:
        return None
    place = int.from_bytes(sha256(entity.accessor.encode()).digest()[:4], "big") / 2**32
    interval_ms = policy.renewal_interval_ms * (1 + policy.renewal_spread * (place - 0.5))
    return entity.renewed_at_ms + int(interval_ms)


def expiry_told_ms(entity: TokenEntity) -> int:
    """When a token is told to have expired, if nothing prolongs it."""
    return entity.expires_at_ms + EXPIRY_SLACK_MS


def _count(view: View, sequence: int) -> None:
    pipeline, finished = view.find_pipeline(), view.find_finished()
    if pipeline is not None:
        view.put_pipeline(replace(pipeline, sequence=sequence))
    elif finished is not None:
        view.put_finished(replace(finished, sequence=sequence))


# The pipeline


def _opened(view: View, message: facts.PipelineOpened, fact: Fact, policy: BrokerPolicy) -> None:
    entity = PipelineEntity(
        tenant=fact.tenant, since_ms=fact.time_ms, sequence=fact.time_ms, tokens=fact.time_ms,
        foretold=message.foretold,
    )  # fmt: skip
    view.put_pipeline(entity)
    _set_retention(view, fact, policy)


def _claimed(view: View, message: facts.PipelineClaimed, fact: Fact, policy: BrokerPolicy) -> None:
    view.put_pipeline(replace(view.pipeline(), tenant=message.owner, foretold=False))


def _heard(view: View, message: facts.CommandHeard, fact: Fact, policy: BrokerPolicy) -> None:
    view.put_pipeline(replace(view.pipeline(), heard=message.sequence))


def _revoked(view: View, message: facts.PipelineRevoked, fact: Fact, policy: BrokerPolicy) -> None:
    view.put_pipeline(replace(view.pipeline(), revoked=message.reason))


def _ended(view: View, message: facts.PipelineEnded, fact: Fact, policy: BrokerPolicy) -> None:
    pipeline = view.pipeline()
    _forget(view)
    view.put_finished(
        FinishedPipeline(
            tenant=pipeline.tenant, sequence=pipeline.sequence, ended_by=pipeline.heard, revoked=pipeline.revoked
        )
    )
    _set_retention(view, fact, policy)


def _forgotten(view: View, message: facts.PipelineForgotten, fact: Fact, policy: BrokerPolicy) -> None:
    if view.find_pipeline() is not None:
        _forget(view)
    view.put_finished(None)
    view.put_decided_commands(None)
    view.delete_timer(RETENTION_TIMER)


def _forget(view: View) -> None:
    for agent_id in list(view.known_agents()):
        view.put_agent(agent_id, None)
    view.put_pipeline(None)


def _decided(view: View, message: facts.CommandDecided, fact: Fact, policy: BrokerPolicy) -> None:
    """Remembers a command, where there is a pipeline that bounds how many are remembered, and for how long."""
    if view.find_pipeline() is not None or view.find_finished() is not None:
        ids_ = (*view.decided_commands().ids, message.command_id)[-REMEMBERED_COMMANDS_MAX_COUNT:]
        view.put_decided_commands(DecidedCommandsEntity(ids=ids_))


def _closed(view: View, message: facts.AttemptClosed, fact: Fact, policy: BrokerPolicy) -> None:
    known = view.find_agent(message.agent_id)
    if known is None:
        _add_agent(view, message.agent_id, AgentEntity(closed=message.attempt))
    else:
        view.put_agent(message.agent_id, replace(known, closed=max(known.closed, message.attempt)))


def _add_agent(view: View, agent_id: str, entity: AgentEntity) -> None:
    pipeline = view.pipeline()
    view.put_agent(agent_id, replace(entity, previous=pipeline.last_agent))
    view.put_pipeline(replace(pipeline, last_agent=agent_id))


def _set_retention(view: View, fact: Fact, policy: BrokerPolicy) -> None:
    _set_timer(view, RETENTION_TIMER, fact.time_ms + policy.retention_s * 1_000, fact)


def _set_timer(view: View, name: str, due_at_ms: int, fact: Fact) -> None:
    """Its generation is the time at which it is due."""
    view.set_timer(name, due_at_ms, due_at_ms, fact.tenant)


# Tokens


def _next_number(view: View) -> int:
    pipeline = view.pipeline()
    view.put_pipeline(replace(pipeline, tokens=pipeline.tokens + 1))
    return pipeline.tokens + 1


def _wanted(view: View, message: facts.TokenWanted, fact: Fact, policy: BrokerPolicy) -> None:
    entity = TokenEntity(
        number=_next_number(view),
        wanted_at_ms=fact.time_ms,
        request_id=message.request_id,
        agent_id=message.agent_id,
        attempt=message.attempt,
        queue=message.queue,
        parent_agent_id=message.parent_agent_id,
        traceparent=fact.traceparent,
        implied=message.implied,
        may_have_agents=message.may_have_agents,
    )
    view.put_token(message.agent_id, entity)
    view.delete_timer(RETENTION_TIMER)
    if message.agent_id is None:
        return
    if message.agent_id not in view.agents():
        view.put_agents((*view.agents(), message.agent_id))
    assert message.attempt is not None
    known = view.find_agent(message.agent_id)
    if known is None:
        _add_agent(view, message.agent_id, AgentEntity(attempt=message.attempt, request_id=message.request_id))
    else:
        asked = replace(known, attempt=message.attempt, request_id=message.request_id)
        view.put_agent(message.agent_id, asked)


def _wanted_again(view: View, message: facts.TokenWantedAgain, fact: Fact, policy: BrokerPolicy) -> None:
    entity = replace(view.token(message.agent_id), number=_next_number(view), wanted_at_ms=fact.time_ms)
    view.put_token(message.agent_id, entity)


def _root_asked(view: View, message: facts.RootAsked, fact: Fact, policy: BrokerPolicy) -> None:
    view.put_token(None, replace(view.token(None), request_id=message.request_id, implied=False))


def _minted(view: View, message: facts.VaultMinted, fact: Fact, policy: BrokerPolicy) -> None:
    entity = replace(
        view.token(message.agent_id),
        accessor=message.accessor,
        top=message.top,
        parent_accessor=message.parent_accessor,
        kept=message.kept,
        renewed_at_ms=message.minted_at_ms,
        expires_at_ms=message.expires_at_ms,
        ends_at_ms=message.ends_at_ms,
    )
    view.put_token(message.agent_id, entity)
    _set_token_timer(view, entity, fact, policy)


def _renewed(view: View, message: facts.VaultRenewed, fact: Fact, policy: BrokerPolicy) -> None:
    entity = replace(
        view.token(message.agent_id),
        renewing_since_ms=None,
        renewal_command_id=None,
        renewed_at_ms=message.renewed_at_ms,
        expires_at_ms=message.expires_at_ms,
    )
    view.put_token(message.agent_id, entity)
    _set_token_timer(view, entity, fact, policy)


def _renewal_wanted(view: View, message: facts.RenewalWanted, fact: Fact, policy: BrokerPolicy) -> None:
    token = view.token(message.agent_id)
    entity = replace(token, renewing_since_ms=fact.time_ms, renewal_command_id=message.command_id)
    view.put_token(message.agent_id, entity)
    _set_token_timer(view, entity, fact, policy)


def _looked(view: View, message: facts.TokenLooked, fact: Fact, policy: BrokerPolicy) -> None:
    _set_token_timer(view, view.token(message.agent_id), fact, policy)


def _set_token_timer(view: View, entity: TokenEntity, fact: Fact, policy: BrokerPolicy) -> None:
    renewal_ms = renewal_due_ms(entity, policy)
    due_at_ms = expiry_told_ms(entity) if renewal_ms is None else min(renewal_ms, expiry_told_ms(entity))
    _set_timer(view, token_timer(entity.agent_id), due_at_ms, fact)


def _lost(view: View, message: facts.TokenLost, fact: Fact, policy: BrokerPolicy) -> None:
    view.put_token(message.agent_id, None)
    view.delete_timer(token_timer(message.agent_id))
    if message.agent_id is not None:
        view.put_agents(tuple(one for one in view.agents() if one != message.agent_id))
    if view.find_token(None) is None and not view.agents():
        _set_retention(view, fact, policy)


def _revocation_wanted(view: View, message: facts.RevocationWanted, fact: Fact, policy: BrokerPolicy) -> None:
    view.put_revocation(
        message.accessor,
        RevocationEntity(
            accessor=message.accessor,
            accessors=message.accessors,
            tenant=message.tenant,
            reason=message.reason,
            decided_at_ms=fact.time_ms,
            cause_id=fact.cause_id,
            agent_id=message.agent_id,
            attempt=message.attempt,
            detail=message.detail,
            alert_id=message.alert_id,
            traceparent=fact.traceparent,
            last=message.last,
            also=message.also,
        ),
    )
    for accessor in message.also:
        view.put_revocation(accessor, None)
    if message.agent_id is None:
        _set_ending(view, without=(message.accessor, *message.also), more=(message.accessor,))


def _vault_revoked(view: View, message: facts.VaultRevoked, fact: Fact, policy: BrokerPolicy) -> None:
    view.put_revocation(message.accessor, None)
    _set_ending(view, without=(message.accessor,))


def _set_ending(view: View, *, without: tuple[str, ...], more: tuple[str, ...] = ()) -> None:
    pipeline = view.find_pipeline()
    if pipeline is None:
        return
    ending = (*(one for one in pipeline.ending if one not in without), *more)
    if ending != pipeline.ending:
        view.put_pipeline(replace(pipeline, ending=ending))


_EVOLUTIONS: dict[type[Message], Evolution] = {
    facts.PipelineOpened: _opened,
    facts.PipelineClaimed: _claimed,
    facts.CommandHeard: _heard,
    facts.PipelineRevoked: _revoked,
    facts.PipelineEnded: _ended,
    facts.PipelineForgotten: _forgotten,
    facts.CommandDecided: _decided,
    facts.AttemptClosed: _closed,
    facts.TokenWanted: _wanted,
    facts.TokenWantedAgain: _wanted_again,
    facts.RootAsked: _root_asked,
    facts.VaultMinted: _minted,
    facts.VaultRenewed: _renewed,
    facts.RenewalWanted: _renewal_wanted,
    facts.TokenLooked: _looked,
    facts.TokenLost: _lost,
    facts.RevocationWanted: _revocation_wanted,
    facts.VaultRevoked: _vault_revoked,
}
"""What changes the state. Events of `sluice_contracts.messages.token` only say what these did, and are counted."""
