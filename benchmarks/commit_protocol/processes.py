"""Starts processors as child processes and reads the events they print."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time

import psutil

MODULES = {"echo": "echo", "transactions": "transactions", "transactions_5ms": "transactions", "journal": "journal"}


class ProcessorProcess:
    def __init__(self, bootstrap: str, protocol: str, run: str, instance: str = "instance-0") -> None:
        self._command = [
            sys.executable,
            "-m",
            f"benchmarks.commit_protocol.{MODULES[protocol]}",
            "--bootstrap",
            bootstrap,
            "--run",
            run,
            "--instance",
            instance,
        ]
        if protocol == "transactions_5ms":
            self._command += ["--commit-interval-ms", "5"]
        self.events: list[dict] = []
        self.log: list[str] = []
        self._process: asyncio.subprocess.Process | None = None
        self._readers: list[asyncio.Task] = []

    async def start(self, *extra: str) -> None:
        self._process = await asyncio.create_subprocess_exec(
            *self._command, *extra, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        self._readers = [
            asyncio.create_task(self._read(self._process.stdout, self._keep_event)),
            asyncio.create_task(self._read(self._process.stderr, self.log.append)),
        ]

    async def _read(self, stream, keep) -> None:
        while line := await stream.readline():
            keep(line.decode(errors="replace").rstrip())

    def _keep_event(self, line: str) -> None:
        self.events.append(json.loads(line))

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.returncode is None

    @property
    def stopped(self) -> bool:
        return self.alive and psutil.Process(self._process.pid).status() == psutil.STATUS_STOPPED

    def signal(self, number: signal.Signals) -> None:
        if self.alive:
            os.kill(self._process.pid, number)

    async def wait(self, seconds: float) -> None:
        await asyncio.wait_for(self._process.wait(), seconds)
        await asyncio.gather(*self._readers)

    async def kill(self) -> None:
        self.signal(signal.SIGKILL)
        await self.wait(10)

    async def event(self, name: str, count: int, seconds: float) -> dict:
        """Wait for the count-th event of this name."""
        deadline = time.monotonic() + seconds
        while True:
            found = [event for event in self.events if event["event"] == name]
            if len(found) >= count:
                return found[count - 1]
            if time.monotonic() > deadline or not self.alive:
                raise RuntimeError(f"no event {name}: {self.events[-5:]} {self.log[-5:]}")
            await asyncio.sleep(0.02)
