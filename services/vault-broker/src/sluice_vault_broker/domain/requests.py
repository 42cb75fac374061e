"""Commands that ask for credentials, and for their renewal."""

from __future__ import annotations

from sluice_contracts.messages.token import TokenRenew, TokenRequest
from sluice_vault_broker.domain import refusing, revoking
from sluice_vault_broker.domain.building import DecisionBuilder
from sluice_vault_broker.domain.facts import PipelineForgotten, PipelineOpened, RenewalWanted, RootAsked, TokenWanted
from sluice_vault_broker.domain.policy import AGENTS_PER_PIPELINE_MAX_COUNT
from sluice_vault_broker.domain.refusing import CLOSED_CODE, SUPERSEDED_CODE


def request(builder: DecisionBuilder, message: TokenRequest) -> None:
    """Wants a token: the pipeline's own, or one for an attempt of an agent; answers at once only if there will be none.

    A request for what is there, or on its way, or was given up since by a newer attempt, is a repetition: nothing new.
    """
    if not _open(builder, message):
        return
    if message.agent_id is None:
        _want_root(builder)
    elif _lawful(builder, message):
        _want(builder, message)


def renew(builder: DecisionBuilder, message: TokenRenew) -> None:
    """Renews all tokens of a pipeline now; those that are being renewed are not renewed twice."""
    if not refusing.open_to_people(builder):
        return
    living = [token for token in builder.view.tokens() if token.lives]
    if not living:
        detail = (
            f"pipeline {builder.pipeline_id} has no credential to renew; correct its id, or wait until it has one: "
            f"sluice tokens {builder.pipeline_id}"
        )
        builder.deny(refusing.NONE_CODE, detail, agent_id=None, attempt=None)
        return
    for token in living:
        if token.renewing_since_ms is None:
            builder.accept(RenewalWanted(agent_id=token.agent_id, command_id=builder.cause.id))
    builder.remember()


def _open(builder: DecisionBuilder, message: TokenRequest) -> bool:
    """Whether the pipeline may have credentials."""
    view = builder.view
    finished = view.find_finished()
    if finished is not None:
        sequence = builder.spawner_sequence
        if sequence is None or not finished.ended_by or sequence <= finished.ended_by:
            _deny(builder, message, refusing.ENDED_CODE, f"pipeline {builder.pipeline_id} has ended; spawn another")
            return False
        builder.accept(PipelineForgotten())  # the id is used again, for another pipeline
    pipeline = view.find_pipeline()
    if pipeline is None:
        return True
    if not builder.lawful:
        _deny(builder, message, refusing.UNKNOWN_CODE, refusing.unknown_detail(builder))
        return False
    if pipeline.revoked is not None:
        _deny(builder, message, refusing.REVOKED_CODE, refusing.revoked_detail(pipeline.revoked))
        return False
    return True


def _want_root(builder: DecisionBuilder) -> None:
    root = builder.view.find_token(None)
    if root is None:
        _begin(builder)
        builder.accept(TokenWanted(request_id=builder.cause.id))
    elif root.implied and not root.lives:
        builder.accept(RootAsked(request_id=builder.cause.id))


def _lawful(builder: DecisionBuilder, message: TokenRequest) -> bool:
    """Whether the request is one for a token of an agent that can be made, and was not decided before."""
    view, agent_id, attempt = builder.view, message.agent_id, message.attempt
    if agent_id is None or attempt is None or message.queue is None:
        _deny(builder, message, "incomplete_request", "a token of an agent needs agent_id, attempt and queue; give all")
        return False
    if message.queue not in builder.policy.queues:
        known = ", ".join(sorted(builder.policy.queues)[:20])
        detail = f"queue {message.queue} has no key; name one of: {known}"
        _deny(builder, message, "unknown_queue", detail)
        return False
    agent = view.find_agent(agent_id)
    if agent is not None:
        lives = attempt == agent.attempt and view.find_token(agent_id) is not None
        if attempt < agent.attempt or builder.cause.id == agent.request_id or lives:
            return False
        if attempt <= agent.closed:
            detail = f"the credential of attempt {attempt} was ended; ask for the next attempt's"
            _deny(builder, message, CLOSED_CODE, detail)
            return False
    above = _parent(builder, message)
    parent = None if above is None else view.find_token(above)
    if parent is not None and not parent.is_parent:
        detail = f"agent {above} may have no agents; ask for its next attempt's token with may_have_agents"
        _deny(builder, message, "not_a_parent", detail)
        return False
    if agent_id not in view.agents() and len(view.agents()) >= AGENTS_PER_PIPELINE_MAX_COUNT:
        detail = f"{AGENTS_PER_PIPELINE_MAX_COUNT} agents of the pipeline have a credential; wait until one ends"
        _deny(builder, message, "too_many_credentials", detail)
        return False
    return True


def _want(builder: DecisionBuilder, message: TokenRequest) -> None:
    agent_id = message.agent_id
    if agent_id is not None and builder.view.find_token(agent_id) is not None:
        revoking.revoke_tree(
            builder, agent_id, "attempt_superseded", code=SUPERSEDED_CODE,
            told=f"attempt {message.attempt} took its place",
        )  # fmt: skip
    _begin(builder)
    if builder.view.find_token(None) is None:
        builder.accept(TokenWanted(request_id=builder.cause.id, implied=True))
    builder.accept(
        TokenWanted(
            agent_id=agent_id,
            attempt=message.attempt,
            queue=message.queue,
            parent_agent_id=_parent(builder, message),
            request_id=builder.cause.id,
            may_have_agents=message.may_have_agents,
        )
    )


def _parent(builder: DecisionBuilder, message: TokenRequest) -> str | None:
    """Whose token it shall be below: the named agent's, unless that one waits to be below this one."""
    above = message.parent_agent_id
    while above is not None:
        if above == message.agent_id:
            return None
        token = builder.view.find_token(above)
        above = None if token is None or token.lives else token.parent_agent_id
    return message.parent_agent_id


def _begin(builder: DecisionBuilder) -> None:
    if builder.view.find_pipeline() is None:
        builder.accept(PipelineOpened(foretold=builder.spawner_sequence is None))


def _deny(builder: DecisionBuilder, message: TokenRequest, code: str, detail: str) -> None:
    builder.deny(code, detail, agent_id=message.agent_id, attempt=message.attempt)
