"""Starts a component again that has ended by itself, but not for ever."""

from __future__ import annotations

import time
from collections import deque
from pathlib import Path
from typing import Protocol

from sluice_localstack.errors import StartFailed

RESTARTS_MAX_COUNT, RESTARTS_WINDOW_S = 5, 300.0
"""What ends more often has a cause that another start does not mend, such as a full disk."""


class Restartable(Protocol):
    """A component with a process of its own."""

    @property
    def name(self) -> str:
        """As in the logs."""
        ...

    @property
    def pid(self) -> int | None:
        """The pid while it runs, else None."""
        ...

    def restart(self) -> None:
        """Start it again, and wait until it is ready."""
        ...


class Revival:
    """Looks after one component."""

    def __init__(self, component: Restartable, log: Path) -> None:
        self._component, self._log = component, log
        self._restarts: deque[float] = deque(maxlen=RESTARTS_MAX_COUNT)

    def look(self) -> None:
        """Start it again if it has ended.

        Raises:
            StartFailed: It does not come back, or ended too often. Nothing that it acknowledged is lost.
        """
        if self._component.pid is not None:
            return
        now, restarts = time.monotonic(), self._restarts
        if len(restarts) == restarts.maxlen and now - restarts[0] < RESTARTS_WINDOW_S:
            raise StartFailed(
                f"{self._component.name.capitalize()} has ended {len(restarts) + 1} times in {RESTARTS_WINDOW_S:.0f} "
                f"s; read {self._log} and start the stack again"
            )
        restarts.append(now)
        self._component.restart()
