"""What the processors share: arguments, topic names, events on stdout, and points where a fault may strike."""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import sys
import time
from dataclasses import dataclass

SESSION_TIMEOUT_MS = 3_000  # the broker must allow it: group.min.session.timeout.ms=2000
HEARTBEAT_INTERVAL_MS = 500
TRANSACTION_TIMEOUT_MS = 5_000


@dataclass(frozen=True)
class Topics:
    """Topic names of one run."""

    run: str

    @property
    def inputs(self) -> str:
        return f"{self.run}.inputs"

    @property
    def outputs(self) -> str:
        return f"{self.run}.outputs"

    @property
    def state(self) -> str:
        return f"{self.run}.state"

    @property
    def journal(self) -> str:
        return f"{self.run}.journal"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--run", required=True, help="prefix of the topics and the group")
    parser.add_argument("--inputs", help="another input topic than <run>.inputs")
    parser.add_argument("--instance", default="instance-0")
    parser.add_argument("--commit-interval-ms", type=float, default=0)
    parser.add_argument("--stop-after", type=int, default=0, help="exit after this many inputs")
    parser.add_argument("--fault", default="", help="point:nth:KILL|STOP")
    return parser.parse_args()


def emit(event: str, **facts: object) -> None:
    """Write one JSON line for the harness."""
    sys.stdout.write(json.dumps({"event": event, **facts}) + "\n")
    sys.stdout.flush()


class FaultPoint:
    """Sends itself a signal when a named point is passed for the nth time."""

    def __init__(self, specification: str) -> None:
        self._point, nth, name = [*specification.split(":"), "0", ""][:3]
        self._remaining = int(nth or 0)
        self._signal = getattr(signal, f"SIG{name}") if name else None

    def pass_by(self, point: str) -> None:
        if point != self._point or self._signal is None:
            return
        self._remaining -= 1
        if self._remaining == 0:
            os.kill(os.getpid(), self._signal)


class Progress:
    """Counts inputs made durable and reports when the wanted number is done."""

    def __init__(self, stop_after: int) -> None:
        self._stop_after = stop_after
        self._first_at = 0.0
        self._cpu_before = 0.0
        self.done = 0

    def start(self) -> None:
        if not self._first_at:
            self._first_at = time.perf_counter()
            self._cpu_before = _cpu_seconds()

    def add(self, count: int) -> bool:
        """Return True when the wanted number is reached."""
        self.done += count
        if not self._stop_after or self.done < self._stop_after:
            return False
        seconds = time.perf_counter() - self._first_at
        emit("finished", records=self.done, seconds=seconds, cpu_seconds=_cpu_seconds() - self._cpu_before)
        return True


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
