"""Plans as people write them: YAML or JSON files that name their inputs by path.

A plan file is a plan (`sluice_contracts.messages.plan`) with two freedoms: an entry of `inputs`, of the plan or
of a task, may be the path of a file or folder beside the file; and `scenario` may name the scenario that answers in
place of a model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import ValidationError

from sluice_client.errors import InputInvalid
from sluice_contracts.messages.plan import Plan
from sluice_contracts.unknown_keys import unknown_keys
from sluice_runtime.artifacts import ARTIFACT_MAX_BYTES, ArtifactError, ArtifactStore
from sluice_runtime.yaml_files import InvalidFile, place, shown
from sluice_runtime.yaml_files import load as load_yaml

INPUT_FILES_MAX_COUNT = 1_000
"""What a runner lays into one workspace; references of many more would not fit into a plan's message."""

MEDIA_TYPES = {
    ".json": "application/json",
    ".md": "text/markdown; charset=utf-8",
    ".csv": "text/csv; charset=utf-8",
    ".yaml": "application/yaml",
    ".yml": "application/yaml",
    ".html": "text/html; charset=utf-8",
}
"""By a file's ending; other text is plain, and what is not UTF-8 is bytes."""


@dataclass(frozen=True, slots=True)
class InputFile:
    """A file that becomes an artifact. `name` is where a workspace shows it."""

    name: str
    path: Path


@dataclass(frozen=True, slots=True)
class PlanFile:
    """A plan file as it was read.

    Attributes:
        plan: Without the two freedoms: `inputs` hold references only.
        inputs: Files for every task.
        task_inputs: Files for single tasks, by their place in the plan.
        scenario: The scenario's file.
    """

    plan: dict[str, Any]
    inputs: tuple[InputFile, ...] = ()
    task_inputs: Mapping[int, tuple[InputFile, ...]] | None = None
    scenario: Path | None = None


def read_plan(path: Path) -> PlanFile:
    """Reads a plan file. A key that no plan has is refused: it is a slip of the pen.

    Raises:
        InputInvalid: The message names file, place, value and what was expected.
    """
    content = _json(path) if path.suffix == ".json" else _yaml(path)
    if not isinstance(content, dict):
        raise InputInvalid(f"{path}: a plan is an object with objective and tasks; it is {shown(content)}")
    scenario = content.pop("scenario", None)
    if scenario is not None and not isinstance(scenario, str):
        raise InputInvalid(f"{path}: scenario: it is the path of a file beside the plan; it is {shown(scenario)}")
    inputs = _taken_inputs(content, path)
    tasks = content.get("tasks")
    found = {
        number: files
        for number, task in enumerate(tasks if isinstance(tasks, list) else ())
        if isinstance(task, dict) and (files := _taken_inputs(task, path))
    }
    check_plan(content, str(path))
    return PlanFile(content, inputs, found, None if scenario is None else path.parent / scenario)


def check_plan(plan: Mapping[str, Any], name: str) -> None:
    """Holds a plan against the contract, before anybody is asked.

    Raises:
        InputInvalid: It breaks it; the first fault with its place and value.
    """
    unknown = next(unknown_keys(Plan, plan), None)
    if unknown is not None:
        raise InputInvalid(f"{name}: {place(unknown)}: no plan has this key; correct its spelling, or remove it")
    try:
        Plan.model_validate(plan)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        given = "" if first["type"] == "missing" else f"; it is {shown(first['input'])}"
        raise InputInvalid(f"{name}: {place(first['loc'])}: {first['msg']}{given}") from None


def files_at(path: Path, name: str | None = None) -> list[InputFile]:
    """A file, or all files below a folder in the order of their names; those that begin with a dot are left out.

    Args:
        path: The file or folder.
        name: Where a workspace shows it; default: the last part of its path.

    Raises:
        InputInvalid: There is no such file, or nothing in the folder.
    """
    shown_as = PurePosixPath(name if name is not None else path.resolve().name)
    if path.is_file():
        return [InputFile(str(shown_as), path)]
    if not path.is_dir():
        raise InputInvalid(f"input {path}: there is no such file or folder; correct the path")
    found = [
        InputFile(str(shown_as / file.relative_to(path)), file)
        for file in sorted(path.rglob("*"))
        if file.is_file() and not any(part.startswith(".") for part in file.relative_to(path).parts)
    ]
    if not found:
        raise InputInvalid(f"input {path}: the folder has no files; name one that has")
    return found


async def stored(files: Sequence[InputFile], store: ArtifactStore) -> list[dict[str, Any]]:
    """Puts files into the artifact store and returns their references, as a plan holds them.

    Raises:
        InputInvalid: There are too many, two have one name, or one can't be read or stored.
    """
    if len(files) > INPUT_FILES_MAX_COUNT:
        raise InputInvalid(f"{len(files)} input files; at most {INPUT_FILES_MAX_COUNT} are taken: name fewer")
    references: dict[str, dict[str, Any]] = {}
    for file in files:
        try:
            size_bytes = file.path.stat().st_size
            if size_bytes > ARTIFACT_MAX_BYTES:
                raise InputInvalid(f"input {file.path}: {size_bytes} bytes; at most {ARTIFACT_MAX_BYTES} are stored")
            body = file.path.read_bytes()
            reference = await store.put(body, media_type=_media_type(file.path, body), name=file.name)
        except OSError as error:
            raise InputInvalid(f"input {file.path}: {error.strerror}; correct the path or its rights") from None
        except ArtifactError as error:
            raise InputInvalid(f"input {file.path}: {error}") from None
        if references.setdefault(file.name, reference.model_dump(mode="json"))["sha256"] != reference.sha256:
            raise InputInvalid(f"input {file.path}: another input is named {file.name} too; rename one of them")
    return list(references.values())


async def completed(file: PlanFile, more: Sequence[InputFile], store: ArtifactStore | None) -> dict[str, Any]:
    """The plan with all files stored and named.

    Args:
        file: The plan file.
        more: Further files for every task.
        store: Where they go; None where no store is known.

    Raises:
        InputInvalid: A file can't be stored.
    """
    wanted = [*file.inputs, *more]
    by_task = file.task_inputs or {}
    if not wanted and not by_task:
        return file.plan
    if store is None:
        raise InputInvalid("the plan has input files, and no artifact store is known; set SLUICE_ARTIFACTS_URL")
    plan = dict(file.plan)
    plan["inputs"] = [*plan.get("inputs", []), *await stored(wanted, store)]
    if by_task:
        plan["tasks"] = [
            {**task, "inputs": [*task.get("inputs", []), *await stored(by_task.get(number, ()), store)]}
            for number, task in enumerate(plan["tasks"])
        ]
    return plan


def install_scenario(scenario: Path, directory: Path) -> str:
    """Lays a scenario where the scripted model finds it, under a name that changes with its content.

    Returns:
        The model's name, `scripted:<name>`.

    Raises:
        InputInvalid: The file can't be read, or the folder can't be written.
    """
    try:
        body = scenario.read_bytes()
    except OSError as error:
        raise InputInvalid(f"scenario {scenario}: {error.strerror}; correct the path") from None
    name = f"{''.join(c if c.isalnum() else '-' for c in scenario.stem)[:64]}-{sha256(body).hexdigest()[:12]}"
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = directory / f".{name}"
        temporary.write_bytes(body)
        temporary.replace(directory / f"{name}.yaml")
    except OSError as error:
        raise InputInvalid(f"scenario {scenario}: {directory} can't be written: {error.strerror}") from None
    return f"scripted:{name}"


def _yaml(path: Path) -> Any:
    try:
        return load_yaml(path)
    except InvalidFile as error:
        raise InputInvalid(str(error)) from None


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except OSError as error:
        raise InputInvalid(f"{path}: {error.strerror}; correct the path") from None
    except ValueError as error:
        raise InputInvalid(f"{path}: no JSON: {error}") from None


def _taken_inputs(holder: dict[str, Any], file: Path) -> tuple[InputFile, ...]:
    """Takes the paths out of `inputs` and leaves the references."""
    inputs = holder.get("inputs")
    if not isinstance(inputs, list):
        return ()
    paths = [one for one in inputs if isinstance(one, str)]
    holder["inputs"] = [one for one in inputs if not isinstance(one, str)]
    found: list[InputFile] = []
    for path in paths:
        pure = PurePosixPath(path)
        inside = not pure.is_absolute() and ".." not in pure.parts and pure.parts
        found += files_at(file.parent / path, str(pure) if inside else None)
    return tuple(found)


def _media_type(path: Path, body: bytes) -> str:
    try:
        body.decode()
    except UnicodeDecodeError:
        return "application/octet-stream"
    return MEDIA_TYPES.get(path.suffix.lower(), "text/plain; charset=utf-8")
