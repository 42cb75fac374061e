"""A task's output schema (JSON Schema 2020-12), written by strangers: checked without network and in bounded time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import re2
from jsonschema import Draft202012Validator
from referencing.exceptions import Unresolvable

from sluice_agent_runner.domain import bounded_validation, limits
from sluice_agent_runner.domain.bounded_validation import TooManySteps


class InvalidOutputSchema(Exception):
    """The schema itself is wrong: whoever spawned the task has to repair it. The message says where."""


class ResultSchema:
    """A checked schema. Get one from `compile_schema`. It may be used in several threads."""

    def __init__(self, schema: dict[str, Any] | bool) -> None:
        self._schema = schema

    def faults(self, value: Any) -> list[str]:
        """What is wrong with a value: at most five sentences, each naming the place; empty if nothing is.

        It takes at most the time of `limits.SCHEMA_STEPS_MAX_COUNT` steps, which is seconds: not for an event loop.

        Raises:
            InvalidOutputSchema: The schema refers to what it does not hold, or takes more steps.
        """
        found = []
        try:
            steps_max_count = limits.SCHEMA_STEPS_MAX_COUNT
            for error in bounded_validation.errors(self._schema, value, steps_max_count=steps_max_count):
                found.append(f"{error.json_path}: {error.message[:300]}")
                if len(found) == limits.SCHEMA_ERRORS_MAX_COUNT:
                    break
        except TooManySteps as error:
            raise InvalidOutputSchema(
                f"to hold this result against the output schema takes more than {error}; make either simpler"
            ) from None
        except Unresolvable as error:
            raise InvalidOutputSchema(f"reference {error.ref!r} of the output schema leads nowhere in it") from None
        except RecursionError:
            raise InvalidOutputSchema("the output schema refers to itself without end") from None
        except OverflowError:
            found.append("a number of the result is too large to be held against the schema; give a smaller one")
        return found


def compile_schema(schema: dict[str, Any]) -> ResultSchema:
    """Checks a schema.

    Raises:
        InvalidOutputSchema: It is no lawful JSON Schema, too large, has a pattern that RE2 does not take, or a keyword
            of `bounded_validation.UNSUPPORTED`.
    """
    try:
        text = json.dumps(schema, sort_keys=True)
    except RecursionError:
        raise InvalidOutputSchema("the output schema is nested too deep") from None
    if len(text) > limits.SCHEMA_MAX_BYTES:
        raise InvalidOutputSchema(
            f"the output schema has {len(text)} bytes; at most {limits.SCHEMA_MAX_BYTES} are read"
        )
    return _compile(text)


@lru_cache(maxsize=256)
def _compile(text: str) -> ResultSchema:
    schema = json.loads(text)
    meta = Draft202012Validator.META_SCHEMA
    try:
        error = next(bounded_validation.errors(meta, schema, steps_max_count=limits.META_SCHEMA_STEPS_MAX_COUNT), None)
    except (RecursionError, TooManySteps):
        raise InvalidOutputSchema("the output schema is nested too deep, or too large") from None
    if error is not None:
        raise InvalidOutputSchema(f"the output schema is invalid at {error.json_path}: {error.message[:300]}")
    for node in _objects(schema):
        _check(node)
    return ResultSchema(schema)


def _objects(schema: Any) -> Iterator[dict[str, Any]]:
    todo = [schema]
    while todo:
        node = todo.pop()
        if isinstance(node, dict):
            yield node
            todo.extend(node.values())
        elif isinstance(node, list):
            todo.extend(node)


def _check(node: dict[str, Any]) -> None:
    for keyword in bounded_validation.UNSUPPORTED:
        # As the name of a property it is followed by a schema as well: to tell them apart is not worth it.
        if keyword in node:
            raise InvalidOutputSchema(f"{keyword} in the output schema is not supported; say it without")
    expressions = [node["pattern"]] if isinstance(node.get("pattern"), str) else []
    if isinstance(node.get("patternProperties"), dict):
        expressions += node["patternProperties"]
    for expression in expressions:
        try:
            bounded_validation.pattern_of(expression)
        except re2.error as error:
            raise InvalidOutputSchema(
                f"pattern {expression[:100]!r} of the output schema is not a regular expression of RE2: {error}"
            ) from None
