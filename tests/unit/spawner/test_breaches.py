"""A broken error budget: the agents stop at once, the report ends the pipeline, a diagnostic follows, and no other."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sluice_contracts.messages.admission import AdmissionGranted
from sluice_contracts.messages.agent import AgentRun, AgentStop, AgentThrottle
from sluice_contracts.messages.alert import AlertRaised
from sluice_contracts.messages.pipeline import Diagnosed, PipelineFailed, PipelineRefused, PipelineSpawn
from sluice_contracts.messages.token import TokenRevoke
from sluice_spawner.domain.policy import RoleCatalogue, SpawnerPolicy
from sluice_spawner.domain.state import AgentEntity
from tests.unit.spawner.slots import claims, request
from tests.unit.spawner.world import PIPELINE, TENANT, World, of, plan, types

POLICY = SpawnerPolicy(credentials=True)
ROLES = RoleCatalogue({"writer": "general", "diagnostician": "general"}, frozenset({"general"}))


def running(*tasks: str, policy: SpawnerPolicy = POLICY, depth: int = 0, **more: object) -> World:
    world = World(policy, ROLES)
    diagnosed = Diagnosed(pipeline_id="another", depth=depth) if depth else None
    world.say(PipelineSpawn(plan=plan(*(tasks or ("a",)), **more), diagnosed=diagnosed))
    for task_id in [task for task in tasks or ("a",) if ":" not in task]:
        world.grant(task_id)
        world.start(task_id)
        world.turn(task_id, 1)
    return world


def the_spawn(world: World) -> PipelineSpawn | None:
    spawns = [one for one in world.said if isinstance(one.event.data, PipelineSpawn)]
    assert len(spawns) <= 1
    return None if not spawns else spawns[0].event.data  # type: ignore[return-value]


@pytest.mark.covers("V5")
@pytest.mark.parametrize("how", ["alert", "token.revoked", "both", "both, the other way"])
def test_all_agents_stop_at_once_and_nothing_starts(how: str) -> None:
    world = running("a", "b")
    if how == "token.revoked" or how.endswith("way"):
        said = world.revoke(reason="error_budget_exceeded")
        again = world.alert("revoke_pipeline", "error_budget_exceeded") if how.endswith("way") else []
    else:
        said = world.alert("revoke_pipeline", "error_budget_exceeded")
        again = world.revoke(reason="error_budget_exceeded") if how == "both" else []
    assert again == []
    assert {one.agent_id for one in of(AgentStop, said)} == {world.agent_id("a"), world.agent_id("b")}
    assert types(said).count("agent.state_changed") == 2
    assert {world.agent(task_id).state for task_id in ("a", "b")} == {"TERMINATED"}
    for task_id in ("a", "b"):
        assert types(world.turn(task_id, 2))[0] == "agent.attempt_refused", "its late turn is refused"
        assert types(world.succeed(task_id)) == ["agent.attempt_refused"]
    assert world.wait(86_400) == [], "only the report ends it"
    assert world.tick() == []


@pytest.mark.covers("V5", "O5", "O6")
def test_the_report_ends_the_pipeline_and_has_it_diagnosed() -> None:
    world = running("a", "b", model="scripted:team")
    world.succeed("a")
    world.alert("revoke_pipeline", "error_budget_exceeded")
    [alert_id] = [event.id for event, _, _ in world.heard if isinstance(event.data, AlertRaised)]
    said = world.report()
    end = world.terminal()
    assert isinstance(end, PipelineFailed)
    assert end.reason == "error_budget_exceeded"
    assert end.problem is not None
    assert (end.problem.code, end.problem.detail) == ("error_budget_exceeded", "6 errors within 60 s")
    assert world.statuses() == {"a": "succeeded", "b": "cancelled"}
    assert [(one.agent_id, one.reason) for one in of(TokenRevoke, said)] == [(None, "pipeline_ended")]
    [output] = [one for one in world.said if isinstance(one.event.data, PipelineSpawn)]
    spawn = output.event.data
    assert isinstance(spawn, PipelineSpawn)
    assert (output.topic, output.key, output.event.tenant) == ("pipeline.commands", output.event.subject, TENANT)
    assert spawn.parent_pipeline_id == PIPELINE
    assert spawn.diagnosed == Diagnosed(pipeline_id=PIPELINE, alert_id=alert_id, depth=1)
    assert spawn.plan.model == "scripted:team", "it is answered by whoever answered the pipeline that failed"
    names = [one.name for one in spawn.plan.inputs]
    assert names[:2] == ["handoff.json", "handoff.md"]
    assert world.report() == [], "it comes once, however often it is told"


@pytest.mark.covers("O6", "V5")
def test_the_diagnostic_is_a_pipeline_like_any_other() -> None:
    world = running()
    world.report()
    spawn = the_spawn(world)
    assert spawn is not None
    other = World(POLICY, ROLES)
    said = other.say(spawn, pipeline_id="diagnostic-1")
    assert "pipeline.refused" not in types(said)
    assert types(said)[0] == "pipeline.spawned"
    assert "token.request" in types(said), "it has a root token of its own"


@pytest.mark.covers("O6")
@pytest.mark.parametrize(
    ("deepest", "depth", "follows"), [(0, 0, False), (1, 0, True), (1, 1, False), (2, 1, True), (2, 2, False)]
)
def test_diagnostics_of_diagnostics_are_bounded(deepest: int, depth: int, follows: bool) -> None:
    world = running(policy=SpawnerPolicy(credentials=True, diagnostic_depth_max=deepest), depth=depth)
    world.alert("revoke_pipeline", "policy_violation")
    world.report("policy_violation")
    spawn = the_spawn(world)
    assert (spawn is not None) == follows
    if spawn is not None and spawn.diagnosed is not None:
        assert spawn.diagnosed.depth == depth + 1


@pytest.mark.covers("O6", "P13")
@pytest.mark.parametrize(("deepest", "depth", "refused"), [(0, 1, False), (0, 2, True), (1, 2, True), (2, 3, True)])
def test_a_diagnostic_that_claims_to_be_deeper_than_the_limit_is_refused(
    deepest: int, depth: int, refused: bool
) -> None:
    world = World(SpawnerPolicy(credentials=True, diagnostic_depth_max=deepest), ROLES)
    said = world.say(PipelineSpawn(plan=plan("a"), diagnosed=Diagnosed(pipeline_id="another", depth=depth)))
    assert (types(said) == ["pipeline.refused"]) == refused
    if refused:
        problem = of(PipelineRefused, said)[0].problem
        assert (problem.code, problem.field) == ("diagnostic_too_deep", "diagnosed.depth")
        assert problem.limit == f"SLUICE_DIAGNOSTIC_DEPTH_MAX: {deepest}"
        assert "another" in problem.detail


@pytest.mark.covers("O6", "V5")
def test_who_revokes_by_hand_gets_no_diagnostic() -> None:
    world = running()
    world.revoke(reason="manual")
    world.report("manual")
    assert the_spawn(world) is None
    assert types([world.terminal()]) == ["pipeline.failed"]


@pytest.mark.covers("O5")
def test_a_report_may_come_before_what_it_is_about() -> None:
    """The topics have no order among each other."""
    world = running()
    world.report()
    assert types([world.terminal()]) == ["pipeline.failed"]
    assert world.alert("revoke_pipeline", "error_budget_exceeded") == []
    assert world.revoke(reason="error_budget_exceeded") == []


@pytest.mark.covers("V5", "P12")
@pytest.mark.parametrize("heard", ["nothing", "the alert", "the revocation"])
def test_a_pipeline_that_was_revoked_before_its_spawn_ends_though_nothing_more_is_heard(heard: str) -> None:
    """The report was heard when nobody knew the pipeline."""
    world = World(POLICY, ROLES)
    assert world.report() == []
    world.say(PipelineSpawn(plan=plan("a")))
    if heard == "the alert":
        world.alert("revoke_pipeline", "error_budget_exceeded")
    elif heard == "the revocation":
        world.revoke(reason="error_budget_exceeded")
    assert types(world.deny_root("first")) == ["token.request"], "is the revocation still to come?"
    assert world.deny_root("first") == [], "a repetition is no answer"
    said = world.deny_root("second")
    assert [(one.agent_id, one.reason) for one in of(TokenRevoke, said)] == [(None, "pipeline_ended")]
    end = world.terminal()
    assert isinstance(end, PipelineFailed)
    assert end.reason == ("credentials_revoked" if heard == "nothing" else "error_budget_exceeded")
    assert end.problem is not None
    assert (end.problem.code, "(manual)" in end.problem.detail) == ("credentials_revoked", True)
    assert the_spawn(world) is None
    assert world.report() == []


@pytest.mark.covers("O4")
def test_without_credentials_a_breach_ends_the_pipeline_at_once() -> None:
    """There is no token whose end a report could follow, and perhaps no vault-broker."""
    world = World(SpawnerPolicy(), ROLES)
    world.say(PipelineSpawn(plan=plan("a", "b")))
    world.start("a")
    said = world.alert("revoke_pipeline", "policy_violation")
    assert {one.agent_id for one in of(AgentStop, said)} == {world.agent_id("a"), world.agent_id("b")}
    end = world.terminal()
    assert isinstance(end, PipelineFailed)
    assert end.reason == "policy_violation"
    assert end.problem is not None
    assert (end.problem.code, end.problem.detail) == ("policy_violation", "too many")
    assert world.statuses() == {"a": "cancelled", "b": "cancelled"}
    assert claims(world) == {}
    assert world.all(TokenRevoke) == []
    assert world.report("policy_violation") == [], "a vault-broker that runs all the same changes nothing"
    assert the_spawn(world) is None


@pytest.mark.covers("V5", "O5", "O6")
def test_a_pipeline_that_was_revoked_while_its_token_was_made_waits_for_its_report() -> None:
    world = World(POLICY, ROLES)
    world.say(PipelineSpawn(plan=plan("a")))
    world.deny_root("first")
    world.revoke(reason="error_budget_exceeded")
    assert world.deny_root("second") == []
    world.report()
    assert types([world.terminal()]) == ["pipeline.failed"]
    assert the_spawn(world) is not None


@pytest.mark.covers("O5")
def test_a_report_on_demand_ends_nothing() -> None:
    world = running()
    assert world.report(cause="demand") == []
    assert of(PipelineFailed, [one.event.data for one in world.said]) == []


@pytest.mark.covers("V5")
def test_a_pipeline_that_lost_its_credentials_can_still_be_cancelled() -> None:
    """Should no report ever come, a person has the last word."""
    world = running()
    world.alert("revoke_pipeline", "error_budget_exceeded")
    world.cancel()
    assert types([world.terminal()]) == ["pipeline.cancelled"]
    assert world.report() == []
    assert the_spawn(world) is None


@pytest.mark.covers("V5", "P13")
def test_a_pipeline_that_lost_its_credentials_gives_its_slots_to_others_at_once() -> None:
    """Its report may take as long as Vault is away."""
    world = World(replace(POLICY, installation_agents_max=2), ROLES)
    world.say(PipelineSpawn(plan=plan("a", "b", "c")))
    for task_id in ("a", "b"):
        world.grant(task_id)
        world.start(task_id)
    request(world, "other", 2, 1)
    assert claims(world) == {PIPELINE: (3, 2), "other": (2, 0)}
    world.alert("revoke_pipeline", "error_budget_exceeded")
    assert claims(world) == {"other": (2, 2)}
    request(world, PIPELINE, 3, 1)  # published late, by an instance that had lost its partition
    request(world, "other", 0, 2)
    world.say(AdmissionGranted(slots=2, number=1))
    assert claims(world) == {}, "nobody else would give it back"
    world.report()
    assert claims(world) == {}
    assert world.statuses() == {"a": "cancelled", "b": "cancelled", "c": "skipped"}


@pytest.mark.covers("V5", "P10")
def test_a_question_that_was_open_changes_nothing_any_more() -> None:
    world = running()
    world.ask("a", timeout_s=60)
    question_id = world.agent("a").pending[0]
    world.alert("revoke_pipeline", "error_budget_exceeded")
    assert world.wait(86_400) == []
    said = world.answer(question_id, "b")
    assert "token.request" not in types(said)
    world.report()
    assert world.statuses() == {"a": "cancelled"}


@pytest.mark.covers("V5")
def test_throttling_is_shared_by_the_agents_and_told_to_later_ones() -> None:
    world = running("a", "b", "c: a", limits={"max_agents": 2})
    said = world.alert("throttle", "api_call_budget_exceeded")
    told = {one.agent_id: one.api_calls_per_minute for one in of(AgentThrottle, said)}
    assert told == {world.agent_id("a"): 50, world.agent_id("b"): 50}
    assert world.alert("throttle", "api_call_budget_exceeded") == [], "once"
    world.succeed("a")
    world.grant("c")
    assert world.last(AgentRun).api_calls_per_minute == 50


@pytest.mark.covers("V5")
@pytest.mark.parametrize(("max_agents", "each"), [(1, 100), (4, 25), (7, 14), (11, 9), (50, 9)])
def test_the_shares_of_all_that_may_live_at_once_are_no_more_than_the_limit(max_agents: int, each: int) -> None:
    """One plans, ten implement: whoever follows has the share of who went before, and begins to count where that one
    stopped, as the laws of `unit/agent_runner/test_pace.py` say."""
    implement = [f"i{number}" for number in range(10)]
    tasks = ["done", "plan: done", *(f"{task}: plan" for task in implement)]
    world = World(POLICY, ROLES)
    world.say(PipelineSpawn(plan=plan(*tasks, limits={"max_agents": max_agents})))
    for task_id in ("done", "plan"):
        world.grant(task_id)
        world.start(task_id)
        if task_id == "done":
            world.succeed(task_id)
    world.alert("throttle", "api_call_budget_exceeded")
    assert world.last(AgentThrottle).api_calls_per_minute == each
    world.succeed("plan")
    living = [one for one in world.state.values() if isinstance(one, AgentEntity) and not one.ended]
    assert len(living) == min(max_agents, 10)
    assert len(living) * each <= 100


@pytest.mark.covers("V5")
def test_an_attempt_that_was_handed_out_before_the_throttling_is_told_when_it_is_taken() -> None:
    """Its runner passes over what it is told of an attempt that it does not hold."""
    world = World(POLICY, ROLES)
    world.say(PipelineSpawn(plan=plan("a")))
    world.grant("a")
    assert world.last(AgentRun).api_calls_per_minute is None
    world.alert("throttle", "api_call_budget_exceeded")
    said = world.start("a")
    assert [(one.agent_id, one.api_calls_per_minute) for one in of(AgentThrottle, said)] == [(world.agent_id("a"), 100)]


@pytest.mark.covers("V5")
def test_news_of_a_pipeline_that_nobody_knows_are_passed_over() -> None:
    world = World(POLICY, ROLES)
    assert world.report() == []
    assert world.alert("revoke_pipeline", "error_budget_exceeded") == []
    assert world.revoke(reason="manual") == []
    assert world.state == {}
