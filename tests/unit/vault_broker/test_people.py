"""Commands of people: each is answered once, and one that changes nothing says why."""

from __future__ import annotations

import pytest

from sluice_contracts.messages.token import TokenDenied, TokenRenew, TokenRenewed, TokenRevoke, TokenRevoked
from tests.unit.vault_broker.world import PIPELINE, World, codes, of, types

pytestmark = pytest.mark.covers("V7")

COMMANDS = (TokenRevoke(), TokenRevoke(agent_id="a"), TokenRenew())


@pytest.fixture
def world() -> World:
    return World()


@pytest.mark.parametrize("command", COMMANDS)
def test_what_has_ended_is_neither_revoked_nor_renewed(world: World, command: TokenRevoke | TokenRenew) -> None:
    world.grant("a")
    world.revoke(reason="pipeline_ended", source="spawner/s", sequence=1)
    event = world.event(command)
    [denied] = of(TokenDenied, world.hear(event))
    assert (denied.problem.code, denied.command) == ("pipeline_ended", command.type)
    assert PIPELINE in denied.problem.detail
    assert denied.agent_id == getattr(command, "agent_id", None)
    assert world.said[-1].event.causation_id == event.id
    assert world.hear(event) == []


@pytest.mark.parametrize("command", [TokenRevoke(agent_id="b"), TokenRevoke(agent_id="b", attempt=3), TokenRenew()])
def test_where_there_is_no_credential_nothing_changes(world: World, command: TokenRevoke | TokenRenew) -> None:
    assert codes(world.say(command)) == ["no_credential"]
    assert world.state == {}
    world.request("a")
    before = {name: one for name, one in world.state.items() if not name.endswith(("/pipeline", "/refusals"))}
    [denied] = of(TokenDenied, world.say(command))
    assert denied.problem.code == "no_credential"
    assert f"sluice tokens {PIPELINE}" in denied.problem.detail
    assert {one: world.state.get(one) for one in before} == before
    assert world.request("b", 3) == [], "it is not closed beforehand"


def test_an_agent_s_credential_is_revoked_by_hand_once(world: World) -> None:
    world.grant("a")
    first = world.event(TokenRevoke(agent_id="a"))
    assert world.hear(first) == []
    assert codes(world.revoke("a", reason="manual")) == ["no_credential"]
    [revocation] = world.revocations()
    assert types(world.end(revocation.accessor)) == ["token.revoked"]
    assert world.said[-1].event.causation_id == first.id
    world.request("a", 2)
    world.mint("a")
    assert world.hear(first) == [], "it was about what there was then"
    assert world.token("a").lives
    [denied] = of(TokenDenied, world.revoke("a", 1, reason="manual"))
    assert denied.problem.code == "attempt_superseded"
    assert world.token("a").lives


def test_a_credential_on_its_way_is_revoked_at_once(world: World) -> None:
    world.request("a")
    event = world.event(TokenRevoke(agent_id="a", detail="not this one"))
    said = world.hear(event)
    assert codes(said) == ["attempt_revoked"]
    assert of(TokenDenied, said)[0].command == "token.request"
    [revoked] = of(TokenRevoked, said)
    assert (revoked.agent_id, revoked.attempt, revoked.accessors, revoked.detail) == ("a", 1, (), "not this one")


def test_a_pipeline_s_credentials_are_revoked_by_hand_once(world: World) -> None:
    world.grant("a")
    first = world.event(TokenRevoke())
    assert world.hear(first) == []
    assert world.hear(first) == []
    for command in COMMANDS:
        [denied] = of(TokenDenied, world.say(command))
        assert denied.problem.code == "credentials_revoked"
        assert PIPELINE in denied.problem.detail
    [revocation] = world.revocations()
    world.end(revocation.accessor)
    assert world.hear(first) == []
    assert len(world.all(TokenRevoked)) == 1


def test_a_renewal_that_is_under_way_answers_the_next_command_too(world: World) -> None:
    world.grant("a")
    first = world.event(TokenRenew())
    assert world.hear(first) == world.say(TokenRenew()) == []
    assert types([*world.prolong(), *world.prolong("a")]) == ["token.renewed"] * 2
    assert world.hear(first) == []
    assert world.token().renewing_since_ms is None, "a repetition renews nothing"


def test_a_renewal_names_the_command_that_asked_for_it(world: World) -> None:
    world.grant("a")
    event = world.event(TokenRenew())
    world.hear(event)
    world.prolong()
    world.prolong("a")
    told = [one.event for one in world.said if isinstance(one.event.data, TokenRenewed)]
    assert [(one.data.agent_id, one.data.reason, one.causation_id) for one in told] == [  # type: ignore[attr-defined]
        (None, "manual", event.id), ("a", "manual", event.id),
    ]  # fmt: skip
    world.wait(34 * 60)
    world.say(TokenRenew())  # while it is renewed in its time
    world.prolong("a")
    assert world.last(TokenRenewed).reason == "due"
    assert world.said[-1].event.causation_id not in (None, event.id)


def test_revocations_that_are_no_person_s_are_not_denied(world: World) -> None:
    world.grant("a")
    world.revoke("a", 1, reason="agent_ended")
    assert world.revoke("a", 1, reason="agent_ended") == []
    assert world.revoke("b", reason="waiting") == []
    world.revoke(reason="pipeline_ended")
    assert world.revoke(reason="pipeline_ended") == []
    assert world.revoke(reason="error_budget_exceeded") == []


@pytest.mark.covers("V5")
@pytest.mark.parametrize("said", ["alert", "revoke", "request"])
def test_whoever_speaks_of_a_pipeline_before_its_spawner_does_not_say_whose_it_is(world: World, said: str) -> None:
    match said:
        case "alert":
            world.alert("revoke_pipeline", condition="policy_violation", tenant="other", source="monitor")
        case "revoke":
            world.revoke(reason="manual", tenant="other", source="operator")
        case "request":
            world.request("b", tenant="other", source="operator")
    assert codes(world.request("a", source="operator")) == ["unknown_pipeline"]
    told = world.request("a", source="spawner/s", sequence=1)
    assert codes(told) == ([] if said == "request" else ["credentials_revoked"])
    assert all(output.event.tenant == "acme" for output in world.said[-len(told) :] if told)
    assert codes(world.say(TokenRenew(), tenant="other")) == ["unknown_pipeline"]
    assert codes(world.request("a", 2, source="spawner/s", sequence=2, tenant="third")) == ["unknown_pipeline"]
