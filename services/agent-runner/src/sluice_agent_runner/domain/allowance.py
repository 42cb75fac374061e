"""How far an attempt may go: turns, budget, deadline (P13)."""

from __future__ import annotations

from sluice_agent_runner.domain.actions import Fail, failure
from sluice_contracts.messages.agent import AgentRun
from sluice_contracts.messages.base import Usage


class Allowance:
    """What an attempt has used of what it may use. The time is passed in."""

    def __init__(self, run: AgentRun) -> None:
        self._run = run
        self._tokens = run.usage.input_tokens + run.usage.output_tokens
        self._cost_usd = run.usage.cost_usd
        self._waited_ms = 0
        self._waiting_since_ms: int | None = None

    def use(self, usage: Usage) -> None:
        """Counts a model call."""
        self._tokens += usage.input_tokens + usage.output_tokens
        self._cost_usd += usage.cost_usd

    def wait_begins(self, now_ms: int) -> None:
        """From now on a person is waited for: the deadline moves along."""
        self._waiting_since_ms = now_ms

    def wait_ends(self, now_ms: int) -> None:
        """The wait is over."""
        if self._waiting_since_ms is not None:
            self._waited_ms += max(0, now_ms - self._waiting_since_ms)
            self._waiting_since_ms = None

    @property
    def deadline_at_ms(self) -> int:
        """When the task must have ended, as far as it is known now."""
        return self._run.deadline_at_ms + self._waited_ms

    def exhausted(self, turns: int, now_ms: int) -> Fail | None:
        """Why the turn after this many may not begin; None if it may."""
        run, budget = self._run, self._run.task.budget
        if turns >= run.max_iterations:
            return failure(
                "max_iterations",
                f"task {run.task.id} is not finished after {turns} turns",
                limit=f"max_iterations={run.max_iterations} turns",
            )
        if budget.tokens is not None and self._tokens >= budget.tokens:
            return failure(
                "budget_exhausted",
                f"{self._tokens} tokens are used; turn {turns + 1} is not begun",
                limit=f"budget.tokens={budget.tokens} tokens",
            )
        if budget.cost_usd is not None and self._cost_usd >= budget.cost_usd:
            return failure(
                "budget_exhausted",
                f"{self._cost_usd:.6f} USD are used; turn {turns + 1} is not begun",
                limit=f"budget.cost_usd={budget.cost_usd} USD",
            )
        if now_ms >= self.deadline_at_ms:
            return failure(
                "agent_timeout",
                f"the deadline has passed; turn {turns + 1} is not begun",
                limit=f"timeout_s={run.task.timeout_s} s",
            )
        return None
