"""The broker on real Kafka and real Vault: what is granted works, what is revoked does not."""

from __future__ import annotations

import base64
import json
import uuid

import pytest
from pydantic import SecretStr

from sluice_contracts.messages.alert import AlertRaised
from sluice_contracts.messages.token import TokenDenied, TokenExpired, TokenGranted, TokenRevoke
from sluice_vault_broker.ports import TokenUnknown, VaultRefused
from tests.integration.vault_broker.service import World, wait_for


def opened(world: World, grant: TokenGranted, pipeline_id: str) -> SecretStr:
    """The token, as a runner of the queue opens it."""
    assert grant.grant is not None
    context = base64.b64encode(f"{pipeline_id}/{grant.agent_id}/{grant.attempt}".encode()).decode()
    body = {"ciphertext": grant.grant.sealed, "context": context}
    found = world.vault.admin.write("transit/decrypt/sluice-queue-q", body)
    return SecretStr(base64.b64decode(found["data"]["plaintext"]).decode())


def works(world: World, token: SecretStr) -> bool:
    world.vault.admin.write("secret/data/api-keys/openrouter", {"data": {"key": "k"}})
    connection = world.vault.connect(world.prefix)._connection
    try:
        connection.ask_with(token, "GET", "secret/data/api-keys/openrouter")
    except (VaultRefused, TokenUnknown):
        return False
    return True


@pytest.mark.covers("V1", "V3", "V4", "V7")
def test_from_a_request_to_the_pipeline_s_end(world: World) -> None:
    process = world.start()
    pipeline, first, second = str(uuid.uuid4()), "agent-1", "agent-2"
    asked = world.request(pipeline, first)
    world.request(pipeline, second)
    grants = [world.granted(pipeline, first), world.granted(pipeline, second)]
    root = world.granted(pipeline, None, None)
    assert [grant.parent_accessor for grant in grants] == [root.accessor] * 2
    tokens = [opened(world, grant, pipeline) for grant in grants]
    assert all(works(world, token) for token in tokens)
    event = next(one for one in world.events(pipeline) if one.data == grants[0])
    assert (event.causation_id, event.tenant, event.source) == (asked, "acme", "vault-broker")
    assert {root.accessor, *(grant.accessor for grant in grants)} < set(world.live())

    world.request(pipeline, first, attempt=2)
    again = world.granted(pipeline, first, 2)
    revoked = world.revoked(pipeline, first)
    assert (revoked.attempt, revoked.reason, revoked.accessors) == (1, "attempt_superseded", (grants[0].accessor,))
    assert not works(world, tokens[0])
    assert works(world, tokens[1])

    world.say(pipeline, TokenRevoke(reason="pipeline_ended"))
    end = world.revoked(pipeline, None)
    assert set(end.accessors) == {root.accessor, grants[1].accessor, again.accessor}
    assert not works(world, tokens[1])
    assert not world.live()
    wait_for("the entity's end", lambda: pipeline not in entities(world))
    sequences = [one.sequence for one in world.events(pipeline)]
    assert sequences == sorted(set(sequences))
    assert process.stop() == 0
    secrets = [token.get_secret_value().encode() for token in tokens]
    world.log.catch_up()
    records = [record for found in world.log.records.values() for record in found]
    texts = [process.log_file.read_bytes(), *(record.value or b"" for record in records)]
    assert not [text for text in texts for secret in secrets if secret in text]
    lines = [json.loads(line) for line in process.log_file.read_text().splitlines()]
    assert not [line for line in lines if line["level"] in ("ERROR", "CRITICAL")]


def entities(world: World) -> list[str]:
    return world.vault.connect(world.prefix).entities()


@pytest.mark.covers("V1", "V2", "V6")
def test_entities_that_are_left_behind_go_and_one_that_is_lost_is_replaced(world: World) -> None:
    """Of pipelines whose ids differ in case only."""
    world.start()
    stem = uuid.uuid4().hex
    waits, lives = f"p-{stem}", f"P-{stem}"
    for pipeline in (waits, lives):
        world.request(pipeline, "agent-1")
    grants = {pipeline: world.granted(pipeline, "agent-1") for pipeline in (waits, lives)}
    assert {waits, lives} <= set(entities(world))
    world.say(waits, TokenRevoke(reason="waiting"))
    wait_for("the entity's end", lambda: waits not in entities(world))
    token = opened(world, grants[lives], lives)
    assert works(world, token)
    world.vault.connect(world.prefix).delete_entity(lives)
    assert not works(world, token)
    wait_for("that it is told", lambda: world.all(TokenExpired, lives))
    for pipeline in (waits, lives):
        world.request(pipeline, "agent-1", attempt=2)
        assert works(world, opened(world, world.granted(pipeline, "agent-1", 2), pipeline))
    for pipeline in (waits, lives):
        world.say(pipeline, TokenRevoke(reason="pipeline_ended"))
    wait_for("the entities' end", lambda: {waits, lives}.isdisjoint(entities(world)))
    wait_for("the tokens' end", lambda: not world.live())


@pytest.mark.covers("V3")
def test_an_agent_below_an_agent_ends_with_it(world: World) -> None:
    world.start()
    pipeline = str(uuid.uuid4())
    world.request(pipeline, "lead", may_have_agents=True)
    lead = world.granted(pipeline, "lead")
    world.request(pipeline, "helper", parent_agent_id="lead")
    world.request(pipeline, "other")
    helper, other = world.granted(pipeline, "helper"), world.granted(pipeline, "other")
    assert helper.parent_accessor == lead.accessor
    assert set(lead.policies) == {"pipeline-agent", "sluice-parent"}
    assert helper.policies == other.policies == ("pipeline-agent",)
    world.request(pipeline, "nobodys", parent_agent_id="other")
    [denied] = wait_for("the denial", lambda: world.all(TokenDenied, pipeline))
    assert (denied.agent_id, denied.problem.code) == ("nobodys", "not_a_parent")
    tokens = {one.agent_id: opened(world, one, pipeline) for one in (lead, helper, other)}
    world.say(pipeline, TokenRevoke(agent_id="lead", attempt=1, reason="agent_ended"))
    revoked = world.revoked(pipeline, "lead")
    assert set(revoked.accessors) == {lead.accessor, helper.accessor}
    assert {agent: works(world, token) for agent, token in tokens.items()} == {
        "lead": False, "helper": False, "other": True,
    }  # fmt: skip


@pytest.mark.covers("V1", "V5")
def test_an_alert_ends_all_and_nothing_is_granted_any_more(world: World) -> None:
    world.start()
    pipeline = str(uuid.uuid4())
    world.request(pipeline, "agent-1")
    token = opened(world, world.granted(pipeline, "agent-1"), pipeline)
    alert = AlertRaised(
        condition="policy_violation", action="revoke_pipeline", observed=1, limit=0, window_ms=60_000,
        breached_at_ms=1, detail="it read another's secret",
    )  # fmt: skip
    raised = world.say(pipeline, alert, source="monitor")
    revoked = world.revoked(pipeline, None)
    assert (revoked.reason, revoked.alert_id) == ("policy_violation", raised)
    assert not works(world, token)
    world.request(pipeline, "agent-1", attempt=2)
    denied = wait_for("the denial", lambda: world.all(TokenDenied, pipeline))
    assert denied[0].problem.code == "credentials_revoked"
    assert not world.live()


@pytest.mark.covers("V1")
def test_tokens_are_renewed_before_they_end(make_world: object) -> None:
    world: World = make_world(token_ttl_s=6, renewal_interval_s=2)  # type: ignore[operator]
    world.start()
    pipeline = str(uuid.uuid4())
    world.request(pipeline, "agent-1")
    grant = world.granted(pipeline, "agent-1")
    token = opened(world, grant, pipeline)

    def renewed() -> bool:
        kinds = [(one.type, getattr(one.data, "agent_id", None)) for one in world.events(pipeline)]
        return kinds.count(("token.renewed", None)) >= 4 and kinds.count(("token.renewed", "agent-1")) >= 4

    wait_for("four renewals of each", renewed)
    assert works(world, token)
    assert not [one for one in world.events(pipeline) if one.type == "token.expired"]


@pytest.mark.covers("V4", "V6")
def test_a_broker_that_is_stopped_leaves_no_login_and_the_pipelines_their_tokens(world: World) -> None:
    def logins() -> set[str]:
        admin, found = world.vault.admin, set()
        for accessor in admin.list("auth/token/accessors"):
            data = admin.write("auth/token/lookup-accessor", {"accessor": accessor})["data"]
            if "vault-broker" in data["policies"]:
                found.add(accessor)
        return found

    before = logins()
    process = world.start()
    pipeline = str(uuid.uuid4())
    world.request(pipeline, "agent-1")
    token = opened(world, world.granted(pipeline, "agent-1"), pipeline)
    assert logins() > before
    assert process.stop() == 0
    assert logins() <= before
    assert works(world, token)
