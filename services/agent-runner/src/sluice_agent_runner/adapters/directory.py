"""A directory tree that can't be left: every component is opened on its own, and no symbolic link is followed (W6).

A name is checked first (`domain.names`), then walked with `openat` and `O_NOFOLLOW`, so that neither a hostile name nor
a link that appears between check and use leads out. Only plain files and folders are read or written.
"""

from __future__ import annotations

import asyncio
import errno
import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sluice_agent_runner.domain.violations import SYMLINK_ESCAPE

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# A FIFO would block an open without O_NONBLOCK; it is refused after fstat.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

INLINE_MAX_BYTES = 256 * 1024
"""Up to this many bytes are worked on at once, in a fraction of a millisecond; for more a thread keeps the event loop
free."""

LISTED_MAX_COUNT = 10_000
"""Entries that one listing walks: a model can't use more, and a loop of mounts must end."""

FOLDER_MODE = 0o700
WRITABLE_MODE = 0o600
READ_ONLY_MODE = 0o400


class Refused(Exception):
    """Tell whoever named the file: the message names it, what is wrong, and what to do.

    Attributes:
        breaks: The policy that doing it would have broken; see `domain.violations`.
    """

    def __init__(self, message: str, breaks: str | None = None) -> None:
        self.breaks = breaks
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class Entry:
    """A plain file of the tree."""

    path: str
    size_bytes: int


class Directory:
    """A tree below one folder.

    Args:
        root_fd: An open directory, in which only this program makes entries.
        path: The folder in it. Its way is the caller's; nobody else can put a link there.
    """

    def __init__(self, root_fd: int, path: str) -> None:
        self._root_fd = root_fd
        self._path = path

    def read(self, parts: Sequence[str], max_bytes: int) -> bytes:
        """Reads a whole file.

        Raises:
            Refused: There is none, it is no plain file, or it is too large.
        """
        shown = "/".join(parts)
        folder = self._folder(parts[:-1])
        try:
            file = os.open(parts[-1], _FILE, dir_fd=folder)
        except OSError as error:
            raise _told(error, shown) from None
        finally:
            os.close(folder)
        try:
            status = os.fstat(file)
            if stat.S_ISDIR(status.st_mode):
                raise Refused(f"{shown} is a folder; name a file in it")
            if not stat.S_ISREG(status.st_mode):
                raise Refused(f"{shown} is no plain file; only plain files are read")
            if status.st_size > max_bytes:
                raise Refused(f"{shown} has {status.st_size} bytes; at most {max_bytes} are read")
            return _content(file, max_bytes, shown)
        finally:
            os.close(file)

    def write(self, parts: Sequence[str], body: bytes, mode: int, *, replace: bool) -> None:
        """Writes a whole file; folders on the way are made. Readers see the old file or the new one.

        Raises:
            Refused: The place is taken by a folder, or by a file where `replace` is false; or a link is on the way.
            OSError: The disk does not work.
        """
        shown = "/".join(parts)
        folder = self._folder(parts[:-1], make=True)
        name = parts[-1]
        try:
            if not replace:
                _write_new(folder, name, body, mode)
                return
            new = f".{os.urandom(8).hex()}.new"
            _write_new(folder, new, body, mode)
            try:
                os.rename(new, name, src_dir_fd=folder, dst_dir_fd=folder)
            except OSError:
                os.unlink(new, dir_fd=folder)
                raise
        except OSError as error:
            raise _told(error, shown) from None
        finally:
            os.close(folder)

    def files(self, parts: Sequence[str] = ()) -> tuple[list[Entry], bool]:
        """The plain files at or below a place, in the order of their paths, and whether there are more than are listed.

        Links and special files are left out.

        Raises:
            Refused: The place does not exist, or a link is on the way.
        """
        if parts:
            parent = self._folder(parts[:-1])
            try:
                status = os.stat(parts[-1], dir_fd=parent, follow_symlinks=False)
            except OSError as error:
                raise _told(error, "/".join(parts)) from None
            finally:
                os.close(parent)
            if stat.S_ISREG(status.st_mode):
                return [Entry("/".join(parts), status.st_size)], False
        folder = self._folder(parts)
        found: list[Entry] = []
        try:
            complete = _walk(folder, "".join(f"{part}/" for part in parts), found)
        finally:
            os.close(folder)
        found.sort(key=_by_path)
        return found, not complete

    def _folder(self, parts: Sequence[str], *, make: bool = False) -> int:
        """Opens a folder of the tree, component by component. The caller closes it."""
        try:
            current = os.open(self._path, _FOLDER, dir_fd=self._root_fd)
        except OSError as error:
            raise _told(error, "the workspace") from None
        for depth, part in enumerate(parts, 1):
            try:
                if make:
                    try:
                        os.mkdir(part, FOLDER_MODE, dir_fd=current)
                    except FileExistsError:
                        pass  # if it is no folder, opening it says so
                below = os.open(part, _FOLDER, dir_fd=current)
            except OSError as error:
                shown = "/".join(parts[:depth])
                raise _link(shown) if _is_link(part, current) else _told(error, shown) from None
            finally:
                os.close(current)
            current = below
        return current


async def to_its_end(work: Callable[[], None]) -> None:
    """Runs work that writes in a thread; whoever is cancelled meanwhile goes on only when it is done.

    So nobody clears files away under the hands of a thread that still writes them.
    """
    done = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        await asyncio.shield(done)
    except asyncio.CancelledError:
        await asyncio.wait([done])
        if not done.cancelled():
            done.exception()  # of no interest to whoever was cancelled
        raise


def _by_path(entry: Entry) -> str:
    return entry.path


def _content(file: int, max_bytes: int, shown: str) -> bytes:
    pieces = []
    size_bytes = 0
    while piece := os.read(file, 1024 * 1024):
        pieces.append(piece)
        size_bytes += len(piece)
        if size_bytes > max_bytes:
            raise Refused(f"{shown} has more than {max_bytes} bytes; at most that many are read")
    return b"".join(pieces)


def _write_new(folder: int, name: str, body: bytes, mode: int) -> None:
    file = os.open(name, _NEW, mode, dir_fd=folder)
    try:
        rest = memoryview(body)
        while rest:
            rest = rest[os.write(file, rest) :]
    except OSError:
        os.unlink(name, dir_fd=folder)
        raise
    finally:
        os.close(file)


def _walk(folder: int, prefix: str, found: list[Entry]) -> bool:
    with os.scandir(folder) as entries:
        names = sorted(entries, key=lambda entry: entry.name)
    for entry in names:
        if len(found) >= LISTED_MAX_COUNT:
            return False
        if entry.is_file(follow_symlinks=False):
            found.append(Entry(prefix + entry.name, entry.stat(follow_symlinks=False).st_size))
        elif entry.is_dir(follow_symlinks=False):
            try:
                below = os.open(entry.name, _FOLDER, dir_fd=folder)
            except OSError:
                continue  # it was replaced between the listing and now: it is no folder any more
            try:
                if not _walk(below, f"{prefix}{entry.name}/", found):
                    return False
            finally:
                os.close(below)
    return True


def _is_link(name: str, folder: int) -> bool:
    try:
        return stat.S_ISLNK(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    except OSError:
        return False


def _link(shown: str) -> Refused:
    return Refused(f"{shown} is a symbolic link; links are not followed", SYMLINK_ESCAPE)


def _told(error: OSError, shown: str) -> Exception:
    """What the system refused, in the tree's own terms: the machine's paths are nobody's business."""
    if isinstance(error, FileNotFoundError):
        return Refused(f"{shown} does not exist; list_files shows what does")
    if isinstance(error, FileExistsError):
        return Refused(f"{shown} exists already; choose another name")
    if isinstance(error, IsADirectoryError):
        return Refused(f"{shown} is a folder; name a file in it")
    if error.errno == errno.ELOOP:
        return _link(shown)
    if error.errno == errno.ENOTDIR:
        return Refused(f"{shown} is no folder")
    if error.errno in (errno.ENXIO, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG):
        return Refused(f"{shown} can't be opened: {os.strerror(error.errno)}")
    return error
