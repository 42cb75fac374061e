"""Handoff reports (O5)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from sluice_contracts.messages.base import ArtifactRef, Count, Identifier, Message, Summary, message


@message("handoff.reported")
class HandoffReported(Message):
    """A report about a pipeline stands in the artifact store: enough for a stranger to take over.

    Of cause `revocation` it ends the pipeline: the spawner waits for it, so that what it says is said of a living one.
    """

    cause: Literal["revocation", "demand"]
    cause_id: str = Field(max_length=1_024, description="The id of `token.revoked`, or of the request.")
    reason: Identifier
    summary: Summary
    report: ArtifactRef = Field(description="JSON, by the schema `handoff-report`.")
    markdown: ArtifactRef = Field(description="The same for people.")
    complete: bool = Field(
        default=True, description="Whether all that was on the topics when the cause was seen is in the report."
    )
    errors: Count = 0
    agents_affected: tuple[Identifier, ...] = Field(default=(), max_length=100)
