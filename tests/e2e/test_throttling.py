"""Rate-limit first, then revoke: monitor, spawner, inbox and runner together, and one who does not obey."""

from __future__ import annotations

import time
import uuid
from itertools import pairwise

import pytest

from sluice_contracts import codec, ids
from sluice_contracts.envelope import CloudEvent
from sluice_contracts.messages.agent import AgentRun, AgentThrottle, AgentTurnFinished
from sluice_contracts.messages.alert import AlertRaised, BudgetSet
from sluice_contracts.messages.base import Message
from sluice_contracts.messages.pipeline import PipelineCompleted, TaskSucceeded
from sluice_contracts.messages.plan import Limits
from sluice_contracts.messages.signal import ProgressReported
from tests.e2e.test_breach import INBOX, SAID, ended_well, tell
from tests.installation import QUEUE, TENANT, Installation

CALLS = 10
"""A minute: of an agent that is alone, one every six seconds."""

EAGER = """
agents:
  - task: t0
    turns:
      - {text: look, tool_calls: [{name: list_files}], repeat: 11}
      - {tool_calls: [{name: finish, arguments: {summary: done}}], delay_ms: 2000}
  - turns:
      - {tool_calls: [{name: finish, arguments: {summary: done}}]}
"""
STUBBORN = """
agents:
  - turns:
      - {text: look, tool_calls: [{name: list_files}], repeat: 2}
      - {text: look, tool_calls: [{name: list_files}], delay_ms: 120000}
  - role: diagnostician
    turns:
      - tool_calls:
          - name: finish
            arguments:
              summary: seen
              result: '{"cause": "it did not obey", "evidence": [], "recommendations": []}'
"""


def limited(installation: Installation) -> tuple[str, str]:
    """A dedupe key whose pipeline may make ten calls a minute, and that pipeline's id."""
    key = str(uuid.uuid4())
    pipeline = ids.pipeline_id(TENANT, key)
    budget = BudgetSet(scope="pipeline", name=pipeline, api_calls_per_minute=CALLS)
    tell(installation, "budgets", pipeline, budget, key=f"pipeline/{pipeline}")
    where = f"SELECT 1 AS one FROM events WHERE type = 'budget.set' AND payload LIKE '%{pipeline}%'"
    installation.until(lambda: installation.sql(where), what="the budget is set")
    return key, pipeline


def actions(installation: Installation, pipeline: str) -> list[str]:
    return [one.data.action for one in installation.events(pipeline, AlertRaised, "alerts")]


@pytest.mark.covers("V5")
def test_agents_that_are_throttled_and_followed_by_others_go_on_to_the_end(installation: Installation) -> None:
    key, pipeline = limited(installation)
    limits = Limits(max_iterations=100, max_agents=1)
    installation.spawn(installation.scenario("eager", EAGER), tasks=4, dedupe_key=key, limits=limits)
    installation.await_event(pipeline, PipelineCompleted)
    installation.log.catch_up()
    [alert] = installation.events(pipeline, AlertRaised, "alerts")
    assert (alert.data.action, alert.data.observed, alert.data.limit) == ("throttle", CALLS + 1, CALLS)
    agents = [one.data.agent_id for one in installation.events(pipeline, TaskSucceeded)]
    turns = installation.events(pipeline, AgentTurnFinished, SAID)
    told_ms = [max(one.time_ms for one in turns if one.data.agent_id == agent_id) for agent_id in agents]
    runs = installation.events(pipeline, AgentRun, f"agent.tasks.{QUEUE}")
    throttled = {one.data.agent_id for one in runs if one.data.api_calls_per_minute == CALLS}
    # By the times that the calls were told with, which is what is counted; each agent but the first made one.
    followed = [
        later - sooner
        for (sooner, later), agent_id in zip(pairwise(told_ms), agents[1:], strict=True)
        if agent_id in throttled
    ]
    assert len(followed) >= 2
    assert min(followed) >= 60_000 // CALLS - 50, "the clock that tells the time is not the one that waits"


@pytest.mark.covers("V5", "O6")
def test_who_is_throttled_and_makes_calls_all_the_same_is_revoked(installation: Installation) -> None:
    key, pipeline = limited(installation)
    installation.spawn(installation.scenario("stubborn", STUBBORN), dedupe_key=key)
    turn = installation.await_event(pipeline, AgentTurnFinished, lambda one: one.turn == 2, topic=SAID)

    def calls(ago_ms: int) -> None:
        """More than are allowed, as a runner of somebody else's would tell them."""
        data: Message = ProgressReported(
            agent_id=turn.data.agent_id, attempt=turn.data.attempt, turn=2, api_calls=CALLS + 1
        )
        at_ms = time.time_ns() // 1_000_000 - ago_ms
        event = CloudEvent(str(uuid.uuid4()), "agent-runner/another", TENANT, pipeline, at_ms, data)
        installation.write([codec.encode(event, topic="signals", key=pipeline)])

    calls(ago_ms=30_000)  # so that the ten seconds in which a throttle reaches its agents are over
    told = installation.await_event(pipeline, AgentThrottle, topic=INBOX)
    assert (told.data.agent_id, told.data.api_calls_per_minute) == (turn.data.agent_id, CALLS)
    assert actions(installation, pipeline) == ["throttle"]
    calls(ago_ms=0)
    ended_well(installation, pipeline, "api_call_budget_exceeded", diagnosed=True)
    assert actions(installation, pipeline) == ["throttle", "revoke_pipeline"]
