"""Child processes: each in a session of its own, known by pid and time of creation, ended with all its descendants.

A pid alone is no name, since the system gives it again: what is signalled was started at the recorded time, or carries
this data directory's mark in its environment.
"""

from __future__ import annotations

import contextlib
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path

import psutil

from sluice_localstack.errors import SettingInvalid, StartFailed
from sluice_localstack.files import FILE_MODE, read_json, write_private

MARK = "SLUICE_LOCALSTACK_DIRECTORY"
"""Set in the environment of every child to its data directory, and inherited by what the child starts."""
CREATION_TOLERANCE_S = 2.0
"""The system's clock may be adjusted between two readings; a pid is not given again that fast."""
KILL_WAIT_S = 10.0
"""After SIGKILL only the kernel's own work is left."""
POLL_S = 0.02
INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "USER")
"""What a child gets of our environment. The rest may hold secrets that are none of its business."""


class Records:
    """The file that says which processes a data directory has, for the supervisor that comes after a killed one."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory.absolute()
        self._path = directory / "processes.json"
        self._lock = threading.Lock()

    def add(self, name: str, pid: int) -> None:
        """Note a process that was just started."""
        with contextlib.suppress(psutil.NoSuchProcess):
            created = psutil.Process(pid).create_time()
            self._change(lambda rows: rows.update({name: {"pid": pid, "created": created}}))

    def remove(self, name: str) -> None:
        """Forget a process that has ended."""
        self._change(lambda rows: rows.pop(name, None))

    def leftovers(self) -> list[psutil.Process]:
        """What still runs of this directory: recorded and alive with the same time of creation, or marked with it.

        The caller's own process and its ancestors are never among them. Only the holder of the directory's lock may
        act on the answer: without the lock it may be a running stack's.
        """
        found: dict[int, psutil.Process] = {}
        for row in (read_json(self._path) or {}).values():
            process = alive_since(int(row["pid"]), float(row["created"]))
            if process is not None:
                found[process.pid] = process
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if process.environ().get(MARK) == str(self.directory):
                    found[process.pid] = process
        own = psutil.Process()
        for process in (own, *own.parents()):
            found.pop(process.pid, None)
        return [process for process in found.values() if is_running(process)]

    def end_leftovers(self) -> int:
        """End them with SIGKILL and say how many there were."""
        processes = self.leftovers()
        for process in processes:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(processes, timeout=KILL_WAIT_S)
        write_private(self._path, "{}")
        return len(processes)

    def _change(self, change: Callable[[dict[str, object]], object]) -> None:
        import json

        with self._lock:
            rows = read_json(self._path) or {}
            change(rows)
            write_private(self._path, json.dumps(rows))


def alive_since(pid: int, created: float) -> psutil.Process | None:
    """The process with that pid if it was created at that time, else None."""
    try:
        process = psutil.Process(pid)
        if abs(process.create_time() - created) <= CREATION_TOLERANCE_S and is_running(process):
            return process
    except psutil.Error:
        pass
    return None


def is_running(process: psutil.Process) -> bool:
    """Whether it runs; a zombie has ended."""
    try:
        return bool(process.is_running()) and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


class Child:
    """One program that can be started again and again, at most one process at a time.

    Guarantees: it runs in a session of its own with umask 077, its standard output and error appended to its log, its
    input empty; its environment holds only what is given and a few harmless names of ours. `stop` and `kill` with
    SIGKILL end its whole session. With `death_signal` it gets that signal when the supervisor dies in any way (Linux;
    on other systems the next start of the stack ends what was left).
    """

    def __init__(
        self,
        name: str,
        argv: Sequence[str | Path],
        *,
        environment: Mapping[str, str],
        log_file: Path,
        records: Records,
        death_signal: signal.Signals | None,
        working_directory: Path | None = None,
    ) -> None:
        self.name = name
        self.argv = tuple(str(part) for part in argv)
        self.log_file = log_file
        self.starts = 0
        self._environment = dict(environment)
        self._records = records
        self._death_signal = death_signal
        self._working_directory = working_directory or records.directory
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The pid while it runs, else None."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    @property
    def exit_code(self) -> int | None:
        """How the last process ended (negative: by that signal); None if it runs or was never started."""
        return None if self._process is None else self._process.poll()

    def start(self) -> None:
        """Start a process; without effect while one runs.

        Raises:
            StartFailed: The program cannot be found.
        """
        if self.pid is not None:
            return
        program = shutil.which(self.argv[0])
        if program is None:
            raise StartFailed(f"{self.name}: program {self.argv[0]!r} was not found; give its full path")
        argv = [program, *self.argv[1:]]
        if self._death_signal is not None and sys.platform == "linux":
            leash = Path(__file__).with_name("leash.py")
            argv = [sys.executable, "-I", "-S", str(leash), str(int(self._death_signal)), str(os.getpid()), *argv]
        environment = {key: os.environ[key] for key in INHERITED if key in os.environ}
        environment |= {**self._environment, MARK: str(self._records.directory)}
        descriptor = os.open(self.log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, FILE_MODE)
        try:
            self._process = _start_in_lasting_thread(argv, environment, self._working_directory, descriptor)
        finally:
            os.close(descriptor)
        self.starts += 1
        self._records.add(self.name, self._process.pid)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process; SIGKILL to its whole session. Without effect if it does not run."""
        if self.pid is None or self._process is None:
            return
        if number is signal.SIGKILL:
            self._kill_session()
            self._process.wait(KILL_WAIT_S)
        else:
            self._process.send_signal(number)

    def stop(self, grace_s: float) -> None:
        """SIGTERM, up to `grace_s` of waiting, then SIGKILL to whatever is left of its session."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(grace_s)
        self._kill_session()
        self._process.wait(KILL_WAIT_S)
        self._records.remove(self.name)

    def log_tail(self, lines: int = 8) -> str:
        """The last lines of its log, for an error's text."""
        return tail(self.log_file, lines)

    def _kill_session(self) -> None:
        assert self._process is not None
        # The session's number cannot be given to another while a member lives; without one this is a harmless miss.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)


def stop_together(children: Iterable[Child], grace_s: float) -> None:
    """Stop several at once: all get SIGTERM first, and the grace time is shared."""
    children = list(children)
    for child in children:
        child.signal(signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    for child in children:
        while child.pid is not None and time.monotonic() < deadline:
            time.sleep(POLL_S)
        child.stop(0.0)


def tail(file: Path, lines: int) -> str:
    """The last lines of a text file, at most 4,000 characters; empty if there is none."""
    try:
        with file.open("rb") as stream:
            stream.seek(max(0, stream.seek(0, os.SEEK_END) - 16_000))
            text = stream.read().decode("utf-8", "replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-lines:])[-4_000:]


# PR_SET_PDEATHSIG fires when the *thread* that forked ends, not its process. So one thread that lives as long as the
# process does all the forking, whichever thread asks.
_Request = tuple[Callable[[], subprocess.Popen[bytes]], "Future[subprocess.Popen[bytes]]"]
_requests: queue.SimpleQueue[_Request] = queue.SimpleQueue()
_forker_lock = threading.Lock()
_forker_of_pid: int | None = None


def _start_in_lasting_thread(
    argv: list[str], environment: dict[str, str], working_directory: Path, log: int
) -> subprocess.Popen[bytes]:
    global _forker_of_pid
    with _forker_lock:
        if _forker_of_pid != os.getpid():  # a forked child of ours has the variable but not the thread
            threading.Thread(target=_fork_for_others, name="localstack-forker", daemon=True).start()
            _forker_of_pid = os.getpid()
    future: Future[subprocess.Popen[bytes]] = Future()

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            argv,
            env=environment,
            cwd=working_directory,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            umask=0o077,
        )

    _requests.put((start, future))
    return future.result()


def _fork_for_others() -> None:
    while True:
        start, future = _requests.get()
        try:
            future.set_result(start())
        except BaseException as error:
            future.set_exception(error)


def checked_name(name: str) -> str:
    """A name that is safe in a file's name.

    Raises:
        SettingInvalid: It is not.
    """
    if not name or not all(character.isalnum() or character in "-_." for character in name) or name.startswith("."):
        raise SettingInvalid(f"name {name!r} is not usable; take letters, digits, '-', '_' and '.', not first")
    return name
