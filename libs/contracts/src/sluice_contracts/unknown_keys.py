"""Keys that a model does not have. A record may hold such keys: a newer producer wrote it. In what a person writes they
are typing errors, and whoever takes it from people asks here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, get_args

from pydantic import BaseModel

Place = tuple[int | str, ...]
"""The way to a part of a document: keys and numbers of entries."""


def unknown_keys(model: type[BaseModel], value: Any, at: Place = ()) -> Iterator[Place]:
    """The places of all keys that the model, or a model inside it, does not have.

    Args:
        model: What the value is to be read as.
        value: As it was parsed; what is of a wrong type is passed over, for validation tells of it.
        at: Where the value stands.
    """
    if not isinstance(value, Mapping):
        return
    for key, inner in value.items():
        field = model.model_fields.get(key)
        if field is None:
            yield (*at, str(key))
            continue
        nested = next(_models_in(field.annotation), None)
        if nested is not None:
            entries: Iterable[tuple[Place, Any]] = (
                [((*at, key, number), one) for number, one in enumerate(inner)]
                if isinstance(inner, list | tuple)
                else [((*at, key), inner)]
            )
            for where, one in entries:
                yield from unknown_keys(nested, one, where)


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models_in(inner)
