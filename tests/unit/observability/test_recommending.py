"""What a report recommends by the codes of its errors, and that no code of our services is left out of the table."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from sluice_contracts.messages.alert import AlertCondition
from sluice_contracts.messages.base import Problem
from sluice_contracts.messages.pipeline import AgentAttemptLost
from sluice_contracts.messages.token import FULL_REVOCATIONS
from sluice_observability.domain.problem_codes import CODES, about
from sluice_observability.domain.read_model import ReadModel
from sluice_observability.domain.recommending import recommended
from sluice_observability.domain.views import PipelineView
from tests.unit.observability.breaches import Safeguard
from tests.unit.observability.events import Teller, spawning

ROOT = Path(__file__).resolve().parents[3]
SERVICES = ("agent-runner", "spawner", "vault-broker")

MAKERS = frozenset({"failure", "ModelRefused", "ModelUnavailable", "UnusableInput", "deny", "_deny"})
"""What takes a code among its first arguments."""

NAMES = re.compile(r"code|_?CODES|\w+_CODE|_FAULTS|TOOL_FAILED|CREDENTIAL_ENDS")
"""What codes are assigned to."""

CODE = re.compile(r"[a-z]+(_[a-z]+)+")


def said_by(service: str) -> set[str]:
    """The codes that stand in a service's source where problems are made."""
    found = set[str]()
    for path in sorted((ROOT / "services" / service / "src").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            for place in places(node):
                texts = [one.value for one in ast.walk(place) if isinstance(one, ast.Constant)]
                found |= {text for text in texts if isinstance(text, str) and CODE.fullmatch(text)}
    return found


def places(node: ast.AST) -> Iterator[ast.AST]:
    if isinstance(node, ast.Call):
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        yield from node.args[:3] if name in MAKERS else ()
        yield from (one.value for one in node.keywords if one.arg == "code")
    elif isinstance(node, ast.Assign | ast.AnnAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        if node.value is not None and any(NAMES.fullmatch(getattr(one, "id", "")) for one in targets):
            yield from node.value.values if isinstance(node.value, ast.Dict) else [node.value]


@pytest.mark.covers("O5")
def test_every_code_that_our_services_say_is_in_one_class() -> None:
    said = set[str]().union(*map(said_by, SERVICES), get_args(AlertCondition), FULL_REVOCATIONS)
    assert {"rate_limited", "lease_expired", "unknown_queue", "credential_revoked", "tool_failed"} <= said
    counted = Counter(code for codes in CODES.values() for code in codes)
    assert set(counted) == said
    assert set(counted.values()) == {1}


def view_of(*codes: str, lost: str | None = None) -> PipelineView:
    teller = Teller("p1")
    safeguard, model = Safeguard(teller), ReadModel(1)
    events = [*spawning(teller)]
    for code in codes:
        events += safeguard.errors(1, code)
    if lost is not None:
        problem = Problem(code=lost, detail="it is gone")
        gone = AgentAttemptLost(agent_id=teller.agent_id, attempt=1, runner_id="r1", problem=problem)
        events.append(teller.spawner(gone))
    for event in events:
        model.apply(event)
    view = model.pipeline("p1")
    assert view is not None
    return view


@pytest.mark.covers("O5")
@pytest.mark.parametrize("code", ["rate_limited", "model_timeout", "unknown_model", "provider_gone", "model_melted"])
def test_what_a_provider_did_has_the_provider_checked(code: str) -> None:
    [first, *_] = recommended(view_of(code), "error_budget_exceeded")
    assert (first.code, first.because) == ("check_provider", code)


@pytest.mark.covers("O5")
@pytest.mark.parametrize(
    ("lost", "reason", "expected"),
    [
        ("lease_expired", "on_demand", ["check_runners"]),
        ("agent_timeout", "on_demand", ["check_runners"]),
        ("credential_expired", "on_demand", ["check_credentials"]),
        ("credential_revoked", "on_demand", ["check_credentials"]),
        ("credential_revoked", "error_budget_exceeded", []),  # of course it was
        ("credential_expired", "error_budget_exceeded", ["check_credentials"]),
    ],
)
def test_an_attempt_whose_credential_ended_did_not_lose_its_runner(lost: str, reason: str, expected: list[str]) -> None:
    codes = [one.code for one in recommended(view_of(lost=lost), reason)]
    assert codes == [*expected, "start_again"]


def test_what_nobody_of_ours_says_is_about_nothing() -> None:
    assert about("a_stranger_s") is None
