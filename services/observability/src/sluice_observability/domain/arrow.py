"""Arrow arrays from Python values, straight from buffers.

`pyarrow.array` looks whether it was given something of pandas, and loads pandas for that: two seconds and 60 MB for
nothing. These are as fast, and have no nulls.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Any

import pyarrow as pa

_CODES = {pa.int32(): "i", pa.int64(): "q", pa.uint16(): "H", pa.uint32(): "I", pa.uint64(): "Q"}

TIME = pa.timestamp("ms", tz="UTC")
"""Milliseconds since the Unix epoch: DateTime64(3, 'UTC')."""


def integers(values: Iterable[int], kind: Any) -> Any:
    """An array of integers, or of times given as milliseconds.

    Raises:
        OverflowError: A value is none of that type.
    """
    stored = array(_CODES[pa.int64() if kind == TIME else kind], values)
    return pa.Array.from_buffers(kind, len(stored), [None, pa.py_buffer(stored)])


def binaries(values: Sequence[bytes]) -> Any:
    """An array of byte strings, together below 2 GiB."""
    offsets = array("i", accumulate(map(len, values), initial=0))
    return pa.Array.from_buffers(
        pa.binary(), len(values), [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(values))]
    )


def strings(values: Iterable[str]) -> Any:
    """An array of texts."""
    return binaries([value.encode("utf-8", "replace") for value in values]).cast(pa.string())


def choices(indices: Iterable[int], values: Sequence[str]) -> Any:
    """An array of texts, each given by its index among a few, which may be equal."""
    numbers = {value: number for number, value in enumerate(dict.fromkeys(values))}  # ClickHouse wants each once
    renumbered = [numbers[value] for value in values]
    return pa.DictionaryArray.from_arrays(
        integers([renumbered[index] for index in indices], pa.int32()), strings(numbers)
    )


def mappings(rows: int, pairs: dict[int, Sequence[tuple[str, str]]]) -> Any:
    """An array of maps, given for those rows that have one."""
    counts = [len(pairs[row]) if row in pairs else 0 for row in range(rows)] if pairs else [0] * rows
    flat = [pair for row in sorted(pairs) for pair in pairs[row]]
    return pa.MapArray.from_arrays(
        integers(accumulate(counts, initial=0), pa.int32()),
        strings(name for name, _ in flat),
        strings(value for _, value in flat),
    )
