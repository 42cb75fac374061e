"""Which policies of the sandbox a tool call can break, and how bad each is (V5).

All of these were refused before anything happened. What tells them apart is what the caller was after, and how easily
an honest model does it by mistake: a CRITICAL one takes the whole pipeline's credentials at once, so only what can't be
a mistake may be that.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from sluice_contracts.constraints import NO_SECRETS, READ_ONLY, SANDBOX_ONLY

Severity = Literal["LOW", "MEDIUM", "HIGH", "CRITICAL"]

ABSOLUTE_PATH = "absolute_path"
PATH_TRAVERSAL = "path_traversal"
SYMLINK_ESCAPE = "symlink_escape"
TOOL_NOT_GRANTED = "tool_not_granted"

SEVERITIES: Mapping[str, Severity] = {
    # Models write /workspace/report.md out of habit. It is worth counting, and no more.
    ABSOLUTE_PATH: "MEDIUM",
    # `..` leaves the place that the prompt describes: somebody looks for what is not his.
    PATH_TRAVERSAL: "HIGH",
    # No tool makes links, so one was planted by an input or from outside, and the agent went along.
    SYMLINK_ESCAPE: "HIGH",
    # A tool that exists and is another role's. Nobody told the model of it, but transcripts and files may name it.
    TOOL_NOT_GRANTED: "MEDIUM",
    # The constraints (P3), by their own names. The prompt names them: whoever tries all the same was told.
    READ_ONLY: "HIGH",
    SANDBOX_ONLY: "HIGH",
    # A task that must see no secret reaches for one: before it finds another way, its pipeline's credentials go.
    NO_SECRETS: "CRITICAL",
}
"""A name that no tool has is not here: models invent names, and nothing is behind them."""
