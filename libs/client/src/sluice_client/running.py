"""The life of a local stack: up, in the foreground or in the background, and down."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from sluice_client.environment import hand_over_key
from sluice_client.errors import InputInvalid, SluiceError, TimedOut
from sluice_client.installation import Installation, forget, holder, save, saved
from sluice_client.wiring import Settings, compose, installation_of
from sluice_localstack import LocalStack, OnProgress, StartFailed
from sluice_localstack.files import DirectoryLock, private_directory
from sluice_localstack.processes import Records

DETACHED_LOG = "up.log"
"""In the stack's folder of logs."""
START_TIMEOUT_S = 1_800.0
"""The first start downloads Kafka and builds Vault; a slow line takes minutes."""
STOP_TIMEOUT_S = 75.0
"""The services' grace time, Kafka's and Vault's, and a margin."""
POLL_S = 0.1


@contextlib.contextmanager
def running_stack(settings: Settings, progress: OnProgress) -> Iterator[tuple[LocalStack, Installation]]:
    """A stack that runs inside the block, with word of it for other commands.

    Guarantee: at the block's end, however it comes, no process of the stack is left. SIGTERM and SIGHUP raise
    SystemExit in the block, Ctrl-C raises KeyboardInterrupt.

    Raises:
        LocalStackError: It did not start; the text says why.
    """
    directory = settings.data_directory.absolute()
    if settings.scenarios_directory is not None:
        private_directory(directory)
        settings.scenarios_directory.mkdir(mode=0o700, exist_ok=True)
    stack = compose(settings, progress)
    if holder(directory) is None:  # else its start says who has the directory, and another's key is not ours to change
        private_directory(directory)
        hand_over_key(directory)
    with stack:
        installation = installation_of(settings, stack)
        save(installation, directory)
        try:
            yield stack, installation
        finally:
            forget(directory)


def start_in_background(directory: Path, arguments: list[str], tell: Callable[[str], None]) -> Installation:
    """Starts `sluice up` as a process of its own, and returns when the stack is ready.

    Args:
        directory: The data directory.
        arguments: Further arguments of `up`.
        tell: Receives the lines that it writes meanwhile.

    Raises:
        StartFailed: It ended; the text has its last lines.
        TimedOut: It is not ready in time; it goes on starting.
    """
    running = holder(directory)
    if running is not None:
        raise InputInvalid(f"a stack runs in {directory} with pid {running}; use it, or end it: sluice down")
    private_directory(directory)
    log = private_directory(directory / "logs") / DETACHED_LOG
    forget(directory)
    with log.open("wb") as stream:
        os.fchmod(stream.fileno(), 0o600)
        child = subprocess.Popen(
            [sys.executable, "-m", "sluice_client", "up", "--data", str(directory), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # its summary; the caller gives one
            stderr=stream,
            start_new_session=True,
        )
    try:
        return _ready(child, directory, log, tell)
    except KeyboardInterrupt:
        child.terminate()
        child.wait(STOP_TIMEOUT_S)
        raise


def _ready(child: subprocess.Popen[bytes], directory: Path, log: Path, tell: Callable[[str], None]) -> Installation:
    until = time.monotonic() + START_TIMEOUT_S
    with log.open() as lines:
        while time.monotonic() < until:
            ended = child.poll() is not None
            for line in lines:
                tell(line.rstrip("\n"))
            if ended:
                raise StartFailed(f"sluice up ended with code {child.returncode}; read {log}")
            with contextlib.suppress(SluiceError):
                return saved(directory)
            time.sleep(POLL_S)
    raise TimedOut(f"the stack in {directory} is not ready after {START_TIMEOUT_S:g} s; read {log}")


def end(directory: Path) -> str:
    """Ends the stack of a data directory, or what a killed one left running. Returns what was done, in words.

    Raises:
        TimedOut: It did not end in time.
    """
    if not directory.is_dir():
        return f"nothing runs: there is no {directory}"
    pid = holder(directory)
    if pid is None:
        lock = DirectoryLock(directory)
        lock.acquire()
        try:
            count = sum(
                Records(place).end_leftovers()
                for place in (directory, directory / "kafka", directory / "vault")
                if place.is_dir()
            )
        finally:
            lock.release()
        forget(directory)
        return f"nothing ran in {directory}" if not count else f"ended {count} processes that a killed stack had left"
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    until = time.monotonic() + STOP_TIMEOUT_S
    while holder(directory) is not None:
        if time.monotonic() > until:
            raise TimedOut(
                f"the stack in {directory}, pid {pid}, has not ended within {STOP_TIMEOUT_S:g} s; read its logs in "
                f"{directory / 'logs'}, or kill that process: the next sluice up recovers"
            )
        time.sleep(POLL_S)
    return f"ended the stack in {directory}"
