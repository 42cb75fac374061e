"""Roles are files: the shipped ones, one's own, and wrong ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from sluice_agent_runner.bootstrap import known_roles
from sluice_runtime.yaml_files import InvalidFile


@pytest.mark.covers("W1")
def test_shipped_roles_are_whole_and_one_s_own_replace_them(tmp_path: Path) -> None:
    shipped = known_roles(())
    assert {"researcher", "analyst", "diagnostician", "writer"} <= set(shipped)
    for one in shipped.values():
        assert "finish" in one.tools or one.finish_without_tool
    (tmp_path / "writer.yaml").write_text(
        "{name: writer, description: d, system_prompt: s, tools: [finish], queue: other, model: some/model}"
    )
    roles = known_roles([tmp_path])
    assert (roles["writer"].queue, roles["writer"].model) == ("other", "some/model")
    assert roles["analyst"] == shipped["analyst"]


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("x", "{name: y, description: d, system_prompt: s, tools: [finish]}", "name: must be the file's, 'x'"),
        ("x", "{name: x, description: d, tools: [finish]}", "system_prompt: is missing"),
        ("x", "{name: x, description: d, system_prompt: s, tools: [rm]}", "there is no tool 'rm'"),
        (
            "x",
            "{name: x, description: d, system_prompt: s, tools: [finish], limits: {turns: 3}}",
            "limits.turns: unknown",
        ),
        ("x", "{name: x, description: d, system_prompt: s, tools: finish}", "tools: Input should be a valid list"),
        ("x", "{name: x, description: d, system_prompt: s, tools: []}", "tools: List should have at least 1"),
        ("x", "name: [", "x.yaml:1"),
    ],
)
@pytest.mark.covers("W1")
def test_a_wrong_role_is_told_with_file_place_and_value(tmp_path: Path, name: str, text: str, says: str) -> None:
    (tmp_path / f"{name}.yaml").write_text(text)
    with pytest.raises(InvalidFile) as caught:
        known_roles([tmp_path])
    assert says in str(caught.value)
