"""The limits of error budgets: the installation's, a tenant's, a pipeline's; the nearest one counts (V5)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

from sluice_contracts.messages.alert import BudgetSet

COUNTED_MAX = 5_000
"""A higher limit of errors or calls a minute is none: what is kept to count by grows with it."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a pipeline may do; more of it is a breach."""

    errors_per_minute: int = 5
    api_calls_per_minute: int = 100
    progress_timeout_ms: int = 60_000

    @property
    def errors(self) -> int | None:
        """Errors in a window; None: any number."""
        return self.errors_per_minute if self.errors_per_minute <= COUNTED_MAX else None

    @property
    def api_calls(self) -> int | None:
        """API calls in a window; None: any number."""
        return self.api_calls_per_minute if self.api_calls_per_minute <= COUNTED_MAX else None


PIPELINES_MAX_COUNT = 10_000
"""Pipelines with limits of their own, those that were set last: nobody has to take away those of what has ended."""


class Budgets:
    """The limits in force, by what `budget.set` said last of each scope.

    Args:
        default: What counts where no record says otherwise: the process's settings.
    """

    def __init__(self, default: Limits) -> None:
        self._default = default
        self._set: dict[str, BudgetSet] = {}
        self._of_pipelines: dict[str, None] = {}  # their keys, the one that was set last at the end

    def put(self, key: str, budget: BudgetSet | None) -> set[str]:
        """Takes a record of topic `budgets`; None, a tombstone, takes the scope's own limits away.

        Returns:
            The keys of which the limits are others now.
        """
        changed = {key} if self._set.get(key) != budget else set()
        self._set.pop(key, None)
        self._of_pipelines.pop(key, None)
        if budget is not None:
            self._set[key] = budget
            if budget.scope == "pipeline":
                self._of_pipelines[key] = None
        if len(self._of_pipelines) > PIPELINES_MAX_COUNT:
            oldest = next(iter(self._of_pipelines))
            changed |= self.put(oldest, None)
        return changed

    def limits(self, tenant: str, pipeline_id: str) -> Limits:
        """The limits of a pipeline: each field from the nearest scope that gives it."""
        if not self._set:
            return self._default
        found = self._default
        for key in ("installation", f"tenant/{tenant}", f"pipeline/{pipeline_id}"):
            if (budget := self._set.get(key)) is not None:
                found = replace(found, **_given(budget))
        return found

    @property
    def records(self) -> Mapping[str, BudgetSet]:
        """What is set, by key."""
        return self._set


def _given(budget: BudgetSet) -> dict[str, int]:
    seconds = budget.progress_timeout_s
    given = {
        "errors_per_minute": budget.errors_per_minute,
        "api_calls_per_minute": budget.api_calls_per_minute,
        "progress_timeout_ms": None if seconds is None else seconds * 1_000,
    }
    assert given.keys() == {field.name for field in fields(Limits)}
    return {name: value for name, value in given.items() if value is not None}
