"""A server of one's own: one process in a data directory, that is started, stopped, killed and started again."""

from __future__ import annotations

import signal
from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from sluice_localstack import ports
from sluice_localstack.errors import SettingInvalid, StartFailed
from sluice_localstack.files import DirectoryLock, private_directory
from sluice_localstack.processes import Child
from sluice_localstack.progress import OnProgress, Step

STOP_GRACE_S = 15.0
"""Measured 0.4 to 1 s; after it SIGKILL, from which the storage recovers."""
START_TRIES = 3
"""Another program may take a port between our look and the server's."""


class LocalServer(ABC):
    """The life of a server with a data directory: most of a `Component`.

    Guarantees: `start` returns when it is ready. The ports stay the same over `kill` and `restart`, and over a new
    `start` unless another program has taken them. One process at a time uses a data directory.

    Usable as a context manager.

    Args:
        data_directory: Made if needed, 0700; everything is kept below it.
        logs_directory: Default `<data_directory>/logs`.
        die_with_supervisor: Have the kernel end it when this process dies in any way (Linux).
        on_progress: Is told what happens.

    Attributes:
        name: See `Component`.
        title: How messages call it.
    """

    name: ClassVar[str]
    title: ClassVar[str]

    def __init__(
        self, data_directory: Path, *, logs_directory: Path | None, die_with_supervisor: bool, on_progress: OnProgress
    ) -> None:
        self.directory = Path(data_directory).absolute()
        self.logs_directory = logs_directory or self.directory / "logs"
        self._on_progress = on_progress
        self._death_signal = signal.SIGTERM if die_with_supervisor else None
        self._lock = DirectoryLock(self.directory)
        self._child: Child | None = None
        self._ports: dict[str, int] = {}

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int | None:
        """The pid while it runs, else None."""
        return None if self._child is None else self._child.pid

    @property
    def supervisor_pid(self) -> int | None:
        """The pid of the process that runs one in this directory, ours or another; None if none does."""
        return self._lock.holder()

    def start(self) -> None:
        """Make what is missing, start it, and wait until it is ready.

        Ends first what an earlier supervisor of this directory has left running. Without effect while it runs.

        Raises:
            DirectoryInUse: Another process runs one here.
            DownloadFailed: The program could not be had.
            SettingInvalid: A key or a password that its data needs is lost.
            StartFailed: It ended while it started, or was not ready in time (`NotReady`). Nothing runs then.
        """
        if self.pid is not None:
            return
        private_directory(self.directory)
        if not self._lock.held:
            self._lock.acquire()
        try:
            self._start()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End it in good order (SIGKILL after 15 s) and free the directory. Without effect if it is not up."""
        try:
            if self._child is not None:
                self._child.stop(STOP_GRACE_S)
        finally:
            self._lock.release()

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send the process a signal; after SIGKILL it has ended when this returns. The directory stays ours."""
        if self._child is not None:
            self._child.signal(number)

    def restart(self) -> None:
        """Start it again after `kill` (or in place of what runs) on the same ports, and wait until it is ready.

        Raises:
            StartFailed: As for `start`. Call `start` if another program may have taken the ports.
        """
        if self._child is None or not self._lock.held:
            raise SettingInvalid(f"{self.title} in {self.directory} was not started; call start()")
        self._child.stop(STOP_GRACE_S)
        self._launch_step()

    @abstractmethod
    def _start(self) -> None:
        """Prepare the directory, set `_child`, and end with `_launch_on_free_ports`."""

    @abstractmethod
    def _choose_ports(self) -> None:
        """Set `_ports`, the stored ones where they are free, and write them where the program reads them."""

    @abstractmethod
    def _launch(self) -> None:
        """Start the child, and wait until it is ready."""

    def _port(self, name: str) -> int:
        """Of this object's process, or of the one that another process runs in the directory.

        Raises:
            SettingInvalid: None was ever started here.
        """
        port = (self._ports or ports.stored_ports(self.directory)).get(name)
        if port is None:
            raise SettingInvalid(f"{self.title} in {self.directory} has no port yet; call start() first")
        return port

    def _launch_step(self) -> None:
        with Step(f"start {self.title}", self._on_progress):
            self._launch()

    def _launch_on_free_ports(self) -> None:
        for attempt in range(1, START_TRIES + 1):
            try:
                self._launch_step()
                return
            except StartFailed:
                if attempt == START_TRIES or all(ports.is_free(port) for port in self._ports.values()):
                    raise
            self._choose_ports()
