"""Errors of the domain, named by what the caller does next. Each knows the contract's `Problem` for it.

```
SpawnerError
├── SpawnRefused            tell the producer: the plan must change; nothing was started
│   └── SpawnLimitExceeded  … or its limits must
├── BlackboardRefused       tell the agent: it asked wrongly, or too much, or came second; nothing was written
├── AgentTimeout            the task fails: nobody took it, or it took too long
└── CoordinationFailed      the task fails, or the attempt ends: two sides do not agree, or one does not answer
```
"""

from __future__ import annotations

from collections.abc import Sequence

from sluice_contracts.messages.base import Problem

NAMES_SHOWN_MAX_COUNT = 20
"""Names in one error: a cycle through a thousand tasks must still fit into a message."""

DETAIL_MAX_CHARACTERS = 3_800
"""Below the contract's limit of a summary."""

CREDENTIAL_ENDS = ("credential_expired", "credential_revoked")
"""Codes of an attempt that ended since Vault no longer knows its token, as its runner says, or the vault-broker: it is
not the task's fault. Revocations that are come as `token.revoked` and `alert.raised` too, and whichever is heard first
counts."""


class SpawnerError(Exception):
    """Base of the domain's errors.

    Args:
        detail: The thing, its value, and the next step.
        code: Stable and snake_case; the class's own if not given.
        field: JSON path of the offending field.
        limit: The limit that was broken, with its unit.
    """

    code = "spawner_error"

    def __init__(
        self, detail: str, *, code: str | None = None, field: str | None = None, limit: str | None = None
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.field = field
        self.limit = limit
        self.code = code or type(self).code

    def problem(self) -> Problem:
        """The error as the contract tells it."""
        field = None if self.field is None else self.field[:255]
        return Problem(code=self.code, detail=self.detail[:DETAIL_MAX_CHARACTERS], field=field, limit=self.limit)


class SpawnRefused(SpawnerError):
    """The plan can't be run as it is; the producer must change it."""

    code = "spawn_refused"


class SpawnLimitExceeded(SpawnRefused):
    """A limit of P13 does not admit the plan, or a request of an agent."""

    code = "spawn_limit_exceeded"


class BlackboardRefused(SpawnerError):
    """A request to the blackboard is not obeyed; the agent must ask otherwise."""

    code = "blackboard_refused"


class AgentTimeout(SpawnerError):
    """An agent did not start or end in time."""

    code = "agent_timeout"


class CoordinationFailed(SpawnerError):
    """Two sides do not agree on where they are, or one never answered."""

    code = "coordination_failed"


def listed(names: Sequence[str], separator: str = ", ") -> str:
    """Names for an error's detail; the middle is left out where there are too many."""
    if len(names) <= NAMES_SHOWN_MAX_COUNT:
        return separator.join(names)
    half = NAMES_SHOWN_MAX_COUNT // 2
    left_out = f"… {len(names) - 2 * half} more …"
    return separator.join([*names[:half], left_out, *names[-half:]])
