"""Patterns that are lawful as they stand in a scenario, and not once they are filled."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from sluice_agent_runner.adapters.scenarios import ScenarioLibrary
from sluice_agent_runner.adapters.scripted import ScriptedProvider
from sluice_agent_runner.domain.conversation import ChatMessage, ModelRequest, ToolCallRequest
from sluice_agent_runner.ports import ModelRefused
from tests.unit.agent_runner.builders import Alone, TestTime

SCENARIO = """
agents:
  - turns:
      - tool_calls: [{name: list_files}]
      - capture: [{pattern: "n=(?P<n>[0-9]+)"}]
        assert: [{pattern: "x{1,{{n}}}"}]
        text: done
"""


@pytest.mark.covers("W2")
def test_a_pattern_that_is_invalid_once_filled_fails_its_agent_with_the_scenario_s_place(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(SCENARIO)
    messages = (
        ChatMessage("user", "find it"),
        ChatMessage("assistant", "", (ToolCallRequest("c", "list_files", "{}"),)),
        ChatMessage("tool", "n=99999 xx", call_id="c"),
    )
    request = ModelRequest("p", "a", 1, "t1", "worker", 2, None, messages, (), 100)
    provider = ScriptedProvider(ScenarioLibrary(None, path), TestTime())
    with pytest.raises(ModelRefused) as caught:
        asyncio.run(provider.complete(request, Alone()))
    assert caught.value.code == "scenario_assertion_failed"
    assert "scenario s, role worker, task t1, turn 2: " in caught.value.detail
    assert "repetition" in caught.value.detail
