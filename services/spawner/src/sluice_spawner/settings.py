"""What the spawner can be told."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator
from pydantic_settings import NoDecode

from sluice_runtime.settings import ServiceSettings
from sluice_spawner.domain.policy import SpawnerPolicy

_DEFAULTS = SpawnerPolicy()


class SpawnerSettings(ServiceSettings):
    """The spawner's settings: those of every service, and its own."""

    roles_directories: Annotated[tuple[Path, ...], NoDecode] = Field(
        default=(),
        description="Directories with roles of one's own, separated by commas; they add to the shipped ones.",
    )
    lease_ms: int = Field(
        default=6_000, ge=1_000, le=600_000, description="An attempt that no heartbeat names for so long is lost."
    )
    session_timeout_ms: int = Field(
        default=10_000, ge=1_000, le=300_000, description="A spawner that Kafka does not hear of loses its partitions."
    )
    spawn_timeout_s: int = Field(
        default=_DEFAULTS.spawn_timeout_s, ge=1, description="Until a runner takes an attempt."
    )
    spawn_attempts_max: int = Field(
        default=_DEFAULTS.spawn_attempts_max, ge=1, description="Untaken attempts in a row."
    )
    lost_attempts_max: int = Field(default=_DEFAULTS.lost_attempts_max, ge=1, description="Lost attempts of one agent.")
    max_agents: int = Field(
        default=_DEFAULTS.installation_agents_max, ge=1, le=100_000,
        description="Agents that live at once in the installation; the same for all instances.",
    )  # fmt: skip
    finished_retention_s: int = Field(
        default=_DEFAULTS.finished_retention_s, ge=60, description="How long a finished pipeline is known."
    )

    @field_validator("roles_directories", mode="before")
    @classmethod
    def _split_directories(cls, value: Any) -> Any:
        return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value

    def policy(self) -> SpawnerPolicy:
        """The settings of the decisions."""
        return SpawnerPolicy(
            spawn_timeout_s=self.spawn_timeout_s,
            spawn_attempts_max=self.spawn_attempts_max,
            lost_attempts_max=self.lost_attempts_max,
            installation_agents_max=self.max_agents,
            finished_retention_s=self.finished_retention_s,
        )
