"""The broker killed at any moment, Vault killed, sealed, started again: nothing is lost and nothing left behind."""

from __future__ import annotations

import json
import random
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable

import pytest

from sluice_contracts.messages.token import (
    TokenDenied,
    TokenExpired,
    TokenGranted,
    TokenRequest,
    TokenRevoke,
    TokenRevoked,
)
from tests.integration.vault_broker.service import World, wait_for

KILLS = 20
AWAY_S = 2.0
ROUNDS = 5
"""In which what a reconciler does not know comes to be settled, is looked up, and would be told."""


def living(world: World) -> set[str]:
    """Accessors of the tokens that live, as the log says."""
    found: set[str] = set()
    for event in world.events():
        match event.data:
            case TokenGranted(accessor=accessor):
                found.add(accessor)
            case TokenExpired(accessor=accessor):
                found.discard(accessor)
            case TokenRevoked(accessors=accessors):
                found -= set(accessors)
    return found


def agreed(world: World) -> bool:
    """Whether Vault has what the log says: the logins above the pipelines' own tokens stand in no event."""
    return set(world.live(logins=False)) == living(world)


def answered(world: World, requests: dict[str, TokenRequest]) -> bool:
    causes = {event.causation_id for event in world.events() if isinstance(event.data, TokenGranted | TokenDenied)}
    return causes >= requests.keys()


@pytest.mark.timeout(600)
@pytest.mark.covers("V6", "V8", "V1")
def test_the_broker_killed_at_random_moments(world: World) -> None:
    chance = random.Random("the broker killed")
    pipelines = [str(uuid.UUID(int=chance.getrandbits(128))) for _ in range(4)]
    attempts: dict[tuple[str, str], int] = defaultdict(int)
    requests: dict[str, TokenRequest] = {}
    process = world.start()
    for _ in range(KILLS):
        said, until = len(world.events()), None
        while until is None or time.monotonic() < until:
            if until is None and len(world.events()) > said:  # it works; from now on it may be killed
                until = time.monotonic() + chance.uniform(0, 0.5)
            pipeline, agent = chance.choice(pipelines), f"agent-{chance.randrange(3)}"
            if chance.random() < 0.8:
                attempts[pipeline, agent] += 1
                message = TokenRequest(agent_id=agent, attempt=attempts[pipeline, agent], queue="q")
                requests[world.say(pipeline, message)] = message
            elif attempts[pipeline, agent]:
                number = attempts[pipeline, agent]
                world.say(pipeline, TokenRevoke(agent_id=agent, attempt=number, reason="agent_ended"))
            time.sleep(chance.uniform(0, 0.1))
        process.kill()
        process = world.start()
    world.say(pipelines[0], TokenRevoke(reason="pipeline_ended"))
    wait_for("an answer to each request", lambda: answered(world, requests), 90)
    wait_for("Vault to hold what the log says", lambda: agreed(world))
    assert pipelines[0] not in world.live().values()
    by_id = defaultdict(set)
    for event in world.events():
        by_id[event.id].add(repr(event))
    assert all(len(contents) == 1 for contents in by_id.values())


def kill(world: World) -> None:
    world.vault.server.kill()


def restart(world: World) -> None:
    world.vault.server.restart()


AWAY: dict[str, tuple[Callable[[World], None], Callable[[World], None]]] = {
    "killed": (kill, restart),
    "sealed": (lambda world: world.vault.server.seal(), lambda world: world.vault.server.unseal()),
}


@pytest.mark.covers("V8")
@pytest.mark.parametrize("how", AWAY)
def test_without_vault_nothing_is_granted_and_afterwards_everything(world: World, how: str) -> None:
    leave, come_back = AWAY[how]
    world.start()
    pipeline, other = str(uuid.uuid4()), str(uuid.uuid4())
    world.request(pipeline, "agent-1")
    first = world.granted(pipeline, "agent-1")
    leave(world)
    try:
        world.request(pipeline, "agent-2")
        world.request(other, "agent-1")
        world.say(pipeline, TokenRevoke(agent_id="agent-1", attempt=1, reason="agent_ended"))
        time.sleep(AWAY_S)
        assert [one.agent_id for one in world.all(TokenGranted)] == [None, "agent-1"]
        assert not world.all(TokenRevoked)
    finally:
        come_back(world)
    world.granted(pipeline, "agent-2")
    world.granted(other, "agent-1")
    revoked = world.revoked(pipeline, "agent-1")
    assert revoked.accessors == (first.accessor,)
    assert revoked.latency_ms >= AWAY_S * 1_000 * 0.9
    wait_for("Vault to hold what the log says", lambda: agreed(world))


@pytest.mark.covers("V8")
def test_tokens_that_end_while_vault_is_away_are_told_and_replaced(make_world: Callable[..., World]) -> None:
    world = make_world(token_ttl_s=4, renewal_interval_s=2)
    world.start()
    pipeline = str(uuid.uuid4())
    world.request(pipeline, "agent-1")
    world.granted(pipeline, "agent-1")
    kill(world)
    try:
        wait_for("the end by the clock", lambda: len(world.all(TokenExpired, pipeline)) == 2)
        world.request(pipeline, "agent-1", 2)
    finally:
        restart(world)
    world.granted(pipeline, "agent-1", 2)
    wait_for("Vault to hold what the log says", lambda: agreed(world))


def wait_for_rounds(world: World, brokers: int) -> None:
    """Until so many brokers have each looked through all tokens some times from now on, as Vault's audit file says."""
    file = world.vault.server.audit_file
    begin = file.stat().st_size

    def looked() -> bool:
        lists: Counter[str] = Counter()
        with file.open("rb") as opened:
            opened.seek(begin)
            for entry in (json.loads(line) for line in opened if line.endswith(b"\n")):
                listed = entry["request"]["path"].rstrip("/") == "auth/token/accessors"
                if entry["type"] == "response" and listed and "vault-broker" in entry["auth"]["policies"]:
                    lists[entry["auth"]["accessor"]] += 1
        return sum(count >= ROUNDS for count in lists.values()) >= brokers

    wait_for(f"{ROUNDS} rounds of {brokers} brokers", looked)


@pytest.mark.covers("V6")
def test_installations_on_one_vault_leave_each_other_alone(make_world: Callable[..., World]) -> None:
    worlds = [make_world(), make_world()]
    pipelines = [str(uuid.uuid4()) for _ in worlds]
    for world, pipeline in zip(worlds, pipelines, strict=True):
        world.start()
        world.request(pipeline, "agent-1")
    for world, pipeline in zip(worlds, pipelines, strict=True):
        world.granted(pipeline, "agent-1")
    wait_for_rounds(worlds[0], brokers=2)
    assert all(not world.all(TokenRevoked) for world in worlds)
    worlds[0].say(pipelines[0], TokenRevoke(reason="pipeline_ended"))
    worlds[0].revoked(pipelines[0], None)
    assert not worlds[0].live()
    worlds[1].say(pipelines[1], TokenRevoke(reason="waiting"))  # then it has no token, and may have its entity
    worlds[1].revoked(pipelines[1], None)
    worlds[1].request(pipelines[1], "agent-1", 2)
    worlds[1].granted(pipelines[1], "agent-1", 2)
    wait_for_rounds(worlds[1], brokers=2)
    assert not worlds[1].all(TokenExpired)
    assert set(worlds[1].live()) >= living(worlds[1]) != set()


@pytest.mark.covers("V6")
def test_a_token_that_nobody_recorded_ends(world: World) -> None:
    """As a broker leaves it that is killed between mint and record."""
    from sluice_vault_broker.ports import Label

    world.start()
    pipeline = str(uuid.uuid4())
    world.request(pipeline, "agent-1")
    world.granted(pipeline, "agent-1")
    vault = world.vault.connect(world.prefix)
    login = vault.log_in(Label("acme", pipeline, 1))
    stray = vault.mint_root(login.token, Label("acme", pipeline, 1), ttl_s=600, max_ttl_s=600)
    unknown = vault.log_in(Label("acme", str(uuid.uuid4()), 1))
    wait_for("both to end", lambda: {login.accessor, stray.accessor, unknown.accessor}.isdisjoint(world.live()))
    reasons = {one.reason for one in world.all(TokenRevoked)}
    assert reasons == {"orphaned"}
    wait_for("Vault to hold what the log says", lambda: agreed(world))
