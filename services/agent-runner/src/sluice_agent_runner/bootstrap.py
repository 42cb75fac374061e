"""The one place that wires: settings to adapters, adapters to the runner. Tests call it with doubles."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from sluice_agent_runner.adapters.events import BrokerEventPublisher
from sluice_agent_runner.adapters.openai_compatible import OpenAiCompatibleProvider
from sluice_agent_runner.adapters.patient_store import PatientArtifactStore
from sluice_agent_runner.adapters.routing import ModelRouter
from sluice_agent_runner.adapters.scenarios import ScenarioLibrary
from sluice_agent_runner.adapters.scripted import PROVIDER, ScriptedProvider
from sluice_agent_runner.adapters.system_time import SystemTime
from sluice_agent_runner.adapters.vault import VaultApi
from sluice_agent_runner.adapters.workspaces import DiskWorkspaces
from sluice_agent_runner.domain.tools import CATALOGUE
from sluice_agent_runner.measures import Measures
from sluice_agent_runner.ports import ArtifactStore, ModelProvider, Time, Vault
from sluice_agent_runner.settings import RunnerSettings
from sluice_agent_runner.supervision.patience import PatientVault
from sluice_agent_runner.supervision.runner import Runner
from sluice_agent_runner.supervision.services import Services
from sluice_runtime.broker import Broker
from sluice_runtime.metrics import Metrics
from sluice_runtime.redaction import Redactor
from sluice_runtime.role import Role
from sluice_runtime.roles import load_roles
from sluice_runtime.yaml_files import InvalidFile

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class AgentRunner:
    """A wired runner: feed it by `entrypoints.consumer`, run `keep_alive` and `failure`; end with `stop`."""

    runner: Runner
    services: Services


@asynccontextmanager
async def agent_runner(
    settings: RunnerSettings,
    broker: Broker,
    *,
    time: Time | None = None,
    artifacts: ArtifactStore | None = None,
    models: ModelProvider | None = None,
    metrics: Metrics | None = None,
    vault: Vault | None = None,
    vault_away: Callable[[str | None], None] = lambda why: None,
) -> AsyncIterator[AgentRunner]:
    """Wires a runner and closes what it opened.

    Args:
        settings: What it can be told.
        broker: The log.
        time: Instead of the machine's.
        artifacts: Instead of the store that the settings name.
        models: Instead of the provider that the settings name; without retries but its own.
        metrics: Where the runner counts; none of its counts are seen without.
        vault: Instead of the one that the settings name.
        vault_away: Hears why Vault is away, and None once it is back.

    Raises:
        InvalidFile: A role is wrong, or grants a tool that there is not.
        OSError: The workspaces' directory can't be used.
        ValueError: Settings contradict each other.
    """
    time = time or SystemTime()
    measures = Measures(metrics or Metrics("agent-runner", settings.instance_id))
    async with AsyncExitStack() as opened:
        store = PatientArtifactStore(artifacts or settings.artifacts(), time)
        workspaces = DiskWorkspaces(settings.workspaces_directory, store, time)
        opened.callback(workspaces.close)
        swept = await asyncio.to_thread(workspaces.sweep)
        if swept:
            log.info("%d runners ended without clearing their workspaces away: that is done now", swept)
        services = Services(
            runner_id=f"{settings.instance_id[:100]}-{secrets.token_hex(4)}",
            models=models or _models(settings, time, measures, opened),
            publisher=BrokerEventPublisher(broker, time),
            artifacts=store,
            workspaces=workspaces,
            roles=known_roles(settings.roles_directories),
            time=time,
            redact=Redactor(settings.known_secrets()).redact,
            measures=measures,
            vault=_vault(settings, vault, time, measures, vault_away, opened),
            look_up_interval_s=settings.vault_look_up_interval_s,
            progress_interval_ms=int(settings.progress_interval_s * 1_000),
        )
        runner = Runner(
            services,
            slots=settings.runner_slots,
            backlog_max_count=settings.runner_backlog_max_count,
            queues=settings.queues,
        )
        yield AgentRunner(runner, services)


def known_roles(directories: Sequence[Path]) -> Mapping[str, Role]:
    """The roles, each of whose tools exist.

    Raises:
        InvalidFile: A file is no role, or a role grants a tool that there is not.
    """
    roles = load_roles(directories)
    for role in roles.values():
        for tool in role.tools:
            if tool not in CATALOGUE:
                raise InvalidFile(f"role {role.name}: tools: there is no tool {tool!r}; there are {sorted(CATALOGUE)}")
    return roles


def _models(settings: RunnerSettings, time: Time, measures: Measures, opened: AsyncExitStack) -> ModelProvider:
    library = ScenarioLibrary(settings.scenarios_directory, settings.scenario_file)
    scripted = ScriptedProvider(library, time)
    endpoint = settings.endpoint()
    default: ModelProvider = scripted
    if endpoint is not None:
        default = http = OpenAiCompatibleProvider(endpoint, time)
        opened.push_async_callback(http.close)
    name = endpoint.name if endpoint is not None else PROVIDER
    return ModelRouter(name, default, scripted, settings.retry_policy(), time, measures)


def _vault(
    settings: RunnerSettings,
    vault: Vault | None,
    time: Time,
    measures: Measures,
    away: Callable[[str | None], None],
    opened: AsyncExitStack,
) -> PatientVault | None:
    place = settings.vault()
    if vault is None and place is not None:
        vault = real = VaultApi(place)
        opened.push_async_callback(real.close)

    def told(why: str | None) -> None:
        if why is None:
            log.info("Vault is back")
        else:
            log.warning("Vault is away: %s; it is tried again, and the attempts that need it wait", why)
        away(why)

    return None if vault is None else PatientVault(vault, time, measures, told)
