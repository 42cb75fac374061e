"""The `sluice` command as people run it: a process of its own, on a stack of the test's."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[3]
INCIDENT = ROOT / "examples" / "incident"
COMMAND_TIMEOUT_S = 180


@dataclass(frozen=True)
class Ran:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass
class Sluice:
    """Runs commands on the stack of one data directory."""

    data: Path
    environment: Mapping[str, str] = field(default_factory=dict)

    def __call__(self, *arguments: str, input: str | None = None) -> Ran:
        done = subprocess.run(
            self.argv(*arguments), env=self.variables(), cwd=ROOT, input=input,
            capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S, check=False,
        )  # fmt: skip
        return Ran(done.returncode, done.stdout, done.stderr)

    def ok(self, *arguments: str) -> Ran:
        """Runs a command that must succeed."""
        ran = self(*arguments)
        assert ran.code == 0, ran
        return ran

    def argv(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "sluice_client", *arguments]

    def variables(self) -> dict[str, str]:
        ours = ("SLUICE_", "KAFKA_", "CLICKHOUSE_", "OPENROUTER_", "VAULT_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(ours) or "CACHE" in name}
        return {**kept, "SLUICE_DATA_DIRECTORY": str(self.data), **self.environment}

    def scenario(self, name: str, text: str) -> Path:
        path = self.data.parent / f"{name}.yaml"
        path.write_text(text)
        return path

    def processes(self) -> list[psutil.Process]:
        """All processes of the stack, whoever their parents are."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if str(self.data) in process.environ().get("SLUICE_LOCALSTACK_DIRECTORY", ""):
                    found.append(process)
        return found

    def pid(self, service: str) -> int:
        rows = json.loads((self.data / "processes.json").read_text())
        return int(rows[service]["pid"])

    @contextlib.contextmanager
    def running(self) -> Iterator[Sluice]:
        self.ok("up", "--detach")
        try:
            yield self
        finally:
            self("down")


def until(condition: Callable[[], Any], what: str, timeout_s: float = 60) -> Any:
    """Waits for a condition."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        if result := condition():
            return result
        time.sleep(0.1)
    raise AssertionError(f"{what} did not come true in {timeout_s:g} s")
