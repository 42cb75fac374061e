"""What the vault-broker says, and what it means for attempts: no grant, no attempt; no token, no attempt any more."""

from __future__ import annotations

from sluice_contracts.messages.agent import AgentGrantOpened, AgentGrantRefused
from sluice_contracts.messages.base import Problem
from sluice_contracts.messages.token import (
    FULL_REVOCATIONS,
    TokenDenied,
    TokenExpired,
    TokenGranted,
    TokenRenewed,
    TokenRevoked,
)
from sluice_spawner.domain import attempts, breaches, tasks
from sluice_spawner.domain.building import DecisionBuilder
from sluice_spawner.domain.errors import AgentTimeout
from sluice_spawner.domain.state import AgentEntity

REVOKED_CODE = "credentials_revoked"
"""The problem of a request that came after a revocation, or was ended by it: that will be heard of too, and says more.
Unless it was heard before the spawn: only the denial of the pipeline's own token can be that late."""

ATTEMPT_REVOKED_CODE = "attempt_revoked"
"""The problem of a request whose attempt was revoked before it had its grant: as if it had been later."""


def granted(builder: DecisionBuilder, message: TokenGranted) -> None:
    """The attempt that waits for this grant is handed to its queue. One that nobody waits for any more is no use."""
    agent = _waiting(builder, message.agent_id, message.attempt)
    if agent is not None and message.agent_id is not None and message.grant is not None:
        tasks.assign(builder, message.agent_id, agent.request_reason, message.grant)


def denied(builder: DecisionBuilder, message: TokenDenied) -> None:
    """There will be no grant: the task fails; of a pipeline that was revoked before its spawn, all of it.

    Commands of people that are denied change nothing.
    """
    if message.command != "token.request":
        return
    if message.agent_id is None and message.problem.code == REVOKED_CODE:
        breaches.root_denied(builder, message.problem)
        return
    agent = _waiting(builder, message.agent_id, message.attempt)
    if agent is None or message.agent_id is None or message.problem.code == REVOKED_CODE:
        return
    revoked_on_its_way = message.problem.code == ATTEMPT_REVOKED_CODE
    tasks.retry_or_fail(builder, message.agent_id, message.problem, retryable=revoked_on_its_way)


def revoked(builder: DecisionBuilder, message: TokenRevoked) -> None:
    """Tokens are gone: all of the pipeline's, or an attempt's."""
    if message.reason in FULL_REVOCATIONS and message.agent_id is None:
        breaches.revoked(builder, message.reason, message.alert_id)
    elif message.reason in ("manual", "no_progress") and message.agent_id is not None:
        detail = message.detail or f"its credential was revoked: {message.reason}"
        breaches.interrupt(builder, message.agent_id, message.attempt, Problem(code=message.reason, detail=detail))


def expired(builder: DecisionBuilder, message: TokenExpired) -> None:
    """An attempt's token ended by itself: the attempt is given up, and the next one goes on when it has a grant."""
    pipeline = builder.view.find_pipeline()
    if pipeline is None or pipeline.revoked is not None or message.agent_id is None:
        return
    agent = builder.view.find_agent(message.agent_id)
    if agent is not None and agent.has_attempt and agent.attempt == message.attempt:
        lost = AgentTimeout(
            f"the credential of attempt {agent.attempt} expired, since it could not be renewed; see whether Vault can "
            f"be reached",
            code="credential_expired",
        )
        attempts.lose(builder, message.agent_id, lost)


def renewed(builder: DecisionBuilder, message: TokenRenewed) -> None:
    """Nothing changes for an attempt."""


def opened(builder: DecisionBuilder, message: AgentGrantOpened) -> None:
    """A runner has its credential: that is for the log."""


def open_refused(builder: DecisionBuilder, message: AgentGrantRefused) -> None:
    """A runner could not open its grant: that is for the log, and the attempt ends by the `agent.failed` after it."""


def _waiting(builder: DecisionBuilder, agent_id: str | None, attempt: int | None) -> AgentEntity | None:
    """The agent, if it waits for the grant of this attempt."""
    pipeline = builder.view.find_pipeline()
    if pipeline is None or pipeline.revoked is not None or agent_id is None:
        return None
    agent = builder.view.find_agent(agent_id)
    if agent is None or agent.ended or not agent.awaits_grant or agent.requested != attempt:
        return None
    return agent
