"""What an agent-runner can be told: environment variables `SLUICE_…`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from sluice_agent_runner.adapters.openai_compatible import Endpoint
from sluice_agent_runner.adapters.resilient import RetryPolicy
from sluice_agent_runner.domain.limits import HELD_MAX_COUNT
from sluice_agent_runner.domain.signals import PROGRESS_INTERVAL_MS
from sluice_runtime.lifecycle import STOP_MAX_S
from sluice_runtime.settings import ArtifactSettings, Directories, QueueSettings
from sluice_runtime.vault.settings import VaultSettings

BASE_URLS = {"openrouter": "https://openrouter.ai/api/v1", "openai": "https://api.openai.com/v1"}
"""Where each provider is, unless `SLUICE_MODEL_BASE_URL` says otherwise."""


CLOSING_MAX_S = 5
"""What a stop takes after the grace: readers and connections are closed. Then the process is cut off."""


class RunnerSettings(VaultSettings, ArtifactSettings, QueueSettings):
    """The settings of one agent-runner. Without Vault a task with a grant fails."""

    runner_slots: int = Field(default=50, ge=1, le=1_000, description="Attempts that work at once.")
    runner_backlog_max_count: int = Field(
        default=1_000, ge=0, le=1_399,
        description="Attempts that wait for a slot; with more, no tasks are read. With the slots at most 1,400.",
    )  # fmt: skip
    runner_grace_s: float = Field(
        default=20.0,
        ge=0,
        le=STOP_MAX_S - CLOSING_MAX_S,
        description="After a signal, running turns may take so long to become durable.",
    )
    session_timeout_ms: int = Field(
        default=10_000, ge=1_000, le=300_000, description="A runner that Kafka does not hear of gets no more tasks."
    )
    workspaces_directory: Path = Field(
        default=Path("/var/lib/sluice/workspaces"), description="Where attempts have their workspaces."
    )
    roles_directories: Directories = Field(
        default=(),
        description="Folders of your own roles, separated by commas; they add to the shipped ones, later ones win.",
    )
    model_provider: Literal["scripted", "openrouter", "openai"] = Field(
        default="scripted",
        description="Who answers for models that are not scripted:NAME. openai is any OpenAI-compatible endpoint.",
    )
    model_base_url: str | None = Field(
        default=None, pattern=r"^https?://", description="Up to and without /chat/completions; default: the provider's."
    )
    model_default: str | None = Field(
        default=None, max_length=255, description="For agents whose task and role name no model."
    )
    model_api_key_file: Path | None = Field(
        default=None,
        description="File that holds the provider's key, for attempts to which Vault gives none; read at each call.",
    )
    model_connect_timeout_s: float = Field(default=10.0, gt=0, le=600, description="To connect to the provider.")
    model_silence_timeout_s: float = Field(default=60.0, gt=0, le=3_600, description="Between two pieces of an answer.")
    model_call_timeout_s: float = Field(default=600.0, gt=0, le=86_400, description="For one whole call.")
    model_retries_max_count: int = Field(default=3, ge=0, le=20, description="Calls after a failed first one.")
    model_backoff_min_s: float = Field(default=2.0, ge=0, le=600, description="Before the first retry; then doubled.")
    model_backoff_max_s: float = Field(default=10.0, ge=0, le=3_600, description="The longest such wait.")
    model_retry_after_max_s: float = Field(
        default=60.0, ge=0, le=3_600, description="A provider that asks for more is left alone: the attempt fails."
    )
    model_breaker_failures_count: int = Field(
        default=5, ge=1, le=10_000, description="Failed calls in a row that open the circuit breaker."
    )
    model_breaker_open_s: float = Field(default=60.0, ge=0, le=3_600, description="How long it stays open.")
    scenario_file: Path | None = Field(
        default=None,
        description="What the scripted provider plays for agents that name no scenario; default: `no-model`, shipped.",
    )
    scenarios_directory: Path | None = Field(
        default=None, description="Where scripted:NAME finds NAME.yaml; a file may be added or changed at any time."
    )

    vault_look_up_interval_s: float = Field(
        default=10.0, ge=0.1, le=3_600, description="How often it is looked whether an attempt's token lives."
    )
    progress_interval_s: float = Field(
        default=PROGRESS_INTERVAL_MS / 1_000,
        ge=0.1,
        le=600,
        description="How often, at most, a turn that lasts tells that it comes on, or that the runner has it wait.",
    )

    @model_validator(mode="after")
    def _can_be_told(self) -> RunnerSettings:
        if self.runner_slots + self.runner_backlog_max_count > HELD_MAX_COUNT:
            raise ValueError(
                f"SLUICE_RUNNER_SLOTS={self.runner_slots} and SLUICE_RUNNER_BACKLOG_MAX_COUNT="
                f"{self.runner_backlog_max_count} are more than the {HELD_MAX_COUNT} attempts that a runner can hold; "
                f"lower one, and start more runners"
            )
        return self

    @model_validator(mode="after")
    def _can_ask(self) -> RunnerSettings:
        if self.model_provider == "openrouter" and self.model_api_key_file is None and self.vault_addr is None:
            raise ValueError(
                "SLUICE_MODEL_PROVIDER=openrouter needs a key: set SLUICE_MODEL_API_KEY_FILE, or SLUICE_VAULT_ADDR"
            )
        return self

    def retry_policy(self) -> RetryPolicy:
        """How failed model calls are repeated."""
        return RetryPolicy(
            retries_max_count=self.model_retries_max_count,
            backoff_min_s=self.model_backoff_min_s,
            backoff_max_s=self.model_backoff_max_s,
            retry_after_max_s=self.model_retry_after_max_s,
            breaker_failures_count=self.model_breaker_failures_count,
            breaker_open_s=self.model_breaker_open_s,
        )

    def endpoint(self) -> Endpoint | None:
        """Where the default model is asked; None where it is scripted."""
        if self.model_provider == "scripted":
            return None
        return Endpoint(
            name=self.model_provider,
            base_url=self.model_base_url or BASE_URLS[self.model_provider],
            api_key_file=self.model_api_key_file,
            default_model=self.model_default,
            connect_timeout_s=self.model_connect_timeout_s,
            silence_timeout_s=self.model_silence_timeout_s,
            call_timeout_s=self.model_call_timeout_s,
            reports_cost=self.model_provider == "openrouter",
            needs_key=self.model_provider == "openrouter",
        )

    def known_secrets(self) -> Iterable[str]:
        """See `ServiceSettings.known_secrets`; with the model's key."""
        yield from super().known_secrets()
        if self.model_api_key_file is not None and self.model_api_key_file.is_file():
            secret = self.model_api_key_file.read_text(errors="replace").strip()
            if secret:
                yield secret
