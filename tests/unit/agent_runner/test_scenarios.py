"""Scenario files and the scripted model that plays them."""

from __future__ import annotations

import asyncio
import os
import re
from pathlib import Path
from typing import Any

import pytest

from sluice_agent_runner.adapters.scenarios import ScenarioLibrary, read_scenario
from sluice_agent_runner.adapters.scripted import ScriptedProvider
from sluice_agent_runner.domain.conversation import ChatMessage, ModelReply, ModelRequest, ToolCallRequest
from sluice_agent_runner.ports import ModelError, ModelRefused, ModelUnavailable
from sluice_runtime.yaml_files import InvalidFile
from tests.unit.agent_runner.builders import Alone, TestTime

pytestmark = pytest.mark.covers("W3")


def scenario(path: Path, text: str) -> ScriptedProvider:
    path.write_text(text)
    return ScriptedProvider(ScenarioLibrary(path.parent, path), TestTime())


def turns(*played: tuple[str, str]) -> tuple[ChatMessage, ...]:
    """A conversation in which each turn called one tool: (tool, result)."""
    messages = [ChatMessage("system", "You work."), ChatMessage("user", "# Task t1\nbefore yours: deploy 42 at 10:02")]
    for number, (tool, result) in enumerate(played):
        messages.append(ChatMessage("assistant", "", (ToolCallRequest(f"c{number}", tool, "{}"),)))
        messages.append(ChatMessage("tool", result, call_id=f"c{number}"))
    return tuple(messages)


def ask(provider: ScriptedProvider, *played: tuple[str, str], **changes: Any) -> ModelReply:
    given: dict[str, Any] = {
        "pipeline_id": "p", "agent_id": "a", "attempt": 1, "task_id": "t1", "role": "researcher",
        "turn": len(played) + 1, "model": None, "messages": turns(*played), "tools": (), "max_output_tokens": 100,
    }  # fmt: skip
    return asyncio.run(provider.complete(ModelRequest(**{**given, **changes}), Alone()))


CAPTURING = """
description: finds the first error
agents:
  - role: researcher
    turns:
      - text: I look for it.
        tool_calls:
          - {name: search_files, arguments: {pattern: ERROR, max_matches: 1}}
        usage: {input_tokens: 100, output_tokens: 9, cost_usd: 0.01}
      - capture:
          - pattern: '^(?P<file>[^:\\n]+):(?P<line>\\d+): (?P<what>.*)$'
        assert:
          - pattern: refused
          - {pattern: password, absent: true}
        text: "It is {{what}}"
        tool_calls:
          - {name: read_file, arguments: {path: "{{file}}", offset: "{{ line:int - 2 }}", limit: 5}}
      - capture:
          - {from: prompt, pattern: 'deploy (?P<deploy>\\d+) at (?P<at>[\\d:]+)'}
          - {tool: search_files, turn: all, pattern: '(?P<again>{{file}})'}
        assert:
          - {tool: read_file, turn: 2, pattern: '{{line}}\\t.*{{what}}'}
        tool_calls:
          - {name: finish, arguments: {summary: "{{file}}:{{line}} after deploy {{deploy}} at {{at}}, turn {{turn}}",
                                       result: {line: "{{line:int}}", tags: ["{{role}}", "{{task}}"]}}}
"""
HIT = ("search_files", "pay/app.log:17: ERROR connection refused (10.0.0.7)")
READ = ("read_file", "    15\tINFO\n    17\tERROR connection refused (10.0.0.7)")


def test_it_captures_from_tool_output_and_uses_it(tmp_path: Path) -> None:
    provider = scenario(tmp_path / "s.yaml", CAPTURING)
    first = ask(provider)
    assert (first.text, first.finish_reason, first.usage.cost_usd) == ("I look for it.", "tool_calls", 0.01)
    assert (first.provider, first.model) == ("scripted", "scripted:s")
    second = ask(provider, HIT)
    assert second.text == "It is ERROR connection refused (10.0.0.7)"
    assert second.tool_calls[0].arguments == '{"path":"pay/app.log","offset":15,"limit":5}'
    third = ask(provider, HIT, READ)
    assert third.tool_calls[0].arguments == (
        '{"summary":"pay/app.log:17 after deploy 42 at 10:02, turn 3","result":{"line":17,"tags":["researcher","t1"]}}'
    )
    # Without memory: another instance, or the same again, says the same.
    assert ask(scenario(tmp_path / "s.yaml", CAPTURING), HIT, READ) == third


@pytest.mark.parametrize(
    ("played", "says"),
    [
        ([("search_files", "no line of 3 files matches")], ["capture", "turn 2", "saw 'no line of 3 files matches'"]),
        ([("search_files", "a.log:1: ERROR timeout")], ["assert 'refused'", "saw 'a.log:1: ERROR timeout'"]),
        ([("search_files", "a.log:1: refused password")], ["assert absent 'password'"]),
        ([HIT, ("read_file", "    17\tINFO")], ["turn 3", "the tool results of read_file"]),
    ],
)
def test_what_is_not_as_scripted_fails_the_agent_for_good(
    tmp_path: Path, played: list[tuple[str, str]], says: list[str]
) -> None:
    provider = scenario(tmp_path / "broken-promise.yaml", CAPTURING)
    with pytest.raises(ModelRefused) as caught:
        ask(provider, *played)
    assert caught.value.code == "scenario_assertion_failed"
    for part in ["scenario broken-promise", "role researcher", "task t1", *says]:
        assert part in caught.value.detail


def test_only_the_first_200_characters_of_what_was_seen_are_told(tmp_path: Path) -> None:
    provider = scenario(tmp_path / "s.yaml", CAPTURING)
    with pytest.raises(ModelRefused) as caught:
        ask(provider, ("search_files", "y" * 5_000))
    assert caught.value.detail.count("y") in range(200, 220)


FAULTS = """
agents:
  - turns:
      - faults: [timeout, 401, 429, 500, malformed, cut_stream, {fault: 429, retry_after_s: 7}]
        faults_through_attempt: 2
        text: at last
"""


@pytest.mark.parametrize(
    ("retry", "error", "code"),
    [
        (0, ModelUnavailable, "model_timeout"),
        (1, ModelRefused, "model_unauthorized"),
        (2, ModelUnavailable, "rate_limited"),
        (3, ModelUnavailable, "model_server_error"),
        (4, ModelUnavailable, "model_malformed"),
        (5, ModelUnavailable, "model_stream_cut"),
    ],
)
def test_faults_follow_the_number_of_the_call(tmp_path: Path, retry: int, error: type[ModelError], code: str) -> None:
    provider = scenario(tmp_path / "s.yaml", FAULTS)
    with pytest.raises(error) as caught:
        ask(provider, retry=retry)
    assert caught.value.code == code
    assert ask(provider, retry=7).text == "at last"
    assert ask(provider, retry=retry, attempt=3).text == "at last"


def test_a_fault_can_ask_for_a_wait(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable) as caught:
        ask(scenario(tmp_path / "s.yaml", FAULTS), retry=6)
    assert caught.value.retry_after_s == 7


def test_a_delay_is_slept(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text("agents: [{turns: [{text: x, delay_ms: 1500}]}]")
    time = TestTime()
    ask(ScriptedProvider(ScenarioLibrary(None, tmp_path / "s.yaml"), time))
    assert time.slept_s == [1.5]


def test_the_most_specific_script_plays_and_turns_repeat(tmp_path: Path) -> None:
    provider = scenario(
        tmp_path / "s.yaml",
        """
agents:
  - turns: [{text: anybody}]
  - {role: researcher, turns: [{text: role, repeat: 2}, {text: "role {{turn}}"}]}
  - {task: t2, turns: [{text: task}]}
  - {role: researcher, task: t2, turns: [{text: both}]}
""",
    )
    said = [
        ask(provider, role=role, task_id=task).text
        for role, task in [("x", "x"), ("researcher", "x"), ("x", "t2"), ("researcher", "t2")]
    ]
    assert said == ["anybody", "role", "task", "both"]
    assert [ask(provider, *[("list_files", "")] * n).text for n in range(3)] == ["role", "role", "role 3"]
    with pytest.raises(ModelRefused, match="scenario_exhausted") as caught:
        ask(provider, *[("list_files", "")] * 3)
    assert "has 3 turns" in caught.value.detail


def test_no_script_for_an_agent_is_told(tmp_path: Path) -> None:
    provider = scenario(tmp_path / "s.yaml", "agents: [{role: writer, turns: [{text: x}]}]")
    with pytest.raises(ModelRefused, match="scenario_has_no_script"):
        ask(provider)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("agents: []", "agents: List should have at least 1 item"),
        ("agents: [{turns: []}]", "agents[0].turns: List should have"),
        ("agents: [{turns: [{txt: x}]}]", "agents[0].turns[0].txt: unknown key; it is 'x'"),
        ("agents: [{turns: [{delay_ms: soon}]}]", "agents[0].turns[0].delay_ms: Input should be a valid integer"),
        ("agents: [{turns: [{delay_ms: -5}]}]", "it is -5"),
        ("agents: [{turns: [{faults: [418]}]}]", "agents[0].turns[0].faults[0].fault"),
        ("agents: [{turns: [{usage: {input: 3}}]}]", "agents[0].turns[0].usage: unknown key 'input'"),
        ("agents: [{turns: [{tool_calls: [{arguments: {}}]}]}]", "agents[0].turns[0].tool_calls[0].name: is missing"),
        ("agents: [{turns: [{capture: [{pattern: abc}]}]}]", "capture[0].pattern: captures nothing"),
        ("agents: [{turns: [{assert: [{pattern: '('}]}]}]", "assert[0].pattern: is no regular expression"),
        ("agents: [{turns: [{assert: [{from: prompt, tool: x, pattern: x}]}]}]", "belong to from: tool_results"),
        ("agents: [{turns: [{text: '{{line}}'}]}]", "{{line}} in '{{line}}' is captured by no turn up to this one"),
        ("agents: [{turns: [{text: a}]}, {turns: [{text: b}]}]", "agents[1]: a second script for role any"),
        ("agents: [{turns: [{text: a, text: b}]}]", ":1:29: key 'text' stands twice"),
        ("agents: [", ":1:10:"),
        ("- a", "the file"),
        ("agents: &a [*a]", "an alias refers to what holds it"),
        ("agents: [{turns: [{tool_calls: [{name: x, arguments: &a {b: *a}}]}]}]", "what holds it"),
        ("x: &x {a: 1}\ny: {<<: *x}", ":2:5: merge keys (<<) are not supported"),
        ("\xff", "s.yaml"),
    ],
)
def test_a_wrong_file_is_told_with_file_place_and_value(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(InvalidFile) as caught:
        read_scenario(path)
    assert str(path) in str(caught.value)
    assert says in str(caught.value)


def test_aliases_that_unfold_without_end_are_refused(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x,x]"] + [f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 40)]
    (tmp_path / "s.yaml").write_text("\n".join(lines))
    with pytest.raises(InvalidFile, match="unfold to more than 100000 values"):
        read_scenario(tmp_path / "s.yaml")


def test_one_runner_serves_many_scenarios_and_reads_changed_ones_again(tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text("agents: [{turns: [{text: first}]}]")
    (tmp_path / "two.yaml").write_text("agents: [{turns: [{text: second}]}]")
    provider = ScriptedProvider(ScenarioLibrary(tmp_path, tmp_path / "one.yaml"), TestTime())
    assert [ask(provider, model=model).text for model in (None, "scripted:one", "scripted:two", "some/model")] == [
        "first", "first", "second", "first",
    ]  # fmt: skip
    (tmp_path / "two.yaml").write_text("agents: [{turns: [{text: third}]}]")
    os.utime(tmp_path / "two.yaml", ns=(1, 1))
    assert ask(provider, model="scripted:two").text == "third"


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("scripted:absent", "absent.yaml: No such file"),
        ("scripted:../../etc/passwd", "letters, digits"),
        ("scripted:", "letters, digits"),
    ],
)
def test_a_scenario_that_is_not_there_fails_the_agent(tmp_path: Path, model: str, says: str) -> None:
    provider = ScriptedProvider(ScenarioLibrary(tmp_path, None), TestTime())
    with pytest.raises(ModelRefused, match="scenario_invalid") as caught:
        ask(provider, model=model)
    assert says in caught.value.detail
    with pytest.raises(ModelRefused, match="SLUICE_SCENARIOS_DIRECTORY"):
        ask(ScriptedProvider(ScenarioLibrary(None, None), TestTime()), model="scripted:x")


@pytest.mark.parametrize("model", [None, "scripted:no-model"])
def test_without_a_model_an_agent_looks_around_and_says_so(tmp_path: Path, model: str | None) -> None:
    for library in (ScenarioLibrary(None, None), ScenarioLibrary(tmp_path, None)):
        provider = ScriptedProvider(library, TestTime())
        assert ask(provider, model=model).tool_calls[0].name == "list_files"
        last = ask(provider, ("list_files", "there are no files"), model=model).tool_calls[0]
        assert last.name == "finish"
        assert "No model is configured: the scenario no-model answered, and task t1 was not" in last.arguments


def test_a_model_that_somebody_wants_is_not_replaced_in_silence(tmp_path: Path) -> None:
    with pytest.raises(ModelRefused, match="unknown_model") as refused:
        ask(ScriptedProvider(ScenarioLibrary(tmp_path, None), TestTime()), model="some/model")
    assert "'some/model': this runner has no model provider" in refused.value.detail
    own = scenario(tmp_path / "own.yaml", "agents: [{turns: [{text: mine}]}]")
    assert ask(own, model="some/model").text == "mine"


def test_a_file_of_ones_own_wins_over_a_shipped_scenario(tmp_path: Path) -> None:
    scenario(tmp_path / "no-model.yaml", "agents: [{turns: [{text: mine}]}]")
    provider = ScriptedProvider(ScenarioLibrary(tmp_path, None), TestTime())
    assert ask(provider, model="scripted:no-model").text == "mine"


DOCUMENT = Path(__file__).parents[3] / "docs" / "scenarios.md"
EXAMPLES = re.findall(r"^```yaml\n(.*?)^```", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_the_document_s_examples_are_scenarios(tmp_path: Path, number: int) -> None:
    (tmp_path / "example.yaml").write_text(EXAMPLES[number])
    assert read_scenario(tmp_path / "example.yaml").name == "example"


def test_the_document_s_example_finds_what_it_says(tmp_path: Path) -> None:
    provider = scenario(tmp_path / "s.yaml", EXAMPLES[1])
    log = "pay.log:12: 10:02:07 level=error service=pay connection refused"
    found = ("search_files", log)
    read = ("read_file", "    12\t10:02:07 level=error service=pay connection refused")
    last = ask(provider, found, read, role="diagnostician")
    assert "pay.log:12: pay was refused at 10:02:07" in last.tool_calls[0].arguments
    task_before = ChatMessage("user", "before yours: pay.log:12: pay was refused at 10:02:07")
    report = ask(provider, task_id="write-report", messages=(task_before,))
    assert "First seen at pay.log:12." in report.tool_calls[0].arguments
