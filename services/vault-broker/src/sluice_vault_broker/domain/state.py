"""What the vault-broker knows of a pipeline's credentials: small entities, each under its own key.

A token that is wanted, one that lives, and an act that ends one are entities: what has to be done in Vault is read from
them, and from nothing else (`adapters.hands`). Keys begin with the pipeline's id; `view` is their one place.

**No token stands here**, only accessors and what Vault's transit engine sealed.

**What was written stays readable.** Journals and checkpoints of earlier releases are read with these classes. So
fields are only appended, and have a default; names, tags and defaults never change (what is at its default is not
written), and what means something else is another field. Recorded histories in `tests/unit/vault_broker/recorded` are
read back by a test; a new field needs a new one.
"""

from __future__ import annotations

from sluice_contracts.messages.token import RevocationReason
from sluice_runtime.deciding import Entity, Timer


class PipelineEntity(Entity, frozen=True, tag="pipeline"):
    """A pipeline that has credentials, wants some, or may have none any more. It exists until its end is told.

    Attributes:
        tenant: Whose it is.
        since_ms: When its first credential was asked for.
        sequence: The number of its last event. The first has the time of the first request, so that numbers rise from
            one life of an id to the next, too.
        tokens: The number of the token that was wanted last; it begins with the time, too, so that no number comes
            again. Vault has it in the token's metadata.
        heard: The sequence of the spawner's last command that was decided: what is not greater is a repetition.
        revoked: Why all its credentials were ended for good; it gets none any more.
        last_agent: Head of the list of all agents that ever asked; each names the one before it.
        ending: Accessors of the revocations of what is no agent's that Vault has not confirmed: until then it honours
            tokens that the state does not have any more.
        foretold: Only others than the spawner spoke of it, so `tenant` is that of whoever did first.
    """

    tenant: str
    since_ms: int
    sequence: int
    tokens: int
    heard: int = 0
    revoked: RevocationReason | None = None
    last_agent: str | None = None
    ending: tuple[str, ...] = ()
    foretold: bool = False


class AgentsEntity(Entity, frozen=True, tag="agents"):
    """The agents of a pipeline that have a token, or will have one; in the order in which they asked."""

    ids: tuple[str, ...] = ()


class AgentEntity(Entity, frozen=True, tag="agent"):
    """What was last asked for an agent; kept as long as its pipeline.

    Attributes:
        attempt: The highest that was asked for; 0: none was.
        request_id: The command that asked.
        closed: The highest whose credential was ended so that it gets no other one, nor any before it.
        previous: The agent of the pipeline before it.
    """

    attempt: int = 0
    request_id: str = ""
    closed: int = 0
    previous: str | None = None


class TokenEntity(Entity, frozen=True, tag="token"):
    """A token: wanted as long as it has no accessor, then alive.

    Attributes:
        number: Unique in the pipeline; whatever Vault answers about another number is not about this token.
        wanted_at_ms: When it was decided that it shall be.
        request_id: The command that asked for it, or for the first one below it.
        agent_id: None: it is the pipeline's own, the root.
        parent_agent_id: Whose token it was to be below; the pipeline's own where that agent has none.
        accessor: Vault's name of it.
        parent_accessor: Of the token that it was made with; None for the root.
        kept: The token, sealed by the key that only the broker may use: children are made with it. Empty where it may
            have none.
        renewed_at_ms: When it was granted or last renewed.
        expires_at_ms: When it ends unless it is renewed.
        ends_at_ms: When it ends in any case.
        renewing_since_ms: When it was decided to renew it; None: no renewal is wanted.
        top: The accessor of the login below which Vault made it: with that one it is ended, and all below it. None for
            an agent's.
        implied: Nobody asked for it by itself, so nobody is told if it never comes: a root for the token below it.
        may_have_agents: Whether an agent's may have others below it. The pipeline's own may in any case.
        renewal_command_id: The command that asked for the renewal that is wanted; None: it was due, or none is wanted.
    """

    number: int
    wanted_at_ms: int
    request_id: str
    agent_id: str | None = None
    attempt: int | None = None
    queue: str | None = None
    parent_agent_id: str | None = None
    traceparent: str | None = None
    accessor: str = ""
    parent_accessor: str | None = None
    kept: str = ""
    renewed_at_ms: int = 0
    expires_at_ms: int = 0
    ends_at_ms: int = 0
    renewing_since_ms: int | None = None
    implied: bool = False
    top: str | None = None
    may_have_agents: bool = False
    renewal_command_id: str | None = None

    @property
    def lives(self) -> bool:
        """Whether Vault has made it."""
        return self.accessor != ""

    @property
    def ended_by(self) -> str:
        """The accessor with which it ends."""
        return self.top or self.accessor

    @property
    def is_parent(self) -> bool:
        """Whether tokens may be made below it."""
        return self.agent_id is None or self.may_have_agents


class RevocationEntity(Entity, frozen=True, tag="revocation"):
    """A token that must end, and has not been told to have ended.

    Attributes:
        accessor: Of the token; all below it end with it.
        accessors: Of the whole tree, at most as many as an event may name.
        tenant: Of the pipeline, which may be forgotten when it is done.
        decided_at_ms: When it was decided.
        cause_id: The command, the alert or whatever else caused it.
        agent_id: Whose it was; None: the pipeline's own, and so all.
        last: Whether the pipeline is left without a token of its own: its entity goes, too.
        also: What must have ended, too, before it is told: earlier tokens of the pipeline's own.
    """

    accessor: str
    accessors: tuple[str, ...]
    tenant: str
    reason: RevocationReason
    decided_at_ms: int
    cause_id: str
    agent_id: str | None = None
    attempt: int | None = None
    detail: str = ""
    alert_id: str | None = None
    traceparent: str | None = None
    last: bool = False
    also: tuple[str, ...] = ()


class DecidedCommandsEntity(Entity, frozen=True, tag="refusals"):
    """The last requests that were denied, and people's last commands, by their ids: a redelivery changes nothing."""

    ids: tuple[str, ...] = ()


class FinishedPipeline(Entity, frozen=True, tag="finished"):
    """What remains of a pipeline after its end, for a retention.

    Attributes:
        sequence: Of its last event.
        ended_by: The sequence of the spawner's command that ended it; a greater one belongs to another life of the id.
        revoked: Why it had lost all credentials before its end.
    """

    tenant: str
    sequence: int
    ended_by: int = 0
    revoked: RevocationReason | None = None


ENTITY_TYPE = (
    PipelineEntity
    | AgentsEntity
    | AgentEntity
    | TokenEntity
    | RevocationEntity
    | DecidedCommandsEntity
    | FinishedPipeline
    | Timer
)
"""The union of all that the state holds, for decoding."""
