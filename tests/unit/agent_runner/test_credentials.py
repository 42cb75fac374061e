"""An attempt's grant, token and keys: opened once, kept in memory, gone when Vault says so; and Vault away."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from sluice_agent_runner.domain.conversation import ModelReply, ModelRequest
from sluice_agent_runner.domain.secret import Secret
from sluice_agent_runner.ports import Caller, ModelRefused, NoKey, VaultRefused
from sluice_contracts.messages.agent import AgentGrantRefused, AgentStop
from sluice_contracts.messages.token import Grant
from tests.unit.agent_runner.builders import NOW_MS, call, finish, reply, task, until
from tests.unit.agent_runner.runner_world import Models, World, in_world
from tests.unit.agent_runner.vault_double import AWAY, VaultDouble

OPENED = ["agent.attempt_started", "agent.grant_opened"]
REFUSED = ["agent.attempt_started", "agent.grant_refused", "agent.failed"]


class KeyedModels(Models):
    """A model that wants a key for each answer."""

    def __init__(self) -> None:
        super().__init__()
        self.keys: list[str] = []

    async def complete(self, request: ModelRequest, caller: Caller) -> ModelReply:
        found = await caller.key("openrouter")
        self.keys.append(found.reveal() if isinstance(found, Secret) else found.why)
        if isinstance(found, NoKey):
            raise ModelRefused("model_unauthorized", found.why)
        return await super().complete(request, caller)


def keyed(world: World) -> KeyedModels:
    world.models = KeyedModels()
    object.__setattr__(world.services, "models", world.models)
    return world.models


def failure(world: World, agent: str = "a") -> tuple[str, bool]:
    (failed,) = [one for one in world.log.events if one.type == "agent.failed" and one.data.agent_id == agent]  # type: ignore[attr-defined]
    return failed.data.problem.code, failed.data.retryable  # type: ignore[attr-defined]


def refusal(world: World, agent: str = "a") -> AgentGrantRefused:
    """What was said before the attempt failed, with the same problem."""
    assert world.log.types(agent) == REFUSED
    _, refused, failed = [one.data for one in world.log.events if one.type in REFUSED]
    assert isinstance(refused, AgentGrantRefused)
    assert refused.problem == failed.problem  # type: ignore[attr-defined]
    return refused


@pytest.mark.covers("V4", "V7")
def test_a_grant_is_opened_after_the_announcement_and_before_the_first_turn() -> None:
    async def scenario(world: World) -> None:
        await world.granted("a", attempt=3)
        await world.models.until_asked("a")
        assert world.log.types() == OPENED
        opened = world.log.events[1]
        assert opened.data.accessor == "accessor-of-a"  # type: ignore[attr-defined]
        assert world.vault.asked == ["open_grant default p/a/3"]
        await world.models.says("a", finish())
        await world.log.until("agent.succeeded")

    in_world(scenario, vault=VaultDouble())


@pytest.mark.covers("P3")
def test_a_task_without_a_grant_and_one_that_must_see_no_secrets_never_ask_vault() -> None:
    async def scenario(world: World) -> None:
        models = keyed(world)
        await world.task("a")
        await world.granted("b", task=task(constraints=["no-secrets"]))
        await world.log.until("agent.failed", 2)
        assert world.vault.asked == []
        assert failure(world, "b") == ("model_unauthorized", False)
        assert models.keys[0] == "the attempt has no grant to read one from Vault with"
        assert models.keys[1] == "task t1 has the constraint no-secrets, so it reads none from Vault"
        assert "agent.grant_opened" not in world.log.types()

    in_world(scenario, vault=VaultDouble())


@pytest.mark.covers("V4", "V7", "W10")
@pytest.mark.parametrize(
    ("changes", "code", "retryable"),
    [
        ({"sealed": "vault:v1:forged"}, "grant_refused", False),
        ({"queue": "another"}, "grant_refused", False),
        ({"attempt": 2}, "grant_refused", False),
        ({"vault": None}, "vault_not_configured", False),
    ],
)
def test_a_grant_that_is_not_this_attempt_s_fails_it_before_any_call(
    changes: dict[str, Any], code: str, retryable: bool
) -> None:
    async def scenario(world: World) -> None:
        sealed, token = world.vault.grant(changes.get("queue", "default"), f"p/a/{changes.get('attempt', 1)}")
        if "vault" in changes:
            object.__setattr__(world.services, "vault", None)
        grant = Grant(sealed=changes.get("sealed", sealed), accessor="x", expires_at_ms=NOW_MS + 9_000)
        await world.task("a", grant=grant)
        await world.log.until("agent.failed")
        assert failure(world) == (code, retryable)
        refused = refusal(world)
        assert (refused.problem.code, refused.accessor, refused.runner_id) == (code, "x", "runner-1")
        assert world.models.requests == []
        for secret in (token, sealed, grant.sealed):
            assert secret not in repr(world.log.events)

    in_world(scenario, vault=VaultDouble())


@pytest.mark.covers("V7", "O7")
def test_what_is_told_of_a_refused_grant_is_redacted() -> None:
    async def scenario(world: World) -> None:
        world.vault.failing = VaultRefused("transit/decrypt: not with CANARY")
        await world.granted("a")
        await world.log.until("agent.failed")
        assert "CANARY" not in refusal(world).problem.detail

    in_world(scenario, vault=VaultDouble())


@pytest.mark.covers("V8")
def test_a_vault_that_is_away_is_waited_for_and_others_have_the_place_meanwhile() -> None:
    async def scenario(world: World) -> None:
        world.vault.failing = AWAY
        await world.granted("a")
        await until(lambda: world.vault_state == [str(AWAY)])
        await world.task("b")
        await world.models.says("b", finish())
        await world.log.until("agent.succeeded")
        assert (await world.held())["a"] == (1, "running")
        world.vault.failing = None
        await world.models.says("a", finish())
        await world.log.until("agent.succeeded", 2)
        assert world.vault_state == [str(AWAY), None]
        assert world.log.types("a") == [*OPENED, "agent.turn_finished", "agent.succeeded"]

    in_world(scenario, slots=1, vault=VaultDouble())


@pytest.mark.covers("V7", "V8")
@pytest.mark.parametrize(("life_s", "deadline_s"), [(30, 300), (3_600, 40)])
def test_the_wait_for_vault_ends_with_the_grant_or_the_deadline(life_s: int, deadline_s: int) -> None:
    async def scenario(world: World) -> None:
        world.vault.failing = AWAY
        await world.granted("a", life_s=life_s, deadline_at_ms=NOW_MS + deadline_s * 1_000)
        await world.log.until("agent.failed")
        assert failure(world) == ("vault_unavailable", True)
        assert world.time.now_ms() - NOW_MS == min(life_s, deadline_s) * 1_000
        assert refusal(world).problem.code == "vault_unavailable"
        assert refusal(world).latency_ms == min(life_s, deadline_s) * 1_000
        assert len(world.vault.asked) < 20, "ever less often"
        await world.until_free()

    in_world(scenario, vault=VaultDouble())


@pytest.mark.covers("V8", "D1")
def test_a_stop_ends_an_attempt_that_waits_for_vault() -> None:
    async def scenario(world: World) -> None:
        world.vault.hanging = asyncio.Event()
        await world.granted("a")
        await until(lambda: world.vault.asked)
        await world.runner.on_stop(AgentStop(agent_id="a", attempt=1, reason="enough"))
        await world.until_free()
        assert world.log.types("a") == ["agent.attempt_started"]

    in_world(scenario, vault=VaultDouble())


@pytest.mark.covers("V5", "W10")
def test_an_attempt_whose_token_is_revoked_stops_its_call_at_once() -> None:
    async def scenario(world: World) -> None:
        token = await world.granted("a")
        await world.models.says("a", reply(call("list_files")))
        await world.models.until_asked("a")
        world.time.looks.release()
        await until(lambda: world.vault.asked.count("look_up") == 1)
        assert "a" in world.models.asked, "it lives"
        world.vault.revoke(token)
        world.time.looks.release()
        await world.log.until("agent.failed")
        assert failure(world) == ("credential_revoked", True)
        assert "a" not in world.models.asked, "the call is cut off"
        assert world.log.types("a") == [*OPENED, "agent.turn_finished", "agent.failed"]
        await world.until_free()
        assert (world.workspaces.opened, world.workspaces.closed) == (1, 1)

    in_world(scenario, vault=VaultDouble())


@pytest.mark.covers("V5", "W3")
def test_a_revoked_token_is_noticed_where_a_key_is_read() -> None:
    async def scenario(world: World) -> None:
        keyed(world)
        world.vault.keys["openrouter"] = "key-of-a-canary"
        world.vault.hanging = asyncio.Event()
        token = await world.granted("a")
        await until(lambda: world.vault.asked)
        world.vault.revoke(token)
        world.vault.hanging.set()
        await world.log.until("agent.failed")
        assert failure(world) == ("credential_revoked", True)
        assert world.models.requests == []

    in_world(scenario, vault=VaultDouble())


def test_who_waits_for_a_person_may_lose_the_token_meanwhile_and_one_that_may_not_be_looked_up_is_left() -> None:
    async def scenario(world: World) -> None:
        token = await world.granted("a")
        await world.models.says("a", reply(call("ask_human", "q", question="which?")))
        await world.log.until("agent.input_requested")
        await until(lambda: world.models.requests and (not world.models.asked))
        world.vault.revoke(token)
        world.time.looks.release()
        await until(lambda: world.time.looks.locked())
        assert "look_up" not in world.vault.asked
        await world.granted("b")
        await world.models.until_asked("b")
        world.vault.failing = VaultRefused("lookup-self: permission denied")
        world.time.looks.release()
        world.time.looks.release()
        await until(lambda: "look_up" in world.vault.asked)
        world.vault.failing = None
        await world.models.says("b", finish())
        await world.log.until("agent.succeeded")

    in_world(scenario, vault=VaultDouble())


@pytest.mark.covers("V8")
def test_a_token_that_ends_while_vault_is_away_ends_the_attempt_for_another() -> None:
    async def scenario(world: World) -> None:
        await world.granted("a", life_s=60, deadline_at_ms=NOW_MS + 10**9)
        await world.models.until_asked("a")
        world.vault.failing = AWAY
        world.time.looks.release()
        await until(lambda: "look_up" in world.vault.asked)
        assert "a" in world.models.asked, "what runs goes on until its token ends"
        world.time.time_ms += 60_000 + 2_000_000
        world.time.looks.release()
        await world.log.until("agent.failed")
        assert failure(world) == ("credential_expired", True)

    in_world(scenario, vault=VaultDouble())


@pytest.mark.covers("W3")
def test_a_key_is_read_once_for_an_attempt_and_each_attempt_reads_its_own() -> None:
    async def scenario(world: World) -> None:
        models = keyed(world)
        world.vault.keys["openrouter"] = "key-one-canary"
        await world.granted("a")
        await world.models.says("a", reply(call("list_files")))
        await world.models.says("a", reply(call("list_files")))
        world.vault.keys["openrouter"] = "key-two-canary"
        await world.models.says("a", finish())
        await world.granted("b")
        await world.models.says("b", finish())
        await world.log.until("agent.succeeded", 2)
        assert models.keys == ["key-one-canary"] * 3 + ["key-two-canary"]
        assert world.vault.asked.count("read_key openrouter") == 2

    in_world(scenario, vault=VaultDouble())


@pytest.mark.covers("W3")
def test_a_model_that_asks_for_no_key_has_none_read_when_it_refuses() -> None:
    async def scenario(world: World) -> None:
        await world.granted("a")
        await world.models.until_asked("a")
        caller = world.models.callers["a"]
        assert not await caller.key_changed("scripted:x")
        assert isinstance(await caller.key("openrouter"), NoKey)
        world.vault.keys["openrouter"] = "key-one-canary"
        assert await caller.key_changed("openrouter")
        assert not await caller.key_changed("openrouter")
        assert "read_key scripted:x" not in world.vault.asked

    in_world(scenario, vault=VaultDouble())


@pytest.mark.covers("V8", "W3")
def test_a_key_is_waited_for_and_a_wrong_one_fails_with_its_path() -> None:
    async def scenario(world: World) -> None:
        keyed(world)
        world.vault.keys["openrouter"] = ""
        await world.granted("a")
        await world.log.until("agent.failed")
        assert failure(world) == ("model_unauthorized", False)
        world.vault.keys["openrouter"] = "key-one-canary"
        world.vault.failing, world.vault.failing_at = AWAY, "read_key"
        await world.granted("b")
        await until(lambda: world.vault_state)
        world.vault.failing = None
        await world.models.says("b", finish())
        await world.log.until("agent.succeeded")

    in_world(scenario, vault=VaultDouble())


@pytest.mark.covers("W3", "V2")
def test_a_token_whose_entity_is_gone_ends_its_attempt_for_another() -> None:
    """It lives, and all is refused: whose key can't be read for that has done nothing wrong."""

    async def scenario(world: World) -> None:
        keyed(world)
        world.vault.keys["openrouter"] = "key-one-canary"
        world.vault.bare.add(await world.granted("a"))
        await world.log.until("agent.failed")
        assert failure(world) == ("credential_revoked", True)
        await world.granted("b")
        await world.models.says("b", finish())
        await world.log.until("agent.succeeded")

    in_world(scenario, vault=VaultDouble())


@pytest.mark.covers("V4")
def test_what_a_model_echoes_of_its_token_and_its_key_is_redacted_everywhere() -> None:
    async def scenario(world: World) -> None:
        keyed(world)
        key = world.vault.keys["openrouter"] = 'ca"na/ry of no form known'.replace(" ", "+")
        token = await world.granted("a")
        said = f"my token is {token}, my key {key}"
        await world.models.says("a", reply(call("write_artifact", name="a.md", kind="k", content=said), text=said))
        await world.models.says("a", reply(call(said), call("read_file", path=f"../{key}"), text=said))
        await world.models.says("a", finish(summary=said, result={said: said}))
        await world.log.until("agent.succeeded")
        await world.until_free()
        kept = repr(world.log.events) + repr(world.log.signals) + repr(world.store.bodies)
        for planted in (token, key, key.replace('"', '\\"'), key.replace('"', '\\\\"')):
            assert planted not in kept
        assert "[redacted:secret]" in kept

    in_world(scenario, vault=VaultDouble(), redact=lambda text: text)
