"""Who may do what in Vault, and what becomes of tokens: asked of a real one."""

from __future__ import annotations

import base64
import fnmatch
import itertools
import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from sluice_localstack import vault_table
from sluice_runtime.vault import names
from tests.integration.localstack.vault import QUEUES, Caller, RunningVault, login
from tests.integration.localstack.vault_matrix import (
    AGENT,
    ALLOWED,
    BROKER,
    CAPABILITIES,
    LOGIN,
    METHODS,
    NOBODY,
    OPEN_TO_ALL,
    P1,
    P2,
    PARENT,
    PATHS,
    PIPELINE,
    POLICIES,
    REFUSED,
    REVIEWER,
    RUNNER,
    WHO,
)

KEY = base64.b64encode(b"token").decode()


@dataclass(frozen=True)
class Callers:
    """Everybody, logged in."""

    tokens: dict[str, str]
    url: str

    def __getitem__(self, who: str) -> Caller:
        return Caller(self.url, self.tokens[who])


@pytest.fixture(scope="module")
def callers(vault: RunningVault) -> Iterator[Callers]:
    at = vault.orchestrator_login(P1)
    pipeline = vault.pipeline_token(P1, at)
    lead = vault.agent_token(pipeline, P1, may_have_children=True)
    agent = vault.agent_token(lead, P1)
    for path in ("api-keys/openrouter", "services/search", f"agents/{P1}/notes", f"agents/{P2}/notes", "other"):
        assert vault.root.write(f"secret/data/{path}", data={"value": path}).status == 200
    tokens = {one: vault.service(one).token for one in (BROKER, RUNNER)}
    for who in (REVIEWER, NOBODY):
        made_so = vault.root.write("auth/token/create", policies=POLICIES[who], no_default_policy=True)
        tokens[who] = made_so.auth["client_token"]
    made = {LOGIN: at, PIPELINE: pipeline, PARENT: lead, AGENT: agent}
    yield Callers(tokens | {who: auth["client_token"] for who, auth in made.items()}, vault.url)
    vault.root.write("auth/token/revoke-accessor", accessor=at["accessor"])


@pytest.mark.covers("V2", "D2")
def test_the_table_has_everybody_s_policies_and_something_for_each_path_in_them(
    vault: RunningVault, callers: Callers
) -> None:
    seen = set()
    for who in WHO:
        found = vault.root.write("auth/token/lookup", token=callers.tokens[who]).data["policies"]
        assert found == sorted(POLICIES[who])
        for policy in set(found) - {"nobody"}:
            seen.add(policy)
            text = vault.root.read(f"sys/policies/acl/{policy}").data["policy"]
            for path, capabilities in re.findall(
                r'^path "([^"]+)" {[^}]*?capabilities += \[([^]]*)', text, re.MULTILINE
            ):
                path = re.sub("{{.*}}", P1, path)
                if '"deny"' not in capabilities:
                    known = [one for one in ALLOWED[who] if fnmatch.fnmatchcase(one, path)]
                    assert known, f"{policy}: {path} is in no row"
    assert seen == set(vault_table(QUEUES).policies)


@pytest.mark.covers("V2", "D2")
@pytest.mark.parametrize("who", WHO)
def test_nobody_may_do_what_the_table_does_not_say(vault: RunningVault, callers: Callers, who: str) -> None:
    answer = vault.root.write("sys/capabilities", token=callers.tokens[who], paths=PATHS).data
    found = {path: set(answer[path]) & set(CAPABILITIES) for path in PATHS}
    assert {path: rights for path, rights in found.items() if rights} == ALLOWED[who]


@pytest.mark.covers("V2", "D2")
@pytest.mark.parametrize(("who", "method"), list(itertools.product(WHO, METHODS)))
def test_what_is_tried_in_vain_is_refused(callers: Callers, who: str, method: str) -> None:
    """Really trying, on every path on which the caller has no right to this kind of request."""
    wanted = {"GET": {"read"}, "LIST": {"list"}, "POST": {"create", "update"}, "DELETE": {"delete"}}[method]
    forbidden = [path for path in PATHS if not ALLOWED[who].get(path, set()) & wanted]
    answers = {path: callers[who].ask(method, path, {} if method == "POST" else None).status for path in forbidden}
    assert {
        path: status
        for path, status in answers.items()
        if status not in REFUSED | ({200, 204, 400, 404} if path in OPEN_TO_ALL else set())
    } == {}


@pytest.mark.covers("V2")
def test_what_the_table_allows_works(vault: RunningVault, callers: Callers) -> None:
    for who in (PIPELINE, PARENT, AGENT):
        assert callers[who].read("secret/data/api-keys/openrouter").data["data"] == {"value": "api-keys/openrouter"}
        assert callers[who].write(f"secret/data/agents/{P1}/{who}", data={"by": who}).status == 200
        assert callers[who].read(f"secret/data/agents/{P1}/{who}").data["data"] == {"by": who}


@pytest.mark.covers("V2")
@pytest.mark.parametrize("order", [(P1, P2), (P2, P1)], ids=["one-two", "two-one"])
def test_two_pipelines_never_see_each_other_s_secrets(vault: RunningVault, order: tuple[str, str]) -> None:
    """The trap of V2: all logins of one AppRole role share an alias, and the last one's metadata stands in it."""
    pipelines = [str(uuid.uuid5(uuid.UUID(one), "pair")) for one in order]
    tokens = {one: vault.pipeline_token(one) for one in pipelines}
    again = vault.pipeline_token(pipelines[0])  # the first logs in once more, after the second
    callers = [(one, tokens[one]) for one in pipelines] + [(pipelines[0], again)]
    callers += [(one, vault.agent_token(tokens[one], one)) for one in reversed(pipelines)]
    for own, auth in callers:
        caller = vault.renewed(auth)
        other = next(one for one in pipelines if one != own)
        assert caller.write(f"secret/data/agents/{own}/x", data={"of": own}).status == 200
        assert caller.read(f"secret/data/agents/{own}/x").data["data"] == {"of": own}
        assert caller.read(f"secret/data/agents/{other}/x").status == 403
        assert caller.write(f"secret/data/agents/{other}/x", data={"of": own}).status == 403
    entities: dict[str, set[str]] = {one: set() for one in pipelines}
    for own, auth in callers:
        found = vault.root.write("auth/token/lookup-accessor", accessor=auth["accessor"]).data
        entities[own].add(found["entity_id"])
    assert [len(one) for one in entities.values()] == [1, 1]
    assert entities[pipelines[0]] != entities[pipelines[1]]


@pytest.mark.covers("V1")
def test_a_pipeline_s_token_is_renewable_up_to_an_explicit_maximum(vault: RunningVault) -> None:
    pipeline = str(uuid.uuid4())
    at = vault.orchestrator_login(pipeline)
    root = vault.pipeline_token(pipeline, at)
    broker = vault.service(names.BROKER)
    for auth in (at, root):
        found = broker.write("auth/token/lookup-accessor", accessor=auth["accessor"]).data
        assert found["meta"]["pipeline_id"] == pipeline
        assert (found["type"], found["renewable"], found["creation_ttl"]) == ("service", True, 2 * 3_600)
        # The pipeline's own has its maximum from the token role at each renewal, and ends with the login in any case.
        assert found["explicit_max_ttl"] == (24 * 3_600 if auth is at else 0)
        assert found["id"] == "", "who looks by an accessor does not get the token"
        renewed = broker.write("auth/token/renew-accessor", accessor=auth["accessor"], increment="7200s").auth
        assert renewed["lease_duration"] == 7_200
        assert (
            broker.write("auth/token/renew-accessor", accessor=auth["accessor"], increment="90h").auth["lease_duration"]
            <= 24 * 3_600
        )
    assert root["token_policies"] == ["pipeline-agent", "sluice-parent"]
    assert broker.write("auth/token/revoke-accessor", accessor=at["accessor"]).status == 204


@pytest.mark.covers("V3")
def test_revoking_a_node_ends_its_subtree_and_nothing_else(vault: RunningVault) -> None:
    pipeline, broker = str(uuid.uuid4()), vault.service(names.BROKER)
    at = vault.orchestrator_login(pipeline)
    root = vault.pipeline_token(pipeline, at)
    lead, sibling = (vault.agent_token(root, pipeline, may_have_children=True) for _ in range(2))
    child = vault.agent_token(lead, pipeline)

    def alive(auth: dict[str, str]) -> bool:
        return broker.write("auth/token/lookup-accessor", accessor=auth["accessor"]).status == 200

    assert broker.write("auth/token/revoke-accessor", accessor=lead["accessor"]).status == 204
    assert [alive(one) for one in (at, root, lead, child, sibling)] == [True, True, False, False, True]
    assert vault.renewed(child).read("secret/data/api-keys/openrouter").status == 403
    assert broker.write("auth/token/revoke-accessor", accessor=at["accessor"]).status == 204
    assert not any(alive(one) for one in (at, root, sibling))


@pytest.mark.covers("V3")
def test_a_child_never_has_more_than_its_parent(vault: RunningVault) -> None:
    pipeline, other = str(uuid.uuid4()), str(uuid.uuid4())
    root, stranger = vault.pipeline_token(pipeline), vault.orchestrator_login(other)
    agent = vault.agent_token(root, pipeline, may_have_children=True)
    create = "auth/token/create"
    for parent in (root, agent):
        caller = vault.renewed(parent)
        own = [names.PIPELINE_POLICY]
        for policies in (["sluice-queue-default"], ["vault-broker"], ["root"], ["sluice-orchestrator"]):
            assert caller.write(create, policies=policies, no_default_policy=True).status == 400, policies
        for more in ({"no_parent": True}, {"period": "100h"}, {"id": "x"}, {"type": "batch"}, {"entity_alias": "x"}):
            assert caller.write(create, policies=own, no_default_policy=True, **more).status == 403, more
        assert caller.write(create).auth["token_policies"] == sorted([*own, "sluice-parent"])
    assert vault.renewed(vault.agent_token(agent, pipeline)).write(create).status == 403, "it may have no agents"
    at = vault.renewed(stranger)
    path = f"{create}/{names.PIPELINE_TOKEN_ROLE}"
    for policies in (["vault-broker"], ["root"], ["default"], ["sluice-orchestrator"], ["sluice-queue-default"]):
        assert at.write(path, policies=policies).status == 400, policies


@pytest.mark.covers("V1", "V6")
def test_a_login_that_was_never_recorded_is_found_by_its_metadata(vault: RunningVault) -> None:
    """A broker that is killed between the login and the record: what it has made is there to be ended."""
    pipeline, broker = str(uuid.uuid4()), vault.service(names.BROKER)
    vault.pipeline_token(pipeline)
    found = []
    for accessor in broker.ask("LIST", "auth/token/accessors").data["keys"]:
        answer = broker.write("auth/token/lookup-accessor", accessor=accessor)
        if answer.status == 200 and (answer.data["meta"] or {}).get("pipeline_id") == pipeline:
            found.append((answer.data["path"], answer.data["policies"], accessor))
    assert sorted((path, len(policies)) for path, policies, _ in found) == [
        ("auth/approle/login", 1), (f"auth/token/create/{names.PIPELINE_TOKEN_ROLE}", 2)
    ]  # fmt: skip
    top = next(accessor for path, _, accessor in found if path == "auth/approle/login")
    assert broker.write("auth/token/revoke-accessor", accessor=top).status == 204
    statuses = [broker.write("auth/token/lookup-accessor", accessor=one[2]).status for one in found]
    assert set(statuses) == {400}, "both are gone"


@pytest.mark.covers("V1")
def test_a_secret_id_of_a_pipeline_comes_wrapped_and_is_good_once(vault: RunningVault) -> None:
    broker, role = vault.service(names.BROKER), f"auth/approle/role/{names.ORCHESTRATOR}"
    assert broker.write(f"{role}/secret-id").status == 403, "not without a wrapping"
    assert broker.ask("POST", f"{role}/secret-id", {}, wrap_ttl="1h").status == 403, "not with a long one"
    wrapped = broker.ask("POST", f"{role}/secret-id", {}, wrap_ttl="60s").body["wrap_info"]["token"]
    unwrapped = Caller(vault.url, wrapped).write("sys/wrapping/unwrap").data
    assert unwrapped["secret_id_num_uses"] == 1
    assert unwrapped["secret_id_ttl"] == 60
    assert Caller(vault.url, wrapped).write("sys/wrapping/unwrap").status == 400, "whoever comes second notices"
    role_id = broker.read(f"{role}/role-id").data["role_id"]
    assert login(vault.url, role_id, unwrapped["secret_id"]).status == 200
    assert login(vault.url, role_id, unwrapped["secret_id"]).status == 400


@pytest.mark.covers("V4")
def test_a_grant_opens_for_the_queue_s_runners_and_its_agent_only(vault: RunningVault) -> None:
    broker, runner = vault.service(names.BROKER), vault.service(names.RUNNER)

    def context(pipeline: str, agent: str) -> str:
        return base64.b64encode(names.grant_context(pipeline, agent, 1).encode()).decode()

    key = names.queue_name("default")
    sealed = broker.write(f"transit/encrypt/{key}", plaintext=KEY, context=context(P1, "a")).data["ciphertext"]
    opened = runner.write(f"transit/decrypt/{key}", ciphertext=sealed, context=context(P1, "a"))
    assert opened.data["plaintext"] == KEY
    for pipeline, agent in ((P1, "b"), (P2, "a")):
        answer = runner.write(f"transit/decrypt/{key}", ciphertext=sealed, context=context(pipeline, agent))
        assert answer.status == 400, "it is bound to pipeline and agent"
    review = names.queue_name("review")
    assert runner.write(f"transit/decrypt/{review}", ciphertext=sealed, context=context(P1, "a")).status == 400
    assert broker.write(f"transit/decrypt/{key}", ciphertext=sealed, context=context(P1, "a")).status == 403
    unknown = broker.write("transit/encrypt/sluice-queue-none", plaintext=KEY, context=context(P1, "a"))
    assert unknown.status in (400, 403), "no key is made for a queue that has none"
    assert vault.root.read("transit/keys/sluice-queue-none").status == 404


@pytest.mark.covers("V4")
def test_a_runner_of_one_queue_opens_no_grant_of_another(vault: RunningVault) -> None:
    own = vault.root.write("auth/token/create", policies=["agent-runner", names.queue_name("review")]).auth
    caller = vault.renewed(own)
    context = base64.b64encode(names.grant_context(P1, "a", 1).encode()).decode()
    for queue, status in (("default", 403), ("review", 200)):
        sealed = vault.service(names.BROKER).write(
            f"transit/encrypt/{names.queue_name(queue)}", plaintext=KEY, context=context
        ).data["ciphertext"]  # fmt: skip
        path = f"transit/decrypt/{names.queue_name(queue)}"
        assert caller.write(path, ciphertext=sealed, context=context).status == status


@pytest.mark.covers("V2", "V6")
def test_the_broker_makes_no_identity_and_deletes_none_that_has_a_name(vault: RunningVault, callers: Callers) -> None:
    """Whoever could write an entity or an alias could give a pipeline's token the policies of somebody else."""
    broker, accessor = callers[BROKER], vault.root.read("sys/auth").data["token/"]["accessor"]
    person = vault.root.write("identity/entity", name="somebody", policies=["vault-broker"]).data["id"]
    pipeline = str(uuid.uuid4())
    made = vault.pipeline_token(pipeline)
    for path, body in (
        ("identity/entity", {"name": "entity_0", "policies": ["vault-broker"]}),
        ("identity/entity/name/entity_0", {"policies": ["vault-broker"]}),
        (f"identity/entity/id/{person}", {"disabled": True}),
        ("identity/entity-alias", {"name": pipeline, "canonical_id": person, "mount_accessor": accessor}),
        ("identity/entity/merge", {"from_entity_ids": [person], "to_entity_id": made["entity_id"]}),
        ("identity/lookup/entity", {"name": "somebody"}),
        ("identity/lookup/entity", {"id": person}),
        ("identity/lookup/entity", {"alias_name": pipeline, "alias_mount_accessor": "auth_approle_0"}),
    ):
        assert broker.write(path, **body).status == 403, (path, body)
    for path in (f"identity/entity/id/{person}", "identity/entity/name/somebody"):
        assert broker.ask("DELETE", path).status == 403
    assert vault.root.read(f"identity/entity/id/{person}").data["policies"] == ["vault-broker"]
    found = broker.write("identity/lookup/entity", alias_name=pipeline, alias_mount_accessor=accessor).data
    assert (found["id"], found["policies"]) == (made["entity_id"], [])
    assert broker.ask("DELETE", f"identity/entity/name/{found['name']}").status == 204
    assert vault.renewed(made).read("secret/data/api-keys/openrouter").status == 403
    assert vault.root.ask("DELETE", f"identity/entity/id/{person}").status == 204


@pytest.mark.covers("V2")
def test_whoever_has_a_pipeline_s_login_makes_no_token_with_other_rights(vault: RunningVault) -> None:
    """The login may name any pipeline, and is forgotten at once; it reaches nobody's policies but pipelines'."""
    at = vault.renewed(vault.orchestrator_login(P1))
    path = f"auth/token/create/{names.PIPELINE_TOKEN_ROLE}"
    without = at.write(path, policies=[names.PIPELINE_POLICY]).auth
    tried = [f"secret/data/agents/{one}/notes" for one in (P1, "", names.ORCHESTRATOR, "+")]
    assert [vault.renewed(without).read(one).status for one in tried] == [403] * 4, "no alias at token/, no path"
    assert at.write("auth/token/create", policies=["sluice-orchestrator"]).status == 403
    for more in (
        {"no_parent": True},
        {"period": "1000h"},
        {"type": "batch"},
        {"explicit_max_ttl": "1000h"},
        {"id": "x"},
    ):
        answer = at.write(path, policies=[names.PIPELINE_POLICY], ttl="1000h", **more)
        if answer.status == 200:
            found = vault.root.write("auth/token/lookup", token=answer.auth["client_token"]).data
            assert (found["orphan"], found["type"]) == (False, "service"), more
            assert found.get("period", 0) == 0, more
            assert found["ttl"] <= 24 * 3_600, more
