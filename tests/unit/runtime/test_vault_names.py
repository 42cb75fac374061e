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
def test_a_pipeline_s_policy_names_its_own_paths() -> None:
    text = names.pipeline_policy(ID)
    assert re.findall(r'path "([^"]+)"', text) == [
        "secret/data/api-keys/*", "secret/data/services/*", f"secret/data/agents/{ID}/*",
        "auth/token/lookup-self", "sys/*",
    ]  # fmt: skip
    assert "{pipeline_id}" not in text
    assert names.pipeline_policy_name(ID) == f"sluice-pipeline-{ID}"


@pytest.mark.covers("V2")
@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "*",
        "+",
        ID.upper(),
        ID[:-1],
        f"{ID}0",
        f"{ID}/*",
        f"{ID}/+",
        f"{ID}\n",
        f'{ID}" {{}} path "*',
        "../" + ID,
        "x" * 129,
        "{ID}",
    ],
)
def test_nothing_but_an_id_gets_into_a_policy(wrong: str) -> None:
    for make in (names.pipeline_policy, names.pipeline_policy_name):
        with pytest.raises(ValueError, match="no pipeline id"):
            make(wrong)


@given(st.uuids().map(str), st.uuids().map(str))
def test_two_pipelines_have_two_policies(one: str, other: str) -> None:
    assert (names.pipeline_policy(one) == names.pipeline_policy(other)) == (one == other)
    assert (names.pipeline_policy_name(one) == names.pipeline_policy_name(other)) == (one == other)


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
