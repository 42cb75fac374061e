"""What the vault-broker needs of Vault. Each call is one act: a crash falls between two.

How Vault may fail is said by `sluice_runtime.vault.faults`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from pydantic import SecretStr

from sluice_contracts.messages.base import Identifier, Ordinal
from sluice_runtime.vault.faults import TokenUnknown, VaultAway, VaultFault, VaultRefused

__all__ = ["Label", "Minted", "TokenUnknown", "Vault", "VaultAway", "VaultFault", "VaultRefused"]


@dataclass(frozen=True, slots=True)
class Label:
    """What Vault keeps beside a token, so that it is known whose it is, whatever was lost since.

    Attributes:
        number: `TokenEntity.number`, unique in the pipeline.
    """

    tenant: Identifier
    pipeline_id: Identifier
    number: Ordinal
    agent_id: Identifier | None = None
    attempt: Ordinal | None = None


@dataclass(frozen=True, slots=True)
class Minted:
    """A token that was just made. `ttl_s` is what Vault gave, which may be less than what was asked for."""

    token: SecretStr
    accessor: str
    ttl_s: int
    policies: tuple[str, ...] = ()


class Vault(Protocol):
    """Vault, as one installation sees it. Synchronous: called in threads, each call bounded in time.

    Every method raises `VaultAway` and `VaultRefused`.
    """

    def entities(self) -> list[str]:
        """The pipelines that have an entity, of whatever installation."""
        ...

    def delete_entity(self, pipeline_id: str) -> None:
        """Deletes a pipeline's entity, if it has one: no token of the pipeline can do anything from then on."""
        ...

    def log_in(self, label: Label) -> Minted:
        """Logs in for a pipeline; the token can do nothing but make the pipeline's own."""
        ...

    def mint_root(self, login: SecretStr, label: Label, *, ttl_s: int, max_ttl_s: int) -> Minted:
        """Makes the pipeline's own token, below its login; with it the pipeline's entity, if there is none.

        Raises:
            TokenUnknown: The login has ended.
        """
        ...

    def mint_child(
        self, parent: SecretStr, label: Label, *, ttl_s: int, max_ttl_s: int, may_have_agents: bool
    ) -> Minted:
        """Makes an agent's token below another one, with its entity, and with no policy that it lacks.

        Raises:
            TokenUnknown: The parent has ended.
        """
        ...

    def keep(self, pipeline_id: str, token: SecretStr) -> str:
        """Seals a token for the broker itself."""
        ...

    def unkeep(self, pipeline_id: str, kept: str) -> SecretStr:
        """Opens what `keep` sealed for this pipeline."""
        ...

    def seal(self, queue: str, context: str, token: SecretStr) -> str:
        """Seals a token for the runners of a queue, bound to a context."""
        ...

    def renew(self, accessor: str, ttl_s: int) -> int:
        """Renews a token; returns how many seconds it now lives: fewer than asked for where it comes to its end.

        Raises:
            TokenUnknown: It has ended.
        """
        ...

    def revoke(self, accessor: str) -> None:
        """Ends a token and all below it. One that is unknown has ended."""
        ...

    def accessors(self) -> list[str]:
        """The accessors of all tokens, of whomever."""
        ...

    def lookup(self, accessor: str) -> Label | None:
        """Whose token it is; None if it is none of this installation's.

        Raises:
            TokenUnknown: It has ended.
        """
        ...
