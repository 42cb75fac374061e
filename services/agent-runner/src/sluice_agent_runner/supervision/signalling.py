"""Signals on their way into the log, beside the turns."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from sluice_agent_runner.domain.signals import Signal
from sluice_contracts.envelope import CloudEvent
from sluice_contracts.messages.base import Message


class SignalSender:
    """Publishes the signals of one attempt without keeping it waiting.

    Guarantees: once `flush` has returned, all that was sent before is in the log; each bears the time at which it was
    sent, however long the log was away: what is counted within a minute happened within a minute.

    Args:
        event_of: Makes the record of a signal, with the time of now.
        publish: Puts it into the log.
    """

    def __init__(
        self,
        event_of: Callable[[Signal], CloudEvent[Message]],
        publish: Callable[[CloudEvent[Message]], Awaitable[None]],
    ) -> None:
        self._event_of = event_of
        self._publish = publish
        self._waiting: list[CloudEvent[Message]] = []
        self._sending: asyncio.Task[None] | None = None

    def send(self, signals: Sequence[Signal]) -> None:
        """Has them published, after what runs at this moment."""
        if signals:
            self._waiting += map(self._event_of, signals)
            if self._sending is None:
                self._sending = asyncio.get_running_loop().create_task(self._send())

    async def flush(self) -> None:
        """Waits until all is in the log."""
        while self._sending is not None:
            await self._sending

    def drop(self) -> None:
        """Publishes nothing more."""
        self._waiting = []
        if self._sending is not None and not self._sending.cancel() and not self._sending.cancelled():
            self._sending.exception()  # of no interest any more
        self._sending = None

    async def _send(self) -> None:
        while self._waiting:
            events, self._waiting = self._waiting, []
            if len(events) == 1:
                await self._publish(events[0])
            else:
                await asyncio.gather(*map(self._publish, events))
        self._sending = None
