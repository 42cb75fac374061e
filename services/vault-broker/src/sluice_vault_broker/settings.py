"""What the vault-broker can be told."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from sluice_runtime.processor.partition import OWN_DEAD_LETTERS_MAX_COUNT
from sluice_runtime.settings import PREFIX, QueueSettings
from sluice_runtime.vault.settings import ADDR, ROLE_ID_FILE, SECRET_ID_FILE, VaultSettings
from sluice_vault_broker.adapters.acts import Terms
from sluice_vault_broker.domain.policy import BrokerPolicy

_DEFAULTS, _TERMS = BrokerPolicy(), Terms()


class BrokerSettings(VaultSettings, QueueSettings):
    """The vault-broker's settings: those of every service, and its own."""

    vault_addr: Annotated[str, ADDR]
    vault_role_id_file: Annotated[Path, ROLE_ID_FILE]
    vault_secret_id_file: Annotated[Path, SECRET_ID_FILE]
    vault_threads: int = Field(
        default=8, ge=2, le=64, description="Acts in Vault at once; one in four takes revocations only."
    )
    token_ttl_s: int = Field(
        default=_TERMS.ttl_s, ge=2, le=86_400, description="A token ends after it, unless it is renewed."
    )
    token_max_ttl_s: int = Field(
        default=_TERMS.max_ttl_s, ge=2, le=32 * 86_400,
        description="A pipeline's tokens end after it in any case; the token role in Vault may say less.",
    )  # fmt: skip
    renewal_interval_s: int = Field(
        default=_DEFAULTS.renewal_interval_ms // 1_000, ge=1,
        description="Between a token's grant and its renewal, and between two; up to a tenth more or less.",
    )  # fmt: skip
    reconcile_interval_s: float = Field(
        default=60.0, ge=0.5, description="How often what Vault holds is compared with what the log says."
    )
    lookups_per_s: int = Field(
        default=200, ge=1, le=10_000, description="How fast tokens of Vault that nobody knows are looked up, each once."
    )
    session_timeout_ms: int = Field(
        default=10_000, ge=1_000, le=300_000, description="A broker that Kafka does not hear of loses its partitions."
    )
    finished_retention_s: int = Field(
        default=_DEFAULTS.retention_s, ge=8 * 86_400,
        description="How long an ended pipeline is known; longer than `token.commands` is kept (7 days).",
    )  # fmt: skip
    own_dead_letters_max_count: int = Field(
        default=OWN_DEAD_LETTERS_MAX_COUNT,
        ge=1,
        description="Refused records of our own services in a row; with more the broker stops: a bad deployment.",
    )

    @model_validator(mode="after")
    def _renewed_in_time(self) -> BrokerSettings:
        if self.renewal_interval_s * 2 > self.token_ttl_s:
            raise ValueError(
                f"{PREFIX}RENEWAL_INTERVAL_S={self.renewal_interval_s} is more than half of {PREFIX}TOKEN_TTL_S="
                f"{self.token_ttl_s}: one renewal that fails would end a token; renew oftener"
            )
        return self

    def policy(self) -> BrokerPolicy:
        """The settings of the decisions."""
        return BrokerPolicy(
            renewal_interval_ms=self.renewal_interval_s * 1_000,
            retention_s=self.finished_retention_s,
            queues=frozenset(self.queues),
        )

    def terms(self) -> Terms:
        """How long tokens live."""
        return Terms(ttl_s=self.token_ttl_s, max_ttl_s=self.token_max_ttl_s)
