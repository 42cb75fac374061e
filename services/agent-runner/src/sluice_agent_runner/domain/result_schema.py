"""A task's output schema (JSON Schema 2020-12), written by strangers: checked without network and in bounded time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import re2
from jsonschema import Draft202012Validator, SchemaError, ValidationError
from jsonschema.validators import extend
from referencing import Registry
from referencing.exceptions import Unresolvable

from sluice_agent_runner.domain import limits


class InvalidOutputSchema(Exception):
    """The schema itself is wrong: whoever spawned the task has to repair it. The message says where."""


class ResultSchema:
    """A checked schema. Get one from `compile_schema`."""

    def __init__(self, schema: dict[str, Any] | bool) -> None:
        self._steps = 0
        self._validator = _bounded(self)(schema, registry=Registry())

    def faults(self, value: Any) -> list[str]:
        """What is wrong with a value: at most five sentences, each naming the place; empty if nothing is.

        Raises:
            InvalidOutputSchema: The schema refers to what it does not hold, or unfolds without end.
        """
        self._steps = 0
        found = []
        try:
            for error in self._validator.iter_errors(value):
                found.append(f"{error.json_path}: {error.message[:300]}")
                if len(found) == limits.SCHEMA_ERRORS_MAX_COUNT:
                    break
        except Unresolvable as error:
            raise InvalidOutputSchema(f"reference {error.ref!r} of the output schema leads nowhere in it") from None
        except RecursionError:
            raise InvalidOutputSchema("the output schema refers to itself without end") from None
        except OverflowError:
            found.append("a number of the result is too large to be held against the schema; give a smaller one")
        return found

    def step(self) -> None:
        """Counts one followed reference."""
        self._steps += 1
        if self._steps > limits.SCHEMA_STEPS_MAX_COUNT:
            raise InvalidOutputSchema(
                f"one validation follows more than {limits.SCHEMA_STEPS_MAX_COUNT} references of the output schema"
            )


def compile_schema(schema: dict[str, Any]) -> ResultSchema:
    """Checks a schema.

    Raises:
        InvalidOutputSchema: It is no lawful JSON Schema, too large, or has a pattern that RE2 does not take.
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
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        raise InvalidOutputSchema(f"the output schema is invalid at {error.json_path}: {error.message[:300]}") from None
    except RecursionError:
        raise InvalidOutputSchema("the output schema is nested too deep") from None
    for pattern in _patterns(schema):
        _pattern(pattern)
    return ResultSchema(schema)


def _patterns(schema: Any) -> Iterator[str]:
    todo = [schema]
    while todo:
        node = todo.pop()
        if isinstance(node, dict):
            if isinstance(node.get("pattern"), str):
                yield node["pattern"]
            if isinstance(node.get("patternProperties"), dict):
                yield from node["patternProperties"]
            todo.extend(node.values())
        elif isinstance(node, list):
            todo.extend(node)


@lru_cache(maxsize=1_024)
def _pattern(pattern: str) -> Any:
    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(pattern, options)
    except re2.error as error:
        raise InvalidOutputSchema(
            f"pattern {pattern[:100]!r} of the output schema is not a regular expression of RE2: {error}"
        ) from None


def _bounded(counter: ResultSchema) -> Any:
    """The validator class with linear-time patterns and counted references."""
    base = Draft202012Validator.VALIDATORS

    def pattern(validator: Any, expected: str, instance: Any, schema: Any) -> Iterator[ValidationError]:
        if validator.is_type(instance, "string") and not _pattern(expected).search(instance):
            yield ValidationError(f"{instance[:100]!r} does not match {expected!r}")

    def pattern_properties(validator: Any, expected: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
        if validator.is_type(instance, "object"):
            for expression, subschema in expected.items():
                for name, value in instance.items():
                    if _pattern(expression).search(name):
                        yield from validator.descend(value, subschema, path=name, schema_path=expression)

    def counted(keyword: str) -> Any:
        def follow(validator: Any, ref: str, instance: Any, schema: Any) -> Any:
            counter.step()
            return base[keyword](validator, ref, instance, schema)

        return follow

    return extend(  # type: ignore[no-untyped-call]
        Draft202012Validator,
        {
            "pattern": pattern,
            "patternProperties": pattern_properties,
            "$ref": counted("$ref"),
            "$dynamicRef": counted("$dynamicRef"),
        },
    )
