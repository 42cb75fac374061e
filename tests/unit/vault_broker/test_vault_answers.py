"""What comes from where Vault should be: an answer that is none of Vault's is asked for again, and ends nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import pytest
from pydantic import SecretStr

from sluice_runtime.vault.client import Connection
from sluice_vault_broker.adapters.vault import VaultApi
from sluice_vault_broker.ports import Label, VaultAway

PIPELINE = "11111111-1111-4111-8111-111111111111"
LABEL = Label("acme", PIPELINE, 1)
TOKEN = SecretStr("hvs.CANARY")
AUTH = {"client_token": "hvs.CANARY", "accessor": "a", "lease_duration": 60, "token_policies": ["p"]}
ENTITY = {"name": "entity_1", "aliases": [{"name": PIPELINE, "mount_type": "token", "mount_accessor": "auth_token_1"}]}

RIGHT: Mapping[str, dict[str, Any]] = {
    "LIST identity/entity/id": {"data": {"key_info": {"1": ENTITY}}},
    "POST identity/lookup/entity": {"data": ENTITY},
    "DELETE identity/entity/name/entity_1": {},
    "GET auth/approle/role/pipeline-orchestrator/role-id": {"data": {"role_id": "r"}},
    "POST auth/approle/role/pipeline-orchestrator/secret-id": {"wrap_info": {"token": "w"}},
    "POST sys/wrapping/unwrap": {"data": {"secret_id": "s"}},
    "POST auth/approle/login": {"auth": AUTH},
    "POST auth/token/create/sluice-pipeline": {"auth": AUTH},
    "POST auth/token/create": {"auth": AUTH},
    "POST transit/encrypt/sluice-broker": {"data": {"ciphertext": "vault:v1:x"}},
    "POST transit/decrypt/sluice-broker": {"data": {"plaintext": "aHZzLkNBTkFSWQ=="}},
    "POST auth/token/renew-accessor": {"auth": AUTH},
    "POST auth/token/revoke-accessor": {},
    "LIST auth/token/accessors": {"data": {"keys": ["a"]}},
    "POST auth/token/lookup-accessor": {"data": {"accessor": "a", "meta": None}},
}

CALLS: Mapping[str, Callable[[VaultApi], object]] = {
    "entities": lambda vault: vault.entities(),
    "delete_entity": lambda vault: vault.delete_entity(PIPELINE),
    "log_in": lambda vault: vault.log_in(LABEL),
    "mint_root": lambda vault: vault.mint_root(TOKEN, LABEL, ttl_s=60, max_ttl_s=60),
    "mint_child": lambda vault: vault.mint_child(TOKEN, LABEL, ttl_s=60, max_ttl_s=60, may_have_agents=False),
    "keep": lambda vault: vault.keep(PIPELINE, TOKEN),
    "unkeep": lambda vault: vault.unkeep(PIPELINE, "vault:v1:x"),
    "renew": lambda vault: vault.renew("a", 60),
    "revoke": lambda vault: vault.revoke("a"),
    "accessors": lambda vault: vault.accessors(),
    "lookup": lambda vault: vault.lookup("a"),
}

NEVER_EMPTY = sorted(set(RIGHT) - {
    "POST identity/lookup/entity", "DELETE identity/entity/name/entity_1", "POST auth/token/revoke-accessor"
})  # fmt: skip
"""Of the others Vault says nothing where there is nothing to say."""

PAGES: Mapping[str, dict[str, Any]] = {
    "a gateway's page": {"status": "maintenance", "retry": True},
    "members of other kinds": {"data": "soon", "auth": [], "wrap_info": None, "request_id": "r"},
    "members of members": {"data": {"keys": [None], "key_info": [1]}, "auth": {"client_token": 1}, "wrap_info": {}},
    "numbers for words": {
        "auth": AUTH | {"accessor": "", "lease_duration": "soon"}, "wrap_info": {"token": None},
        "data": {
            "keys": "abc", "key_info": {"1": {"aliases": [7]}}, "name": 1, "meta": "no", "role_id": 1, "secret_id": [],
            "ciphertext": {}, "plaintext": "***",
        },
    },
}  # fmt: skip


class Answers:
    """What stands where a `Connection` does, and answers from a table."""

    def __init__(self, answers: Mapping[str, dict[str, Any]]) -> None:
        self._answers = answers

    def ask(self, method: str, path: str, body: object = None, *, wrap_ttl: str | None = None) -> dict[str, Any]:
        return self._answers[f"{method} {path}"]

    def ask_with(self, token: SecretStr, method: str, path: str, body: object = None) -> dict[str, Any]:
        return self.ask(method, path, body)


def vault(answers: Mapping[str, dict[str, Any]]) -> VaultApi:
    return VaultApi(cast(Connection, Answers(answers)), "ours.")


@pytest.mark.parametrize("call", CALLS)
def test_what_vault_says_is_understood(call: str) -> None:
    CALLS[call](vault(RIGHT))


@pytest.mark.covers("V8")
@pytest.mark.parametrize(
    ("path", "page"),
    [(path, page) for path in RIGHT for page in PAGES if path in NEVER_EMPTY or "request_id" not in PAGES[page]],
)
def test_an_answer_that_is_none_is_asked_for_again_and_names_the_path(path: str, page: str) -> None:
    assert_away(path, PAGES[page])


@pytest.mark.covers("V8")
@pytest.mark.parametrize("path", NEVER_EMPTY)
def test_an_answer_without_a_body_is_asked_for_again(path: str) -> None:
    assert_away(path, {})


def assert_away(path: str, answer: dict[str, Any]) -> None:
    missed = []
    for call in CALLS.values():
        try:
            call(vault(RIGHT | {path: answer}))
        except VaultAway as error:
            missed.append(str(error))
    assert missed, f"{path}: {answer} was taken for Vault's answer"
    assert all(path.split()[1] in text and "CANARY" not in text for text in missed)


METADATA = {"installation": "ours.", "tenant": "acme", "pipeline_id": PIPELINE, "number": "7"}
AGENT_S = METADATA | {"agent_id": "a", "attempt": "2"}


def labelled(metadata: Mapping[str, Any]) -> Label | None:
    answer = {"data": {"accessor": "x", "meta": metadata}}
    return vault(RIGHT | {"POST auth/token/lookup-accessor": answer}).lookup("x")


def test_a_token_of_ours_is_known_by_its_metadata() -> None:
    assert labelled(METADATA) == Label("acme", PIPELINE, 7)
    assert labelled(AGENT_S | {"more": "words"}) == Label("acme", PIPELINE, 7, "a", 2)
    assert labelled(METADATA | {"installation": "theirs."}) is None


@pytest.mark.covers("V6")
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("attempt", "-5"), ("attempt", "0"), ("attempt", str(2**53)), ("attempt", "9" * 5_000), ("attempt", "x"),
        ("attempt", None), ("agent_id", None), ("agent_id", "a b"), ("agent_id", ""), ("agent_id", "a" * 200),
        ("agent_id", "a\n"), ("pipeline_id", f"{PIPELINE}/token/a"), ("pipeline_id", "+"), ("pipeline_id", None),
        ("tenant", "a/b"), ("tenant", None), ("number", "-1"), ("number", ""), ("number", None),
    ],
)  # fmt: skip
def test_what_an_agent_wrote_beside_a_token_names_no_other_key_and_stops_nobody(name: str, value: str | None) -> None:
    """Whoever may have agents can make a token with any words; it ends with its parent."""
    metadata = {one: words for one, words in (AGENT_S | {name: value}).items() if words is not None}
    assert labelled(metadata) is None
