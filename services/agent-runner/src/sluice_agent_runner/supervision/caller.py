"""What an attempt's model calls pass through: its pace, its key, its signals."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

from sluice_agent_runner.domain.pace import Pace
from sluice_agent_runner.domain.secret import Secret
from sluice_agent_runner.domain.signals import Signals
from sluice_agent_runner.ports import ModelError, NoKey, Time
from sluice_agent_runner.supervision.credential import Credential
from sluice_agent_runner.supervision.signalling import SignalSender

LOOK_S = 1.0
"""How often a call that waits looks whether its pace has changed."""


class AttemptCaller:
    """See `ports.Caller`.

    Args:
        held_up: Entered while the runner has the attempt wait.
        credential: None: `without` says why there is none.
    """

    def __init__(
        self,
        time: Time,
        pace: Pace,
        signals: Signals,
        sender: SignalSender,
        credential: Credential | None,
        without: str,
        held_up: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._time = time
        self._pace = pace
        self._signals = signals
        self._sender = sender
        self._credential = credential
        self._without = without
        self.held_up = held_up
        """See `ports.Caller.held_up`."""

    async def admitted(self) -> None:
        """See `ports.Caller.admitted`."""
        now_ms = self._time.monotonic_ms()
        while wait_ms := self._pace.wait_ms(now_ms):
            with self.held_up():
                await self._time.sleep(min(wait_ms / 1_000, LOOK_S))
            now_ms = self._time.monotonic_ms()
        self._pace.called(now_ms)
        self._signals.call_begins(now_ms)

    def failed(self, error: ModelError) -> None:
        """See `ports.Caller.failed`."""
        self._signals.call_failed(error.code, error.detail)
        self._pace.told(self._time.monotonic_ms())
        self._sender.send(self._signals.take())

    def came_on(self) -> None:
        """See `ports.Caller.came_on`."""
        self._signals.came_on(self._time.monotonic_ms())
        self._sender.send(self._signals.take())

    async def key(self, provider: str) -> Secret | NoKey:
        """See `ports.Caller.key`."""
        if self._credential is None:
            return NoKey(self._without)
        with self.held_up():
            return await self._credential.key(provider)

    async def key_changed(self, provider: str) -> bool:
        """See `ports.Caller.key_changed`."""
        if self._credential is None:
            return False
        with self.held_up():
            return await self._credential.key_changed(provider)
