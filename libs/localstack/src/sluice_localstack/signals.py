"""What SIGTERM and Ctrl-C do while a stack runs."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

TERMINATING = (signal.SIGTERM, signal.SIGHUP)


class OrderlyTermination:
    """Makes SIGTERM and SIGHUP raise SystemExit, so that `with` blocks are left in good order.

    Only signals whose action is the system's default are changed: a program with handlers of its own keeps them. Works
    in the main thread; in others it does nothing, since Python delivers signals to the main thread.
    """

    def __init__(self) -> None:
        self._changed: list[signal.Signals] = []

    def install(self) -> None:
        """Change the default actions."""
        if threading.current_thread() is threading.main_thread():
            self._changed = [number for number in TERMINATING if signal.getsignal(number) is signal.SIG_DFL]
            for number in self._changed:
                signal.signal(number, _exit)

    def restore(self) -> None:
        """Give the default actions back."""
        if threading.current_thread() is threading.main_thread():
            for number in self._changed:
                if signal.getsignal(number) is _exit:
                    signal.signal(number, signal.SIG_DFL)
            self._changed = []


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Ignore Ctrl-C and termination in a block that is short and must end, as stopping a stack."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: dict[signal.Signals, Any] = {}
    for number in (signal.SIGINT, *TERMINATING):
        handler = signal.getsignal(number)
        if handler is not None:  # None: set by something that is not Python, and not ours to touch
            held[number] = handler
            signal.signal(number, signal.SIG_IGN)
    try:
        yield
    finally:
        for number, handler in held.items():
            signal.signal(number, handler)


def _exit(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
