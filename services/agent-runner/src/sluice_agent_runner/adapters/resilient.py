"""Retries and a circuit breaker around any model provider (W3)."""

from __future__ import annotations

from dataclasses import dataclass

from msgspec.structs import replace

from sluice_agent_runner.domain.conversation import ModelReply, ModelRequest
from sluice_agent_runner.measures import Measures
from sluice_agent_runner.ports import Caller, ModelProvider, ModelRefused, ModelUnavailable, Time

BREAKER_LOOK_S = 1.0
"""How often a waiting call looks whether the breaker has closed."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how patiently a failed call is repeated.

    Attributes:
        retries_max_count: Calls after the first.
        backoff_min_s: Wait before the first retry; it doubles with each.
        backoff_max_s: The longest wait of its own.
        retry_after_max_s: A provider that asks for a longer wait is not waited for: the slot is worth more, and the
            spawner tries again.
        breaker_failures_count: Failed calls in a row, of all agents, that open the breaker.
        breaker_open_s: How long it stays open.
    """

    retries_max_count: int = 3
    backoff_min_s: float = 2.0
    backoff_max_s: float = 10.0
    retry_after_max_s: float = 60.0
    breaker_failures_count: int = 5
    breaker_open_s: float = 60.0

    def wait_s(self, retry: int, retry_after_s: float | None) -> float:
        """The wait before retry number `retry`, from 1."""
        backoff_s = min(self.backoff_min_s * float(2 ** (retry - 1)), self.backoff_max_s)
        return max(backoff_s, retry_after_s or 0.0)


class Breaker:
    """Stops asking a provider that fails again and again; after a while one call may try it.

    A pure state machine: the time is passed in.
    """

    def __init__(self, policy: RetryPolicy) -> None:
        self._policy = policy
        self._failures = 0
        self._closed_at_ms: int | None = None

    def open_for_ms(self, now_ms: int) -> int:
        """How long it stays open; 0 if a call may go through. A call that may is the one try after an open time."""
        if self._closed_at_ms is None:
            return 0
        if now_ms < self._closed_at_ms:
            return self._closed_at_ms - now_ms
        # Half open: this call tries; the others wait for its outcome, at most as long again.
        self._closed_at_ms = now_ms + int(self._policy.breaker_open_s * 1_000)
        return 0

    def answered(self) -> None:
        """The provider answered, whatever it said."""
        self._failures = 0
        self._closed_at_ms = None

    def failed(self, now_ms: int) -> None:
        """A call failed."""
        self._failures += 1
        if self._failures >= self._policy.breaker_failures_count:
            self._closed_at_ms = now_ms + int(self._policy.breaker_open_s * 1_000)


class ResilientProvider:
    """A provider that repeats what may succeed later."""

    def __init__(self, name: str, provider: ModelProvider, policy: RetryPolicy, time: Time, measures: Measures) -> None:
        self._name = name
        self._label = name.partition(":")[0]
        self._measures = measures
        self._provider = provider
        self._policy = policy
        self._time = time
        self._breaker = Breaker(policy)

    async def complete(self, request: ModelRequest, caller: Caller) -> ModelReply:
        """See `ports.ModelProvider.complete`; the reply's `calls` counts the failed ones too."""
        failed = retries = 0
        new_key = False
        while True:
            await self._until_closed(caller)
            await caller.admitted()
            begun_ms = self._time.monotonic_ms()
            try:
                asked = replace(request, retry=failed) if failed else request
                reply = await self._provider.complete(asked, caller)
            except ModelRefused as error:
                self._breaker.answered()  # it lives; it does not want this request
                self._measure(error.code, begun_ms)
                caller.failed(error)
                failed += 1
                if new_key or error.code != "model_unauthorized" or not await caller.key_changed(self._name):
                    raise
                new_key = True
                continue
            except ModelUnavailable as error:
                self._measure(error.code, begun_ms)
                caller.failed(error)
                if error.code == "rate_limited":
                    self._breaker.answered()
                else:
                    self._breaker.failed(self._time.monotonic_ms())
                failed += 1
                retries += 1
                wait_s = self._policy.wait_s(retries, error.retry_after_s)
                if retries > self._policy.retries_max_count or wait_s > self._policy.retry_after_max_s:
                    raise
            else:
                self._breaker.answered()
                self._measure("ok", begun_ms)
                return replace(reply, calls=failed + 1) if failed else reply
            with caller.held_up():
                await self._time.sleep(wait_s)

    def _measure(self, outcome: str, begun_ms: int) -> None:
        self._measures.model_call(self._label, outcome, self._time.monotonic_ms() - begun_ms)

    async def _until_closed(self, caller: Caller) -> None:
        """Waits for the breaker: failing at once would only burn the task's retries on a provider that is away."""
        waited_s = 0.0
        while open_ms := self._breaker.open_for_ms(self._time.monotonic_ms()):
            if waited_s >= self._policy.retry_after_max_s:
                raise ModelUnavailable(
                    "model_breaker_open",
                    f"provider {self._name} failed {self._policy.breaker_failures_count} times in a row, and again "
                    f"when it was tried; it is asked again in {open_ms / 1_000:.0f} s",
                )
            # In short steps: the one call that tries may close the breaker for all.
            step_s = min(open_ms / 1_000, BREAKER_LOOK_S)
            with caller.held_up():
                await self._time.sleep(step_s)
            waited_s += step_s
