"""A pipeline's life as the spawner and a runner tell it, for tests of what is made of it."""

from __future__ import annotations

from collections.abc import Iterator

from sluice_contracts.envelope import CloudEvent
from sluice_contracts.ids import derived_id
from sluice_contracts.messages import Message, agent, pipeline
from sluice_contracts.messages.base import ArtifactRef, Body, Problem, Usage
from sluice_contracts.messages.plan import Plan, TaskSpec

START_MS = 1_790_000_000_000
TRANSCRIPT = ArtifactRef(sha256="a" * 64, size_bytes=10)


class Teller:
    """Numbers and times what is told of one pipeline."""

    def __init__(self, pipeline_id: str, tenant: str = "acme", start_ms: int = START_MS) -> None:
        self.pipeline_id = pipeline_id
        self.tenant = tenant
        self.agent_id = derived_id("agent", pipeline_id, start_ms, "look")
        self._sequence = start_ms - 1
        self._told = 0
        self._start_ms = start_ms

    def command(self, data: Message) -> CloudEvent[Message]:
        return self._event(data, "tests/1", None, None)

    def spawner(self, data: Message, cause: str | None = None) -> CloudEvent[Message]:
        self._sequence += 1
        return self._event(data, "spawner", cause, self._sequence)

    def runner(self, data: Message) -> CloudEvent[Message]:
        return self._event(data, "agent-runner/r1", None, None)

    def _event(self, data: Message, source: str, cause: str | None, sequence: int | None) -> CloudEvent[Message]:
        self._told += 1
        return CloudEvent(
            id=derived_id(self.pipeline_id, data.type, self._start_ms, self._told),
            source=source,
            tenant=self.tenant,
            subject=self.pipeline_id,
            time_ms=self._start_ms + self._told,
            data=data,
            causation_id=cause,
            sequence=sequence,
            traceparent=f"00-{'c' * 32}-{'d' * 16}-01",
        )


def plan(objective: str = "find the first error", **labels: str) -> Plan:
    return Plan(
        objective=objective,
        tasks=(TaskSpec(id="look", objective="look at it", role="researcher"),),
        labels=labels,
        model="scripted:look",
    )


def spawning(teller: Teller, cause: str | None = None, **labels: str) -> Iterator[CloudEvent[Message]]:
    """From the command's decision to the running attempt, as the spawner tells it."""
    agent_id = teller.agent_id
    yield teller.spawner(pipeline.PipelineSpawned(plan=plan(**labels), dedupe_key="k"), cause)
    yield teller.spawner(
        pipeline.PipelineStateChanged(from_state="SPAWNED", to_state="RUNNING", reason="checked"), cause
    )
    yield teller.spawner(
        pipeline.AgentCreated(agent_id=agent_id, task_id="look", role="researcher", queue="default"), cause
    )
    yield teller.spawner(
        pipeline.TaskAssigned(task_id="look", agent_id=agent_id, attempt=1, queue="default", role="researcher"), cause
    )
    yield teller.spawner(pipeline.TaskStarted(task_id="look", agent_id=agent_id, attempt=1, runner_id="r1"))
    yield teller.spawner(pipeline.AgentStateChanged(agent_id=agent_id, from_state="CREATED", to_state="BUSY"))


def turn(
    teller: Teller, number: int, attempt: int = 1, tokens: int = 100, transcript: ArtifactRef = TRANSCRIPT
) -> CloudEvent[Message]:
    call = agent.ToolCall(
        call_id=f"c{number}", name="read", arguments={"path": "a.log"}, result=Body(text="line 1"), duration_ms=3
    )
    return teller.runner(
        agent.AgentTurnFinished(
            agent_id=teller.agent_id, attempt=attempt, runner_id="r1", turn=number, transcript=transcript,
            provider="scripted", model="m1", finish_reason="tool_calls",
            usage=Usage(input_tokens=tokens, output_tokens=10, cost_usd=0.5), model_ms=20,
            prompt=Body(text="what is in a.log?"), response=Body(text="I read it."), tool_calls=(call,),
        )
    )  # fmt: skip


def refusing(teller: Teller, event: CloudEvent[Message]) -> CloudEvent[Message]:
    """Says that what an attempt told does not count."""
    problem = Problem(code="attempt_refused", detail="it is not the one that counts")
    refused = pipeline.AgentAttemptRefused(
        agent_id=teller.agent_id, attempt=1, refused_id=event.id, refused_type=event.type, problem=problem
    )
    return teller.spawner(refused, event.id)


def losing(teller: Teller) -> Iterator[CloudEvent[Message]]:
    """The first attempt's lease runs out, and a second one is assigned."""
    problem = Problem(code="lease_lost", detail="no heartbeat")
    agent_id = teller.agent_id
    yield teller.spawner(pipeline.AgentAttemptLost(agent_id=agent_id, attempt=1, runner_id="r1", problem=problem))
    yield teller.spawner(
        pipeline.TaskAssigned(task_id="look", agent_id=agent_id, attempt=2, queue="default", role="researcher")
    )


def finishing(teller: Teller) -> Iterator[CloudEvent[Message]]:
    """From the task's success to the terminal event."""
    usage = Usage(input_tokens=200, output_tokens=20, cost_usd=1.0)
    artifact = ArtifactRef(sha256="b" * 64, size_bytes=5, name="report.md", kind="report")
    yield teller.spawner(
        pipeline.TaskSucceeded(
            task_id="look", agent_id=teller.agent_id, summary="a.log:1", artifacts=(artifact,), usage=usage, turns=2
        )
    )
    yield teller.spawner(pipeline.AgentStateChanged(agent_id=teller.agent_id, from_state="BUSY", to_state="SUCCEEDED"))
    yield teller.spawner(
        pipeline.PipelineCompleted(
            reason="all tasks succeeded", duration_ms=42, agents_used=1, usage=usage, tasks={"look": "succeeded"}
        )
    )


def failing(teller: Teller) -> Iterator[CloudEvent[Message]]:
    """From the task's failure to the terminal event."""
    problem = Problem(code="agent_timeout", detail="no turn for 300 s")
    yield teller.spawner(pipeline.TaskFailed(task_id="look", problem=problem))
    yield teller.spawner(
        pipeline.PipelineFailed(
            reason="task look failed", duration_ms=42, agents_used=1, usage=Usage(), tasks={"look": "failed"},
            problem=problem,
        )
    )  # fmt: skip


def whole_life(pipeline_id: str, tenant: str = "acme", start_ms: int = START_MS) -> list[CloudEvent[Message]]:
    """A pipeline that succeeds in two turns."""
    teller = Teller(pipeline_id, tenant, start_ms)
    return [*spawning(teller), turn(teller, 1), turn(teller, 2), *finishing(teller)]
