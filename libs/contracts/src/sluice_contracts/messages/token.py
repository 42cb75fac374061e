"""Credentials (V1–V8): what is asked of the vault-broker, and what it tells of each token's life; never a token."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from sluice_contracts.limits import SEALED_MAX_CHARACTERS
from sluice_contracts.messages.base import Identifier, Message, Milliseconds, Ordinal, Problem, Summary, Value, message

Accessor = Annotated[
    Identifier, Field(description="Vault's name of a token: it can be looked up and revoked by it, but not used.")
]
RevocationReason = Literal[
    "agent_ended",
    "attempt_superseded",
    "pipeline_ended",
    "manual",
    "error_budget_exceeded",
    "api_call_budget_exceeded",
    "policy_violation",
    "no_progress",
    "orphaned",
    "waiting",
]
DeniedCommand = Literal["token.request", "token.revoke", "token.renew"]
GrantReason = Literal["requested", "implied"]
RenewalReason = Literal["due", "manual"]
FULL_REVOCATIONS: tuple[RevocationReason, ...] = (
    "manual", "error_budget_exceeded", "api_call_budget_exceeded", "policy_violation",
)  # fmt: skip
"""Reasons for which a living pipeline loses all its tokens: it is handed off, and fails."""

WHOLE_REVOCATIONS: tuple[RevocationReason, ...] = (*FULL_REVOCATIONS, "pipeline_ended", "waiting")
"""Reasons that, told of no agent, mean all that the pipeline had. A stray's end is told of no agent too, and means it
alone."""

Reason = Annotated[
    RevocationReason,
    Field(
        description="Without `agent_id`, `manual`, `error_budget_exceeded`, `api_call_budget_exceeded` and "
        "`policy_violation` are full revocations: the pipeline gets no credential any more, is handed off, and fails. "
        "The others are our services' own: `no_progress` and `waiting` end one attempt's, `agent_ended`, "
        "`attempt_superseded` and `pipeline_ended` what has done its work, `orphaned` what nobody knew. Other systems "
        "leave it out, or say `manual`; why, goes into `detail`."
    ),
]


class Grant(Value):
    """A token, sealed by Vault's transit engine: only the runners of its queue open it, and only as this attempt's."""

    sealed: Annotated[str, StringConstraints(max_length=SEALED_MAX_CHARACTERS)] = Field(
        description="Vault's ciphertext, `vault:v…`, made with the queue's key. Its context is "
        "`<pipeline_id>/<agent_id>/<attempt>` in base64."
    )
    accessor: Accessor
    expires_at_ms: Milliseconds = Field(description="Unless it is renewed before.")


@message("token.request")
class TokenRequest(Message):
    """Asks for a credential: the pipeline's own, or one for an attempt of an agent.

    An attempt's ends those of the agent's earlier attempts.
    """

    agent_id: Identifier | None = Field(
        default=None, description="Absent or null: the pipeline's own, the root of all others."
    )
    attempt: Ordinal | None = Field(default=None, description="Needed with `agent_id`.")
    queue: Identifier | None = Field(default=None, description="Whose runners may open it. Needed with `agent_id`.")
    parent_agent_id: Identifier | None = Field(
        default=None, description="Absent or null: a child of the pipeline's own."
    )
    may_have_agents: bool = Field(default=False, description="Whether tokens of other agents may be below an agent's.")


@message("token.revoke")
class TokenRevoke(Message):
    """Ends a credential and all below it: the pipeline's, or an agent's."""

    agent_id: Identifier | None = Field(
        default=None, description="Absent or null: the pipeline's, with all its agents'."
    )
    attempt: Ordinal | None = Field(
        default=None, description="Of `agent_id`: this and every earlier one; absent or null: whichever it is."
    )
    reason: Reason = "manual"
    detail: Summary = Field(default="", description="Why, for people: it is told in `token.revoked` and in the report.")


@message("token.renew")
class TokenRenew(Message):
    """Renews all credentials of a pipeline now, and not only when it is their time."""


class TokenEvent(Message):
    """What happened to one credential."""

    agent_id: Identifier | None = Field(default=None, description="Absent or null: it is the pipeline's own.")
    attempt: Ordinal | None = None
    accessor: Accessor
    latency_ms: Milliseconds = Field(
        default=0, description="From when the broker decided it, until Vault had done it; waiting for Vault counts."
    )


@message("token.granted")
class TokenGranted(TokenEvent):
    """A credential exists."""

    reason: GrantReason = Field(
        default="requested",
        description="`requested`: somebody asked for it. `implied`: it is the pipeline's own, and was made because a "
        "credential below it was asked for.",
    )
    policies: tuple[Identifier, ...] = ()
    parent_accessor: Accessor | None = None
    queue: Identifier | None = None
    grant: Grant | None = Field(
        default=None, description="Absent or null for the pipeline's own, which nobody else may use."
    )
    expires_at_ms: Milliseconds = Field(description="Unless it is renewed before.")
    ends_at_ms: Milliseconds = Field(description="It can't be renewed beyond this.")


@message("token.denied")
class TokenDenied(Message):
    """There will be no credential as it was asked for; or a person's command about credentials changes nothing."""

    agent_id: Identifier | None = None
    attempt: Ordinal | None = None
    problem: Problem
    command: DeniedCommand = Field(
        default="token.request", description="What was denied. Denying to revoke or to renew ends no credential."
    )
    latency_ms: Milliseconds = Field(
        default=0,
        description="From the command's time until it was denied; of a request that waited for Vault, from when the "
        "broker decided that it shall be granted.",
    )


@message("token.renewed")
class TokenRenewed(TokenEvent):
    """A credential lives longer."""

    reason: RenewalReason = Field(
        default="due",
        description="`due`: its interval had passed. `manual`: asked for by `token.renew`, which is the cause. A "
        "renewal that is under way when it is asked for keeps its reason.",
    )
    expires_at_ms: Milliseconds


@message("token.revoked")
class TokenRevoked(Message):
    """Vault has ended these tokens, and refuses whoever still has one."""

    agent_id: Identifier | None = Field(
        default=None,
        description="Absent or null: all of the pipeline, or, with reason `orphaned`, those that are named alone.",
    )
    attempt: Ordinal | None = None
    accessors: tuple[Accessor, ...] = Field(
        max_length=1_000,
        description="At most a thousand of them are named. Empty where there was none to end.",
    )
    reason: Reason
    detail: Summary = ""
    alert_id: str | None = Field(default=None, max_length=255, description="The alert that caused it.")
    latency_ms: Milliseconds = Field(
        default=0, description="From when the broker decided it, until Vault had done it; waiting for Vault counts."
    )

    @property
    def is_whole(self) -> bool:
        """Whether it means all that the pipeline had when it was decided; otherwise it means those that it names."""
        return self.agent_id is None and self.reason in WHOLE_REVOCATIONS


@message("token.expired")
class TokenExpired(TokenEvent):
    """A credential ended by itself: it could not be renewed in time, or reached its end."""
