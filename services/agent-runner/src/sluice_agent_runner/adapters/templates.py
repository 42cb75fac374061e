"""`{{name}}` in a scenario's texts, arguments and patterns."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec

PLACEHOLDER = re.compile(r"\{\{\s*([A-Za-z_][A-Za-z0-9_]*)\s*(?::\s*int\s*([+-]\s*\d{1,9})?\s*)?\}\}")
"""`{{name}}`, and `{{name:int}}`, `{{name:int-5}}`, which alone in an argument are a number."""


def placeholders(value: Any) -> Iterator[str]:
    """The names that a value uses, keys of mappings excepted."""
    if isinstance(value, str):
        for found in PLACEHOLDER.finditer(value):
            yield found[1]
    elif isinstance(value, dict):
        for item in value.values():
            yield from placeholders(item)
    elif isinstance(value, list):
        for item in value:
            yield from placeholders(item)


def has_template(value: Any) -> bool:
    """Whether a value uses any name."""
    return next(placeholders(value), None) is not None


def filled(text: str, values: Mapping[str, str], quote: Callable[[str], str] = str) -> str:
    """A text with its placeholders replaced.

    Args:
        text: With placeholders.
        values: By name.
        quote: Applied to each value, such as an escape for patterns.

    Raises:
        ValueError: `{{name:int}}` of a value that is no whole number.
    """
    return PLACEHOLDER.sub(lambda found: quote(str(_value(found, values))), text)


def filled_value(value: Any, values: Mapping[str, str]) -> Any:
    """A value of arguments with its placeholders replaced.

    Raises:
        ValueError: `{{name:int}}` of a value that is no whole number.
    """
    if isinstance(value, str):
        whole = PLACEHOLDER.fullmatch(value)
        return _value(whole, values) if whole else filled(value, values)
    if isinstance(value, dict):
        return {name: filled_value(item, values) for name, item in value.items()}
    if isinstance(value, list):
        return [filled_value(item, values) for item in value]
    return value


def arguments_text(arguments: Any) -> str:
    """Arguments as a model writes them."""
    return arguments if isinstance(arguments, str) else msgspec.json.encode(arguments).decode()


def _value(found: re.Match[str], values: Mapping[str, str]) -> str | int:
    value = values[found[1]]
    if ":" not in found[0]:
        return value
    try:
        return int(value) + int((found[2] or "0").replace(" ", ""))
    except ValueError:
        raise ValueError(f"{found[0]} wants a whole number; {found[1]} is {value[:100]!r}") from None
