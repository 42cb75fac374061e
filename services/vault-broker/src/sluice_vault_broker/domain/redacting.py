"""What people write is redacted at this door: behind it no state, event or report has what looks like a secret.

The command itself stands on its topic as it was written.
"""

from __future__ import annotations

from sluice_contracts.limits import SUMMARY_MAX_CHARACTERS
from sluice_runtime.redaction import redact


def told(text: str) -> str:
    """A text as it may be told on."""
    return redact(text)[:SUMMARY_MAX_CHARACTERS]  # the mark may be longer than what it stands for
