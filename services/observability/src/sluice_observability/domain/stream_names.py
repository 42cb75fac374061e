"""Short names that the live stream gives to some events, beside their types: what a dashboard listens for."""

from __future__ import annotations

from collections.abc import Mapping

from sluice_contracts.envelope import CloudEvent
from sluice_contracts.messages import Message, alert, pipeline, report, token

NAMES: Mapping[type[Message], str] = {
    pipeline.PipelineSpawned: "pipeline_started",
    pipeline.AgentStateChanged: "agent_status",
    alert.AlertRaised: "error_threshold",
    token.TokenRevoked: "token_revoked",
    report.HandoffReported: "error_handoff",
}


def name_of(event: CloudEvent[Message]) -> str | None:
    """The short name of an event; None where its type is all it has."""
    return NAMES.get(type(event.data))
