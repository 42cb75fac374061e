"""What earlier releases left in the journal and in checkpoints is read as it was meant."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import msgspec
import pytest
from msgspec.structs import fields

from sluice_vault_broker.domain import state
from tests.unit.spawner.recording import told
from tests.unit.vault_broker.recording import FOLDER, Recording

RECORDED = sorted(FOLDER.glob("*.msgpack"))


@pytest.mark.covers("V1")
@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_a_recorded_history_restores_to_the_state_that_it_left(path: Path) -> None:
    recording = msgspec.msgpack.decode(path.read_bytes(), type=Recording)
    assert told(recording.restored()) == json.loads(path.with_suffix(".json").read_text())


def test_every_field_that_is_kept_stands_in_a_recording() -> None:
    """A new entity or field needs a new recording: `python -m tests.unit.vault_broker.recording NAME`."""
    seen = {
        f"{entity['']}.{name}"
        for path in RECORDED
        for entity in json.loads(path.with_suffix(".json").read_text())["state"].values()
        for name in entity
    }
    kept = {f"{cls.__name__}.{one.name}" for cls in get_args(state.ENTITY_TYPE) for one in fields(cls)}
    assert kept - seen == set()
