"""Writes a pipeline's artifacts to files. Their names were chosen by agents: they are not trusted."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from sluice_client.client import Json
from sluice_client.errors import InputInvalid

_PART = re.compile(r"[^\x00-\x1f\x7f/\\]{1,255}")


def save_artifacts(found: Sequence[Json], directory: Path, read: Callable[[str], bytes]) -> list[Path]:
    """Writes artifacts as `<directory>/<task>/<name>`.

    Guarantee: nothing outside the directory is written, through no symbolic link below it, and no file with other
    content is replaced.

    Args:
        found: As `Sluice.artifacts` returns them.
        directory: Made if needed.
        read: Gives the bytes of a hash.

    Raises:
        InputInvalid: A name leaves the directory, a file with other content is there, or it can't be written.
    """
    written = []
    for one in found:
        reference = one["artifact"]
        name = reference["name"] or reference["sha256"][:16]
        parts = [one["task_id"], *name.split("/")]
        if any(part in (".", "..") or not _PART.fullmatch(part) for part in parts):
            raise InputInvalid(
                f"artifact {name!r} of task {one['task_id']}: the name could leave {directory}; not saved"
            )
        path = directory.joinpath(*parts)
        try:
            for parent in reversed(path.parents[: len(parts) - 1]):
                if parent.is_symlink():
                    raise InputInvalid(f"{parent} is a symbolic link; save to another folder")
            path.parent.mkdir(parents=True, exist_ok=True)
            body = read(reference["sha256"])
            if path.is_symlink() or (path.exists() and path.read_bytes() != body):
                raise InputInvalid(f"{path} is there already with another content; save to another folder")
            path.write_bytes(body)
        except OSError as error:
            raise InputInvalid(f"{path} can't be written: {error.strerror}; choose another folder") from None
        written.append(path)
    return written
