"""Workspaces on disk (W6): `<directory>/runner-<id>/<pipeline>/<agent>-<attempt>`, 0700, removed with their attempt.

Each runner has a folder of its own, and holds a lock on it (flock) while it lives. A killed runner's lock is gone with
it; so whoever starts next in the directory knows whose workspaces belong to nobody, and clears them away.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import logging
import os
import re
import secrets
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sluice_agent_runner.adapters.directory import (
    FOLDER_MODE,
    INLINE_MAX_BYTES,
    READ_ONLY_MODE,
    WRITABLE_MODE,
    Directory,
    Refused,
    to_its_end,
)
from sluice_agent_runner.adapters.file_tools import FileTools
from sluice_agent_runner.domain.conversation import WrittenArtifact
from sluice_agent_runner.domain.names import UnsafeName, components
from sluice_agent_runner.ports import ArtifactStore, Time, Tools, UnusableInput
from sluice_contracts.messages.agent import AgentRun
from sluice_contracts.messages.base import ArtifactRef
from sluice_runtime.artifacts import ArtifactCorrupt, ArtifactMissing

log = logging.getLogger(__name__)

INPUT_FILES_MAX_COUNT = 1_000
"""A task's record can't name many more."""

INPUT_MAX_BYTES = 256 * 1024 * 1024
"""All inputs of one attempt together: 64 attempts at once must fit on a small disk."""

LARGE_AT_ONCE_MAX_COUNT = 4
"""Large inputs that are read and laid at once, each held in memory whole, up to 64 MiB; the other starts wait."""

FILE_LEAST_BYTES = 16 * 1024
"""An empty file costs as much as so many bytes: it is opened, written and closed too."""

ARTIFACTS_FOLDER = "artifacts"
DEPENDENCIES_FOLDER = "dependencies"

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OWN = re.compile(r"runner-[0-9a-f]{16}")
"""A runner's folder. Nothing else in the directory is ever removed."""

_MAKE_TRIES_MAX = 10
"""Another attempt of the pipeline may remove its folder, as empty, in the moment in which it is needed; a runner that
starts may take a new folder for one that belongs to nobody, before it is locked."""


class DiskWorkspaces:
    """Makes workspaces in one directory, which several runners may share.

    Args:
        directory: Made if missing, for the owner alone.

    Raises:
        OSError: The directory can't be made or is a symbolic link.
    """

    def __init__(self, directory: Path, artifacts: ArtifactStore, time: Time) -> None:
        directory.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        self._directory_fd = os.open(directory, _DIRECTORY)
        try:
            os.fchmod(self._directory_fd, FOLDER_MODE)
            self._name, self._root_fd = _own_folder(self._directory_fd)
        except BaseException:
            os.close(self._directory_fd)
            raise
        self._artifacts = artifacts
        self._time = time
        self._large = asyncio.Semaphore(LARGE_AT_ONCE_MAX_COUNT)

    def close(self) -> None:
        """Lets go of the directory. Workspaces in it stay, and belong to nobody then."""
        with suppress(OSError):  # not empty: the next runner that starts clears it away
            os.rmdir(self._name, dir_fd=self._directory_fd)
        os.close(self._root_fd)
        os.close(self._directory_fd)

    def sweep(self) -> int:
        """Removes the workspaces of runners that live no more; returns how many such runners there were.

        Guarantee: what a living process holds stays, also where it is another container's or frozen; and so does
        whatever no runner has made. Where the file system has no locks, nothing is removed.
        """
        swept = 0
        with os.scandir(self._directory_fd) as entries:
            names = [entry.name for entry in entries if _OWN.fullmatch(entry.name)]
        for name in names:
            try:
                folder_fd = os.open(name, _DIRECTORY, dir_fd=self._directory_fd)
            except OSError:
                continue  # another runner was faster; or it is no folder, and so not ours
            try:
                if _lock(folder_fd):
                    shutil.rmtree(name, ignore_errors=True, dir_fd=self._directory_fd)
                    swept += 1
            except OSError:
                continue  # no locks here: nobody knows who lives
            finally:
                os.close(folder_fd)
        return swept

    async def open(self, pipeline_id: str, run: AgentRun, artifacts: Sequence[WrittenArtifact]) -> DiskWorkspace:
        """See `ports.Workspaces.open`."""
        files = _files(run, artifacts)
        name = f"{run.agent_id}-{run.attempt}"
        self._make(pipeline_id, name)
        workspace = DiskWorkspace(self._root_fd, pipeline_id, name, self._artifacts, self._time)
        try:
            left_bytes, at_once_bytes = INPUT_MAX_BYTES, 0
            for file in files:
                if file.size_bytes > INLINE_MAX_BYTES:
                    async with self._large:
                        size_bytes = await self._lay(workspace, file, left_bytes)
                else:
                    size_bytes = await self._lay(workspace, file, left_bytes)
                left_bytes -= size_bytes
                at_once_bytes += max(size_bytes, FILE_LEAST_BYTES)
                if at_once_bytes > INLINE_MAX_BYTES:
                    at_once_bytes = 0
                    await asyncio.sleep(0)  # small bodies are read and laid without any other wait
        except BaseException:
            await workspace.close()
            raise
        return workspace

    async def _lay(self, workspace: DiskWorkspace, file: _File, left_bytes: int) -> int:
        """Lays one input in; returns its size."""
        shown = "/".join(file.parts)
        try:
            body = await self._artifacts.get(file.sha256)
        except ArtifactMissing as error:
            raise UnusableInput("input_missing", f"input {shown}: {error}") from None
        except ArtifactCorrupt as error:
            raise UnusableInput("input_corrupt", f"input {shown}: {error}") from None
        if len(body) > left_bytes:
            raise UnusableInput("inputs_too_large", f"the inputs have more than {INPUT_MAX_BYTES} bytes")
        await workspace.lay(file.parts, body, file.mode)
        return len(body)

    def _make(self, pipeline_id: str, name: str) -> None:
        for _ in range(_MAKE_TRIES_MAX):
            with suppress(FileExistsError):
                os.mkdir(pipeline_id, FOLDER_MODE, dir_fd=self._root_fd)
            try:
                pipeline_fd = os.open(pipeline_id, _DIRECTORY, dir_fd=self._root_fd)
            except FileNotFoundError:
                continue
            try:
                os.mkdir(name, FOLDER_MODE, dir_fd=pipeline_fd)
                return
            except FileNotFoundError:
                continue
            except FileExistsError:  # left by an attempt that could not remove it: its runner holds each once
                shutil.rmtree(name, ignore_errors=True, dir_fd=pipeline_fd)
            finally:
                os.close(pipeline_fd)
        raise OSError(errno.EBUSY, f"the workspace {name} could not be made in {_MAKE_TRIES_MAX} tries")


class DiskWorkspace:
    """One attempt's workspace."""

    def __init__(self, root_fd: int, pipeline_id: str, name: str, artifacts: ArtifactStore, time: Time) -> None:
        self._root_fd = root_fd
        self._pipeline_id = pipeline_id
        self._name = name
        self._directory = Directory(root_fd, f"{pipeline_id}/{name}")
        self._tools = FileTools(self._directory, artifacts, time)

    @property
    def tools(self) -> Tools:
        """See `ports.Workspace.tools`."""
        return self._tools

    async def lay(self, parts: Sequence[str], body: bytes, mode: int) -> None:
        """Lays a file in.

        Raises:
            UnusableInput: The name is taken.
        """
        # Counted first: whoever clears it away must know how much there may be.
        self._tools.laid_in(parts, len(body))
        try:
            if len(body) > INLINE_MAX_BYTES:
                await to_its_end(lambda: self._directory.write(parts, body, mode, replace=False))
            else:
                self._directory.write(parts, body, mode, replace=False)
        except Refused as error:
            raise UnusableInput("conflicting_inputs", str(error)) from None

    async def close(self) -> None:
        """See `ports.Workspace.close`."""
        if self._tools.total_bytes > INLINE_MAX_BYTES:
            await asyncio.to_thread(self._remove)
        else:
            self._remove()

    def _remove(self) -> None:
        with suppress(FileNotFoundError):
            pipeline_fd = os.open(self._pipeline_id, _DIRECTORY, dir_fd=self._root_fd)
            try:
                shutil.rmtree(self._name, ignore_errors=True, dir_fd=pipeline_fd)
            finally:
                os.close(pipeline_fd)
        with suppress(OSError):  # not empty: another attempt of the pipeline works here
            os.rmdir(self._pipeline_id, dir_fd=self._root_fd)


@dataclass(frozen=True, slots=True)
class _File:
    """What is laid in under one name. The size is what its reference claims."""

    parts: tuple[str, ...]
    sha256: str
    size_bytes: int
    mode: int


def _own_folder(directory_fd: int) -> tuple[str, int]:
    """Makes a runner's folder and locks it; returns its name and its descriptor, which holds the lock.

    Raises:
        OSError: It can't be made.
    """
    for _ in range(_MAKE_TRIES_MAX):
        name = f"runner-{secrets.token_hex(8)}"
        os.mkdir(name, FOLDER_MODE, dir_fd=directory_fd)
        try:
            folder_fd = os.open(name, _DIRECTORY, dir_fd=directory_fd)
        except FileNotFoundError:
            continue  # swept already
        try:
            locked = _lock(folder_fd)
        except OSError as error:
            log.warning("%s can't be locked: %s; if this runner is killed, its workspaces stay", name, error.strerror)
            return name, folder_fd
        with suppress(FileNotFoundError):  # swept before it was locked
            if locked and os.stat(name, dir_fd=directory_fd).st_ino == os.fstat(folder_fd).st_ino:
                return name, folder_fd
        os.close(folder_fd)
    raise OSError(errno.EBUSY, f"no folder of a runner's own could be made in {_MAKE_TRIES_MAX} tries")


def _lock(folder_fd: int) -> bool:
    """Takes the folder's lock; false if a living process has it.

    Raises:
        OSError: The file system has no locks.
    """
    try:
        fcntl.flock(folder_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _files(run: AgentRun, written: Sequence[WrittenArtifact]) -> list[_File]:
    """What is laid in, each name once.

    Raises:
        UnusableInput: A name is hostile, or there are too many.
    """
    files: dict[tuple[str, ...], _File] = {}

    def add(prefix: tuple[str, ...], ref: ArtifactRef, mode: int) -> None:
        try:
            own = components(ref.name if ref.name is not None else ref.sha256[:16])
        except UnsafeName as error:
            raise UnusableInput("hostile_artifact_name", str(error)) from None
        if not prefix and own[0] in (ARTIFACTS_FOLDER, DEPENDENCIES_FOLDER):
            raise UnusableInput("conflicting_inputs", f"input {'/'.join(own)}: {own[0]}/ is the runner's own folder")
        parts = (*prefix, *own)
        if files.setdefault(parts, _File(parts, ref.sha256, ref.size_bytes, mode)).sha256 != ref.sha256:
            raise UnusableInput("conflicting_inputs", f"two inputs with different contents are named {'/'.join(parts)}")

    for ref in (*run.inputs, *run.task.inputs):
        add((), ref, READ_ONLY_MODE)
    for outcome in run.dependency_outcomes:
        for ref in outcome.artifacts:
            add((DEPENDENCIES_FOLDER, outcome.task_id), ref, READ_ONLY_MODE)
    for artifact in written:
        add((ARTIFACTS_FOLDER,), artifact.ref(), WRITABLE_MODE)
    if len(files) > INPUT_FILES_MAX_COUNT:
        raise UnusableInput("inputs_too_many", f"{len(files)} inputs; at most {INPUT_FILES_MAX_COUNT} are laid in")
    return list(files.values())
