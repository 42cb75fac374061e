"""Which provider answers for which model."""

from __future__ import annotations

from sluice_agent_runner.adapters.resilient import ResilientProvider, RetryPolicy
from sluice_agent_runner.adapters.scripted import PROVIDER as SCRIPTED
from sluice_agent_runner.domain.conversation import ModelReply, ModelRequest
from sluice_agent_runner.measures import Measures
from sluice_agent_runner.ports import Caller, ModelProvider, Time

SCENARIOS_MAX_COUNT = 1_000
"""Scenarios whose failures are counted apart; the oldest is forgotten first."""


class ModelRouter:
    """Sends `scripted:NAME` to the scripted model and everything else to the default provider.

    Each scenario is a provider of its own for the circuit breaker: what one plays must not silence another.
    """

    def __init__(
        self,
        default_name: str,
        default: ModelProvider,
        scripted: ModelProvider,
        policy: RetryPolicy,
        time: Time,
        measures: Measures,
    ) -> None:
        self._default = ResilientProvider(default_name, default, policy, time, measures)
        self._measures = measures
        self._scripted = scripted
        self._policy = policy
        self._time = time
        self._scenarios: dict[str, ResilientProvider] = {}

    async def complete(self, request: ModelRequest, caller: Caller) -> ModelReply:
        """See `ports.ModelProvider.complete`."""
        model = request.model
        if model is None or not model.startswith(f"{SCRIPTED}:"):
            return await self._default.complete(request, caller)
        provider = self._scenarios.get(model)
        if provider is None:
            if len(self._scenarios) >= SCENARIOS_MAX_COUNT:
                self._scenarios.pop(next(iter(self._scenarios)))
            provider = self._scenarios[model] = ResilientProvider(
                model, self._scripted, self._policy, self._time, self._measures
            )
        return await provider.complete(request, caller)
