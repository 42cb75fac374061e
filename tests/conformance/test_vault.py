"""One suite, two Vaults: the double in memory, and the real one."""

from __future__ import annotations

import base64
import random
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

import pytest
from pydantic import SecretStr

from sluice_runtime.clock import SystemClock
from sluice_runtime.vault import names
from sluice_runtime.vault.client import Connection
from sluice_runtime.vault.faults import NothingThere
from sluice_vault_broker.ports import Label, Minted, TokenUnknown, Vault, VaultRefused
from tests.vault import MemoryStore, MemoryVault, RealVault

_numbers = count(1)

WITHOUT_ENTITY = (VaultRefused, TokenUnknown)
"""Such a token opens nothing any more, and no server says that of it alone."""


@dataclass(frozen=True)
class Place:
    """A Vault, as two installations see it."""

    ours: Vault
    others: Vault
    real: RealVault | None = None


@pytest.fixture(params=["memory", "vault"])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    stem = uuid.uuid4().hex[:8]
    if request.param == "memory":
        store = MemoryStore(SystemClock())
        yield Place(MemoryVault(store, f"{stem}."), MemoryVault(store, f"{stem}-other."))
    else:
        real: RealVault = request.getfixturevalue("vault")
        yield Place(real.connect(f"{stem}."), real.connect(f"{stem}-other."), real)


def label(agent_id: str | None = None, pipeline_id: str | None = None) -> Label:
    pipeline_id = pipeline_id or str(uuid.uuid4())
    return Label("acme", pipeline_id, next(_numbers), agent_id, None if agent_id is None else 1)


def root(vault: Vault, about: Label, ttl_s: int = 600, max_ttl_s: int = 3_600) -> tuple[Minted, Minted]:
    login = vault.log_in(about)
    return login, vault.mint_root(login.token, about, ttl_s=ttl_s, max_ttl_s=max_ttl_s)


def child(
    vault: Vault, parent: Minted, about: Label, ttl_s: int = 600, max_ttl_s: int = 3_600, *, lead: bool = False
) -> Minted:
    agent = Label(about.tenant, about.pipeline_id, next(_numbers), f"agent-{uuid.uuid4()}", 1)
    return vault.mint_child(parent.token, agent, ttl_s=ttl_s, max_ttl_s=max_ttl_s, may_have_agents=lead)


@pytest.mark.covers("V1", "V3")
def test_a_tree_is_known_by_its_accessors_and_labels(place: Place) -> None:
    about = label()
    login, own = root(place.ours, about)
    agent = Label("acme", about.pipeline_id, next(_numbers), "agent-1", 3)
    minted = place.ours.mint_child(own.token, agent, ttl_s=600, max_ttl_s=3_600, may_have_agents=False)
    assert {login.accessor, own.accessor, minted.accessor} <= set(place.ours.accessors())
    assert place.ours.lookup(login.accessor) == about
    assert place.ours.lookup(own.accessor) == about
    assert place.ours.lookup(minted.accessor) == agent
    assert own.ttl_s == minted.ttl_s == 600
    assert set(own.policies) == {names.PIPELINE_POLICY, names.PARENT_POLICY}
    assert minted.policies == (names.PIPELINE_POLICY,)


@pytest.mark.covers("V3")
def test_whatever_is_ended_takes_all_below_it_along(place: Place) -> None:
    about = label()
    login, own = root(place.ours, about)
    first, second = child(place.ours, own, about, lead=True), child(place.ours, own, about)
    grandchild = child(place.ours, first, about)
    place.ours.revoke(first.accessor)
    left = set(place.ours.accessors())
    assert {first.accessor, grandchild.accessor}.isdisjoint(left)
    assert {own.accessor, second.accessor} <= left
    place.ours.revoke(login.accessor)
    assert {login.accessor, own.accessor, second.accessor}.isdisjoint(place.ours.accessors())


def test_to_end_what_has_ended_is_done(place: Place) -> None:
    about = label()
    login, _ = root(place.ours, about)
    place.ours.revoke(login.accessor)
    place.ours.revoke(login.accessor)
    place.ours.revoke("no-such-accessor")
    assert login.accessor not in place.ours.accessors()


def test_what_has_ended_can_not_be_renewed_looked_up_or_made_with(place: Place) -> None:
    about = label()
    login, own = root(place.ours, about)
    place.ours.revoke(login.accessor)
    with pytest.raises(TokenUnknown):
        place.ours.renew(own.accessor, 600)
    with pytest.raises(TokenUnknown):
        place.ours.lookup(own.accessor)
    with pytest.raises(TokenUnknown):
        child(place.ours, own, about)
    with pytest.raises(TokenUnknown):
        place.ours.mint_root(login.token, about, ttl_s=600, max_ttl_s=3_600)


@pytest.mark.covers("V1")
def test_a_token_ends_by_itself_unless_it_is_renewed_and_at_its_end_in_any_case(place: Place) -> None:
    about = label()
    _, own = root(place.ours, about)
    renewed = child(place.ours, own, about, ttl_s=2)
    left = child(place.ours, own, about, ttl_s=2)
    last = child(place.ours, own, about, ttl_s=2, max_ttl_s=4)
    assert place.ours.renew(renewed.accessor, 600) in (599, 600)
    assert place.ours.renew(last.accessor, 600) <= 4
    until = time.monotonic() + 60
    while {left.accessor, last.accessor} & set(place.ours.accessors()):
        assert time.monotonic() < until
        time.sleep(0.1)
    assert renewed.accessor in place.ours.accessors()


@pytest.mark.covers("V4")
def test_what_is_kept_opens_with_its_own_pipeline_only(place: Place) -> None:
    about, token = label(), SecretStr("s.e.c.r.e.t")
    kept = place.ours.keep(about.pipeline_id, token)
    assert "s.e.c.r.e.t" not in kept
    assert place.ours.unkeep(about.pipeline_id, kept) == token
    with pytest.raises(VaultRefused):
        place.ours.unkeep(label().pipeline_id, kept)


@pytest.mark.covers("V4")
def test_a_grant_is_sealed_for_a_queue_that_has_a_key(place: Place) -> None:
    token = SecretStr("s.e.c.r.e.t")
    assert place.ours.seal("default", "p/a/1", token).startswith("vault:v1:")
    with pytest.raises(VaultRefused):
        place.ours.seal("no-such-queue", "p/a/1", token)


@pytest.mark.covers("V3")
def test_an_agent_that_may_have_no_agents_has_none(place: Place) -> None:
    about = label()
    _, own = root(place.ours, about)
    with pytest.raises(VaultRefused):
        child(place.ours, child(place.ours, own, about), about)
    child(place.ours, child(place.ours, child(place.ours, own, about, lead=True), about, lead=True), about)


@pytest.mark.covers("V6")
def test_installations_know_their_own_tokens_only_and_everybody_s_entities(place: Place) -> None:
    about = label()
    _, own = root(place.ours, about)
    assert own.accessor in place.others.accessors()
    assert place.others.lookup(own.accessor) is None
    assert about.pipeline_id in place.others.entities()


@pytest.mark.covers("V2", "V6")
def test_a_pipeline_has_one_entity_and_without_it_its_tokens_are_no_use(place: Place) -> None:
    """Ids of every kind that the contract allows; some differ in nothing but case."""
    stem = uuid.uuid4().hex[:8]
    abouts = [label(pipeline_id=f"{stem}{one}") for one in ("a", "A", "-B", "-b", ".x", "..x", "_", "x" * 120)]
    logins = [place.ours.log_in(one) for one in abouts]
    leads = []
    for about, login in reversed([*zip(abouts, logins, strict=True)] * 2):
        own = place.ours.mint_root(login.token, about, ttl_s=600, max_ttl_s=3_600)
        leads += [(about, own), (about, child(place.ours, own, about, lead=True))]
    assert sorted(one for one in place.ours.entities() if one.startswith(stem)) == sorted(
        one.pipeline_id for one in abouts
    )
    for number, gone in enumerate(abouts):
        place.ours.delete_entity(gone.pipeline_id)
        for about, lead in leads:
            if abouts.index(about) > number:
                child(place.ours, lead, about)
            else:
                with pytest.raises(WITHOUT_ENTITY):
                    child(place.ours, lead, about)


@pytest.mark.covers("V2", "V6")
def test_an_entity_that_is_made_anew_does_not_help_earlier_tokens(place: Place) -> None:
    about = label()
    _, own = root(place.ours, about)
    lead = child(place.ours, own, about, lead=True)
    place.ours.delete_entity(about.pipeline_id)
    place.ours.delete_entity(about.pipeline_id)
    place.ours.delete_entity(str(uuid.uuid4()))
    assert about.pipeline_id not in place.ours.entities()
    _, new = root(place.ours, about)
    assert place.ours.entities().count(about.pipeline_id) == 1
    child(place.ours, new, about)
    for parent in (own, lead):
        with pytest.raises(WITHOUT_ENTITY):
            child(place.ours, parent, about)


def test_no_token_is_in_what_a_token_looks_like(place: Place) -> None:
    _, own = root(place.ours, label())
    assert own.token.get_secret_value() not in repr(own)


@pytest.mark.covers("V4")
def test_the_real_grant_opens_with_the_queue_s_key(vault: RealVault) -> None:
    ours, about = vault.connect("grant."), label()
    agent = child(ours, root(ours, about)[1], about)
    sealed = ours.seal("q", "p/a/1", agent.token)
    context = base64.b64encode(b"p/a/1").decode()
    opened = vault.admin.write("transit/decrypt/sluice-queue-q", {"ciphertext": sealed, "context": context})
    assert base64.b64decode(opened["data"]["plaintext"]).decode() == agent.token.get_secret_value()


@dataclass
class Lives:
    """A pipeline as Vault has it now: its login and all its tokens."""

    about: Label
    path: str
    login: Minted
    tokens: list[Minted]


STEPS = ("root", "child", "renew", "grandchild", "delete", "root", "child", "login", "root", "child", "renew")


@pytest.mark.covers("V2", "V3")
@pytest.mark.parametrize(("count", "seed"), [(2, 0), (2, 1), (2, 2), (10, 3)])
def test_living_pipelines_never_reach_each_other_s_path(vault: RealVault, count: int, seed: int) -> None:
    """In any order of logins, tokens, children, renewals, and of entities that are deleted and made anew."""
    ours, chance = vault.connect("matrix."), random.Random(seed)
    abouts = [label(pipeline_id=f"{one}-{uuid.uuid4()}") for one in range(count)]
    abouts[1] = label(pipeline_id=abouts[0].pipeline_id.upper())
    paths = [f"secret/data/agents/{names.pipeline_alias(about.pipeline_id)}/note" for about in abouts]
    pipelines = [
        Lives(abouts[one], paths[one], ours.log_in(abouts[one]), []) for one in chance.sample(range(count), count)
    ]
    for step in STEPS:
        for one in chance.sample(pipelines, count):
            change(ours, one, step)
        for one, token in [(each, token) for each in pipelines for token in each.tokens]:
            body = {"token": token.token.get_secret_value(), "paths": paths}
            found = vault.admin.write("sys/capabilities", body)["data"]
            may = {path: found[path] for path in paths if found[path] != ["deny"]}
            assert may == {one.path: ["create", "read", "update"]}, (step, one.about)
    for one, token in [(each, token) for each in pipelines for token in each.tokens]:
        assert [writes(ours, token.token, path) for path in paths] == [path == one.path for path in paths]
        assert [reads(ours, token.token, path) for path in paths] == [path == one.path for path in paths]
    ours.revoke(pipelines[0].login.accessor)
    for one in pipelines:
        tried = [reads(ours, one.tokens[-1].token, path) for path in (one.path, "secret/data/api-keys/x")]
        assert tried == [one is not pipelines[0]] * 2


def change(ours: Vault, one: Lives, step: str) -> None:
    about = one.about
    match step:
        case "login":
            one.login = ours.log_in(about)
        case "root":
            one.tokens.append(ours.mint_root(one.login.token, about, ttl_s=600, max_ttl_s=3_600))
        case "child":
            one.tokens.append(child(ours, one.tokens[-1], about, lead=True))
        case "grandchild":
            one.tokens.append(child(ours, one.tokens[-1], about))
        case "renew":
            for token in one.tokens:
                ours.renew(token.accessor, 600)
        case "delete":
            ours.delete_entity(about.pipeline_id)
            one.tokens.clear()


@pytest.mark.covers("V2", "V3")
def test_a_stolen_token_makes_no_token_of_another_pipeline(vault: RealVault) -> None:
    ours, mine, theirs = vault.connect("stolen."), label(), label()
    (_, own), (_, other) = root(ours, mine), root(ours, theirs)
    entity_id, own_id = (
        vault.admin.write("auth/token/lookup", {"token": one.token.get_secret_value()})["data"]["entity_id"]
        for one in (other, own)
    )
    alias, connection = names.pipeline_alias(theirs.pipeline_id), ours._connection
    for token in (own, child(ours, own, mine, lead=True), child(ours, own, mine)):
        for path in ("create", "create-orphan", f"create/{names.PIPELINE_TOKEN_ROLE}"):
            for more in ({"entity_alias": alias}, {"entity_id": entity_id}, {"no_parent": True}):
                body = {"policies": [names.PIPELINE_POLICY], "no_default_policy": True, **more}
                with pytest.raises(VaultRefused):
                    connection.ask_with(token.token, "POST", f"auth/token/{path}", body)
        for path in ("identity/entity", "identity/entity-alias", f"identity/entity/id/{own_id}"):
            with pytest.raises(VaultRefused):
                connection.ask_with(token.token, "POST", path, {"name": alias})


@pytest.mark.covers("V5", "V6")
def test_a_broker_whose_own_login_was_revoked_still_ends_what_it_says_it_ended(vault: RealVault) -> None:
    ours, about = vault.connect("own."), label()
    login, own = root(ours, about)
    vault.admin.write("auth/token/revoke", {"token": ours._connection._own.token.get_secret_value()})
    ours.revoke(login.accessor)
    assert {login.accessor, own.accessor}.isdisjoint(ours.accessors())


def reads(vault: Vault, token: SecretStr, path: str) -> bool:
    return _may(vault, token, "GET", path, None)


def writes(vault: Vault, token: SecretStr, path: str) -> bool:
    return _may(vault, token, "POST", path, {"data": {"x": "y"}})


def _may(vault: Vault, token: SecretStr, method: str, path: str, body: object) -> bool:
    try:
        vault._connection.ask_with(token, method, path, body)  # type: ignore[attr-defined]
    except NothingThere:
        return True
    except (VaultRefused, TokenUnknown):
        return False
    return True


@pytest.mark.covers("V3", "V6")
def test_a_token_that_an_agent_made_ends_with_it_whatever_is_written_beside_it(vault: RealVault) -> None:
    """With `sluice-parent` one can write anything; what is no label of ours is told of nobody."""
    stem = f"{uuid.uuid4().hex[:8]}."
    ours, about = vault.connect(stem), label()
    _, own = root(ours, about)
    lead = child(ours, own, about, lead=True)
    meta = {
        "installation": stem, "tenant": "acme", "pipeline_id": f"{about.pipeline_id}/token/a", "number": "1",
        "agent_id": "a b", "attempt": "-5",
    }  # fmt: skip
    body = {"policies": [names.PIPELINE_POLICY], "no_default_policy": True, "type": "service", "meta": meta}
    made = Connection(vault.place()).ask_with(lead.token, "POST", "auth/token/create", body)["auth"]["accessor"]
    assert made in ours.accessors()
    assert ours.lookup(made) is None
    ours.revoke(lead.accessor)
    assert made not in ours.accessors()
