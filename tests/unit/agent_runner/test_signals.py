"""What an attempt signals: its progress, its failed calls, the policies that its tool calls break; each once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice_agent_runner.domain.conversation import ToolCallRequest, ToolResult
from sluice_agent_runner.domain.names import UnsafeName, components
from sluice_agent_runner.domain.signals import PROGRESS_INTERVAL_MS, Signal, Signals
from sluice_agent_runner.domain.tools import FORBIDDEN_BY
from sluice_agent_runner.domain.violations import SEVERITIES
from sluice_contracts.messages.base import Message
from sluice_contracts.messages.signal import ErrorReported, ProgressReported, ViolationReported
from tests.unit.agent_runner.builders import Driver, agent_run, call, finish, redact_canary, reply, role, task

pytestmark = pytest.mark.covers("V5")


def signals() -> Signals:
    return Signals("agent-1", 1, 0, redact_canary)


def told(taken: Sequence[Signal]) -> list[tuple[Any, ...]]:
    return [brief(signal.data) for signal in taken]


def brief(data: Message) -> tuple[Any, ...]:
    match data:
        case ProgressReported():
            return "progress", data.turn, data.api_calls
        case ErrorReported():
            return "error", data.code, data.api_calls
        case ViolationReported():
            return "violation", data.policy, data.severity
    raise AssertionError(data)


def test_each_turn_is_progress_and_tells_the_calls_since_the_signal_before() -> None:
    driver = Driver()
    driver.machine.signals.call_begins(0)
    driver.machine.signals.call_failed("rate_limited", "429")
    driver.machine.signals.call_begins(0)
    driver.says(reply(call("list_files")))
    driver.machine.signals.call_begins(0)
    driver.says(finish())
    assert told(driver.machine.signals.take()) == [("error", "rate_limited", 1), ("progress", 1, 1), ("progress", 2, 1)]
    assert driver.machine.signals.take() == []


@given(st.lists(st.sampled_from(["call", "fail", "tool", "came", "turn", "take"])))
def test_every_call_is_told_once_and_no_two_signals_have_one_place(steps: list[str]) -> None:
    """Law: the calls of all signals are the calls that went out, but for those since the last one."""
    given, taken, calls, since, now_ms = signals(), [], 0, 0, 0
    for step in steps:
        now_ms += 4_000
        if step == "call":
            given.call_begins(now_ms)
            calls, since = calls + 1, since + 1
        elif step == "fail":
            given.call_failed("model_timeout", "")
        elif step == "tool":
            given.tool_failed("read_file", "no", "path_traversal")
        elif step == "came":
            given.came_on(now_ms)
        elif step == "turn":
            given.turn_finished()
        else:
            taken += given.take()
        if step in ("fail", "tool", "turn"):
            since = 0
    taken += given.take()
    counted = sum(signal.data.api_calls for signal in taken if not isinstance(signal.data, ViolationReported))  # type: ignore[attr-defined]
    assert calls - since <= counted <= calls
    places = [(type(signal.data), signal.ordinal) for signal in taken]
    assert len(set(places)) == len(places)


@pytest.mark.parametrize(
    ("pieces_at_ms", "expected"),
    [
        ([], 0),
        ([100, 5_000, 9_999], 0),
        ([PROGRESS_INTERVAL_MS], 1),
        ([9_000, 11_000, 12_000, 20_999], 1),
        ([11_000, 21_000, 21_001, 31_000], 3),
        ([600_000], 1),
    ],
)
def test_a_long_call_tells_that_it_comes_on_at_most_every_ten_seconds(pieces_at_ms: list[int], expected: int) -> None:
    given = signals()
    given.call_begins(0)
    for at_ms in pieces_at_ms:
        given.came_on(at_ms)
    assert len(given.take()) == expected
    given.turn_finished()
    given.call_begins(1_000_000)
    given.came_on(1_000_001)
    assert told(given.take()) == [("progress", 1, 1 - bool(expected))], "the next turn has ten seconds of its own"


CALLS: list[tuple[str, ToolCallRequest, dict[str, Any], dict[str, Any], list[tuple[Any, ...]]]] = [
    ("fine", call("list_files"), {}, {}, []),
    ("no such tool", call("rm_rf"), {}, {}, [("error", "tool_failed", 0)]),
    ("arguments", call("read_file", limit=0), {}, {}, [("error", "tool_failed", 0)]),
    ("finish", call("finish", summary="x"), {"expected_artifacts": [{"name": "a.md"}]}, {},
     [("error", "tool_failed", 0)]),
    ("another role's", call("write_artifact", name="a", kind="k", content="x"), {}, {"tools": ["list_files", "finish"]},
     [("error", "tool_failed", 0), ("violation", "tool_not_granted", "MEDIUM")]),
    ("read-only", call("write_artifact", name="a", kind="k", content="x"), {"constraints": ["read-only"]}, {},
     [("error", "tool_failed", 0), ("violation", "read-only", "HIGH")]),
    ("no-secrets", call("write_artifact", name="a", kind="k", content="x"), {"constraints": ["no-secrets"]},
     {"tools": ["list_files", "finish"]}, [("error", "tool_failed", 0), ("violation", "tool_not_granted", "MEDIUM")]),
]  # fmt: skip


@pytest.mark.covers("P3", "W4")
@pytest.mark.parametrize(("request_", "spec", "given_role", "expected"), [pytest.param(*c[1:], id=c[0]) for c in CALLS])
def test_what_each_refused_call_signals(
    request_: ToolCallRequest, spec: dict[str, Any], given_role: dict[str, Any], expected: list[tuple[Any, ...]]
) -> None:
    driver = Driver(agent_run(task(**spec)), role(**given_role))
    driver.machine.on_model_reply(reply(request_), 0)
    assert [one for one in told(driver.machine.signals.take()) if one[0] != "progress"] == expected


def test_what_a_tool_itself_refused_is_signalled_with_what_it_broke() -> None:
    driver = Driver()
    driver.machine.on_model_reply(reply(call("read_file", "a", path="x"), call("read_file", "b", path="y")), 0)
    assert driver.machine.signals.take() == []
    results = [ToolResult("a", "is CANARY a link", True, breaks="symlink_escape"), ToolResult("b", "fine")]
    driver.machine.on_tool_results(results)
    error, violation, progress = driver.machine.signals.take()
    assert told([error, violation, progress]) == [
        ("error", "tool_failed", 0), ("violation", "symlink_escape", "HIGH"), ("progress", 1, 0),
    ]  # fmt: skip
    assert violation.data.detail == "read_file: is [redacted:canary] a link"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "breaks"),
    [
        ("../x", "path_traversal"), ("a/../../x", "path_traversal"), ("/etc/../x", "path_traversal"),
        ("..\\..\\x", "path_traversal"), ("/etc/passwd", "absolute_path"),
        ("", None), ("a//b", None), ("./a", None), ("a\\b", None), ("a\0b", None), ("x" * 256, None),
    ],
)  # fmt: skip
def test_which_names_break_a_policy(name: str, breaks: str | None) -> None:
    with pytest.raises(UnsafeName) as caught:
        components(name)
    assert caught.value.breaks == breaks


def test_every_constraint_has_a_severity_and_only_secrets_are_critical() -> None:
    assert set(FORBIDDEN_BY) <= set(SEVERITIES)
    assert [policy for policy, severity in SEVERITIES.items() if severity == "CRITICAL"] == ["no-secrets"]


@pytest.mark.covers("P12")
def test_a_resumed_attempt_does_not_signal_again_what_its_transcript_holds() -> None:
    driver = Driver()
    driver.says(reply(call("rm_rf"), call("finish", "f", summary="x" * 5_000)))
    again = driver.resumed()
    assert again.machine.signals.take() == []
    again.says(finish())
    assert told(again.machine.signals.take()) == [("progress", 2, 0)]


def test_details_are_short_and_hold_no_secret() -> None:
    given = signals()
    given.call_failed("model_bad_request", "CANARY " + "x" * 9_000)
    (signal,) = given.take()
    assert signal.data.detail.startswith("[redacted:canary] xx")  # type: ignore[attr-defined]
    assert len(signal.data.detail) == 500  # type: ignore[attr-defined]
