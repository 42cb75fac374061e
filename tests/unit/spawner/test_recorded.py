"""What earlier releases left in the journal and in checkpoints is read as it was meant."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from msgspec.structs import fields

from sluice_spawner.domain import state
from tests.unit.spawner.recording import FOLDER, Recording, told

RECORDED = sorted(FOLDER.glob("*.msgpack"))


def recording(path: Path) -> Recording:
    return msgspec.msgpack.decode(path.read_bytes(), type=Recording)


@pytest.mark.covers("P12")
@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_a_recorded_history_restores_to_the_state_that_it_left(path: Path) -> None:
    assert told(recording(path).restored()) == json.loads(path.with_suffix(".json").read_text())


def test_every_field_that_is_kept_stands_in_a_recording() -> None:
    """A new entity or field needs a new recording: `python -m tests.unit.spawner.recording STORY NAME`."""
    seen: set[str] = set()
    for path in RECORDED:
        for entity in json.loads(path.with_suffix(".json").read_text())["state"].values():
            _collect(entity, seen)
    kept = {*get_args(state.ENTITY_TYPE), *(one for one in vars(state).values() if _array_like(one))}
    missing = {f"{cls.__name__}.{one.name}" for cls in kept for one in fields(cls)} - seen
    assert missing == set()


def _array_like(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, msgspec.Struct) and value.__struct_config__.array_like


def _collect(value: Any, seen: set[str]) -> None:
    if isinstance(value, dict):
        seen |= {f"{value['']}.{name}" for name in value if name}
        value = list(value.values())
    if isinstance(value, list):
        for one in value:
            _collect(one, seen)
