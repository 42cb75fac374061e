"""One suite, two Vaults: the double in memory, and the real one."""

from __future__ import annotations

import base64
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

import pytest
from pydantic import SecretStr

from sluice_runtime.clock import SystemClock
from sluice_runtime.vault import names
from sluice_vault_broker.ports import Label, Minted, TokenUnknown, Vault, VaultRefused
from tests.vault import MemoryStore, MemoryVault, RealVault

_numbers = count(1)


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
    vault.put_policy(about.pipeline_id)
    login = vault.log_in(about)
    return login, vault.mint_root(login.token, about, ttl_s=ttl_s, max_ttl_s=max_ttl_s)


def child(vault: Vault, parent: Minted, about: Label, ttl_s: int = 600, max_ttl_s: int = 3_600) -> Minted:
    agent = Label(about.tenant, about.pipeline_id, next(_numbers), f"agent-{uuid.uuid4()}", 1)
    return vault.mint_child(parent.token, agent, ttl_s=ttl_s, max_ttl_s=max_ttl_s)


@pytest.mark.covers("V1", "V3")
def test_a_tree_is_known_by_its_accessors_and_labels(place: Place) -> None:
    about = label()
    login, own = root(place.ours, about)
    agent = Label("acme", about.pipeline_id, next(_numbers), "agent-1", 3)
    minted = place.ours.mint_child(own.token, agent, ttl_s=600, max_ttl_s=3_600)
    assert {login.accessor, own.accessor, minted.accessor} <= set(place.ours.accessors())
    assert place.ours.lookup(login.accessor) == about
    assert place.ours.lookup(own.accessor) == about
    assert place.ours.lookup(minted.accessor) == agent
    assert own.ttl_s == minted.ttl_s == 600
    assert names.pipeline_policy_name(about.pipeline_id) in minted.policies


@pytest.mark.covers("V3")
def test_whatever_is_ended_takes_all_below_it_along(place: Place) -> None:
    about = label()
    login, own = root(place.ours, about)
    first, second = child(place.ours, own, about), child(place.ours, own, about)
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


@pytest.mark.covers("V6")
def test_installations_know_their_own_tokens_and_policies_only(place: Place) -> None:
    about = label()
    _, own = root(place.ours, about)
    assert own.accessor in place.others.accessors()
    assert place.others.lookup(own.accessor) is None
    assert about.pipeline_id in place.others.policies()
    assert place.ours.owns_policy(about.pipeline_id)
    assert not place.others.owns_policy(about.pipeline_id)


def test_a_policy_that_is_deleted_is_gone_and_may_be_deleted_again(place: Place) -> None:
    about = label()
    place.ours.put_policy(about.pipeline_id)
    place.ours.put_policy(about.pipeline_id)
    place.ours.delete_policy(about.pipeline_id)
    place.ours.delete_policy(about.pipeline_id)
    assert about.pipeline_id not in place.ours.policies()
    assert not place.ours.owns_policy(about.pipeline_id)


def test_no_token_is_in_what_a_token_looks_like(place: Place) -> None:
    _, own = root(place.ours, label())
    assert own.token.get_secret_value() not in repr(own)


@pytest.mark.covers("V2", "V3", "V4")
def test_the_real_grant_opens_with_the_queue_s_key_and_reads_its_own_secrets_only(vault: RealVault) -> None:
    """With two living pipelines: neither reaches the other's path, whatever the order of logins."""
    ours = vault.connect("matrix.")
    abouts = [label(), label()]
    roots = [root(ours, about) for about in abouts]
    agents = [child(ours, own, about) for (_, own), about in zip(roots, abouts, strict=True)]
    sealed = ours.seal("q", "p/a/1", agents[0].token)
    context = base64.b64encode(b"p/a/1").decode()
    opened = vault.admin.write("transit/decrypt/sluice-queue-q", {"ciphertext": sealed, "context": context})
    assert base64.b64decode(opened["data"]["plaintext"]).decode() == agents[0].token.get_secret_value()
    vault.admin.write("secret/data/api-keys/openrouter", {"data": {"key": "k"}})
    for mine, theirs in ((0, 1), (1, 0)):
        token = agents[mine].token
        assert reads(ours, token, "secret/data/api-keys/openrouter")
        assert writes(ours, token, f"secret/data/agents/{abouts[mine].pipeline_id}/note")
        assert not writes(ours, token, f"secret/data/agents/{abouts[theirs].pipeline_id}/note")
        assert not reads(ours, token, "sys/policies/acl/vault-broker")
    ours.revoke(roots[0][0].accessor)
    assert not reads(ours, agents[0].token, "secret/data/api-keys/openrouter")
    assert reads(ours, agents[1].token, "secret/data/api-keys/openrouter")


def reads(vault: Vault, token: SecretStr, path: str) -> bool:
    return _may(vault, token, "GET", path, None)


def writes(vault: Vault, token: SecretStr, path: str) -> bool:
    return _may(vault, token, "POST", path, {"data": {"x": "y"}})


def _may(vault: Vault, token: SecretStr, method: str, path: str, body: object) -> bool:
    try:
        vault._connection.ask_with(token, method, path, body)  # type: ignore[attr-defined]
    except VaultRefused:
        return False
    return True
