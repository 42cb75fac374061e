"""What is asked for, and what is answered."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import pytest
from msgspec.structs import replace

from sluice_contracts.envelope import SYSTEM_TENANT
from sluice_contracts.messages.token import (
    TokenDenied,
    TokenGranted,
    TokenRenew,
    TokenRenewed,
    TokenRequest,
    TokenRevoked,
)
from sluice_runtime.deciding import TimerDue
from sluice_vault_broker.domain.facts import token_timer
from sluice_vault_broker.domain.policy import AGENTS_PER_PIPELINE_MAX_COUNT, EXPIRY_SLACK_MS
from sluice_vault_broker.domain.state import FinishedPipeline, PipelineEntity
from sluice_vault_broker.handlers import HANDLERS
from tests.unit.vault_broker.world import MAX_TTL_MS, PIPELINE, START_MS, TTL_MS, World, codes, of, types

TRACE = "00-33333333333333333333333333333333-4444444444444444-01"


@pytest.fixture
def world() -> World:
    return World()


@pytest.mark.covers("V1", "V3")
def test_an_agent_s_first_request_wants_the_root_and_then_its_token(world: World) -> None:
    asked = world.event(TokenRequest(agent_id="a", attempt=1, queue="default"))
    assert world.hear(asked) == []
    world.now_ms += 40
    assert types(world.mint()) == ["token.granted"]
    [granted] = world.mint("a")
    assert isinstance(granted, TokenGranted)
    assert (granted.agent_id, granted.attempt, granted.queue) == ("a", 1, "default")
    assert granted.parent_accessor == world.token().accessor
    assert granted.grant is not None
    assert granted.grant.accessor == granted.accessor
    assert (granted.expires_at_ms, granted.ends_at_ms) == (world.now_ms + TTL_MS, world.now_ms + MAX_TTL_MS)
    assert granted.latency_ms == 40
    event = world.said[-1].event
    assert (event.causation_id, event.source, event.tenant) == (asked.id, "vault-broker", "acme")
    assert [one.event.sequence for one in world.said] == [START_MS + 1, START_MS + 2]


@pytest.mark.covers("V7")
def test_a_grant_says_whether_it_was_asked_for_or_implied(world: World) -> None:
    world.grant("a")
    assert [one.reason for one in world.all(TokenGranted)] == ["implied", "requested"]
    world.gone()
    world.request("a", 2)
    world.request(None)  # by itself as well, while it is on its way
    [root] = world.mint()
    assert isinstance(root, TokenGranted)
    assert (root.agent_id, root.reason) == (None, "requested")


@pytest.mark.covers("V1")
def test_a_pipeline_may_ask_for_its_own_token_alone(world: World) -> None:
    world.request(None)
    [granted] = world.mint()
    assert isinstance(granted, TokenGranted)
    assert (granted.agent_id, granted.grant) == (None, None)
    assert world.request(None) == []
    assert world.request("a") == []
    assert types(world.mint("a")) == ["token.granted"]


@pytest.mark.parametrize("lives", [False, True])
def test_what_is_there_or_on_its_way_is_not_answered_again(world: World, lives: bool) -> None:
    world.request("a", source="spawner/s", sequence=7)
    if lives:
        world.mint()
        world.mint("a")
    before = dict(world.state)
    assert world.request("a", source="spawner/s", sequence=7) == []
    assert world.state == before
    assert world.request("a") == []
    assert world.token("a") == before[f"{PIPELINE}/token/a"]


@pytest.mark.covers("V3")
def test_an_agent_below_an_agent(world: World) -> None:
    world.request("lead", is_parent=True)
    world.request("helper", parent="lead")  # at once: it waits for it
    world.mint()
    world.mint("lead")
    [granted] = world.mint("helper")
    assert isinstance(granted, TokenGranted)
    assert granted.parent_accessor == world.token("lead").accessor
    assert (world.token("lead").kept != "", world.token("helper").kept) == (True, ""), "kept for its children only"


@pytest.mark.covers("V3")
def test_nobody_is_below_an_agent_that_may_have_no_agents(world: World) -> None:
    world.request("lead")
    assert codes(world.request("helper", parent="lead")) == ["not_a_parent"]
    world.grant("lead")
    asked = world.event(TokenRequest(agent_id="helper", attempt=1, queue="default", parent_agent_id="lead"))
    assert codes(world.hear(asked)) == ["not_a_parent"]
    assert world.hear(asked) == []  # as it comes again
    world.grant("lead", attempt=2, is_parent=True)
    world.grant("helper", parent="lead")
    assert world.token("helper").parent_accessor == world.token("lead").accessor
    world.request("waits", parent="lead")
    world.gone("lead")  # its token is lost; the next attempt's may have no agents any more
    world.grant("lead", attempt=3)
    world.mint("waits")
    assert world.token("waits").parent_accessor == world.token().accessor


def test_two_that_wait_to_be_below_each_other_do_not_wait_for_ever(world: World) -> None:
    world.request("a", parent="b", is_parent=True)
    world.request("b", parent="a", is_parent=True)
    assert (world.token("a").parent_agent_id, world.token("b").parent_agent_id) == ("b", None)
    world.request("c", parent="c")
    assert world.token("c").parent_agent_id is None


DENIED = {
    "no attempt": (TokenRequest(agent_id="a", queue="default"), "incomplete_request"),
    "no queue": (TokenRequest(agent_id="a", attempt=1), "incomplete_request"),
    "another queue": (TokenRequest(agent_id="a", attempt=1, queue="nowhere"), "unknown_queue"),
}


@pytest.mark.parametrize("case", DENIED)
def test_a_request_that_can_not_be_met_is_denied(world: World, case: str) -> None:
    message, code = DENIED[case]
    assert codes(world.say(message)) == [code]
    world.grant("b")
    event = world.event(message)
    assert codes(world.hear(event)) == [code]
    assert world.hear(event) == []  # as it comes again


@pytest.mark.covers("V1")
def test_another_tenant_gets_nothing_and_ends_nothing(world: World) -> None:
    world.grant("a")
    before = world.token("a")
    assert codes(world.request("b", tenant="another")) == ["unknown_pipeline"]
    assert world.said[-1].event.tenant == "another"
    assert codes(world.revoke(reason="manual", tenant="another")) == ["unknown_pipeline"]
    assert world.said[-1].event.tenant == "another"
    assert codes(world.revoke("a", reason="manual", tenant="another")) == ["unknown_pipeline"]
    assert codes(world.say(TokenRenew(), tenant="another")) == ["unknown_pipeline"]
    assert world.token("a") == before
    world.revoke("a", 1, reason="manual", tenant=SYSTEM_TENANT)
    assert world.find("a") is None


def test_a_pipeline_has_at_most_so_many_tokens_at_once(world: World) -> None:
    for number in range(AGENTS_PER_PIPELINE_MAX_COUNT):
        assert world.request(f"a{number}") == []
    assert codes(world.request("one-more")) == ["too_many_credentials"]
    world.revoke("a7", 1, reason="agent_ended")
    assert world.request("one-more", 2) == []


# Attempts


@pytest.mark.covers("V3")
def test_the_next_attempt_ends_the_one_before(world: World) -> None:
    world.grant("a")
    first = world.token("a").accessor
    assert world.request("a", 2) == []
    assert [one.accessor for one in world.revocations()] == [first]
    world.now_ms += 70
    [revoked] = world.end(first)
    assert isinstance(revoked, TokenRevoked)
    assert (revoked.agent_id, revoked.attempt, revoked.reason) == ("a", 1, "attempt_superseded")
    assert (revoked.accessors, revoked.latency_ms) == ((first,), 70)
    assert types(world.mint("a")) == ["token.granted"]
    assert world.request("a", 1) == []  # long given up


def test_an_attempt_that_is_superseded_before_it_was_granted_is_denied_and_its_late_token_ends(world: World) -> None:
    world.request("a", 1)
    world.mint()
    late = world.minting("a")
    assert codes(world.request("a", 2)) == ["attempt_superseded"]
    assert world.say(late) == []
    [revocation] = world.revocations()
    assert (revocation.accessor, revocation.reason) == (late.accessor, "attempt_superseded")
    assert not world.token("a").lives


def test_an_answer_that_comes_twice_counts_once_and_a_second_token_ends(world: World) -> None:
    world.request("a")
    world.mint()
    first, second = world.minting("a"), world.minting("a")
    assert types(world.say(first)) == ["token.granted"]
    assert world.say(first) == []
    assert world.revocations() == []
    assert world.say(second) == []
    assert [(one.accessor, one.reason) for one in world.revocations()] == [(second.accessor, "orphaned")]
    assert world.token("a").accessor == first.accessor


def test_a_token_that_was_made_below_what_has_ended_is_made_again(world: World) -> None:
    world.request("a")
    world.mint()
    late = world.minting("a")
    world.gone()
    world.mint()
    assert world.say(late) == []
    assert [one.accessor for one in world.revocations()] == [late.accessor]
    assert types(world.mint("a")) == ["token.granted"]


def test_what_is_made_again_is_what_was_asked_for_in_all_but_its_number(world: World) -> None:
    world.grant("lead", is_parent=True)
    message = TokenRequest(agent_id="a", attempt=3, queue="default", parent_agent_id="lead", may_have_agents=True)
    world.hear(dataclasses.replace(world.event(message), traceparent=TRACE))
    asked, late = world.token("a"), world.minting("a")
    world.gone("lead")
    world.now_ms += 10
    world.say(late)
    again = world.token("a")
    assert again == replace(asked, number=again.number, wanted_at_ms=world.now_ms)
    assert again.number > asked.number


# Renewal and end


@pytest.mark.covers("V1")
def test_tokens_that_were_granted_together_are_renewed_apart(world: World) -> None:
    agents = [f"a{number}" for number in range(200)]
    world.grant(*agents)
    due = sorted(timer.due_at_ms - START_MS for timer in world.timers())
    assert 27 * 60_000 <= due[0] < due[-1] <= 33 * 60_000
    assert max(later - sooner for sooner, later in pairwise(due)) < 20_000
    twin = World()
    twin.grant(*agents)
    assert twin.timers() == world.timers()


@pytest.mark.covers("V1", "V7")
def test_a_renewal_is_wanted_once_and_told_when_it_is_done(world: World) -> None:
    world.grant("a")
    world.wait(34 * 60)
    for agent_id in (None, "a"):
        assert world.token(agent_id).renewing_since_ms is not None
        [renewed] = world.prolong(agent_id)
        assert isinstance(renewed, TokenRenewed)
        assert renewed.reason == "due"
        assert world.said[-1].event.causation_id == world.heard[-1][0].id
        assert world.token(agent_id).expires_at_ms == world.now_ms + TTL_MS
        assert world.prolong(agent_id) == []  # as it comes again
    world.say(TokenRenew())
    assert [world.token(agent_id).renewing_since_ms for agent_id in (None, "a")] == [world.now_ms] * 2


@pytest.mark.covers("V8")
def test_what_can_not_be_renewed_in_time_expires_by_the_clock(world: World) -> None:
    world.grant("a", "b")
    said = world.wait((TTL_MS + EXPIRY_SLACK_MS) / 1_000 - 1)
    assert said == []
    assert types(world.wait(1)) == ["token.expired"] * 3
    assert not any(key.endswith(("root", "/a", "/b")) for key in world.state if "token" in key)
    assert world.request("a", 1) == []  # the same attempt gets a new one
    assert types(world.mint() + world.mint("a")) == ["token.granted"] * 2


@pytest.mark.covers("V1")
def test_a_token_is_renewed_until_its_end_and_not_beyond(world: World) -> None:
    world.grant("a")
    said: list[str] = []
    for _ in range(26 * 6):
        said += types(world.wait(600))
        for agent_id in (None, "a"):
            token = world.find(agent_id)
            if token is not None and token.renewing_since_ms is not None:
                said += types(world.prolong(agent_id))
    assert said[-2:] == ["token.expired"] * 2
    assert said.count("token.renewed") >= 2 * 40
    assert world.find() is None


@pytest.mark.covers("V8")
def test_whoever_waits_for_a_token_when_the_root_ends_gets_one_below_the_next_root(world: World) -> None:
    world.grant("a")
    world.request("b")
    assert types(world.gone()) == ["token.expired"] * 2
    assert (world.token().lives, world.token("b").lives) == (False, False)
    assert types(world.mint() + world.mint("b")) == ["token.granted"] * 2


def test_a_timer_of_a_token_that_was_replaced_is_ignored(world: World) -> None:
    world.grant("a")
    before = dict(world.state)
    assert world.say(TimerDue(name=token_timer("a"), generation=1)) == []
    assert world.say(TimerDue(name=token_timer("x"), generation=1)) == []
    assert world.state == before


# The end


@pytest.mark.covers("V1")
def test_the_pipeline_s_end_ends_all_and_leaves_little(world: World) -> None:
    world.grant("a", "b", source="spawner/s")
    world.request("c")
    root = world.token()
    accessors = {root.accessor, world.token("a").accessor, world.token("b").accessor}
    assert codes(world.revoke(reason="pipeline_ended")) == ["pipeline_ended"]
    [revocation] = world.revocations()
    assert (revocation.accessor, revocation.last) == (root.top, True)
    [revoked] = world.end(revocation.accessor)
    assert isinstance(revoked, TokenRevoked)
    assert (revoked.agent_id, set(revoked.accessors), revoked.reason) == (None, accessors, "pipeline_ended")
    assert {type(one).__name__ for one in world.state.values()} == {
        "FinishedPipeline",
        "DecidedCommandsEntity",
        "Timer",
    }
    assert codes(world.request("a", 2)) == ["pipeline_ended"]
    assert codes(world.revoke(reason="manual")) == ["pipeline_ended"]
    assert world.alert("revoke_pipeline") == []
    sequences = [one.event.sequence or 0 for one in world.said]
    assert sequences == list(range(sequences[0], sequences[0] + len(sequences)))
    world.wait(8 * 86_400)
    assert world.state == {}


@pytest.mark.covers("V1")
def test_what_comes_again_after_the_end_brings_nothing_back_but_another_life_begins(world: World) -> None:
    spawner = {"source": "spawner/s"}
    asked = world.event(TokenRequest(agent_id="a", attempt=1, queue="default"), sequence=10, **spawner)
    world.hear(asked)
    world.mint()
    world.mint("a")
    world.revoke(reason="pipeline_ended", sequence=20, **spawner)
    assert isinstance(world.state[f"{PIPELINE}/finished"], FinishedPipeline)
    last = max(one.event.sequence or 0 for one in world.said)
    assert world.hear(asked) == []
    assert f"{PIPELINE}/root" not in world.state
    world.wait(60)
    world.request("other", sequence=1_000, **spawner)
    assert types(world.mint() + world.mint("other")) == ["token.granted"] * 2
    assert min(one.event.sequence or 0 for one in world.said[-2:]) > last


def test_a_pipeline_whose_end_is_never_told_is_forgotten(world: World) -> None:
    world.grant("a")
    world.wait(MAX_TTL_MS / 1_000)
    for revocation in world.revocations():
        world.end(revocation.accessor)
    assert isinstance(world.state[f"{PIPELINE}/pipeline"], PipelineEntity)
    world.wait(8 * 86_400)
    assert world.state == {}


@pytest.mark.covers("V7")
def test_a_denial_says_how_long_it_took(world: World) -> None:
    asked = world.event(TokenRequest(agent_id="a", attempt=1, queue="nowhere"))
    world.now_ms += 40
    [denied] = of(TokenDenied, world.hear(asked))
    assert (denied.problem.code, denied.latency_ms) == ("unknown_queue", 40)
    world.request("a")
    world.now_ms += 3_000
    [denied] = of(TokenDenied, world.revoke("a", 1, reason="agent_ended"))
    assert denied.latency_ms == 3_000
    early = world.event(TokenRequest(agent_id="a", attempt=1, queue="default"))
    world.now_ms -= 10
    [denied] = of(TokenDenied, world.hear(early))
    assert denied.latency_ms == 0, "the clocks differ"


def test_every_input_has_a_handler() -> None:
    assert sorted(one.type for one in HANDLERS) == [
        "alert.raised", "orphan.found", "timer.due", "token.renew", "token.request", "token.revoke",
        "vault.gone", "vault.minted", "vault.renewed", "vault.revoked",
    ]  # fmt: skip
    with pytest.raises(LookupError, match=r"token\.denied"):
        World().say(TokenDenied(problem={"code": "x", "detail": "y"}))
