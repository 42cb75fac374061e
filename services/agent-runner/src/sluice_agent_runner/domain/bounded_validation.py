"""JSON Schema 2020-12 in bounded time: a validator that counts its steps and takes no regular expression but RE2's.

jsonschema itself compares every item with every other (`uniqueItems`), backtracks (`re`), and unfolds whatever a schema
makes it unfold. A step is about what one keyword costs on one small value: some microseconds.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from functools import lru_cache
from typing import Any

import re2
from jsonschema import Draft202012Validator, ValidationError
from jsonschema.validators import extend
from referencing import Registry

UNSUPPORTED = ("unevaluatedItems", "unevaluatedProperties")
"""What jsonschema does in quadratic time and with `re`; `additionalProperties` and `items` say nearly the same."""

_CHARACTERS_PER_STEP = 64
"""Characters of JSON that are written and compared in the time of a step."""

_STATES_PER_STEP = 512
"""RE2's worst case: characters, times states of the pattern's program, in the time of a step."""

_PER_MEMBER = {"items", "contains", "propertyNames", "additionalProperties"}
"""Keywords that look at each member of a value."""


class TooManySteps(Exception):
    """The validation was given up. The message holds the limit."""


class _Steps:
    def __init__(self, max_count: int) -> None:
        self._max_count = max_count
        self._count = 0

    def take(self, count: int) -> None:
        self._count += count
        if self._count > self._max_count:
            raise TooManySteps(f"{self._max_count} steps")


_STEPS: ContextVar[_Steps] = ContextVar("steps")


def errors(schema: Any, value: Any, *, steps_max_count: int) -> Iterator[ValidationError]:
    """What is wrong with a value, as long as it is asked for.

    The order is jsonschema's; the cost is at most that of `steps_max_count` steps, whatever schema and value are.

    Raises:
        TooManySteps: The limit is reached.
        referencing.exceptions.Unresolvable: A reference leads out of the schema.
        RecursionError: The schema refers to itself without end.
    """
    token = _STEPS.set(_Steps(steps_max_count))
    try:
        yield from _VALIDATOR(schema, registry=Registry()).iter_errors(value)
    finally:
        _STEPS.reset(token)


@lru_cache(maxsize=1_024)
def pattern_of(expression: str) -> Any:
    """The pattern, which takes linear time.

    Raises:
        re2.error: RE2 does not take it.
    """
    options = re2.Options()
    options.log_errors = False
    return re2.compile(expression, options)


def _matches(expression: str, text: str) -> bool:
    pattern = pattern_of(expression)
    _STEPS.get().take(len(text) * pattern.programsize // _STATES_PER_STEP)
    return pattern.search(text) is not None


def _canonical(value: Any) -> str:
    """Equal for what JSON Schema calls equal: 1 and 1.0 are, 1 and true are not."""
    text = json.dumps(_plain(value), sort_keys=True, separators=(",", ":"))
    _STEPS.get().take(1 + len(text) // _CHARACTERS_PER_STEP)
    return text


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


# Keywords; each is called with the validator, the keyword's value, the value to check and the schema around.


def _pattern(validator: Any, expression: str, value: Any, schema: Any) -> Iterator[ValidationError]:
    if isinstance(value, str) and not _matches(expression, value):
        yield ValidationError(f"{value[:100]!r} does not match {expression!r}")


def _pattern_properties(validator: Any, expected: Any, value: Any, schema: Any) -> Iterator[ValidationError]:
    if isinstance(value, dict):
        for expression, subschema in expected.items():
            _STEPS.get().take(len(value))
            for name, one in value.items():
                if _matches(expression, name):
                    yield from validator.descend(one, subschema, path=name, schema_path=expression)


def _additional_properties(validator: Any, expected: Any, value: Any, schema: Any) -> Iterator[ValidationError]:
    if isinstance(value, dict):
        named, expressions = schema.get("properties", {}), schema.get("patternProperties", {})
        _STEPS.get().take(len(value) * len(expressions))
        for name, one in value.items():
            if name in named or any(_matches(expression, name) for expression in expressions):
                continue
            if expected is False:
                yield ValidationError(f"there is no property {name[:100]!r}")
            else:
                yield from validator.descend(one, expected, path=name)


def _unique_items(validator: Any, expected: bool, value: Any, schema: Any) -> Iterator[ValidationError]:
    if expected and isinstance(value, list):
        seen: dict[str, int] = {}
        for number, one in enumerate(value):
            first = seen.setdefault(_canonical(one), number)
            if first != number:
                yield ValidationError(f"items {first} and {number} are equal")
                return


def _enum(validator: Any, expected: Any, value: Any, schema: Any) -> Iterator[ValidationError]:
    text = _canonical(value)
    if not any(_canonical(one) == text for one in expected):
        yield ValidationError(f"{text[:100]} is not one of {json.dumps(expected)[:150]}")


def _const(validator: Any, expected: Any, value: Any, schema: Any) -> Iterator[ValidationError]:
    if _canonical(value) != _canonical(expected):
        yield ValidationError(f"{json.dumps(expected)[:200]} was expected")


_Keyword = Callable[[Any, Any, Any, Any], Iterator[ValidationError] | None]


def _counted(name: str, keyword: _Keyword) -> _Keyword:
    def apply(validator: Any, expected: Any, value: Any, schema: Any) -> Iterator[ValidationError]:
        steps = _STEPS.get()
        members = len(expected) if isinstance(expected, dict | list) else 0
        if name in _PER_MEMBER and isinstance(value, dict | list):
            members += len(value)
        steps.take(1 + members)
        for error in keyword(validator, expected, value, schema) or ():
            # Most messages of jsonschema quote the whole value.
            steps.take(len(error.message) // _CHARACTERS_PER_STEP)
            yield error

    return apply


def _bounded() -> Any:
    keywords: dict[str, Any] = {
        **Draft202012Validator.VALIDATORS,
        "pattern": _pattern,
        "patternProperties": _pattern_properties,
        "additionalProperties": _additional_properties,
        "uniqueItems": _unique_items,
        "enum": _enum,
        "const": _const,
    }
    validator: Any = extend(  # type: ignore[no-untyped-call]
        Draft202012Validator, {name: _counted(name, keyword) for name, keyword in keywords.items()}
    )
    evolve = validator.evolve

    def evolve_counted(self: Any, **changes: Any) -> Any:
        """A `$schema` inside the schema would choose one of jsonschema's own classes, which count nothing."""
        schema = changes.get("schema")
        if isinstance(schema, dict) and "$schema" in schema:
            changes["schema"] = {name: value for name, value in schema.items() if name != "$schema"}
        return evolve(self, **changes)

    validator.evolve = evolve_counted
    return validator


_VALIDATOR = _bounded()
