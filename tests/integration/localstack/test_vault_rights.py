"""Who may do what in Vault, and what becomes of tokens: asked of a real one."""

from __future__ import annotations

import base64
import itertools
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from sluice_runtime.vault import names
from tests.integration.localstack.vault import Caller, RunningVault, login

P1, P2 = str(uuid.uuid4()), str(uuid.uuid4())
KEY = base64.b64encode(b"token").decode()
CAPABILITIES = ("create", "read", "update", "delete", "list", "sudo", "patch")

BROKER, RUNNER, LOGIN, PIPELINE, PARENT, AGENT = "vault-broker", "agent-runner", "login", "pipeline", "lead", "agent"
WHO = (BROKER, RUNNER, LOGIN, PIPELINE, PARENT, AGENT)
"""Two services; and of one pipeline the login by AppRole, the root token, and the tokens of an agent that may have
agents and of one that may not."""

OF_ITSELF = {
    "auth/token/lookup-self": {"read"},
    "auth/token/renew-self": {"update"},
    "auth/token/revoke-self": {"update"},
}
OF_A_PIPELINE = {
    "secret/data/api-keys/openrouter": {"read"},
    "secret/data/services/search": {"read"},
    f"secret/data/agents/{P1}/notes": {"create", "read", "update"},
    f"secret/data/agents/{P1}/deep/er": {"create", "read", "update"},
}
CHILDREN = {"auth/token/create": {"create", "update"}}
ALLOWED: dict[str, dict[str, set[str]]] = {
    BROKER: {
        f"auth/approle/role/{names.ORCHESTRATOR}/role-id": {"read"},
        f"auth/approle/role/{names.ORCHESTRATOR}/secret-id": {"create", "update"},
        f"sys/policies/acl/sluice-pipeline-{P1}": {"create", "read", "update", "delete"},
        f"sys/policies/acl/sluice-pipeline-{P2}": {"create", "read", "update", "delete"},
        "sys/policies/acl": {"list"},
        "auth/token/accessors": {"list", "sudo"},
        "auth/token/lookup-accessor": {"update"},
        "auth/token/renew-accessor": {"update"},
        "auth/token/revoke-accessor": {"update"},
        "transit/encrypt/sluice-queue-default": {"update"},
        "transit/encrypt/sluice-queue-review": {"update"},
        "transit/encrypt/sluice-queue-none": {"update"},
        **OF_ITSELF,
    },
    RUNNER: {
        "transit/decrypt/sluice-queue-default": {"update"},
        "transit/decrypt/sluice-queue-review": {"update"},
        **OF_ITSELF,
    },
    LOGIN: {f"auth/token/create/{names.PIPELINE_TOKEN_ROLE}": {"create", "update"}},
    PIPELINE: {**OF_A_PIPELINE, **CHILDREN},
    PARENT: {**OF_A_PIPELINE, **CHILDREN},
    AGENT: OF_A_PIPELINE,
}
"""All that is allowed. Whatever else a caller may do, on any path of this module, is a fault."""

METHODS = ("GET", "LIST", "POST", "DELETE")
REFUSED = {403, 405}
"""No right; or no such request, which nobody may make."""
OPEN_TO_ALL = {"sys/internal/ui/mounts", "sys/generate-root/attempt", "sys/wrapping/lookup"}
"""Vault answers these to everybody, by no right of a token: they tell nothing without one, and change nothing."""

NOBODYS = (
    "sys/mounts", "sys/mounts/secret", "sys/auth", "sys/auth/approle", "sys/audit", "sys/audit/sluice", "sys/seal",
    "sys/policies/acl/vault-broker", "sys/policies/acl/sluice-orchestrator", "sys/policies/acl/root", "sys/raw/core",
    "sys/rotate", "sys/leases/revoke-prefix/auth", "sys/storage/raft/snapshot", "sys/config/auditing/request-headers",
    "sys/wrapping/lookup", "sys/capabilities-self", "sys/generate-root/attempt", "sys/internal/ui/mounts",
    "auth/approle/role", "auth/approle/role/vault-broker", "auth/approle/role/vault-broker/secret-id",
    "auth/approle/role/agent-runner/secret-id", f"auth/approle/role/{names.ORCHESTRATOR}",
    f"auth/approle/role/{names.ORCHESTRATOR}/policies", f"auth/approle/role/{names.ORCHESTRATOR}/custom-secret-id",
    "auth/token/create-orphan", "auth/token/roles/sluice-pipeline", "auth/token/revoke", "auth/token/revoke-orphan",
    "auth/token/lookup", "auth/token/renew", "auth/token/tidy",
    "identity/entity", "identity/entity-alias", "identity/group", "cubbyhole/x",
    "secret/config", "secret/data/other", "secret/data/agents/x", f"secret/data/agents/{P2}/notes",
    f"secret/data/agents/{P1}", f"secret/data/agents/{P1}x/notes", "secret/metadata/api-keys/openrouter",
    f"secret/metadata/agents/{P1}/notes", f"secret/delete/agents/{P1}/notes", f"secret/destroy/agents/{P1}/notes",
    "transit/keys", "transit/keys/sluice-queue-default", "transit/keys/sluice-queue-default/rotate",
    "transit/keys/sluice-queue-default/config", "transit/export/encryption-key/sluice-queue-default",
    "transit/backup/sluice-queue-default", "transit/rewrap/sluice-queue-default",
    "transit/datakey/plaintext/sluice-queue-default", "transit/decrypt/sluice-queue-none", "transit/encrypt/other",
)  # fmt: skip
"""What nobody may do anything with."""

PATHS = sorted({*NOBODYS, *(path for rows in ALLOWED.values() for path in rows)})


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
    made = {LOGIN: at, PIPELINE: pipeline, PARENT: lead, AGENT: agent}
    yield Callers(tokens | {who: auth["client_token"] for who, auth in made.items()}, vault.url)
    vault.root.write("auth/token/revoke-accessor", accessor=at["accessor"])


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
    entities = {
        vault.root.write("auth/token/lookup-accessor", accessor=auth["accessor"]).data["entity_id"]
        for _, auth in callers
    }
    assert len(entities) == 1, "they do share one entity: no policy may be templated on it"


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
    assert root["token_policies"] == ["sluice-parent", names.pipeline_policy_name(pipeline)]
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
        own = [names.pipeline_policy_name(pipeline)]
        for policies in ([names.pipeline_policy_name(other)], ["vault-broker"], ["root"], ["sluice-orchestrator"]):
            assert caller.write(create, policies=policies, no_default_policy=True).status == 400, policies
        for more in ({"no_parent": True}, {"period": "100h"}, {"id": "x"}, {"type": "batch"}, {"entity_alias": "x"}):
            assert caller.write(create, policies=own, no_default_policy=True, **more).status == 403, more
        assert caller.write(create).auth["token_policies"] == sorted([*own, "sluice-parent"])
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
        return base64.b64encode(names.grant_context(pipeline, agent)).decode()

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
    context = base64.b64encode(names.grant_context(P1, "a")).decode()
    for queue, status in (("default", 403), ("review", 200)):
        sealed = vault.service(names.BROKER).write(
            f"transit/encrypt/{names.queue_name(queue)}", plaintext=KEY, context=context
        ).data["ciphertext"]  # fmt: skip
        path = f"transit/decrypt/{names.queue_name(queue)}"
        assert caller.write(path, ciphertext=sealed, context=context).status == status
