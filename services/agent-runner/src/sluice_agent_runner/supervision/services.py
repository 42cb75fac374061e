"""What every attempt of a runner uses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sluice_agent_runner.domain.signals import PROGRESS_INTERVAL_MS
from sluice_agent_runner.measures import Measures
from sluice_agent_runner.ports import ArtifactStore, EventPublisher, ModelProvider, Time, Workspaces
from sluice_agent_runner.supervision.patience import PatientVault
from sluice_runtime.role import Role


@dataclass(frozen=True, slots=True)
class Services:
    """The ports, bound.

    Attributes:
        runner_id: This process's name in every event; another after every start, so that what an earlier life of this
            runner held is not taken for this one's.
        redact: Takes secrets out of a text.
        vault: Opens the grants of attempts; None in an installation without credentials.
        look_up_interval_s: How often it is looked whether an attempt's token lives.
        progress_interval_ms: How often an attempt tells, at most, that a turn that lasts comes on, or that it waits.
    """

    runner_id: str
    models: ModelProvider
    publisher: EventPublisher
    artifacts: ArtifactStore
    workspaces: Workspaces
    roles: Mapping[str, Role]
    time: Time
    redact: Callable[[str], str]
    measures: Measures
    vault: PatientVault | None = None
    look_up_interval_s: float = 10.0
    progress_interval_ms: int = PROGRESS_INTERVAL_MS
