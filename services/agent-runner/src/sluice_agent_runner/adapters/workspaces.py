"""Workspaces on disk (W6): `<directory>/<pipeline>/<agent>-<attempt>`, 0700, removed when the attempt is over."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from sluice_agent_runner.adapters.directory import FOLDER_MODE, READ_ONLY_MODE, WRITABLE_MODE, Directory, Refused
from sluice_agent_runner.adapters.file_tools import FileTools
from sluice_agent_runner.domain.conversation import WrittenArtifact
from sluice_agent_runner.domain.names import UnsafeName, components
from sluice_agent_runner.ports import ArtifactStore, Time, Tools, UnusableInput
from sluice_contracts.messages.agent import AgentRun
from sluice_contracts.messages.base import ArtifactRef
from sluice_runtime.artifacts import ArtifactCorrupt, ArtifactMissing

INPUT_FILES_MAX_COUNT = 1_000
"""A task's record can't name many more."""

INPUT_MAX_BYTES = 256 * 1024 * 1024
"""All inputs of one attempt together: 64 attempts at once must fit on a small disk."""

ARTIFACTS_FOLDER = "artifacts"
DEPENDENCIES_FOLDER = "dependencies"

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MAKE_TRIES_MAX = 10
"""Another attempt of the pipeline may remove its folder, as empty, in the moment in which it is needed."""


class DiskWorkspaces:
    """Makes workspaces in one directory, which several runners may share.

    Args:
        directory: Made if missing, for the owner alone.

    Raises:
        OSError: The directory can't be made or is a symbolic link.
    """

    def __init__(self, directory: Path, artifacts: ArtifactStore, time: Time) -> None:
        directory.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        self._root_fd = os.open(directory, _DIRECTORY)
        os.fchmod(self._root_fd, FOLDER_MODE)
        self._artifacts = artifacts
        self._time = time

    def close(self) -> None:
        """Lets go of the directory. Workspaces in it stay."""
        os.close(self._root_fd)

    async def open(self, pipeline_id: str, run: AgentRun, artifacts: Sequence[WrittenArtifact]) -> DiskWorkspace:
        """See `ports.Workspaces.open`."""
        files = _files(run, artifacts)
        name = f"{run.agent_id}-{run.attempt}"
        self._make(pipeline_id, run.agent_id, run.attempt)
        workspace = DiskWorkspace(self._root_fd, pipeline_id, name, self._artifacts, self._time)
        try:
            total_bytes = 0
            for parts, sha256, mode in files:
                try:
                    body = await self._artifacts.get(sha256)
                except ArtifactMissing as error:
                    raise UnusableInput("input_missing", f"input {'/'.join(parts)}: {error}") from None
                except ArtifactCorrupt as error:
                    raise UnusableInput("input_corrupt", f"input {'/'.join(parts)}: {error}") from None
                total_bytes += len(body)
                if total_bytes > INPUT_MAX_BYTES:
                    raise UnusableInput("inputs_too_large", f"the inputs have more than {INPUT_MAX_BYTES} bytes")
                await workspace.lay(parts, body, mode)
        except BaseException:
            await workspace.close()
            raise
        return workspace

    def _make(self, pipeline_id: str, agent_id: str, attempt: int) -> None:
        for _ in range(_MAKE_TRIES_MAX):
            with suppress(FileExistsError):
                os.mkdir(pipeline_id, FOLDER_MODE, dir_fd=self._root_fd)
            try:
                pipeline_fd = os.open(pipeline_id, _DIRECTORY, dir_fd=self._root_fd)
            except FileNotFoundError:
                continue
            try:
                self._remove_older(pipeline_fd, agent_id, attempt)
                os.mkdir(f"{agent_id}-{attempt}", FOLDER_MODE, dir_fd=pipeline_fd)
                return
            except FileNotFoundError:
                continue
            finally:
                os.close(pipeline_fd)
        raise OSError(f"the workspace of {agent_id} could not be made in {_MAKE_TRIES_MAX} tries")

    def _remove_older(self, pipeline_fd: int, agent_id: str, attempt: int) -> None:
        """A killed runner leaves its attempt's workspace behind; the next attempt of the agent clears it away."""
        with os.scandir(pipeline_fd) as entries:
            names = [entry.name for entry in entries if entry.name.startswith(f"{agent_id}-")]
        for name in names:
            number = name.removeprefix(f"{agent_id}-")
            if number.isdecimal() and int(number) <= attempt:
                shutil.rmtree(name, ignore_errors=True, dir_fd=pipeline_fd)


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
        try:
            self._directory.write(parts, body, mode, replace=False)
        except Refused as error:
            raise UnusableInput("conflicting_inputs", str(error)) from None
        self._tools.laid_in(parts, len(body))

    async def close(self) -> None:
        """See `ports.Workspace.close`."""
        if self._tools.total_bytes > FileTools.INLINE_MAX_BYTES:
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


def _files(run: AgentRun, written: Sequence[WrittenArtifact]) -> list[tuple[tuple[str, ...], str, int]]:
    """What is laid in: (name, hash, mode), each name once.

    Raises:
        UnusableInput: A name is hostile, or there are too many.
    """
    files: dict[tuple[str, ...], tuple[str, int]] = {}

    def add(prefix: tuple[str, ...], ref: ArtifactRef, mode: int) -> None:
        try:
            own = components(ref.name if ref.name is not None else ref.sha256[:16])
        except UnsafeName as error:
            raise UnusableInput("hostile_artifact_name", str(error)) from None
        if not prefix and own[0] in (ARTIFACTS_FOLDER, DEPENDENCIES_FOLDER):
            raise UnusableInput("conflicting_inputs", f"input {'/'.join(own)}: {own[0]}/ is the runner's own folder")
        parts = (*prefix, *own)
        if files.setdefault(parts, (ref.sha256, mode))[0] != ref.sha256:
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
    return [(parts, sha256, mode) for parts, (sha256, mode) in files.items()]
