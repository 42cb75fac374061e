"""YAML files that people write: roles, scenarios. Errors name the file, the place and the value."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

YAML_FILE_MAX_BYTES = 1024 * 1024
"""A file that a person wrote is far smaller."""

YAML_VALUES_MAX_COUNT = 100_000
"""Values of one file with all aliases unfolded: aliases of aliases grow exponentially."""

M = TypeVar("M", bound=BaseModel)


class InvalidFile(Exception):
    """A file has to be repaired by whoever wrote it. The message names file, place, value and what was expected."""


_BOOLEAN = "tag:yaml.org,2002:bool"


class _Loader(yaml.SafeLoader):
    """YAML's safe subset, without merge keys; a key that stands twice is an error.

    Only true and false are booleans (YAML 1.2, core schema): `on` is a key of plans, and `no` a word of people.
    """

    yaml_implicit_resolvers = {
        first: [(tag, expression) for tag, expression in resolvers if tag != _BOOLEAN]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                raise yaml.MarkedYAMLError(
                    problem="merge keys (<<) are not supported; write the keys out", problem_mark=key_node.start_mark
                )
            if isinstance(key_node, yaml.ScalarNode):
                if key_node.value in seen:
                    raise yaml.MarkedYAMLError(
                        problem=f"key {key_node.value!r} stands twice", problem_mark=key_node.start_mark
                    )
                seen.add(key_node.value)


_Loader.add_implicit_resolver(_BOOLEAN, re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))


def load(path: Path) -> Any:
    """Reads one YAML document.

    Raises:
        InvalidFile: The file is missing, unreadable, too large, not UTF-8, or not YAML.
    """
    try:
        with path.open("rb") as file:
            body = file.read(YAML_FILE_MAX_BYTES + 1)
    except OSError as error:
        raise InvalidFile(f"{path}: {error.strerror}") from None
    return parse(body, str(path))


def parse(body: bytes, name: str) -> Any:
    """Reads one YAML document from bytes; `name` is for the errors.

    Raises:
        InvalidFile: Too large, not UTF-8, or not YAML.
    """
    if len(body) > YAML_FILE_MAX_BYTES:
        raise InvalidFile(f"{name}: more than {YAML_FILE_MAX_BYTES} bytes")
    try:
        content = yaml.load(body.decode(), Loader=_Loader)
        values = _count(content, {})
    except UnicodeDecodeError as error:
        raise InvalidFile(f"{name}: byte {error.start} is not UTF-8") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        raise InvalidFile(f"{name}{where}: {error.problem or error.context}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InvalidFile(f"{name}: {str(error)[:300]}") from None
    if values > YAML_VALUES_MAX_COUNT:
        raise InvalidFile(f"{name}: its aliases unfold to more than {YAML_VALUES_MAX_COUNT} values")
    return content


def _count(value: Any, known: dict[int, int | None]) -> int:
    """Values in a tree with all aliases unfolded; each node is visited once.

    Raises:
        ValueError: A value holds itself.
    """
    if not isinstance(value, dict | list):
        return 1
    if id(value) in known:
        count = known[id(value)]
        if count is None:
            raise ValueError("an alias refers to what holds it")
        return count
    known[id(value)] = None
    count = 1 + sum(_count(item, known) for item in (value.values() if isinstance(value, dict) else value))
    known[id(value)] = count
    return count


def validate(model: type[M], content: Any, name: str) -> M:
    """Makes a model of a file's content.

    Raises:
        InvalidFile: With the first fault: file, place, value and what was expected.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = place(first["loc"]) or "the file"
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        message = first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            message = "unknown key"
        if first["type"] == "missing":
            raise InvalidFile(f"{name}: {where}: is missing{more}") from None
        raise InvalidFile(f"{name}: {where}: {message}; it is {shown(first['input'])}{more}") from None


def place(location: tuple[int | str, ...]) -> str:
    """A location as a path, such as agents[0].turns[2].delay_ms."""
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path


def shown(value: Any) -> str:
    """A value for an error message, cut at 100 characters."""
    text = repr(value)
    return text if len(text) <= 100 else text[:97] + "…"
