"""Limits and settings of the decisions, each beside its reason."""

from __future__ import annotations

from dataclasses import dataclass, field

from sluice_contracts.limits import TASKS_MAX_COUNT

AGENTS_PER_PIPELINE_MAX_COUNT = TASKS_MAX_COUNT
"""Agents of one pipeline with a token at once: as many tasks has the largest plan. Their ids stand in one entity, which
is written again whenever one comes or goes."""

REVOKED_NAMED_MAX_COUNT = 1_000
"""Accessors that one `token.revoked` names; the contract's limit."""

REMEMBERED_COMMANDS_MAX_COUNT = 64
"""Denied requests and people's commands that a pipeline remembers, so that a redelivery changes nothing. It follows
closely."""

EXPIRY_SLACK_MS = 15_000
"""So long after a token's end by our clock it is told to have expired. We count from before we asked Vault, who counts
from when it answered: at most a call's time later, and the clocks' rates differ by little."""

RENEWABLE_MIN_MS = 1_000
"""A token that a renewal can prolong by less than this is not renewed: it is at its end."""


@dataclass(frozen=True, slots=True)
class BrokerPolicy:
    """Settings of the decisions. Changing one changes what is decided from then on, never what was."""

    renewal_interval_ms: int = 30 * 60_000
    """Between a token's grant and its renewal, and between two (V1). A quarter of its life: three may fail."""

    renewal_spread: float = 0.2
    """By how much of the interval the renewals of tokens that were granted together lie apart: no herd."""

    retention_s: int = 8 * 86_400
    """How long a pipeline that ended, or lost its last token, is known. It must exceed the retention of
    `token.commands` (7 days): a command that is read again must not bring back what has ended."""

    queues: frozenset[str] = field(default_factory=lambda: frozenset({"default"}))
    """Queues whose runners have a key to open grants with."""
