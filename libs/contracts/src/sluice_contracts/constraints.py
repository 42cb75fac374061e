"""The constraints of a task (P3): what its agent may not do. The spawner refuses others, runners enforce these."""

from __future__ import annotations

READ_ONLY = "read-only"
"""It writes nothing."""

SANDBOX_ONLY = "sandbox-only"
"""It reaches no network."""

NO_SECRETS = "no-secrets"
"""It gets no grant: none of its attempts can read from Vault."""
