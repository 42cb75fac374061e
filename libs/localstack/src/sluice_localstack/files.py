"""Files that only their owner may read, and locks on directories.

Everything the stack writes is private: directories 0700, files 0600, because passwords and messages stand in them.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sluice_localstack.errors import DirectoryInUse, SettingInvalid

DIRECTORY_MODE = 0o700
FILE_MODE = 0o600
HOLDER_TRIES, HOLDER_WAIT_S = 20, 0.05
CACHE_LOCK_TIMEOUT_S = 600.0
"""A first start of another process may download and build that long before this one gives up."""


def private_directory(path: Path) -> Path:
    """Make a directory (and its parents) that only the owner may enter, and return it.

    An existing directory is tightened to 0700.

    Raises:
        SettingInvalid: It cannot be made or changed.
    """
    try:
        path.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
        if path.stat().st_mode & 0o777 != DIRECTORY_MODE:
            path.chmod(DIRECTORY_MODE)
    except OSError as error:
        raise SettingInvalid(f"directory {path} cannot be used: {error.strerror}; choose one you may write") from error
    return path


def write_private(path: Path, text: str) -> None:
    """Replace a file atomically and durably by one with mode 0600.

    A reader sees the old text or the new one; after a crash too.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, FILE_MODE)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        os.fchmod(file.fileno(), FILE_MODE)
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a file of ours; None if there is no such file.

    Raises:
        SettingInvalid: The file is not a JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise SettingInvalid(
            f"file {path} cannot be read ({error}); restore it, or start with a new directory"
        ) from error
    if not isinstance(value, dict):
        raise SettingInvalid(f"file {path} holds no JSON object; restore it, or start with a new directory")
    return value


class DirectoryLock:
    """The right to run in a data directory: one holder on the machine, freed by the kernel when the holder dies.

    The descriptor is not inherited, so a process left behind by a killed supervisor holds nothing.
    """

    def __init__(self, directory: Path) -> None:
        self.path = directory / "lock"
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock at once, or fail.

        Raises:
            DirectoryInUse: Another holder runs; the text names its pid.
        """
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(descriptor)
            raise DirectoryInUse(
                f"data directory {self.path.parent} is used by the running stack with pid {holder}; "
                "stop that one, or give another directory"
            ) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        self._descriptor = descriptor

    def release(self) -> None:
        """Free the lock; without effect if it is not held."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    @property
    def held(self) -> bool:
        """Whether this object holds the lock."""
        return self._descriptor is not None

    def holder(self) -> int | None:
        """The pid of the process that holds the lock now, None if nobody does."""
        if self.held:
            return os.getpid()
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            # Who has just taken the lock writes his pid a moment later. (0 would be our own process group.)
            for _ in range(HOLDER_TRIES):
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except OSError:
                    written = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip()
                    if written.isdigit() and int(written) > 0:
                        return int(written)
                    time.sleep(HOLDER_WAIT_S)
                else:
                    return None
        finally:
            os.close(descriptor)
        return None


@contextlib.contextmanager
def exclusive(path: Path, *, timeout_s: float = CACHE_LOCK_TIMEOUT_S) -> Iterator[None]:
    """Hold a lock file for the length of a block; wait for another process that holds it.

    Raises:
        DirectoryInUse: It was not free within `timeout_s`.
    """
    deadline = time.monotonic() + timeout_s
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if time.monotonic() > deadline:
                    raise DirectoryInUse(
                        f"lock {path} was not free within {timeout_s:.0f} s; end the process that holds it"
                    ) from error
                time.sleep(0.05)
        yield
    finally:
        os.close(descriptor)
