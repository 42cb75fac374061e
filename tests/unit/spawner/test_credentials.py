"""No grant, no attempt; a grant for each attempt; whoever waits gives it up."""

from __future__ import annotations

from typing import Any

import pytest

from sluice_contracts.messages.agent import AgentAttemptStarted, AgentRun, AgentStop
from sluice_contracts.messages.pipeline import AgentAttemptLost, AgentAttemptRefused, TaskAssigned, TaskFailed
from sluice_contracts.messages.signal import WatchChanged
from sluice_contracts.messages.token import Grant, TokenGranted, TokenRequest, TokenRevoke
from sluice_spawner.domain.policy import SpawnerPolicy
from tests.unit.spawner.world import PIPELINE, World, of, plan, types

POLICY = SpawnerPolicy(credentials=True)


def spawned(*tasks: object, **more: object) -> World:
    world = World(POLICY)
    world.spawn(plan(*(tasks or ("a",)), **more))  # type: ignore[arg-type]
    return world


def running() -> World:
    world = spawned()
    world.grant("a")
    world.start("a")
    return world


@pytest.mark.covers("V1", "V3")
def test_a_task_waits_for_its_grant_and_carries_it() -> None:
    world = spawned()
    assert [(one.agent_id, one.attempt, one.queue) for one in world.all(TokenRequest)] == [
        (None, None, None),
        (world.agent_id("a"), 1, "general"),
    ]
    assert world.all(AgentRun) == []
    assert world.wait(7 * 86_400) == [], "Vault may be away for as long as it likes"
    world.grant("a")
    [run] = world.all(AgentRun)
    assert run.grant is not None
    assert run.grant.sealed.startswith("vault:v1:")
    assert run.deadline_at_ms == world.now_ms + 300_000, "waiting for a credential took nothing of the task's time"
    [output] = [one for one in world.said if one.event.type == "agent.run"]
    assert output.topic == "agent.tasks.general"


@pytest.mark.covers("P3")
def test_a_task_without_secrets_gets_no_grant_and_waits_for_none() -> None:
    world = spawned({"id": "a", "constraints": ["no-secrets"]})
    assert [one.agent_id for one in world.all(TokenRequest)] == [None], "the pipeline has its own all the same"
    assert world.last(AgentRun).grant is None
    world.run("a")
    assert [(one.agent_id, one.reason) for one in world.all(TokenRevoke)] == [(None, "pipeline_ended")]


@pytest.mark.covers("V1")
def test_without_vault_nothing_is_asked_and_nothing_is_watched() -> None:
    world = World(SpawnerPolicy())
    world.spawn(plan("a"))
    world.run("a")
    assert {one.topic for one in world.said}.isdisjoint({"token.commands", "signals"})


@pytest.mark.covers("V1", "V3")
def test_an_ended_agent_s_token_ends_and_with_the_pipeline_all_do() -> None:
    world = spawned("a", "b: a")
    world.grant("a")
    world.run("a")
    assert [(one.agent_id, one.attempt, one.reason) for one in world.all(TokenRevoke)] == [
        (world.agent_id("a"), 1, "agent_ended")
    ]
    world.grant("b")
    said = world.run("b")
    assert [(one.agent_id, one.reason) for one in of(TokenRevoke, said)] == [(None, "pipeline_ended")]
    assert types(said)[-1] == "pipeline.completed", "nothing follows the end"


@pytest.mark.covers("V1")
def test_a_cancelled_pipeline_gives_back_what_it_never_got() -> None:
    world = spawned()
    said = world.cancel()
    assert of(AgentStop, said) == []
    assert [(one.agent_id, one.reason) for one in of(TokenRevoke, said)] == [(None, "pipeline_ended")]
    assert world.statuses() == {"a": "cancelled"}


@pytest.mark.covers("W10", "V3")
def test_a_lost_attempt_s_grant_is_not_the_next_one_s() -> None:
    world = running()
    world.turn("a", 1)
    world.lose("a")
    request = world.last(TokenRequest)
    assert (request.agent_id, request.attempt) == (world.agent_id("a"), 2)
    assert len(world.all(AgentRun)) == 1
    assert world.grant("a", attempt=1) == [], "the earlier one's grant is not taken for it"
    world.wait(1_000)
    world.grant("a")
    run = world.last(AgentRun)
    assert (run.attempt, run.turn) == (2, 1)
    assert run.deadline_at_ms == world.now_ms + 300_000, "the time without a credential does not count"


@pytest.mark.covers("W10")
def test_what_an_attempt_says_while_the_next_one_waits_is_refused() -> None:
    world = running()
    world.lose("a")
    said = world.turn("a", 1, attempt=1)
    assert types(said) == ["agent.attempt_refused", "agent.stop"]
    said = world.start("a", attempt=1, runner="r2")
    assert "task.started" not in types(said), "an attempt that is over can't be taken any more"


@pytest.mark.covers("V1")
def test_a_grant_that_comes_again_or_too_late_changes_nothing() -> None:
    world = running()
    assert world.grant("a", attempt=1) == []
    agent_id = world.agent_id("a")
    world.succeed("a")
    before = dict(world.state)
    late = TokenGranted(
        agent_id=agent_id, attempt=2, accessor="x", expires_at_ms=1, ends_at_ms=1,
        grant=Grant(sealed="vault:v1:x", accessor="x", expires_at_ms=1),
    )  # fmt: skip
    assert world.say(late) == []
    assert world.state == before


@pytest.mark.covers("V1")
def test_a_denied_grant_fails_the_task_with_its_problem() -> None:
    world = spawned()
    world.deny("a", "unknown_queue")
    [failed] = world.all(TaskFailed)
    assert failed.problem.code == "unknown_queue"
    assert types([world.terminal()]) == ["pipeline.failed"]


@pytest.mark.covers("V7")
@pytest.mark.parametrize("command", ["token.revoke", "token.renew"])
def test_a_person_s_command_that_is_denied_changes_nothing_for_who_waits_for_a_grant(command: Any) -> None:
    world = spawned()
    before = dict(world.state)
    assert world.deny("a", "no_credential", command=command) == []
    assert world.state == before


@pytest.mark.covers("V5", "W10")
def test_a_grant_that_is_revoked_on_its_way_uses_up_a_retry_and_the_next_attempt_s_is_asked_for() -> None:
    world = spawned({"id": "a", "retries": 1})
    said = world.deny("a", "attempt_revoked")
    assert [(one.agent_id, one.attempt) for one in of(TokenRequest, said)] == [(world.agent_id("a"), 2)]
    assert types(said) == ["agent.state_changed", "task.retried", "agent.state_changed", "token.request"]
    assert world.grant("a", attempt=1) == [], "the first one's will never be used"
    world.grant("a")
    assert (world.last(AgentRun).attempt, world.last(TaskAssigned).attempt) == (2, 2)
    world.run("a")
    assert types([world.terminal()]) == ["pipeline.completed"]


@pytest.mark.covers("V5")
def test_whose_grants_are_revoked_more_often_than_it_has_retries_fails() -> None:
    world = spawned({"id": "a", "retries": 1})
    world.deny("a", "attempt_revoked")
    world.deny("a", "attempt_revoked")
    assert [one.problem.code for one in world.all(TaskFailed)] == ["attempt_revoked"]


@pytest.mark.covers("V5")
def test_a_request_that_came_after_the_revocation_waits_for_its_news() -> None:
    world = spawned()
    assert world.deny("a", "credentials_revoked") == []
    assert f"{PIPELINE}/pipeline" in world.state


@pytest.mark.covers("V8")
def test_an_expired_credential_ends_the_attempt_and_the_next_goes_on() -> None:
    world = running()
    world.turn("a", 1)
    said = world.expire("a")
    [lost] = of(AgentAttemptLost, said)
    assert lost.problem.code == "credential_expired"
    assert [one.attempt for one in of(AgentStop, said)] == [1]
    assert world.expire("a", attempt=1) == []
    assert world.wait(86_400) == [], "Vault is still away; nothing times out"
    world.grant("a")
    assert (world.last(TaskAssigned).attempt, world.last(AgentRun).turn) == (2, 1)


@pytest.mark.covers("V8", "W10")
def test_a_credential_that_ends_before_a_runner_came_is_no_runner_s_fault() -> None:
    world = World(SpawnerPolicy(credentials=True, spawn_attempts_max=2, lost_attempts_max=4))
    world.spawn(plan("a"))
    for _ in range(4):
        assert world.all(TaskFailed) == []
        world.grant("a")
        world.expire("a")
    assert {(one.runner_id, one.problem.code) for one in world.all(AgentAttemptLost)} == {(None, "credential_expired")}
    [problem] = [one.problem for one in world.all(TaskFailed)]
    assert problem.limit == "lost_attempts_max: 4 attempts"
    assert "the credential of attempt 4 expired" in problem.detail


@pytest.mark.covers("V5", "V8")
@pytest.mark.parametrize("code", ["credential_revoked", "credential_expired"])
def test_a_runner_that_finds_its_token_gone_uses_up_no_retry(code: str) -> None:
    world = spawned({"id": "a", "retries": 0})
    world.grant("a")
    world.start("a")
    said = world.fail("a", retryable=True, code=code)
    assert [one.problem.code for one in of(AgentAttemptLost, said)] == [code]
    assert types(said)[-1] == "token.request"
    assert world.fail("a", retryable=True, code=code, attempt=1) == [], "once"
    world.grant("a")
    assert world.last(AgentRun).attempt == 2


@pytest.mark.covers("V5", "W10")
@pytest.mark.parametrize("how", ["revoked", "alert"])
def test_an_attempt_whose_token_is_revoked_stops_and_uses_up_a_retry(how: str) -> None:
    world = running()
    if how == "revoked":
        said = world.revoke("a", reason="no_progress")
    else:
        said = world.alert("revoke_agent", "no_progress", "a")
    assert types(said) == [
        "agent.stop", "agent.state_changed", "watch.changed", "task.retried", "agent.state_changed", "token.request",
    ]  # fmt: skip
    assert world.revoke("a", attempt=1, reason="no_progress") == []
    assert world.alert("revoke_agent", "no_progress", "a", attempt=1) == []
    late = world.turn("a", 1, attempt=1)
    assert of(AgentAttemptRefused, late)


@pytest.mark.covers("V5")
def test_an_agent_s_token_that_ended_for_a_good_reason_stops_nobody() -> None:
    world = running()
    for reason in ("agent_ended", "attempt_superseded", "orphaned", "waiting"):
        assert world.revoke("a", reason=reason) == []


# Waiting


@pytest.mark.covers("V1", "P10")
def test_whoever_waits_for_a_person_for_long_gives_attempt_and_token_up() -> None:
    world = running()
    world.turn("a", 1)
    world.ask("a", timeout_s=86_400)
    question_id = world.agent("a").pending[0]
    world.wait(POLICY.token_wait_s - 1)
    assert world.all(TokenRevoke) == []
    said = world.wait(1)
    assert [(one.agent_id, one.reason) for one in of(TokenRevoke, said)] == [(None, "waiting")]
    assert [one.attempt for one in of(AgentStop, said)] == [1]
    assert "task.started" not in types(world.start("a", attempt=1, runner="r9"))
    said = world.answer(question_id, "a")
    assert [(one.agent_id, one.attempt) for one in of(TokenRequest, said)] == [(world.agent_id("a"), 2)]
    world.grant("a")
    run = world.last(AgentRun)
    assert (run.attempt, run.turn, [one.answer for one in run.answers]) == (2, 1, ["a"])
    assert run.deadline_at_ms == world.now_ms + 300_000, "the whole wait is given back to the task"
    world.start("a")
    world.turn("a", 2)
    world.succeed("a")
    assert types([world.terminal()]) == ["pipeline.completed"]


@pytest.mark.covers("V1")
def test_the_pipeline_s_own_token_stays_while_another_agent_works() -> None:
    world = spawned("a", "b")
    for task_id in ("a", "b"):
        world.grant(task_id)
        world.start(task_id)
    world.ask("a", timeout_s=86_400)
    for number in range(1, 40):  # b works on, and its task has time enough
        world.turn("b", number)
    world.wait(200)
    world.say(AgentAttemptStarted(**{"agent_id": world.agent_id("b"), "attempt": 1, "runner_id": "r1"}))
    world.ask("b", "q2", timeout_s=86_400)
    said = world.wait(POLICY.token_wait_s - 200)
    assert [(one.agent_id, one.reason) for one in of(TokenRevoke, said)] == [(world.agent_id("a"), "waiting")]
    said = world.wait(200)
    assert [(one.agent_id, one.reason) for one in of(TokenRevoke, said)] == [(None, "waiting")]


@pytest.mark.covers("V1")
def test_an_answer_in_time_keeps_the_token() -> None:
    world = running()
    world.ask("a", timeout_s=86_400)
    world.wait(60)
    world.answer(world.agent("a").pending[0], "b")
    world.wait(100)
    assert world.all(TokenRevoke) == []
    assert not any(timer.name.startswith("wait:") for timer in world.timers())


@pytest.mark.covers("V5", "O4")
def test_progress_is_expected_of_busy_agents_only() -> None:
    world = running()
    world.ask("a")
    world.answer(world.agent("a").pending[0], "b")
    world.lose("a")
    world.grant("a")
    world.start("a")
    world.succeed("a")
    watched = [(one.attempt, one.watched) for one in world.all(WatchChanged)]
    assert watched == [(1, True), (1, False), (1, True), (1, False), (2, True), (2, False)]
    assert {one.topic for one in world.said if isinstance(one.event.data, WatchChanged)} == {"signals"}
