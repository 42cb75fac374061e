"""The fold of the topics into what people see. The dispatch table stands at the end; what is said of credentials,
breaches and reports is folded in `safeguards`, what is said of the blackboard in `blackboard`.

Order: what the spawner says of one pipeline is in order and numbered, so a repeated event is recognised by its number.
Numbers rise also where an id is used again, long after its pipeline ended: the last spawn is what the id means.
Between the two kinds of topics there is no order: what a runner says may come before the event that creates its agent,
so it is kept with a pipeline of which nothing else is known yet, and never changes what the spawner decides. What has
no number and must count once is recognised by its id.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any

from sluice_contracts.envelope import CloudEvent
from sluice_contracts.messages import Message, agent, pipeline
from sluice_contracts.topics import PIPELINE_EVENTS
from sluice_observability.domain import blackboard, safeguards, told_turns
from sluice_observability.domain.folding import Fold
from sluice_observability.domain.views import (
    AgentView,
    DiagnosedView,
    DiagnosticView,
    PipelineView,
    QuestionView,
    TaskView,
)

UNKNOWN_MAX_COUNT = 10_000
"""Pipelines of which only a runner spoke so far, or does so after their end: the oldest are forgotten first."""

SEEN_MAX_COUNT = 50_000
"""Ids remembered of what counts once: minutes of heavy traffic. A repetition follows closely."""

DIAGNOSTICS_MAX_COUNT = 16
"""Diagnostics shown of one pipeline, the newest: one of its breach, and those that people asked for."""

_OF_SPAWNER = frozenset(PIPELINE_EVENTS.messages)


class ReadModel:
    """Living pipelines, and the newest finished ones.

    Args:
        finished_max_count: More finished pipelines than this are not kept: the oldest are forgotten, and SQL has them.
    """

    def __init__(self, finished_max_count: int) -> None:
        self._finished_max_count = finished_max_count
        self._known: dict[str, PipelineView] = {}
        self._finished: OrderedDict[str, None] = OrderedDict()
        self._unknown: OrderedDict[str, PipelineView] = OrderedDict()
        self._agents: dict[str, str] = {}
        self._seen: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._diagnosing: dict[str, list[str]] = {}

    def apply(self, event: CloudEvent[Message]) -> bool:
        """Folds one event, and says whether it was news: not one of the spawner's that came again."""
        fold = FOLDS.get(type(event.data))
        if fold is None:
            return True
        by_spawner = type(event.data) in _OF_SPAWNER
        if type(event.data) in safeguards.ONCE and not self._is_first(event):
            return False
        view = self._known.get(event.subject) or self._unknown.get(event.subject)
        if view is None:
            view = PipelineView(event.subject, event.tenant)
            self._unknown[event.subject] = view
            if len(self._unknown) > UNKNOWN_MAX_COUNT:
                self._unknown.popitem(last=False)
        if by_spawner and event.sequence is not None:
            if event.sequence <= view.sequence:
                return False
            if view.spawned and isinstance(event.data, pipeline.PipelineSpawned):
                view = self._live_again(view)
            view.sequence = event.sequence
        was_finished = view.finished
        fold(view, event.data, event)
        _touch(view, event)
        if view.spawned and event.subject in self._unknown:
            self._known[event.subject] = self._unknown.pop(event.subject)
        if isinstance(event.data, pipeline.PipelineSpawned) and view.diagnosed is not None:
            self._diagnosing.setdefault(view.diagnosed.pipeline_id, []).append(event.subject)
        if isinstance(event.data, pipeline.AgentCreated):
            self._agents[event.data.agent_id] = event.subject
        if view.finished and not was_finished and view.spawned:
            self._keep_finished(event.subject)
        return True

    def _is_first(self, event: CloudEvent[Message]) -> bool:
        told = event.source.partition("/")[0], event.id
        if told in self._seen:
            return False
        self._seen[told] = None
        if len(self._seen) > SEEN_MAX_COUNT:
            self._seen.popitem(last=False)
        return True

    def _live_again(self, former: PipelineView) -> PipelineView:
        """Begins a pipeline whose id was used before, and forgets that one.

        An agent of which only runners spoke so far is the new one's: they may be heard before the spawner.
        """
        pipeline_id = former.pipeline_id
        del self._known[pipeline_id]
        self._finished.pop(pipeline_id, None)
        view = PipelineView(pipeline_id, former.tenant)
        for agent_id, agent_view in former.agents.items():
            if self._agents.pop(agent_id, None) is None:
                view.agents[agent_id] = agent_view
                view.updated_at_ms = max(view.updated_at_ms, agent_view.updated_at_ms)
        safeguards.carry_over(former, view)
        self._forget_diagnostic(former)
        self._known[pipeline_id] = view
        return view

    def _keep_finished(self, pipeline_id: str) -> None:
        self._finished[pipeline_id] = None
        if len(self._finished) > self._finished_max_count:
            oldest, _ = self._finished.popitem(last=False)
            forgotten = self._known.pop(oldest)
            self._forget_diagnostic(forgotten)
            for agent_id in forgotten.agents:
                self._agents.pop(agent_id, None)

    def _forget_diagnostic(self, view: PipelineView) -> None:
        about = view.diagnosed.pipeline_id if view.diagnosed is not None else ""
        if view.pipeline_id in self._diagnosing.get(about, ()):
            self._diagnosing[about].remove(view.pipeline_id)
            if not self._diagnosing[about]:
                del self._diagnosing[about]

    def pipeline(self, pipeline_id: str) -> PipelineView | None:
        """A pipeline, if it is here, with those that diagnose it."""
        view = self._known.get(pipeline_id)
        if view is not None:
            view.diagnostics = self.diagnostics(pipeline_id, view.tenant)
        return view

    def heard_of(self, pipeline_id: str) -> PipelineView | None:
        """What is known of a pipeline of which the spawner was not heard."""
        return self._known.get(pipeline_id) or self._unknown.get(pipeline_id)

    def diagnostics(self, pipeline_id: str, tenant: str) -> list[DiagnosticView]:
        """The pipelines here that diagnose another one of their tenant's, which need not be here; the newest last."""
        known = (self._known[one] for one in self._diagnosing.get(pipeline_id, ()))
        found = [DiagnosticView(one.pipeline_id, one.state, one.findings) for one in known if one.tenant == tenant]
        return found[-DIAGNOSTICS_MAX_COUNT:]

    def agent(self, agent_id: str) -> AgentView | None:
        """An agent, if it is here."""
        found = self._known.get(self._agents.get(agent_id, ""))
        return None if found is None else found.agents.get(agent_id)

    def living(self) -> Iterator[PipelineView]:
        """The pipelines that did not reach their end, oldest first."""
        return (view for view in self._known.values() if not view.finished)

    def __len__(self) -> int:
        return len(self._known)


def _touch(view: PipelineView | TaskView | AgentView, event: CloudEvent[Message]) -> None:
    view.updated_at_ms = max(view.updated_at_ms, event.time_ms)


def _agent(view: PipelineView, agent_id: str) -> AgentView:
    found = view.agents.get(agent_id)
    if found is None:
        found = view.agents[agent_id] = AgentView(agent_id, view.pipeline_id, view.tenant)
    return found


def _task(view: PipelineView, task_id: str) -> TaskView:
    found = view.tasks.get(task_id)
    if found is None:
        found = view.tasks[task_id] = TaskView(task_id, "", "")
    return found


def _spawned(view: PipelineView, data: pipeline.PipelineSpawned, event: CloudEvent[Message]) -> None:
    view.spawned = True
    view.tenant = event.tenant
    view.objective = data.plan.objective
    view.model = data.plan.tasks[0].model or data.plan.model
    view.dedupe_key = data.dedupe_key
    view.parent_pipeline_id = data.parent_pipeline_id
    if data.diagnosed is not None:
        about = data.diagnosed
        view.diagnosed = DiagnosedView(about.pipeline_id, about.alert_id, about.depth)
    safeguards.show_findings(view)
    view.labels = data.plan.labels
    view.spawned_at_ms = event.time_ms
    for spec in data.plan.tasks:
        task = _task(view, spec.id)
        task.objective, task.role = spec.objective, spec.role


def _state_changed(view: PipelineView, data: pipeline.PipelineStateChanged, event: CloudEvent[Message]) -> None:
    view.state, view.reason = data.to_state, data.reason


def _ended(view: PipelineView, data: pipeline.PipelineResult, event: CloudEvent[Message]) -> None:
    view.state = _END_STATES[type(data)]
    view.reason, view.problem = data.reason, data.problem
    view.finished_at_ms, view.duration_ms = event.time_ms, data.duration_ms
    view.agents_used, view.usage = data.agents_used, data.usage
    view.questions.clear()
    for task_id, status in data.tasks.items():
        _task(view, task_id).status = status


def _assigned(view: PipelineView, data: pipeline.TaskAssigned, event: CloudEvent[Message]) -> None:
    task = _told(view, data.task_id, event)
    task.status, task.queue, task.agent_id, task.attempt = "assigned", data.queue, data.agent_id, data.attempt
    agent_view = _agent(view, data.agent_id)
    agent_view.attempt, agent_view.runner_id = data.attempt, None
    _touch(agent_view, event)


def _started(view: PipelineView, data: pipeline.TaskStarted, event: CloudEvent[Message]) -> None:
    task = _told(view, data.task_id, event)
    task.status, task.attempt = "running", data.attempt
    agent_view = _agent(view, data.agent_id)
    agent_view.attempt, agent_view.runner_id = data.attempt, data.runner_id
    _touch(agent_view, event)


def _retried(view: PipelineView, data: pipeline.TaskRetried, event: CloudEvent[Message]) -> None:
    task = _told(view, data.task_id, event)
    task.retries, task.problem = data.retry, data.problem
    _agent(view, data.agent_id).last_problem = data.problem


def _succeeded(view: PipelineView, data: pipeline.TaskSucceeded, event: CloudEvent[Message]) -> None:
    task = _told(view, data.task_id, event)
    task.status, task.summary, task.problem = "succeeded", data.summary, None
    task.artifacts, task.usage, task.turns = data.artifacts, data.usage, data.turns
    agent_view = _agent(view, data.agent_id)
    told_turns.sum_up(agent_view, data.turns, data.usage)
    _touch(agent_view, event)


def _failed(view: PipelineView, data: pipeline.TaskFailed, event: CloudEvent[Message]) -> None:
    task = _told(view, data.task_id, event)
    task.status, task.problem = "failed", data.problem
    safeguards.count_error(view, data.problem.code, data.problem.detail, task.agent_id, event)
    if task.agent_id is not None:
        _agent(view, task.agent_id).last_problem = data.problem


def _skipped(view: PipelineView, data: pipeline.TaskSkipped, event: CloudEvent[Message]) -> None:
    task = _told(view, data.task_id, event)
    task.status, task.summary = "skipped", data.reason


def _cancelled(view: PipelineView, data: pipeline.TaskCancelled, event: CloudEvent[Message]) -> None:
    task = _told(view, data.task_id, event)
    task.status, task.summary = "cancelled", data.reason


def _told(view: PipelineView, task_id: str, event: CloudEvent[Message]) -> TaskView:
    task = _task(view, task_id)
    _touch(task, event)
    return task


def _agent_created(view: PipelineView, data: pipeline.AgentCreated, event: CloudEvent[Message]) -> None:
    agent_view = _agent(view, data.agent_id)
    agent_view.task_id, agent_view.role, agent_view.queue = data.task_id, data.role, data.queue
    agent_view.tenant = event.tenant
    _touch(agent_view, event)


def _agent_state(view: PipelineView, data: pipeline.AgentStateChanged, event: CloudEvent[Message]) -> None:
    agent_view = _agent(view, data.agent_id)
    agent_view.state = data.to_state
    _touch(agent_view, event)


def _attempt_lost(view: PipelineView, data: pipeline.AgentAttemptLost, event: CloudEvent[Message]) -> None:
    agent_view = _agent(view, data.agent_id)
    agent_view.attempts_lost += 1
    agent_view.runner_id, agent_view.last_problem = None, data.problem
    safeguards.count_error(view, data.problem.code, data.problem.detail, data.agent_id, event)
    _touch(agent_view, event)


def _attempt_refused(view: PipelineView, data: pipeline.AgentAttemptRefused, event: CloudEvent[Message]) -> None:
    agent_view = _agent(view, data.agent_id)
    agent_view.messages_refused += 1
    if data.refused_type == agent.AgentTurnFinished.type:
        told_turns.refuse(agent_view, data.refused_id)
    safeguards.refuse_findings(view, data)


def _asked(view: PipelineView, data: pipeline.QuestionAsked, event: CloudEvent[Message]) -> None:
    view.questions[data.question_id] = QuestionView(
        data.question_id, data.agent_id, data.question, data.options, data.default, data.deadline_at_ms
    )


def _answered(view: PipelineView, data: pipeline.QuestionAnswered, event: CloudEvent[Message]) -> None:
    view.questions.pop(data.question_id, None)


def _turn_finished(view: PipelineView, data: agent.AgentTurnFinished, event: CloudEvent[Message]) -> None:
    agent_view = _agent(view, data.agent_id)
    told_turns.tell(agent_view, event.id, data, event.time_ms)
    _touch(agent_view, event)


_END_STATES: Mapping[type[Message], Any] = {
    pipeline.PipelineCompleted: "COMPLETED",
    pipeline.PipelineFailed: "FAILED",
    pipeline.PipelineCancelled: "CANCELLED",
}

FOLDS: Mapping[type[Message], Fold] = {
    pipeline.PipelineSpawned: _spawned,
    pipeline.PipelineStateChanged: _state_changed,
    pipeline.PipelineCompleted: _ended,
    pipeline.PipelineFailed: _ended,
    pipeline.PipelineCancelled: _ended,
    pipeline.TaskAssigned: _assigned,
    pipeline.TaskStarted: _started,
    pipeline.TaskRetried: _retried,
    pipeline.TaskSucceeded: _succeeded,
    pipeline.TaskFailed: _failed,
    pipeline.TaskSkipped: _skipped,
    pipeline.TaskCancelled: _cancelled,
    pipeline.AgentCreated: _agent_created,
    pipeline.AgentStateChanged: _agent_state,
    pipeline.AgentAttemptLost: _attempt_lost,
    pipeline.AgentAttemptRefused: _attempt_refused,
    pipeline.QuestionAsked: _asked,
    pipeline.QuestionAnswered: _answered,
    agent.AgentTurnFinished: _turn_finished,
    **blackboard.FOLDS,
    **safeguards.FOLDS,
}
