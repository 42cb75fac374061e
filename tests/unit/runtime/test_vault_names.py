"""Names and policies of Vault: what stands in a path is an id or a queue, and never a pattern."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice_contracts.limits import IDENTIFIER_PATTERN
from sluice_runtime.vault import names

ID = "6f1ed002-ab5f-5d4e-9d4f-0a3d2f0c8b11"


@pytest.mark.covers("V2")
def test_the_policy_of_pipelines_names_their_paths_by_the_token_s_entity() -> None:
    assert re.findall(r'path "([^"]+)"', names.policy_text(names.PIPELINE_POLICY)) == [
        "secret/data/api-keys/*", "secret/data/services/*",
        f"secret/data/agents/{{{{identity.entity.aliases.{names.TOKEN_ACCESSOR}.name}}}}/*",
        "auth/token/lookup-self", "sys/*",
    ]  # fmt: skip


@pytest.mark.covers("V2")
@pytest.mark.parametrize(
    ("pipeline_id", "alias"),
    [(ID, ID), ("a", "a"), ("0_-.", "0_-."), ("A", "~a"), ("aBc-D.e", "a~bc-~d.e"), ("X" * 128, "~x" * 128)],
)
def test_a_pipeline_is_known_by_its_alias(pipeline_id: str, alias: str) -> None:
    assert names.pipeline_alias(pipeline_id) == alias
    assert names.pipeline_of_alias(alias) == pipeline_id


@pytest.mark.covers("V2")
@pytest.mark.parametrize(
    "wrong",
    ["", "*", "+", ".", "..", "-a", "_a", f"{ID}/*", f"{ID}/+", f"{ID}\n", f'{ID}" {{}} path "*', "../" + ID, "x" * 129,
     "{ID}", "~a", "a~b", "é", "a b"],
)  # fmt: skip
def test_nothing_but_an_id_gets_into_a_path(wrong: str) -> None:
    with pytest.raises(ValueError, match="no pipeline id"):
        names.pipeline_alias(wrong)


@pytest.mark.parametrize("alias", ["", "+", "A", "~", "~A", "~~a", "~1", "a~", "a/b", "*", "somebody@else", "x" * 129])
def test_other_aliases_are_no_pipelines(alias: str) -> None:
    assert names.pipeline_of_alias(alias) is None


IDS = st.from_regex(IDENTIFIER_PATTERN.replace("$", r"\Z"))


@pytest.mark.covers("V2")
@given(IDS, st.one_of(IDS, st.none()))
def test_two_pipelines_have_two_aliases_whatever_vault_thinks_of_case(one: str, other: str | None) -> None:
    other = one.swapcase() if other is None else other
    aliases = names.pipeline_alias(one), names.pipeline_alias(other)
    assert (aliases[0].lower() == aliases[1].lower()) == (one == other)
    assert names.pipeline_of_alias(aliases[0]) == one


@given(st.from_regex(IDENTIFIER_PATTERN, fullmatch=True))
def test_a_queue_has_a_key_of_its_own_or_none(queue: str) -> None:
    if queue != queue.lower() or queue[-1] in "-.":
        with pytest.raises(ValueError, match="lower case"):
            names.queue_name(queue)
        return
    name = names.queue_name(queue)
    assert name == name.lower() == f"sluice-queue-{queue}"
    assert f'path "transit/decrypt/{name}"' in names.queue_policy(queue)


@pytest.mark.covers("V4")
def test_a_grant_is_bound_to_pipeline_agent_and_attempt() -> None:
    assert names.grant_context("p", "a", 2) == "p/a/2"
