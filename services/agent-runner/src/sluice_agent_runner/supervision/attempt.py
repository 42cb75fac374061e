"""One attempt, from its task's record to its last event."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, nullcontext

from sluice_agent_runner.domain import events
from sluice_agent_runner.domain.actions import Action, Ask, CallModel, Fail, FinishTurn, RunTools, Succeed, Wait
from sluice_agent_runner.domain.conversation import TurnRecord, encode_link
from sluice_agent_runner.domain.limits import PROBLEM_DETAIL_MAX_CHARACTERS
from sluice_agent_runner.domain.pace import Pace
from sluice_agent_runner.domain.signals import Signal, Signals
from sluice_agent_runner.domain.tools import CATALOGUE
from sluice_agent_runner.domain.turns import TurnMachine
from sluice_agent_runner.ports import ModelError, Workspace
from sluice_agent_runner.supervision.caller import AttemptCaller
from sluice_agent_runner.supervision.credential import Credential, OwnSecrets
from sluice_agent_runner.supervision.defects import told
from sluice_agent_runner.supervision.faults import FAULTS, UNOPENED, failure_of
from sluice_agent_runner.supervision.granting import open_grant
from sluice_agent_runner.supervision.services import Services
from sluice_agent_runner.supervision.signalling import SignalSender
from sluice_agent_runner.supervision.transcripts import load_links, store_large
from sluice_contracts.constraints import NO_SECRETS
from sluice_contracts.envelope import CloudEvent
from sluice_contracts.ids import derived_id
from sluice_contracts.messages.agent import (
    AgentAttemptStarted,
    AgentFailed,
    AgentRun,
    AgentSucceeded,
    Answer,
)
from sluice_contracts.messages.base import Message, Problem
from sluice_contracts.messages.token import Grant
from sluice_contracts.topics import AGENT_EVENTS, SIGNALS
from sluice_runtime.tracing import child_of

log = logging.getLogger(__name__)

SOURCE = "agent-runner"

ANSWERS_MAX_COUNT = 1_000
"""Answers that are kept for an attempt that has not asked yet: an agent asks a few questions a turn."""


Aside = Callable[..., Awaitable[Action]]
"""How a step of the machine that may take long is done."""


async def _at_once(step: Callable[..., Action], *arguments: object) -> Action:
    return step(*arguments)


class Place:
    """An attempt's place among those that work. Waiting for a person, it is given to another."""

    def __init__(self, leave: Callable[[], None], come_back: Callable[[], Awaitable[None]]) -> None:
        self._leave = leave
        self._come_back = come_back
        self.held = True

    def leave(self) -> None:
        """Gives the place up."""
        self.held = False
        self._leave()

    async def come_back(self) -> None:
        """Waits for a place, before those that have not begun."""
        await self._come_back()
        self.held = True


class AttemptRunner:
    """Drives the turn machine of one attempt with real models, tools and topics.

    Guarantee: a turn begins only when every turn before it is in the artifact store and in the log. When `run` is
    cancelled, nothing more is published.

    Args:
        event: The `agent.run`.
        queue: The queue that it came from.
    """

    def __init__(self, services: Services, event: CloudEvent[AgentRun], queue: str, place: Place) -> None:
        self._services = services
        self._event = event
        self._run = event.data
        self._queue = queue
        self._topic = AGENT_EVENTS.for_queue(queue)
        self._place = place
        self._attempt = events.Attempt.of(event.data, services.runner_id)
        self._source = f"{SOURCE}/{services.runner_id}"
        self._answers: dict[str, Answer] = {}
        self._answered = asyncio.Event()
        self._draining = False
        self._announcing: asyncio.Task[None] | None = None
        self._pace = Pace(services.time.monotonic_ms(), event.data.api_calls_per_minute)
        self._sender = SignalSender(lambda signal: self._event_of(signal.data, signal.ordinal), self._signal)
        self._secrets = OwnSecrets(services.redact)
        run = event.data
        self._early = Signals(
            run.agent_id, run.attempt, run.turn, services.redact, services.progress_interval_ms, "wait."
        )
        self._held_up = 0
        self._begun = False
        self._machine: TurnMachine | None = None

    @property
    def waiting(self) -> bool:
        """Whether it waits for a person, or for Vault to begin with."""
        return not self._place.held

    def answer(self, answer: Answer) -> None:
        """Hands over an answer. One that nobody asked for is of no effect."""
        if len(self._answers) < ANSWERS_MAX_COUNT:
            self._answers.setdefault(answer.request_id, answer)
            self._answered.set()

    def throttle(self, calls_per_minute: int) -> None:
        """From now on its API calls are spaced, as long as it lives."""
        self._pace.limit(calls_per_minute)

    @contextmanager
    def held_up(self) -> Iterator[None]:
        """Within it the runner has the attempt wait: for a place, for Vault, for its provider, for its pace."""
        self._held_up += 1
        try:
            yield
        finally:
            self._held_up -= 1

    def look(self) -> None:
        """Tells every so often that the attempt comes on, where it is the runner that has it wait; call it each second.

        A call of a model or a tool that hangs is no such wait.
        """
        if self._held_up or not self._begun:
            signals = self._early if self._machine is None else self._machine.signals
            signals.came_on(self._services.time.monotonic_ms())
            self._sender.send(signals.take())

    def drop(self) -> None:
        """Tells nothing more."""
        self._sender.drop()

    def drain(self) -> None:
        """Ends the attempt, without an event, after the turn that runs."""
        self._draining = True

    async def announce(self) -> None:
        """Tells the spawner that this runner holds the attempt, once; a place may come later."""
        await self._announcement

    async def run(self) -> None:
        """Runs the attempt to its end. The first turn runs while the announcement becomes durable.

        Guarantee: whatever goes wrong in it ends this attempt alone, as `agent.failed`, as long as that can be said.

        Raises:
            Exception: Not even the failure could be said: it is the runner that is broken, not the attempt.
        """
        announcement = self._announcement
        self._begun = True
        try:
            try:
                ending = await self._work()
                await self._sender.flush()
                if ending is not None:
                    await self._say(ending, 0)
            except FAULTS as error:
                await self._sender.flush()
                await self._say(events.failed(self._attempt, failure_of(error, self._secrets.redact)), 0)
            except Exception as error:
                await self._say(events.failed(self._attempt, self._defect(error)), 0)
        finally:
            self.drop()
            if not announcement.cancel() and not announcement.cancelled():
                announcement.exception()  # of no interest to an attempt that was cancelled

    @property
    def _announcement(self) -> asyncio.Task[None]:
        if self._announcing is None:
            run, runner_id = self._run, self._services.runner_id
            started = AgentAttemptStarted(agent_id=run.agent_id, attempt=run.attempt, runner_id=runner_id)
            self._announcing = asyncio.get_running_loop().create_task(self._publish(started, 0, self._topic))
        return self._announcing

    async def _work(self) -> AgentSucceeded | AgentFailed | None:
        """The turns, and the message that ends them; None if the attempt was drained."""
        grant = self._run.grant
        if grant is None or NO_SECRETS in self._run.task.constraints:
            action = await self._all_turns(None)
        else:
            action = await self._turns_with(await self._open(grant))
        if isinstance(action, Succeed):
            texts = {"result": action.conclusion.result}
            stored = await store_large(self._services.artifacts, texts)
            return events.succeeded(self._attempt, action, texts, stored)
        return None if action is None else events.failed(self._attempt, action)

    async def _open(self, grant: Grant) -> Credential:
        """Opens the grant after the attempt is announced, and says so, or why it can't.

        Waiting for Vault, it gives its place away.
        """
        await self._announcement
        time = self._services.time
        begun_ms = time.monotonic_ms()
        try:
            with self.held_up():
                credential = await open_grant(
                    self._services, self._event.subject, self._run, grant, self._queue,
                    deadline=self._deadline_at_ms, secrets=self._secrets, waiting=self._place.leave,
                )  # fmt: skip
                if not self._place.held:
                    await self._place.come_back()
        except UNOPENED as error:
            problem, took_ms = failure_of(error, self._secrets.redact).problem, time.monotonic_ms() - begun_ms
            await self._say(events.grant_refused(self._attempt, grant.accessor, problem, took_ms), 0)
            raise
        await self._say(events.grant_opened(self._attempt, grant.accessor, time.monotonic_ms() - begun_ms), 0)
        return credential

    def _deadline_at_ms(self) -> int:
        return self._run.deadline_at_ms if self._machine is None else self._machine.deadline_at_ms

    async def _turns_with(self, credential: Credential) -> Succeed | Fail | None:
        """The turns, for as long as their credential lives."""
        loop = asyncio.get_running_loop()
        turns = loop.create_task(self._all_turns(credential))
        watch = loop.create_task(credential.watch(self._services.look_up_interval_s, lambda: self.waiting))
        try:
            await asyncio.wait((turns, watch), return_when=asyncio.FIRST_COMPLETED)
            if not turns.done():
                await watch
            return await turns
        finally:
            for task in (turns, watch):
                task.cancel()
            await asyncio.gather(turns, watch, return_exceptions=True)
            credential.forget()

    async def _all_turns(self, credential: Credential | None) -> Succeed | Fail | None:
        services, run = self._services, self._run
        role = services.roles.get(run.task.role)
        if role is None:
            problem = Problem(
                code="unknown_role",
                detail=f"role {run.task.role!r} of task {run.task.id} is unknown to this runner; known are "
                f"{', '.join(sorted(services.roles))}"[:PROBLEM_DETAIL_MAX_CHARACTERS],
            )
            return Fail(problem, retryable=False)
        links = await load_links(services.artifacts, run.transcript, run.turn)
        redact = services.redact if credential is None else self._secrets.redact
        machine = self._machine = TurnMachine(
            self._event.subject, run, role, links, redact, progress_interval_ms=services.progress_interval_ms
        )
        aside = asyncio.to_thread if machine.judges_results else _at_once  # heartbeats must go on
        action = await aside(machine.start, services.time.now_ms())
        if isinstance(action, Succeed | Fail):
            return action
        workspace = await services.workspaces.open(self._event.subject, run, machine.artifacts)
        try:
            return await self._turns(machine, action, workspace, role.limits.question_timeout_s, aside, credential)
        finally:
            await asyncio.shield(workspace.close())

    async def _turns(
        self,
        machine: TurnMachine,
        action: Action,
        workspace: Workspace,
        question_timeout_s: int,
        aside: Aside,
        credential: Credential | None,
    ) -> Succeed | Fail | None:
        services = self._services
        time, signals = services.time, machine.signals
        caller = AttemptCaller(time, self._pace, signals, self._sender, credential, _without(self._run), self.held_up)
        while True:
            if not isinstance(action, FinishTurn):  # whose signals go with its record
                self._sender.send(signals.take())
            if isinstance(action, CallModel):
                if self._draining:
                    return None
                begun_ms = time.monotonic_ms()
                try:
                    reply = await services.models.complete(action.request, caller)
                except ModelError as error:
                    action = machine.on_model_failed(error.code, error.detail, retryable=error.retryable)
                else:
                    action = await aside(machine.on_model_reply, reply, time.monotonic_ms() - begun_ms)
            elif isinstance(action, RunTools):
                results = []
                for call in action.calls:
                    results.append(await workspace.tools.run(call))
                    caller.came_on()
                action = await aside(machine.on_tool_results, results)
            elif isinstance(action, FinishTurn):
                sha256 = await self._finish_turn(action.record, signals.take())
                self._pace.told(time.monotonic_ms())
                action = machine.on_turn_durable(sha256, time.now_ms())
            elif isinstance(action, Ask):
                for request in action.requests:
                    asked = events.requested(self._attempt, request, question_timeout_s)
                    await self._say(asked, request.request_id)
                action = machine.on_asked(time.now_ms())
            elif isinstance(action, Wait):
                answer = await self._next_answer(action.for_person)
                action = machine.on_answer(answer, time.now_ms())
                if not isinstance(action, Wait) and not self._place.held:
                    with self.held_up():
                        await self._place.come_back()
            else:
                return action

    async def _finish_turn(self, record: TurnRecord, signals: list[Signal]) -> str:
        """Makes a turn durable: the link first, then the event that names it; its signals beside that."""
        artifacts = self._services.artifacts
        link = await artifacts.put(encode_link(record.link), media_type="application/json", kind="transcript")
        texts = events.turn_texts(record)
        stored = await store_large(artifacts, texts)
        finished = events.turn_finished(self._attempt, record, link, texts, stored)
        told = [(self._event_of(finished, record.turn), self._topic)]
        told += [(self._event_of(data, ordinal), SIGNALS.name) for data, ordinal in signals]
        await self._announcement
        await self._services.publisher.publish_all(told, key=self._event.subject)
        await self._sender.flush()
        measures = self._services.measures
        measures.turn_finished(record.reply.provider)
        for call in record.tool_calls:
            if call.request.name in CATALOGUE:
                measures.tool_call(call.request.name, is_error=call.result.is_error)
        return link.sha256

    async def _next_answer(self, for_person: bool) -> Answer:
        """Waiting for a person, the place is given away; for the spawner, which answers at once, it is kept."""
        while not self._answers:
            if for_person and self._place.held:
                self._place.leave()
            self._answered.clear()
            with nullcontext() if for_person else self.held_up():
                await self._answered.wait()
        return self._answers.pop(next(iter(self._answers)))

    def _defect(self, error: Exception) -> Fail:
        """Another attempt would meet the same defect, and be paid for again: it is not retried."""
        run = self._run
        log.error("attempt %d of agent %s met a defect of the runner", run.attempt, run.agent_id, exc_info=error)
        self._services.measures.attempt_met_a_defect()
        detail = told(error, self._secrets.redact)[:PROBLEM_DETAIL_MAX_CHARACTERS]
        return Fail(Problem(code="internal_error", detail=detail), retryable=False)

    async def _say(self, data: Message, ordinal: int | str) -> None:
        """Publishes one event of the attempt, after its announcement."""
        await self._announcement
        await self._publish(data, ordinal, self._topic)

    async def _signal(self, event: CloudEvent[Message]) -> None:
        await self._services.publisher.publish(event, topic=SIGNALS.name, key=event.subject)

    async def _publish(self, data: Message, ordinal: int | str, topic: str) -> None:
        event = self._event_of(data, ordinal)
        await self._services.publisher.publish(event, topic=topic, key=event.subject)

    def _event_of(self, data: Message, ordinal: int | str) -> CloudEvent[Message]:
        """The event's id is the same however often the step is repeated by this runner."""
        cause = self._event
        return CloudEvent(
            id=derived_id(cause.id, self._services.runner_id, data.type, ordinal),
            source=self._source,
            tenant=cause.tenant,
            subject=cause.subject,
            time_ms=self._services.time.now_ms(),
            data=data,
            causation_id=cause.id,
            traceparent=child_of(cause.traceparent, data.type, ordinal),
        )


def _without(run: AgentRun) -> str:
    """Why an attempt without a credential has none."""
    if NO_SECRETS in run.task.constraints:
        return f"task {run.task.id} has the constraint {NO_SECRETS}, so it reads none from Vault"
    return "the attempt has no grant to read one from Vault with"
