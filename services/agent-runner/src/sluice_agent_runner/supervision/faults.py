"""What ends an attempt from outside its turns, and what is said of it."""

from __future__ import annotations

from collections.abc import Callable

from sluice_agent_runner.domain.actions import Fail, failure
from sluice_agent_runner.ports import TokenUnknown, UnusableInput, VaultAway
from sluice_agent_runner.supervision.credential import TokenExpired
from sluice_agent_runner.supervision.granting import GrantRefused, VaultUnknown
from sluice_agent_runner.supervision.transcripts import TranscriptBroken
from sluice_runtime.artifacts import ArtifactStoreUnavailable

FAULTS: tuple[type[Exception], ...] = (
    UnusableInput, TranscriptBroken, ArtifactStoreUnavailable, OSError,
    GrantRefused, VaultUnknown, VaultAway, TokenUnknown, TokenExpired,
)  # fmt: skip

UNOPENED: tuple[type[Exception], ...] = (GrantRefused, VaultUnknown, VaultAway)
"""Why a grant could not be opened."""

_CODES: tuple[tuple[type[Exception], str, bool], ...] = (
    (TranscriptBroken, "transcript_broken", False),
    # Another attempt's grant is sealed by the same broker and opened by the same runners: it would be refused too.
    (GrantRefused, "grant_refused", False),
    (VaultUnknown, "vault_not_configured", False),
    (VaultAway, "vault_unavailable", True),
    # Whoever revoked it decides whether the agent goes on: the next attempt gets a grant, or none.
    (TokenUnknown, "credential_revoked", True),
    (TokenExpired, "credential_expired", True),
    (Exception, "store_unavailable", True),
)
"""What is raised, its problem's code, and whether another attempt may do better."""


def failure_of(error: Exception, redact: Callable[[str], str]) -> Fail:
    """The failure that an attempt ends with."""
    # An OSError's own text holds this machine's paths.
    text = f"the workspace's disk failed: {error.strerror}" if isinstance(error, OSError) else str(error)
    if isinstance(error, UnusableInput):
        return failure(error.code, redact(text))
    code, retryable = next((code, again) for kind, code, again in _CODES if isinstance(error, kind))
    return failure(code, redact(text), retryable=retryable)
