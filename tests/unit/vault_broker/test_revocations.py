"""Commands and alerts that end tokens, and tokens that nobody knows."""

from __future__ import annotations

from typing import Any

import pytest

from sluice_contracts.limits import SUMMARY_MAX_CHARACTERS
from sluice_contracts.messages.alert import AlertRaised
from sluice_contracts.messages.token import FULL_REVOCATIONS, TokenRevoke, TokenRevoked
from sluice_vault_broker.domain.facts import VaultRevoked
from tests.unit.vault_broker.world import PIPELINE, World, codes, of, types


@pytest.fixture
def world() -> World:
    return World()


def accessors(world: World, *agents: str | None) -> set[str]:
    return {world.token(agent).accessor for agent in agents}


@pytest.mark.covers("V5")
@pytest.mark.parametrize("reason", FULL_REVOCATIONS)
def test_after_a_full_revocation_nothing_is_granted_any_more(world: World, reason: Any) -> None:
    world.grant("a", "b")
    all_of_them = accessors(world, None, "a", "b")
    world.request("c")
    assert codes(world.revoke(reason=reason)) == ["credentials_revoked"]
    [revocation] = world.revocations()
    [revoked] = world.end(revocation.accessor)
    assert isinstance(revoked, TokenRevoked)
    assert (set(revoked.accessors), revoked.reason, revocation.last) == (all_of_them, reason, True)
    again = world.event(TokenRevoke(reason="manual"))
    assert codes(world.hear(again)) == ["credentials_revoked"]
    assert world.hear(again) == []
    for agent_id, attempt in ((None, None), ("a", 1), ("a", 2), ("d", 1)):
        assert codes(world.request(agent_id, attempt)) == ["credentials_revoked"]
    assert world.revoke(reason="pipeline_ended") == []
    assert codes(world.request("a", 3)) == ["pipeline_ended"]


@pytest.mark.covers("V4")
@pytest.mark.parametrize("living", [True, False])
@pytest.mark.parametrize("agent_id", [None, "a"])
@pytest.mark.parametrize("reason", ["manual", "error_budget_exceeded", "no_progress"])
def test_what_people_give_as_the_cause_is_kept_and_told_without_secrets(
    world: World, reason: Any, agent_id: str | None, living: bool
) -> None:
    key = f"sk-or-v1-{'0123456789abcdef' * 4}"
    if living:
        world.grant("a")
    else:
        world.request("a")
    world.say(TokenRevoke(agent_id=agent_id, reason=reason, detail=f"leaked: {key}; {'password=1 ' * 300}"))
    assert key not in repr(world.state)
    for revocation in world.revocations():
        world.end(revocation.accessor)
    told = of(TokenRevoked, [one.event.data for one in world.said])
    assert told or not living
    for one in told:
        assert one.detail.startswith("leaked: [redacted:api-key]; password=[redacted:password] pass")
        assert len(one.detail) == SUMMARY_MAX_CHARACTERS


@pytest.mark.covers("V4")
@pytest.mark.parametrize("action", ["revoke_pipeline", "revoke_agent"])
def test_an_alert_s_detail_is_told_without_secrets(world: World, action: Any) -> None:
    world.grant("a")
    world.say(
        AlertRaised(
            condition="policy_violation", action=action, agent_id="a", attempt=1, observed=1, limit=0, window_ms=1,
            breached_at_ms=1, detail="it said hvs.0123456789012345678901234567",
        )
    )  # fmt: skip
    [revocation] = world.revocations()
    [revoked] = of(TokenRevoked, world.end(revocation.accessor))
    assert revoked.detail == "it said [redacted:vault-token]"


@pytest.mark.covers("V5", "V7")
def test_an_alert_ends_the_pipeline_s_tokens_and_is_named(world: World) -> None:
    world.grant("a")
    alert = world.event(
        AlertRaised(
            condition="policy_violation", action="revoke_pipeline", observed=1, limit=0, window_ms=1, breached_at_ms=1,
            detail="it read what is not its own",
        )
    )  # fmt: skip
    world.hear(alert)
    assert world.hear(alert) == []
    [revocation] = world.revocations()
    [revoked] = of(TokenRevoked, world.end(revocation.accessor))
    assert (revoked.reason, revoked.alert_id, revoked.detail) == (
        "policy_violation", alert.id, "it read what is not its own",
    )  # fmt: skip
    assert world.said[-1].event.causation_id == alert.id


@pytest.mark.covers("V5")
def test_where_there_is_no_token_the_end_is_told_at_once(world: World) -> None:
    [revoked] = world.alert("revoke_pipeline")
    assert isinstance(revoked, TokenRevoked)
    assert revoked.accessors == ()
    assert world.alert("revoke_pipeline") == []
    assert codes(world.request("a")) == ["credentials_revoked"]
    world.wait(8 * 86_400)
    assert world.state == {}


@pytest.mark.covers("V5", "V6")
def test_what_was_given_up_and_lives_in_vault_ends_before_it_is_told(world: World) -> None:
    """Vault was away when the pipeline waited; a breach takes the place of that."""
    world.grant("a")
    both = accessors(world, None, "a")
    world.revoke(reason="waiting")
    world.now_ms += 5_000
    alert = world.event(
        AlertRaised(
            condition="policy_violation", action="revoke_pipeline", observed=1, limit=0, window_ms=1, breached_at_ms=1,
            detail="it read what is not its own",
        )
    )  # fmt: skip
    assert world.hear(alert) == []
    [revocation] = world.revocations()
    assert revocation.last
    world.now_ms += 7
    [revoked] = of(TokenRevoked, world.end(revocation.accessor))
    assert (set(revoked.accessors), revoked.reason, revoked.alert_id) == (both, "policy_violation", alert.id)
    assert revoked.latency_ms == 7
    assert world.said[-1].event.causation_id == alert.id
    assert world.revocations() == []


@pytest.mark.covers("V5", "V6")
@pytest.mark.parametrize("again", [True, False])
def test_several_trees_that_are_not_confirmed_are_told_as_one(world: World, again: bool) -> None:
    known: set[str] = set()
    for attempt in (1, 2):
        world.grant("a", attempt=attempt)
        known |= accessors(world, None, "a")
        world.revoke(reason="waiting")
    earlier = world.revocations()
    if again:
        world.grant("a", attempt=3)
        known |= accessors(world, None, "a")
    assert world.revoke(reason="manual") == []
    [revocation] = world.revocations()
    assert {revocation.accessor, *revocation.also} >= {one.accessor for one in earlier}
    for one in earlier:  # begun before
        assert world.say(VaultRevoked(accessor=one.accessor)) == []
    [revoked] = of(TokenRevoked, world.end(revocation.accessor))
    assert (set(revoked.accessors), revoked.reason) == (known, "manual")


@pytest.mark.covers("V5", "V6")
@pytest.mark.parametrize("agent_id", [None, "a"])
def test_a_token_that_vault_may_have_renewed_ends_before_its_end_is_told(world: World, agent_id: str | None) -> None:
    """The answer was lost, or Vault was away: what has expired by our clock may live."""
    world.grant("a")
    whose = world.token(agent_id)
    for _ in range(2):
        world.wait(36 * 60)
        world.prolong("a" if agent_id is None else None)
    world.wait(2 * 3_600 - 2 * 36 * 60 + 20)
    assert world.find(agent_id) is None
    [revocation] = world.revocations()
    assert (revocation.accessor, revocation.reason, revocation.last) == (whose.ended_by, "orphaned", False)
    if agent_id is None:
        assert world.alert("revoke_pipeline") == []
        [revocation] = world.revocations()
        [revoked] = of(TokenRevoked, world.end(revocation.accessor))
        assert revoked.reason == "error_budget_exceeded"


def test_a_token_at_its_end_is_not_revoked(world: World) -> None:
    world.grant("a")
    while world.find() is not None:
        for one in (None, "a"):
            token = world.find(one)
            if token is not None and token.renewing_since_ms is not None:
                world.prolong(one)
        world.wait(60)
    assert world.revocations() == []


def test_a_root_on_its_way_ends_when_it_comes(world: World) -> None:
    world.request("a")
    late = world.minting()
    said = world.alert("revoke_pipeline")
    assert codes(said) == ["credentials_revoked"]
    assert [one.accessors for one in of(TokenRevoked, said)] == [()]
    world.say(late)
    [revocation] = world.revocations()
    assert revocation.accessor == late.top


@pytest.mark.covers("V5")
def test_an_alert_about_an_agent_ends_that_attempt_s_token_and_no_other(world: World) -> None:
    world.grant("a", "b")
    first = accessors(world, "a")
    world.alert("revoke_agent", "a", 1, condition="no_progress")
    [revocation] = world.revocations()
    assert ({revocation.accessor}, revocation.reason) == (first, "no_progress")
    assert world.token("b").lives
    assert codes(world.request("a", 1)) == ["attempt_revoked"]
    assert world.request("a", 2) == []
    assert world.alert("revoke_agent", "a", 1) == []  # late: it is about an attempt that is over
    assert world.find("a") is not None
    assert world.alert("throttle", "a") == []
    assert world.alert("revoke_agent") == []


@pytest.mark.covers("V3")
def test_a_token_takes_along_what_is_below_it_and_nothing_else(world: World) -> None:
    world.grant("lead", is_parent=True)
    world.grant("early", parent="nobody-yet")
    world.grant("helper", parent="lead", is_parent=True)
    world.request("wanted", parent="helper")
    ended = accessors(world, "lead", "helper")
    assert codes(world.revoke("lead", 1, reason="agent_ended")) == ["attempt_revoked"]
    [revocation] = world.revocations()
    assert set(revocation.accessors) == ended
    assert world.token("early").lives


def test_a_token_that_lives_is_where_vault_made_it(world: World) -> None:
    """Its parent had no token then, so it is below the pipeline's own, and does not end with its parent's later one."""
    world.grant("child", parent="lead")
    world.grant("lead")
    world.revoke("lead", 1, reason="agent_ended")
    assert world.token("child").lives


@pytest.mark.covers("V1")
@pytest.mark.parametrize("agent_id", ["a", None])
def test_whoever_waits_gives_its_token_up_and_gets_another(world: World, agent_id: str | None) -> None:
    world.grant("a")
    world.revoke(agent_id, reason="waiting")
    [revocation] = world.revocations()
    assert (revocation.reason, revocation.last) == ("waiting", False)
    assert world.request("a", 1) == []
    if agent_id is None:
        world.mint()
    assert types(world.mint("a")) == ["token.granted"]


def test_the_repetition_of_a_request_does_not_bring_back_what_was_given_up(world: World) -> None:
    asked = {"id_": "asked", "source": "spawner/s", "sequence": 3}
    world.request("a", **asked)
    world.mint()
    world.mint("a")
    world.revoke("a", reason="waiting", source="spawner/s", sequence=4)
    assert world.request("a", **asked) == []
    assert world.find("a") is None
    assert world.request("a", id_="asked") == []  # from one who gives no sequence
    assert world.find("a") is None


def test_the_end_of_an_attempt_that_was_never_asked_for_is_remembered(world: World) -> None:
    world.grant("a")
    assert world.revoke("b", 2, reason="agent_ended") == []
    for attempt in (1, 2):  # also those that come late: an alert is on another topic
        assert codes(world.request("b", attempt)) == ["attempt_revoked"]
    assert world.request("b", 3) == []


def test_what_is_unknown_is_not_ended(world: World) -> None:
    assert world.revoke("a", 1, reason="agent_ended") == []
    assert world.revoke(reason="pipeline_ended") == []
    assert world.revoke(reason="waiting") == []
    assert world.state == {}


# Reconciling


@pytest.mark.covers("V6")
def test_a_token_that_nobody_knows_ends_also_where_nothing_is_known_of_its_pipeline(world: World) -> None:
    assert world.orphan("stray") == []
    assert world.orphan("stray") == []
    assert types(world.end("stray")) == ["token.revoked"]
    assert world.end("stray") == []
    assert world.last(TokenRevoked).reason == "orphaned"
    assert world.said[-1].event.sequence is None
    assert world.state == {}


@pytest.mark.covers("V6")
def test_a_token_that_is_known_or_may_be_the_wanted_one_is_none(world: World) -> None:
    world.request("a")
    root = world.token()
    assert world.orphan("perhaps-it", number=root.number) == []
    world.mint()
    world.mint("a")
    root, agent = world.token(), world.token("a")
    for accessor in (root.accessor, root.top):
        assert accessor is not None
        world.orphan(accessor, number=root.number)
    world.orphan(agent.accessor, "a", 1, agent.number)
    assert world.revocations() == []
    world.orphan("perhaps-it", number=root.number)
    world.orphan("another", "a", 1, agent.number)
    assert [one.accessor for one in world.revocations()] == ["perhaps-it", "another"]


@pytest.mark.covers("V6")
def test_what_vault_has_lost_is_told(world: World) -> None:
    world.grant("a", is_parent=True)
    world.grant("b", parent="a")
    assert types(world.gone("a")) == ["token.expired"] * 2
    assert f"{PIPELINE}/token/b" not in world.state
    assert types(world.gone()) == ["token.expired"]
