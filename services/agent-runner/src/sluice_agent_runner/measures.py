"""The runner's metrics, bound to their labels once: a hot path should not look labels up."""

from __future__ import annotations

from functools import cache

from prometheus_client import Counter, Histogram

from sluice_runtime import metrics as catalogue
from sluice_runtime.metrics import Metrics


class Measures:
    """What the runner counts. Labels are names that the project or its operator chose: never what a model wrote."""

    def __init__(self, metrics: Metrics) -> None:
        self._running = metrics.gauge(catalogue.ATTEMPTS_RUNNING)
        self._queued = metrics.gauge(catalogue.ATTEMPTS_QUEUED)
        self._defective = metrics.counter(catalogue.ATTEMPTS_DEFECTIVE)

        @cache
        def turns(provider: str) -> Counter:
            return metrics.counter(catalogue.TURNS_FINISHED, provider=provider)

        @cache
        def calls(provider: str, outcome: str) -> Counter:
            return metrics.counter(catalogue.MODEL_CALLS, provider=provider, outcome=outcome)

        @cache
        def durations(provider: str) -> Histogram:
            return metrics.histogram(catalogue.MODEL_DURATION, provider=provider)

        @cache
        def tools(tool: str, outcome: str) -> Counter:
            return metrics.counter(catalogue.TOOL_CALLS, tool=tool, outcome=outcome)

        @cache
        def refused(topic: str, reason: str) -> Counter:
            return metrics.counter(catalogue.RECORDS_REFUSED, topic=topic, reason=reason)

        @cache
        def vault_calls(operation: str, outcome: str) -> Counter:
            return metrics.counter(catalogue.VAULT_CALLS, operation=operation, outcome=outcome)

        @cache
        def vault_durations(operation: str) -> Histogram:
            return metrics.histogram(catalogue.VAULT_DURATION, operation=operation)

        self._turns, self._calls, self._durations, self._tools, self._refused = turns, calls, durations, tools, refused
        self._vault_calls, self._vault_durations = vault_calls, vault_durations

    def attempts(self, running: int, queued: int) -> None:
        """How many attempts are held."""
        self._running.set(running)
        self._queued.set(queued)

    def attempt_met_a_defect(self) -> None:
        """An attempt failed by a defect of the runner."""
        self._defective.inc()

    def turn_finished(self, provider: str) -> None:
        """A turn is durable."""
        self._turns(provider).inc()

    def model_call(self, provider: str, outcome: str, duration_ms: int) -> None:
        """One call of a model; the outcome is `ok` or the problem's code."""
        self._calls(provider, outcome).inc()
        self._durations(provider).observe(duration_ms / 1_000)

    def tool_call(self, tool: str, *, is_error: bool) -> None:
        """One call of a granted tool."""
        self._tools(tool, "error" if is_error else "ok").inc()

    def refused(self, topic: str, reason: str) -> None:
        """A record went to its dead-letter topic."""
        self._refused(topic, reason).inc()

    def vault_call(self, operation: str, outcome: str, duration_ms: int) -> None:
        """One call of Vault: open_grant, read_key, look_up; the outcome is ok, unavailable, refused or revoked."""
        self._vault_calls(operation, outcome).inc()
        self._vault_durations(operation).observe(duration_ms / 1_000)
