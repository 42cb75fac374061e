"""What monitor and vault-broker say of a pipeline that breaks its budget, for tests of what is made of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

from sluice_contracts.diagnosis import diagnostic_spawn
from sluice_contracts.envelope import CloudEvent
from sluice_contracts.ids import derived_id
from sluice_contracts.messages import Message, agent, alert, audit, pipeline, report, signal, token
from sluice_contracts.messages.base import ArtifactRef, Body, Problem, Usage
from tests.unit.observability.events import START_MS, Teller, spawning, turn

HOUR_MS = 3_600_000


def refused_findings(diagnostic_id: str, told: list[CloudEvent[Message]]) -> tuple[CloudEvent[Message], ...]:
    """What another attempt of a diagnostic found, later than the one that counts, and that it was refused."""
    [found] = [one for one in told if isinstance(one.data, agent.AgentSucceeded)]
    data, last = found.data, told[-1]
    assert isinstance(data, agent.AgentSucceeded)
    other = {"runner_id": "r2", "summary": "Another one.", "result": Body(text='{"cause": "of a refused attempt"}')}
    late = replace(
        found, id=f"late-{diagnostic_id}", source="agent-runner/r2", time_ms=last.time_ms + 1,
        data=data.model_copy(update=other),
    )  # fmt: skip
    refusal = pipeline.AgentAttemptRefused(
        agent_id=data.agent_id, attempt=data.attempt, refused_id=late.id, refused_type=data.type,
        problem=Problem(code="outdated_attempt", detail="its agent has ended"),
    )  # fmt: skip
    refused = replace(
        last, id=f"refused-{diagnostic_id}", data=refusal, time_ms=last.time_ms + 2,
        sequence=(last.sequence or 0) + 1,
    )  # fmt: skip
    return late, refused


def uses_of_vault(pipeline_id: str, accessor: str, now_ms: int) -> list[CloudEvent[Message]]:
    """What Vault tells: a token's use that it refused, and one of a service."""
    place = audit.AuditPlace(file="a" * 64, offset=1, size_bytes=2)
    refused = audit.VaultUsed(
        place=place, operation="read", path="secret/data/x", outcome="refused", error="denied", accessor=accessor
    )
    done = audit.VaultUsed(place=place, operation="update", path="p", outcome="done", latency_us=5, display_name="d")
    return [
        CloudEvent(f"use-{pipeline_id}", "vault-audit", "acme", pipeline_id, now_ms, refused),
        CloudEvent("use", "vault-audit", "system", "installation", now_ms, done),
    ]


FINDINGS = {
    "cause": "The provider was away.",
    "evidence": ["handoff.json: provider_unavailable 6"],
    "recommendations": ["Wait for it.", "Start again from turn 1."],
}


class Safeguard:
    """Tells of credentials and breaches of one pipeline."""

    def __init__(self, teller: Teller) -> None:
        self.teller = teller
        self.root = f"root.{teller.pipeline_id}"
        self.child = f"child.{teller.pipeline_id}"
        self._numbers: dict[str, int] = {}

    def tell(self, data: Message, source: str, cause: str | None = None) -> CloudEvent[Message]:
        number = self._numbers[source] = self._numbers.get(source, 0) + 1
        event = self.teller.command(data)
        sequence = number if source == "vault-broker" else None
        return CloudEvent(
            id=derived_id(self.teller.pipeline_id, source, number), source=source, tenant=event.tenant,
            subject=event.subject, time_ms=event.time_ms, data=data, causation_id=cause, sequence=sequence,
            traceparent=event.traceparent,
        )  # fmt: skip

    def broker(self, data: Message, cause: str | None = None) -> CloudEvent[Message]:
        return self.tell(data, "vault-broker", cause)

    def granted(self) -> list[CloudEvent[Message]]:
        """The pipeline's own credential, and its agent's."""
        agent_id, pipeline_id = self.teller.agent_id, self.teller.pipeline_id
        ends = {"expires_at_ms": HOUR_MS, "ends_at_ms": 24 * HOUR_MS}
        grant = token.Grant(sealed="vault:v1:c2VhbGVkLXNlY3JldA==", accessor=self.child, expires_at_ms=HOUR_MS)
        return [
            self.tell(token.TokenRequest(), "spawner"),
            self.broker(
                token.TokenGranted(accessor=self.root, latency_ms=5, policies=(f"sluice-{pipeline_id}",), **ends)
            ),
            self.tell(token.TokenRequest(agent_id=agent_id, attempt=1, queue="default"), "spawner"),
            self.broker(
                token.TokenGranted(
                    accessor=self.child, parent_accessor=self.root, agent_id=agent_id, attempt=1, queue="default",
                    grant=grant, latency_ms=7, **ends,
                )
            ),
            self.broker(
                token.TokenRenewed(accessor=self.child, agent_id=agent_id, attempt=1, expires_at_ms=2 * HOUR_MS)
            ),
        ]  # fmt: skip

    def errors(self, count: int, code: str = "provider_unavailable") -> Iterator[CloudEvent[Message]]:
        for number in range(count):
            data = signal.ErrorReported(
                agent_id=self.teller.agent_id, attempt=1, code=code, detail=f"no answer, try {number + 1}", api_calls=1
            )
            yield self.tell(data, "agent-runner/r1")

    def alert(self, errors: int = 6) -> CloudEvent[Message]:
        data = alert.AlertRaised(
            condition="error_budget_exceeded", action="revoke_pipeline", observed=errors, limit=5, window_ms=60_000,
            breached_at_ms=self.teller.command(token.TokenRenew()).time_ms, evidence=("e1", "e2"),
            detail=f"{errors} errors within 60 s; 5 are allowed",
        )  # fmt: skip
        return self.tell(data, "monitor")

    def revoked(
        self, reason: token.RevocationReason = "error_budget_exceeded", alert_id: str | None = None,
        cause: str | None = None,
    ) -> CloudEvent[Message]:  # fmt: skip
        data = token.TokenRevoked(
            accessors=(self.root, self.child), reason=reason, detail="6 errors within 60 s", alert_id=alert_id,
            latency_ms=11,
        )  # fmt: skip
        return self.broker(data, cause or alert_id)


def breach(teller: Teller) -> list[CloudEvent[Message]]:
    """A pipeline that runs, has a checkpoint, and breaks its budget; up to the revocation, which is the last."""
    safeguard = Safeguard(teller)
    raised = safeguard.alert()
    return [
        *spawning(teller), *safeguard.granted(), turn(teller, 1), *safeguard.errors(6), raised,
        safeguard.revoked(alert_id=raised.id),
    ]  # fmt: skip


def handed_off(teller: Teller, revoked: CloudEvent[Message]) -> CloudEvent[Message]:
    """The event of the report on it."""
    ref = ArtifactRef(sha256="f" * 64, size_bytes=10, media_type="application/json", name="handoff.json")
    data = report.HandoffReported(
        cause="revocation", cause_id=revoked.id, reason="error_budget_exceeded", report=ref, markdown=ref, errors=6,
        summary="error_budget_exceeded: 6 errors (provider_unavailable 6); 0 of 1 tasks succeeded",
        agents_affected=(teller.agent_id,),
    )  # fmt: skip
    return Safeguard(teller).tell(data, "observability/o1", revoked.id)


def reported(event: CloudEvent[Message]) -> report.HandoffReported:
    """The data of a report's event."""
    assert isinstance(event.data, report.HandoffReported)
    return event.data


def diagnosing(about: str, cause_id: str = "cause", tenant: str = "acme") -> tuple[str, list[CloudEvent[Message]]]:
    """The diagnostic pipeline of another one, to its end: its id, and what is told of it."""
    ref = ArtifactRef(sha256="e" * 64, size_bytes=3)
    pipeline_id, spawn = diagnostic_spawn(
        pipeline_id=about, tenant=tenant, objective="find the first error", cause_id=cause_id, alert_id="alert",
        reason="error_budget_exceeded", depth=1, report=ref, markdown=ref, artifacts=(),
    )  # fmt: skip
    teller = Teller(pipeline_id, tenant, START_MS + 10_000)
    agent_id, plan = teller.agent_id, spawn.plan
    created = {"agent_id": agent_id, "task_id": "diagnose", "role": "diagnostician", "queue": "default"}
    return pipeline_id, [
        teller.spawner(
            pipeline.PipelineSpawned(
                plan=plan, parent_pipeline_id=spawn.parent_pipeline_id, diagnosed=spawn.diagnosed
            )
        ),
        teller.spawner(pipeline.AgentCreated(**created)),
        teller.spawner(pipeline.TaskAssigned(**created, attempt=1)),
        teller.runner(
            agent.AgentSucceeded(
                agent_id=agent_id, attempt=1, runner_id="r1", summary="The provider was away.",
                result=Body(text=json.dumps(FINDINGS)),
            )
        ),
        teller.spawner(pipeline.TaskSucceeded(task_id="diagnose", agent_id=agent_id, summary="The provider was away.")),
        teller.spawner(
            pipeline.PipelineCompleted(
                reason="all tasks succeeded", duration_ms=42, agents_used=1, usage=Usage(cost_usd=0.25),
                tasks={"diagnose": "succeeded"},
            )
        ),
    ]  # fmt: skip
