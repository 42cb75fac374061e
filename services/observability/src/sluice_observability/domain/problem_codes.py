"""What the codes of problems are about, for what a handoff report recommends. Each of our services' is in one class.

The codes are part of the contract; a test finds those that the services can say.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

About = Literal["provider", "tools", "credentials", "runners", "plan", "people", "breach", "consequence", "answer"]

PREFIXES: Mapping[str, About] = {"provider_": "provider", "model_": "provider"}
"""What the codes of other systems begin with, where the table does not have them."""

CODES: Mapping[About, frozenset[str]] = {
    "provider": frozenset({
        "rate_limited", "unknown_model", "model_bad_request", "model_breaker_open", "model_did_not_finish",
        "model_endpoint_wrong", "model_malformed", "model_payment_required", "model_server_error", "model_stream_cut",
        "model_timeout", "model_unauthorized", "model_unreachable",
    }),
    "tools": frozenset({"tool_failed"}),
    "credentials": frozenset({
        "credential_expired", "credential_revoked", "grant_refused", "vault_not_configured", "vault_unavailable",
        "incomplete_request", "no_credential", "not_a_parent", "too_many_credentials", "unknown_queue",
    }),
    "runners": frozenset({
        "agent_timeout", "coordination_failed", "internal_error", "lease_expired", "store_unavailable",
        "transcript_broken", "transcript_inconsistent",
    }),
    "plan": frozenset({
        "budget_exhausted", "conflicting_inputs", "context_too_long", "contradictory_task", "dedupe_key_mismatch",
        "dependency_cycle", "diagnostic_too_deep", "duplicate_task", "hostile_artifact_name", "input_corrupt",
        "input_missing", "inputs_too_large", "inputs_too_many", "invalid_output_schema", "max_iterations",
        "pipeline_id_taken", "plan_too_large", "scenario_assertion_failed", "scenario_exhausted",
        "scenario_has_no_script", "scenario_invalid", "spawn_limit_exceeded", "spawn_refused", "spawner_error",
        "task_too_large", "unknown_constraint", "unknown_dependency", "unknown_role", "unknown_tool",
        "unprovisioned_queue", "unreachable_task",
    }),
    "people": frozenset({
        "answer_too_large", "question_settled", "question_unanswered", "unknown_pipeline", "unknown_question",
    }),
    "breach": frozenset({
        "api_call_budget_exceeded", "error_budget_exceeded", "manual", "no_progress", "policy_violation",
    }),
    "consequence": frozenset({
        "attempt_refused", "attempt_revoked", "attempt_superseded", "credentials_revoked", "pipeline_ended",
    }),
    "answer": frozenset({
        "blackboard_conflict", "blackboard_key_invalid", "blackboard_key_unknown", "blackboard_limit_exceeded",
        "blackboard_refused", "blackboard_turn_unknown", "blackboard_version_unknown",
    }),
}  # fmt: skip
"""`breach` and `consequence` recommend nothing: the alerts and the end of the credentials stand in the report. Nor do
`answer`s, which an agent hears and decides anew by."""

_ABOUT: Mapping[str, About] = {code: about for about, codes in CODES.items() for code in codes}


def about(code: str) -> About | None:
    """What a code is about; None for one that nobody of ours says."""
    found = _ABOUT.get(code)
    return found or next((about for prefix, about in PREFIXES.items() if code.startswith(prefix)), None)
