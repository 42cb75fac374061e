"""What the spawner can be told."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from sluice_contracts.limits import UNTAKEN_MAX_S
from sluice_runtime.processor.partition import OWN_DEAD_LETTERS_MAX_COUNT
from sluice_runtime.settings import Directories, QueueSettings
from sluice_spawner.domain.policy import BLACKBOARD_TTL_MAX_S, SpawnerPolicy

_DEFAULTS = SpawnerPolicy()


class SpawnerSettings(QueueSettings):
    """The spawner's settings: those of every service, and its own."""

    roles_directories: Directories = Field(
        default=(),
        description="Folders of your own roles, separated by commas; they add to the shipped ones, later ones win.",
    )
    lease_ms: int = Field(
        default=6_000, ge=1_000, le=600_000, description="An attempt that no heartbeat names for so long is lost."
    )
    session_timeout_ms: int = Field(
        default=10_000, ge=1_000, le=300_000, description="A spawner that Kafka does not hear of loses its partitions."
    )
    spawn_timeout_s: int = Field(
        default=_DEFAULTS.spawn_timeout_s, ge=1, le=UNTAKEN_MAX_S,
        description="From an attempt's assignment until a runner takes it. Runners take no older ones.",
    )  # fmt: skip
    spawn_attempts_max: int = Field(
        default=_DEFAULTS.spawn_attempts_max,
        ge=1,
        description="Attempts in a row that no runner took; then the task fails: `agent_timeout`.",
    )
    lost_attempts_max: int = Field(
        default=_DEFAULTS.lost_attempts_max,
        ge=1,
        description="Attempts of one agent whose lease ran out, or whose credential ended; then the task fails, too.",
    )
    questions_per_pipeline_max: int = Field(
        default=_DEFAULTS.questions_per_pipeline_max, ge=0, description="Questions of one pipeline over its life."
    )
    blackboard_ttl_s: int = Field(
        default=_DEFAULTS.blackboard_ttl_s, ge=1, le=BLACKBOARD_TTL_MAX_S,
        description="How long a value of a blackboard lasts, if its writer does not say.",
    )  # fmt: skip
    max_agents: int = Field(
        default=_DEFAULTS.installation_agents_max, ge=1, le=100_000,
        description="Agents that live at once in the installation; the same for all instances.",
    )  # fmt: skip
    credentials: Literal["vault", "none"] = Field(
        default="vault",
        description="`vault`: no task starts without its grant, and broken error budgets end pipelines. `none`: an "
        "installation without Vault; every task runs as with `no-secrets`, and a broken error budget ends its pipeline "
        "at once, without a report. The same for all instances.",
    )
    token_wait_s: int = Field(
        default=_DEFAULTS.token_wait_s, ge=1, le=86_400,
        description="An agent that waits for a person for longer gives its credential up, and gets another afterwards.",
    )  # fmt: skip
    diagnostic_depth_max: int = Field(
        default=_DEFAULTS.diagnostic_depth_max, ge=0, le=2,
        description="0: no diagnostic follows a broken budget; 1: one does; 2: and one of a diagnostic. Deeper ones "
        "are refused, whoever asks; a first one may be asked for in any case.",
    )  # fmt: skip
    finished_retention_s: int = Field(
        default=_DEFAULTS.finished_retention_s,
        ge=8 * 86_400,
        description="How long a finished pipeline is known; longer than commands and signals are kept (7 days), and "
        "than the monitor remembers what it told of it.",
    )

    own_dead_letters_max_count: int = Field(
        default=OWN_DEAD_LETTERS_MAX_COUNT,
        ge=1,
        description="Refused records of our own services in a row; with more the spawner stops: a bad deployment.",
    )

    def policy(self) -> SpawnerPolicy:
        """The settings of the decisions."""
        return SpawnerPolicy(
            spawn_timeout_s=self.spawn_timeout_s,
            spawn_attempts_max=self.spawn_attempts_max,
            lost_attempts_max=self.lost_attempts_max,
            questions_per_pipeline_max=self.questions_per_pipeline_max,
            blackboard_ttl_s=self.blackboard_ttl_s,
            installation_agents_max=self.max_agents,
            credentials=self.credentials == "vault",
            token_wait_s=self.token_wait_s,
            diagnostic_depth_max=self.diagnostic_depth_max,
            finished_retention_s=self.finished_retention_s,
        )
