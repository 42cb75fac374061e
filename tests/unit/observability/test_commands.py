"""Commands are written once for each thing that is asked."""

from __future__ import annotations

import asyncio

import pytest

from sluice_contracts import topics
from sluice_contracts.messages.pipeline import PipelineSpawn
from sluice_observability.handlers.commands import Commands, Sent
from sluice_runtime.memory import MemoryBroker, MemoryGroups, MemoryLog
from tests.doubles import ManualClock
from tests.unit.observability.events import plan


def spawned(key: str | None, refused: set[str]) -> Sent:
    clock = ManualClock()
    broker = MemoryBroker(MemoryLog({topics.PIPELINE_COMMANDS.name: 2}, clock), MemoryGroups())
    data = PipelineSpawn(plan=plan(), dedupe_key=key)
    return asyncio.run(Commands(broker, clock, "i").spawn(data, "acme", None, refused.__contains__))


@pytest.mark.covers("P3", "U1")
def test_what_was_refused_and_is_asked_again_is_another_command_about_the_same_pipeline() -> None:
    first = spawned("k", set())
    assert spawned("k", set()).command_id == first.command_id
    second = spawned("k", {first.command_id})
    third = spawned("k", {first.command_id, second.command_id})
    assert len({first.command_id, second.command_id, third.command_id}) == 3
    assert {second.pipeline_id, third.pipeline_id} == {first.pipeline_id}
    assert spawned("k", {first.command_id}).command_id == second.command_id  # a repeated request is one command


@pytest.mark.covers("P3")
def test_without_a_key_each_is_its_own() -> None:
    assert spawned(None, set()).command_id != spawned(None, set()).command_id
