"""Facts that are on no topic: what Vault answered, and what the broker decided and nobody else needs to hear."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sluice_contracts.messages.base import Message
from sluice_contracts.messages.token import RevocationReason

RETENTION_TIMER = "retention"
TOKEN_TIMER = "token"  # noqa: S105 - a timer's name


def token_timer(agent_id: str | None) -> str:
    """The name of the timer at which a token is looked at: to renew it, or to tell that it expired."""
    return f"{TOKEN_TIMER}:{agent_id or ''}"


# What Vault answered: inputs, which the hands and the reconciler inject. Each may be lost, late, or come twice.


class VaultMinted(Message):
    """A wanted token exists in Vault. It was minted for this number, and for nothing else."""

    type: ClassVar[str] = "vault.minted"
    agent_id: str | None = None
    attempt: int | None = None
    number: int
    accessor: str
    top: str | None = None
    parent_accessor: str | None = None
    kept: str = ""
    sealed: str | None = None
    policies: tuple[str, ...] = ()
    minted_at_ms: int
    expires_at_ms: int
    ends_at_ms: int


class VaultRenewed(Message):
    """Vault renewed a token."""

    type: ClassVar[str] = "vault.renewed"
    agent_id: str | None = None
    accessor: str
    renewed_at_ms: int
    expires_at_ms: int


class VaultRevoked(Message):
    """Vault ended a token and all below it, or does not know it any more; and so what else was to end before it."""

    type: ClassVar[str] = "vault.revoked"
    accessor: str
    also: tuple[str, ...] = ()


class VaultGone(Message):
    """Vault does not know a token that we believe alive, nor any below it."""

    type: ClassVar[str] = "vault.gone"
    agent_id: str | None = None
    accessor: str


class OrphanFound(Message):
    """Vault knows a token of this installation that, as far as was seen, nobody knows."""

    type: ClassVar[str] = "orphan.found"
    tenant: str
    agent_id: str | None = None
    attempt: int | None = None
    number: int
    accessor: str


# What the broker decided


class PipelineOpened(Message):
    """A pipeline's first credential is asked for, or all are revoked before; `foretold`: not by the spawner."""

    type: ClassVar[str] = "pipeline.opened"
    foretold: bool = False


class PipelineClaimed(Message):
    """The spawner speaks of a pipeline of which only others did: it says whose it is."""

    type: ClassVar[str] = "pipeline.claimed"
    owner: str


class CommandHeard(Message):
    """A command of the spawner's is decided: it, and what it said before, are repetitions if they come again."""

    type: ClassVar[str] = "command.heard"
    sequence: int


class TokenWanted(Message):
    """There shall be a token."""

    type: ClassVar[str] = "token.wanted"
    agent_id: str | None = None
    attempt: int | None = None
    queue: str | None = None
    parent_agent_id: str | None = None
    request_id: str
    implied: bool = False
    may_have_agents: bool = False


class TokenWantedAgain(Message):
    """A token that is wanted was made in vain: there shall be another one, under a number of its own."""

    type: ClassVar[str] = "token.wanted_again"
    agent_id: str | None = None


class RootAsked(Message):
    """The pipeline's own token, which is on its way, is asked for by itself as well."""

    type: ClassVar[str] = "root.asked"
    request_id: str


class AttemptClosed(Message):
    """An attempt of an agent, and every earlier one, gets no credential any more."""

    type: ClassVar[str] = "attempt.closed"
    agent_id: str
    attempt: int


class TokenLost(Message):
    """A token that lived, or was wanted, is not the state's any more."""

    type: ClassVar[str] = "token.lost"
    agent_id: str | None = None


class RenewalWanted(Message):
    """A token shall be renewed: it is due, or a command asks for it."""

    type: ClassVar[str] = "renewal.wanted"
    agent_id: str | None = None
    command_id: str | None = None


class RevocationWanted(Message):
    """A token shall end, with all below it; what was to end by itself so far, `also`, ends with it."""

    type: ClassVar[str] = "revocation.wanted"
    accessor: str
    accessors: tuple[str, ...]
    tenant: str
    reason: RevocationReason
    agent_id: str | None = None
    attempt: int | None = None
    detail: str = ""
    alert_id: str | None = None
    last: bool = False
    also: tuple[str, ...] = ()


class PipelineRevoked(Message):
    """A pipeline gets no credential any more."""

    type: ClassVar[str] = "pipeline.revoked"
    reason: RevocationReason


class PipelineEnded(Message):
    """A pipeline is over; what remains of it is forgotten after a retention."""

    type: ClassVar[str] = "pipeline.ended"


class PipelineForgotten(Message):
    """Nothing remains of a pipeline."""

    type: ClassVar[str] = "pipeline.forgotten"


class CommandDecided(Message):
    """A request was denied, or a person's command was done or denied; if it comes again, it changes nothing."""

    type: ClassVar[str] = "command.decided"
    command_id: str


class TokenLooked(Message):
    """A token's timer fired, and nothing was to be done yet."""

    type: ClassVar[str] = "token.looked"
    agent_id: str | None = None


@dataclass(frozen=True, slots=True)
class Fact:
    """Something that has happened to one pipeline's credentials, in its order.

    Attributes:
        message: A message that was emitted, or a fact of this module.
        time_ms: When it was decided.
        cause_id: The id of the input that was being decided.
        tenant: The pipeline's.
        sequence: Of an emitted message.
        traceparent: Of the cause.
    """

    message: Message
    time_ms: int
    cause_id: str
    tenant: str
    sequence: int | None = None
    traceparent: str | None = None
