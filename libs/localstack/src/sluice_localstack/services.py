"""Keeps the services running: starts them, restarts those that die, asks whether they are ready."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sluice_localstack.component import Check
from sluice_localstack.errors import NotReady, SettingInvalid, StartFailed
from sluice_localstack.files import private_directory
from sluice_localstack.processes import Child, Records, checked_name, stop_together
from sluice_localstack.progress import OnProgress, Step
from sluice_localstack.tables import ServiceSpec

STOP_GRACE_S = 30.0
"""A service ends by itself within 25 s (`sluice_runtime.lifecycle.STOP_MAX_S`), so that running turns become durable;
SIGKILL is for one that hangs."""
READY_TIMEOUT_S = 60.0
WATCH_S = 0.05
RESTART_WAIT_MAX_S = 5.0
"""A service that dies again and again costs the machine one start in so long."""
PROBE_TIMEOUT_S = 1.0
LOG_MAX_BYTES = 64 * 1024 * 1024
"""A log that grew over it is moved to `<name>.log.1` when its service starts, so at most twice as much is kept of
well-behaved services."""


@dataclass(slots=True)
class Backoff:
    """When a service that died may start again. Decides by the times it is given; waits for nothing itself.

    The first restart comes at once, the next after 0.2 s, doubling to `most_s`; a run of 10 s is a success and starts
    over.
    """

    first_s: float = 0.2
    most_s: float = RESTART_WAIT_MAX_S
    success_s: float = 10.0
    deaths: int = 0
    due: float = 0.0

    def died(self, now: float, ran_s: float) -> None:
        """Note a death at `now`, after a run of `ran_s`."""
        self.deaths = 1 if ran_s >= self.success_s else self.deaths + 1
        wait_s = 0.0 if self.deaths == 1 else min(self.most_s, self.first_s * 2.0 ** min(self.deaths - 2, 10))
        self.due = now + wait_s


class _Service:
    def __init__(self, spec: ServiceSpec, child: Child, backoff: Backoff) -> None:
        self.spec = spec
        self.child = child
        self.backoff = backoff
        self.started_at = 0.0
        self.running = False

    def start(self) -> None:
        log = self.child.log_file
        if log.exists() and log.stat().st_size > LOG_MAX_BYTES:
            log.replace(log.with_name(f"{log.name}.1"))
        self.child.start()
        self.started_at = time.monotonic()
        self.running = True

    def watch(self) -> None:
        """Note a death; start again what may."""
        now = time.monotonic()
        if self.running and self.child.pid is None:
            self.running = False
            self.backoff.died(now, now - self.started_at)
        if not self.running and self.spec.restart and now >= self.backoff.due:
            self.start()


class Supervisor:
    """The stack's services.

    Guarantees: each service runs in a session of its own, at most once; one with `restart` that dies is started again
    after its backoff, for as long as the supervisor runs; after `stop` none of their processes is left, nor of what
    they started. When the supervisor itself is killed, the kernel ends the services (Linux), and the next start what
    the services had started.
    """

    def __init__(
        self,
        specs: Sequence[ServiceSpec],
        *,
        directory: Path,
        logs_directory: Path,
        die_with_supervisor: bool,
        on_progress: OnProgress,
        restart_wait_max_s: float = RESTART_WAIT_MAX_S,
    ) -> None:
        self._on_progress = on_progress
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._services: dict[str, _Service] = {}
        private_directory(logs_directory)
        records = Records(directory)
        for spec in specs:
            if checked_name(spec.name) in self._services:
                raise SettingInvalid(f"service {spec.name!r} is named twice; give each its own name")
            child = Child(
                spec.name,
                spec.argv,
                environment=spec.environment,
                log_file=logs_directory / f"{spec.name}.log",
                records=records,
                death_signal=signal.SIGKILL if die_with_supervisor else None,
                working_directory=spec.working_directory,
            )
            self._services[spec.name] = _Service(spec, child, Backoff(most_s=restart_wait_max_s))

    def start(self) -> None:
        """Start all services and return when all are ready.

        Raises:
            StartFailed: A program was not found, or ended and may not be restarted.
            NotReady: One was not ready within 60 s.
        """
        with Step("start the services", self._on_progress, total=len(self._services)) as step:
            for service in self._services.values():
                service.start()
            self._thread = threading.Thread(target=self._watch, name="localstack-supervisor", daemon=True)
            self._thread.start()
            for name in self._services:
                self.wait_ready(name, READY_TIMEOUT_S)
                step.advance()

    def stop(self) -> None:
        """Stop all services: SIGTERM to all, 30 s of grace, SIGKILL. Without effect if none runs."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
        with self._lock:
            stop_together([service.child for service in self._services.values()], STOP_GRACE_S)

    def kill(self, name: str, number: signal.Signals) -> None:
        """Send a service a signal; after SIGKILL that process has ended when this returns."""
        with self._lock:
            self._service(name).child.signal(number)

    def pid(self, name: str) -> int | None:
        """The service's pid now; None between a death and its restart."""
        return self._service(name).child.pid

    def restarts(self, name: str) -> int:
        """How many times it was started after the first."""
        return max(0, self._service(name).child.starts - 1)

    def is_ready(self, name: str) -> bool:
        """Whether it runs and its `ready_url` answers 2xx."""
        service = self._service(name)
        if service.child.pid is None:
            return False
        return service.spec.ready_url is None or _answers(service.spec.ready_url)

    def wait_ready(self, name: str, timeout_s: float) -> None:
        """Wait until the service is ready.

        Raises:
            StartFailed: It ended and may not be restarted.
            NotReady: It was not ready in time.
        """
        service = self._service(name)
        deadline = time.monotonic() + timeout_s
        while not self.is_ready(name):
            child = service.child
            if child.pid is None and not service.spec.restart:
                raise StartFailed(
                    f"service {name} ended with code {child.exit_code}; read {child.log_file}:\n{child.log_tail()}"
                )
            if time.monotonic() > deadline:
                state = "does not run" if child.pid is None else f"does not answer {service.spec.ready_url}"
                raise NotReady(
                    f"service {name} was not ready within {timeout_s:g} s ({state}, {self.restarts(name)} restarts); "
                    f"read {child.log_file}:\n{child.log_tail()}"
                )
            time.sleep(WATCH_S)

    def doctor(self) -> list[Check]:
        """One check for each service."""
        checks = []
        for name, service in self._services.items():
            ready = self.is_ready(name)
            detail = f"pid {service.child.pid}, {self.restarts(name)} restarts"
            checks.append(Check(f"service {name}", ready, detail, "" if ready else f"read {service.child.log_file}"))
        return checks

    def _service(self, name: str) -> _Service:
        try:
            return self._services[name]
        except KeyError:
            names = ", ".join(self._services) or "none"
            raise SettingInvalid(f"there is no service {name!r}; the stack has: {names}") from None

    def _watch(self) -> None:
        while not self._stopping.wait(WATCH_S):
            with self._lock:
                for service in self._services.values():
                    # A program that cannot be started now is tried again after its backoff, as one that died.
                    with contextlib.suppress(StartFailed, OSError):
                        service.watch()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=PROBE_TIMEOUT_S) as response:
            return 200 <= int(response.status) < 300
    except OSError:
        return False
