"""`rotation.Files` on a folder: the audit file, and what rotation has made of older ones beside it."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path

from sluice_vault_broker.audit.domain.entries import begun_ns
from sluice_vault_broker.audit.domain.rotation import Found

HEAD_MAX_BYTES = 4 * 1024
"""Of a file's first line, by which it is known: Vault's first entry differs from all others in its time and its id."""

FIRST_LINE_MAX_BYTES = 1024 * 1024
"""In a longer first line no time is looked for; the file's own time of change counts."""

_ROTATED = re.compile(r"[.-](\d[\dTZ:._-]*|old)\Z")
"""What rotation adds to the name: `.1`, `-20261121`, `.2026-11-21T09:26`, `.old`. Compressed files are not read."""


class AuditFiles:
    """The files. The one that is read stays open, so that it is read to its end, whatever is done to its name.

    Args:
        path: Into which Vault writes.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._held: tuple[str, int] | None = None
        self._paths: dict[str, tuple[bool, int, Path]] = {}
        self._begun_ns: dict[str, int] = {}

    def look(self) -> Sequence[Found]:
        """See `rotation.Files.look`.

        Raises:
            FileNotFoundError: The folder, or the audit file with nothing beside it, is not there.
            OSError: One can't be read.
        """
        self._paths = {}
        some = False
        with os.scandir(self._path.parent) as entries:
            paths = sorted(Path(entry.path) for entry in entries if self._is_one(entry.name))
        for path in paths:
            with suppress(FileNotFoundError), _opened(path) as descriptor:  # renamed since
                some = True
                self._note(descriptor, path)
        if self._held is not None and self._held[0] not in self._paths:
            self._note(self._held[1], None)  # deleted, and read all the same
        if not some and not self._paths:
            raise FileNotFoundError(2, "it is not there yet", str(self._path))
        self._begun_ns = {file: self._begun_ns[file] for file in self._paths}
        return [Found(file, self._begun_ns[file], size, live) for file, (live, size, _) in self._paths.items()]

    def read(self, file: str, offset: int, size: int) -> bytes | None:
        """See `rotation.Files.read`."""
        if self._held is None or self._held[0] != file:
            self.close()
            try:
                self._held = file, os.open(self._paths[file][2], os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:  # renamed since
                return None
        data = os.pread(self._held[1], size, offset)
        if _identity(self._held[1]) != file:  # truncated, and begun anew: looked at after the reading
            self.close()
            return None
        return data

    def close(self) -> None:
        """Lets go of the file."""
        if self._held is not None:
            os.close(self._held[1])
            self._held = None

    def _is_one(self, name: str) -> bool:
        base = self._path.name
        return name == base or (name.startswith(base) and bool(_ROTATED.match(name, len(base))))

    def _note(self, descriptor: int, path: Path | None) -> None:
        known = os.fstat(descriptor)
        file = _identity(descriptor) if stat.S_ISREG(known.st_mode) else None
        if file is None:
            return
        if file not in self._begun_ns:
            line = os.pread(descriptor, FIRST_LINE_MAX_BYTES, 0)
            if b"\n" not in line and len(line) < FIRST_LINE_MAX_BYTES:
                return  # its first line is being written
            self._begun_ns[file] = begun_ns(line.partition(b"\n")[0]) or known.st_mtime_ns
        found = (path == self._path, known.st_size, path or self._path)
        self._paths[file] = max(found, self._paths.get(file, found))  # of a copy and its original the original


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # of a pipe nobody waits for the other end
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _identity(descriptor: int) -> str | None:
    head, end, _ = os.pread(descriptor, HEAD_MAX_BYTES, 0).partition(b"\n")
    return sha256(head).hexdigest() if end or len(head) == HEAD_MAX_BYTES else None
