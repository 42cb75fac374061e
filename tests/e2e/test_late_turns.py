"""Who has lost its credential can commit nothing more; and who may see no secrets gets none."""

from __future__ import annotations

import time
import uuid
from dataclasses import replace

import pytest

from sluice_contracts import codec
from sluice_contracts.envelope import CloudEvent
from sluice_contracts.messages.agent import AgentGrantOpened, AgentRun, AgentTurnFinished
from sluice_contracts.messages.pipeline import AgentAttemptRefused, PipelineCompleted, PipelineFailed, TaskRetried
from sluice_contracts.messages.plan import Plan, TaskSpec
from sluice_contracts.messages.token import TokenGranted, TokenRequest, TokenRevoke
from tests.e2e.test_breach import SAID, WORKS, tell
from tests.installation import QUEUE, Installation

ENDS = """
agents:
  - turns:
      - tool_calls: [{name: finish, arguments: {summary: done, result: done}}]
"""


@pytest.mark.covers("V5", "W10")
@pytest.mark.parametrize("whose", ["the agent's", "the pipeline's"])
def test_a_turn_that_comes_after_the_revocation_is_refused(installation: Installation, whose: str) -> None:
    """As a runner says it that was frozen meanwhile: of the attempt that was its own."""
    pipeline = installation.spawn(installation.scenario("works", WORKS))
    said = installation.await_event(pipeline, AgentTurnFinished, topic=SAID)
    agent_id = said.data.agent_id if whose == "the agent's" else None
    tell(installation, "token.commands", pipeline, TokenRevoke(agent_id=agent_id))
    installation.await_event(pipeline, PipelineFailed if agent_id is None else TaskRetried)
    installation.log.catch_up()
    last = max(one.data.turn for one in installation.events(pipeline, AgentTurnFinished, SAID))
    late: CloudEvent[AgentTurnFinished] = replace(
        said, id=str(uuid.uuid4()), time_ms=time.time_ns() // 1_000_000,
        data=said.data.model_copy(update={"turn": last + 1}),
    )  # fmt: skip
    record = codec.encode(late, topic=SAID, key=pipeline)
    installation.write([record], principal="agent-runner")
    refused = installation.await_event(pipeline, AgentAttemptRefused, lambda one: one.refused_id == late.id)
    assert (refused.data.attempt, refused.data.problem.code) == (said.data.attempt, "attempt_refused")
    if agent_id is not None:
        tell(installation, "token.commands", pipeline, TokenRevoke())
        installation.await_event(pipeline, PipelineFailed)


@pytest.mark.covers("P3", "V4")
def test_a_task_with_no_secrets_gets_no_grant(installation: Installation) -> None:
    """Nor does anybody ask for one: the pipeline's other task has its own."""
    model = installation.scenario("ends", ENDS)
    tasks = (
        TaskSpec(id="blind", objective="work", role="researcher", constraints=("no-secrets",)),
        TaskSpec(id="seeing", objective="work", role="researcher"),
    )
    pipeline = installation.submit(Plan(objective="two tasks", tasks=tasks, model=model))
    installation.await_event(pipeline, PipelineCompleted)
    runs = {one.data.task.id: one.data for one in installation.events(pipeline, AgentRun, f"agent.tasks.{QUEUE}")}
    assert runs["blind"].grant is None
    assert runs["seeing"].grant is not None
    seeing = {runs["seeing"].agent_id}
    installation.log.catch_up()
    for message, topic in ((TokenRequest, "token.commands"), (TokenGranted, "token.events"), (AgentGrantOpened, SAID)):
        found = {one.data.agent_id for one in installation.events(pipeline, message, topic)}
        assert found - {None} == seeing, message.type
