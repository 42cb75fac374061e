"""The api against its own OpenAPI document: whatever a client sends, it answers as the document says (Schemathesis)."""

from __future__ import annotations

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import checks

EXAMPLES_COUNT = 15
"""Requests for each operation; lawful and unlawful ones."""

CHECKS = [
    checks.not_a_server_error, checks.status_code_conformance, checks.content_type_conformance,
    checks.response_schema_conformance,
]  # fmt: skip
"""Not that all that the schema allows is accepted: a plan may be well-formed and make no sense."""


@pytest.mark.covers("U1")
def test_every_operation_answers_as_it_says(shared_http: httpx.Client) -> None:
    described = schemathesis.openapi.from_url(f"{shared_http.base_url}/openapi.json")
    operations = [found.ok() for found in described.get_all_operations()]
    assert len(operations) > 10
    for operation in operations:

        @settings(max_examples=EXAMPLES_COUNT, derandomize=True, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy())
        def answers(case: schemathesis.Case) -> None:
            case.headers.pop("Prefer", None)  # nobody decides here: to wait would take as long as it says
            case.call_and_validate(checks=CHECKS, timeout=30)

        answers()
