"""Artifacts as files: `<directory>/<first two digits>/<hash>`, made under a temporary name and then renamed.

One level of directories, not two: 256 directories are soon all there, where 65,536 have to be made one by one, which
trebles the time of a write for the first hundred thousand (measured: 155 µs against 55). A million bodies are 4,000
files in a directory, which every file system of today finds by index.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import secrets
import time
from pathlib import Path

from sluice_contracts.messages.base import ArtifactRef
from sluice_runtime.artifacts import (
    ARTIFACT_MAX_BYTES,
    DEFAULT_MEDIA_TYPE,
    ArtifactMissing,
    ArtifactStoreUnavailable,
    checked_body,
    checked_hash,
    checked_name,
)

INLINE_WRITE_MAX_BYTES = 256 * 1024
"""A smaller body goes into the page cache in tens of microseconds; a hand-over to a thread costs more. Reading one and
checking its hash takes a fraction of a millisecond; 64 MiB would hold the event loop up for a good part of a second."""

ABANDONED_AFTER_S = 3_600
"""A temporary file older than this is a killed writer's: writing 64 MiB takes seconds."""

_TEMPORARY = "tmp"


class FileArtifactStore:
    """A store in a directory, which several processes may share.

    Guarantee: what `put` returned survives a kill -9 of every process. It survives a power loss only with `durable`,
    which flushes each body and its directory (milliseconds each, in a thread); without it the last seconds of writes
    may be missing or, on some file systems, empty after a power loss: `get` then raises, and storing them again
    repairs them.

    Bodies are readable by the owner alone (0600, directories 0700).

    Args:
        directory: Made if it is not there.
        durable: Whether a body must be on the disk when `put` returns.

    Raises:
        ArtifactStoreUnavailable: The directory can't be made or used.
    """

    def __init__(self, directory: Path, *, durable: bool = False) -> None:
        self._root = str(directory)
        self._durable = durable
        # Unique among the processes of several containers, which may have the same number.
        self._temporary = f"{self._root}/{_TEMPORARY}/{os.getpid()}-{secrets.token_hex(6)}-"
        self._count = itertools.count()
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            temporary = directory / _TEMPORARY
            temporary.mkdir(mode=0o700, exist_ok=True)
            _remove_abandoned(temporary)
        except OSError as error:
            raise self._unavailable("open", error) from None

    async def put(
        self, body: bytes, *, media_type: str = DEFAULT_MEDIA_TYPE, name: str | None = None, kind: str | None = None
    ) -> ArtifactRef:
        """See `ArtifactStore.put`."""
        if len(body) <= INLINE_WRITE_MAX_BYTES and not self._durable:
            digest = self._put(body)
        else:
            digest = await asyncio.to_thread(self._put, body)
        return ArtifactRef(sha256=digest, size_bytes=len(body), media_type=media_type, name=name, kind=kind)

    async def get(self, sha256: str) -> bytes:
        """See `ArtifactStore.get`."""
        path = self._path(checked_name(sha256, self._root))
        body = self._get(path, sha256, INLINE_WRITE_MAX_BYTES)
        if body is None:
            # It opens the file itself: a descriptor of this task's might be closed, by a cancellation, and be another
            # file's while the thread still reads.
            body = await asyncio.to_thread(self._get, path, sha256, None)
            assert body is not None
        return body

    def _get(self, path: str, sha256: str, max_bytes: int | None) -> bytes | None:
        """A body whose hash is checked; None if the file is larger than `max_bytes`."""
        try:
            # Descriptor first, so that size and bytes are the same file's.
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            raise ArtifactMissing(
                f"artifact {sha256} is not in {self._root}: it was never stored here; check SLUICE_ARTIFACTS_URL"
            ) from None
        except OSError as error:
            raise self._unavailable(f"read {sha256}", error) from None
        try:
            if max_bytes is not None and os.fstat(descriptor).st_size > max_bytes:
                return None
            body = _read(descriptor)
        except OSError as error:
            raise self._unavailable(f"read {sha256}", error) from None
        finally:
            os.close(descriptor)
        return checked_body(body, sha256, self._root)

    def _path(self, digest: str) -> str:
        return f"{self._root}/{digest[:2]}/{digest}"

    def _put(self, body: bytes) -> str:
        digest = checked_hash(body)
        path = self._path(digest)
        try:
            # A length that differs is what a power loss leaves behind: it is written anew.
            if os.stat(path).st_size == len(body):
                return digest
        except FileNotFoundError:
            pass
        except OSError as error:
            raise self._unavailable(f"store {digest}", error) from None
        temporary = f"{self._temporary}{next(self._count)}"
        try:
            self._write(temporary, body)
            self._publish(temporary, path)
        except OSError as error:
            _remove(temporary)
            raise self._unavailable(f"store {digest} of {len(body)} bytes", error) from None
        return digest

    def _write(self, temporary: str, body: bytes) -> None:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            written = os.write(descriptor, body)
            while written < len(body):
                written += os.write(descriptor, memoryview(body)[written:])
            if self._durable:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _publish(self, temporary: str, path: str) -> None:
        directory = os.path.dirname(path)
        made = False
        try:
            os.rename(temporary, path)
        except FileNotFoundError:
            os.makedirs(directory, mode=0o700, exist_ok=True)
            os.rename(temporary, path)
            made = True
        if self._durable:
            _flush_directory(directory)
            if made:
                _flush_directory(self._root)

    def _unavailable(self, what: str, error: OSError) -> ArtifactStoreUnavailable:
        return ArtifactStoreUnavailable(
            f"artifact store {self._root}: could not {what}: {error.strerror}; "
            f"check its free space and permissions, or set SLUICE_ARTIFACTS_URL to another place"
        )


def _read(descriptor: int) -> bytes:
    parts = []
    left = ARTIFACT_MAX_BYTES + 1
    while left > 0:
        part = os.read(descriptor, min(left, 1 << 20))
        if not part:
            break
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def _flush_directory(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass  # it was never made, or the next start removes it


def _remove_abandoned(temporary: Path) -> None:
    oldest_s = time.time() - ABANDONED_AFTER_S
    for entry in os.scandir(temporary):
        try:
            if entry.stat(follow_symlinks=False).st_mtime < oldest_s:
                os.unlink(entry.path)
        except FileNotFoundError:
            pass  # its writer, or another process that starts, was faster
