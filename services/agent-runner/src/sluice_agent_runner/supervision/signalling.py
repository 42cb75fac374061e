"""Signals on their way into the log, beside the turns."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from sluice_agent_runner.domain.signals import Signal
from sluice_agent_runner.ports import Time
from sluice_contracts.messages.signal import ProgressReported

PROGRESS_SPACING_MS = 1_000
"""Turns may take a millisecond; that one comes on is told once in this time, and calls are told in sums."""


class SignalSender:
    """Publishes the signals of one attempt without keeping it waiting.

    Guarantee: once `flush` has returned, all that was sent before is in the log; once `settle` has, what was held back
    is there, too.
    """

    def __init__(self, publish: Callable[[Signal], Awaitable[None]], time: Time) -> None:
        self._publish = publish
        self._time = time
        self._waiting: list[Signal] = []
        self._sending: asyncio.Task[None] | None = None
        self._progress_ms: int | None = None
        self._held: Signal | None = None
        self._releasing: asyncio.Task[None] | None = None

    def send(self, signals: Sequence[Signal]) -> None:
        """Has them published, after what runs at this moment."""
        if signals:
            self._waiting += signals
            if self._sending is None:
                self._sending = asyncio.get_running_loop().create_task(self._send())

    def paced(self, signals: Sequence[Signal]) -> list[Signal]:
        """Those that shall be published now; progress that follows upon progress is held back, a second at most."""
        now: list[Signal] = []
        for signal in signals:
            progress = self._with_held(signal)
            if progress is None:
                now.append(signal)
            elif (wait_ms := self._wait_ms()) <= 0:
                self._progress_ms = self._time.monotonic_ms()
                now.append(progress)
            else:
                self._held = progress
                if self._releasing is None:
                    self._releasing = asyncio.get_running_loop().create_task(self._release_later(wait_ms))
        return now

    async def flush(self) -> None:
        """Waits until all that was sent is in the log.

        Raises:
            PublishFailed: Something may or may not be in the log.
        """
        while self._sending is not None:
            await self._sending

    async def settle(self) -> None:
        """As `flush`, with what was held back: the attempt ends.

        Raises:
            PublishFailed: As there.
        """
        self._release()
        await self.flush()

    def drop(self) -> None:
        """Publishes nothing more."""
        self._waiting, self._held = [], None
        if self._releasing is not None:
            self._releasing.cancel()
        if self._sending is not None and not self._sending.cancel() and not self._sending.cancelled():
            self._sending.exception()  # of no interest any more
        self._sending = self._releasing = None

    def _with_held(self, signal: Signal) -> Signal | None:
        """A turn's progress, and what was held back; None if it is something else."""
        if not isinstance(signal.data, ProgressReported):
            return None
        held, self._held = self._held, None
        if held is None:
            return signal
        assert isinstance(held.data, ProgressReported)
        calls = held.data.api_calls + signal.data.api_calls
        return signal._replace(data=signal.data.model_copy(update={"api_calls": calls}))

    def _wait_ms(self) -> int:
        if self._progress_ms is None:
            return 0
        return self._progress_ms + PROGRESS_SPACING_MS - self._time.monotonic_ms()

    async def _release_later(self, wait_ms: int) -> None:
        await self._time.sleep(wait_ms / 1_000)
        self._releasing = None
        self._release()

    def _release(self) -> None:
        if self._held is not None:
            held, self._held = self._held, None
            self._progress_ms = self._time.monotonic_ms()
            self.send([held])

    async def _send(self) -> None:
        while self._waiting:
            signals, self._waiting = self._waiting, []
            if len(signals) == 1:
                await self._publish(signals[0])
            else:
                await asyncio.gather(*map(self._publish, signals))
        self._sending = None
