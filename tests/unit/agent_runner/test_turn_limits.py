"""How far the turn machine goes: turns, budgets, deadlines, constraints."""

from __future__ import annotations

from typing import Any

import pytest

from sluice_agent_runner.domain.actions import Ask, CallModel, Succeed
from sluice_agent_runner.domain.limits import ARGUMENTS_MAX_BYTES
from sluice_agent_runner.domain.tools import WRITE_ARTIFACT, InvalidArguments
from sluice_contracts.messages.agent import Answer
from sluice_contracts.messages.base import Usage
from tests.unit.agent_runner.builders import (
    NOW_MS,
    Driver,
    agent_run,
    call,
    failed,
    finish,
    last_results,
    reply,
    task,
)

# Limits


@pytest.mark.covers("P13")
def test_no_turn_begins_beyond_max_iterations() -> None:
    driver = Driver(agent_run(max_iterations=2))
    driver.says(reply(call("list_files")))
    driver.says(reply(call("list_files")))
    assert failed(driver) == "max_iterations"
    assert driver.action.problem.limit == "max_iterations=2 turns"  # type: ignore[union-attr]
    assert not driver.action.retryable  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("budget", "spent", "turns"),
    [
        ({"tokens": 100}, Usage(input_tokens=30, output_tokens=20), 2),
        ({"cost_usd": 0.03}, Usage(cost_usd=0.02), 2),
    ],
)
@pytest.mark.covers("P9", "P3")
def test_no_turn_begins_beyond_the_budget(budget: dict[str, Any], spent: Usage, turns: int) -> None:
    driver = Driver(agent_run(task(budget=budget)))
    for _ in range(turns):
        driver.says(reply(call("list_files"), usage=spent))
    assert failed(driver) == "budget_exhausted"
    assert len(driver.finished) == turns


def test_what_earlier_attempts_spent_counts() -> None:
    driver = Driver(agent_run(task(budget={"tokens": 100})))
    driver.says(reply(call("list_files"), usage=Usage(input_tokens=60)))
    resumed = driver.resumed()
    resumed.says(reply(call("list_files"), usage=Usage(input_tokens=60)))
    assert failed(resumed) == "budget_exhausted"


def test_a_finish_in_the_turn_that_exhausts_the_budget_counts() -> None:
    driver = Driver(agent_run(task(budget={"tokens": 1})))
    assert isinstance(driver.says(finish()), Succeed)


def test_no_turn_begins_after_the_deadline_and_waiting_for_a_person_moves_it() -> None:
    assert failed(Driver(now_ms=NOW_MS + 300_000)) == "agent_timeout"
    driver = Driver()
    action = driver.says(reply(call("ask_human", "q", question="which?")))
    assert isinstance(action, Ask)
    driver.machine.on_asked(NOW_MS + 1_000)
    answer = Answer(request_id=action.requests[0].request_id, answer="this")
    later = driver.machine.on_answer(answer, NOW_MS + 1_000 + 3_600_000)
    assert isinstance(later, CallModel)


def test_arguments_are_counted_in_bytes_not_in_characters() -> None:
    wide = "ü" * (ARGUMENTS_MAX_BYTES // 2)
    WRITE_ARTIFACT.parse('{"name": "a", "kind": "b", "content": ""}' + " " * (ARGUMENTS_MAX_BYTES // 2))
    with pytest.raises(InvalidArguments, match=f"have {len(wide) * 2 + 9} bytes; at most {ARGUMENTS_MAX_BYTES}"):
        WRITE_ARTIFACT.parse(f'{{"name":"{wide[:-1]}"}}')


# Constraints


@pytest.mark.covers("P3")
def test_read_only_leaves_no_tool_that_writes() -> None:
    driver = Driver(agent_run(task(constraints=["read-only", "sandbox-only", "no-secrets"])))
    assert "write_artifact" not in [tool.name for tool in driver.requests[0].tools]
    driver.says(reply(call("write_artifact", name="a", kind="b", content="c")))
    assert last_results(driver)["write_artifact"][1]


@pytest.mark.parametrize(
    ("spec", "code"),
    [
        (task(constraints=["no-fun"]), "unknown_constraint"),
        (task(constraints=["read-only"], expected_artifacts=[{"name": "a"}]), "contradictory_task"),
    ],
)
def test_tasks_that_can_not_be_done_fail_at_once(spec: Any, code: str) -> None:
    driver = Driver(agent_run(spec))
    assert failed(driver) == code
    assert not driver.action.retryable  # type: ignore[union-attr]
