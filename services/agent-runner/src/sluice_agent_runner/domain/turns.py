"""The turn loop of one attempt as a pure state machine: sans I/O, clock, random and asyncio.

```
start ─▶ CallModel ─on_model_reply─▶ RunTools ─on_tool_results─▶ FinishTurn ─on_turn_durable─▶ CallModel …
                                        └────(no tool to run)────▶┘                └─▶ Succeed, Fail
                                                                                   └─▶ Ask ──────on_asked─▶ Wait
                                                                                        on_answer ─▶ CallModel
```
A driver performs the action that a method returns, and calls the method that the action names. A turn is durable
before anything follows from it; so whoever goes on from a turn's link goes on exactly here, and pays for no finished
turn twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from sluice_agent_runner.domain import prompts
from sluice_agent_runner.domain.actions import (
    Action,
    Ask,
    CallModel,
    Fail,
    FinishTurn,
    RunTools,
    Succeed,
    Wait,
    failure,
)
from sluice_agent_runner.domain.admission import admit
from sluice_agent_runner.domain.allowance import Allowance
from sluice_agent_runner.domain.calls import TurnCalls
from sluice_agent_runner.domain.cleaning import Redact, cleaned
from sluice_agent_runner.domain.conclusion import Conditions
from sluice_agent_runner.domain.conversation import (
    ChatMessage,
    Conclusion,
    Link,
    ModelReply,
    ModelRequest,
    ToolCallRequest,
    ToolResult,
    TurnRecord,
    WrittenArtifact,
)
from sluice_agent_runner.domain.questions import Questions
from sluice_agent_runner.domain.result_schema import InvalidOutputSchema
from sluice_agent_runner.domain.signals import PROGRESS_INTERVAL_MS, Signals
from sluice_agent_runner.domain.tools import CATALOGUE, FINISH, ToolDefinition
from sluice_agent_runner.domain.tools import Finish as FinishArguments
from sluice_contracts.messages.agent import AgentRun, Answer
from sluice_runtime.role import Role

WITHOUT_TOOL_MAX_COUNT = 2
"""Answers in a row without a tool call: one is nudged, the next shows that nudging does not help."""


class MachineMisused(RuntimeError):
    """The driver called what the last action did not ask for: a defect of the driver."""


class TurnMachine:
    """One attempt.

    Args:
        pipeline_id: The pipeline's id.
        run: The attempt, as the spawner asked for it.
        role: The task's role.
        links: The transcript's links in the order of their turns; empty for a new agent.
        redact: Applied to all that comes in, before it enters the conversation: what the model reads, the transcript
            and the log hold the same.
        catalogue: All tools that there are.
        progress_interval_ms: A turn that lasts tells that it comes on at most so often.

    Attributes:
        signals: What is to be told for error budgets; the driver tells it of each call of the model.
    """

    def __init__(
        self,
        pipeline_id: str,
        run: AgentRun,
        role: Role,
        links: Sequence[Link],
        redact: Redact,
        catalogue: Mapping[str, ToolDefinition] = CATALOGUE,
        progress_interval_ms: int = PROGRESS_INTERVAL_MS,
    ) -> None:
        self._pipeline_id = pipeline_id
        self._run = run
        self._role = role
        self._links = links
        self._redact = redact
        self._catalogue = catalogue
        self._tools: tuple[ToolDefinition, ...] = ()
        self._conditions = Conditions(run.task, role)
        self._model = run.task.model or role.model
        self.signals = Signals(run.agent_id, run.attempt, run.turn, redact, progress_interval_ms)
        self._calls = TurnCalls(run.task, role, catalogue, self.signals, redact)

        self._allowance = Allowance(run)
        self._questions = Questions(run.agent_id, run.answers)

        self._expected = "start"
        self._turn = run.turn
        self._previous = run.transcript.sha256 if run.transcript else None
        self._without_tool = 0
        self._told_without_tool = prompts.NUDGE

        self._messages: list[ChatMessage] = []
        self._added: list[ChatMessage] = []
        self._artifacts: dict[str, WrittenArtifact] = {}

        self._reply: ModelReply | None = None
        self._model_ms = 0
        self._conclusion: Conclusion | None = None
        self._failure: Fail | None = None

    @property
    def turn(self) -> int:
        """Turns finished so far."""
        return self._turn

    @property
    def artifacts(self) -> tuple[WrittenArtifact, ...]:
        """The last version of each artifact that finished turns wrote, in the order of first writing."""
        return tuple(self._artifacts.values())

    @property
    def deadline_at_ms(self) -> int:
        """When the task must have ended, with the time that was waited for people."""
        return self._allowance.deadline_at_ms

    @property
    def judges_results(self) -> bool:
        """Whether results are held against a schema: then a step may take seconds, bounded by the schema's steps."""
        return self._conditions.output_schema is not None

    # The driver's side

    def start(self, now_ms: int) -> Action:
        """Begins, or goes on after the last link."""
        self._expect("start")
        tools = admit(self._run.task, self._role, self._conditions, self._catalogue)
        if isinstance(tools, Fail):
            return self._end(tools)
        self._tools = tools
        self._calls.grant(tools)
        failed = self._take_up_links()
        if failed is not None:
            return self._end(failed)
        if self._conclusion is not None:
            return self._end(Succeed(self._conclusion, self.artifacts))
        if not self._messages:
            self._say("system", prompts.system_prompt(self._role))
            self._say("user", prompts.task_prompt(self._run, self._conditions.output_schema))
        return self._go_on(now_ms)

    def on_model_reply(self, reply: ModelReply, model_ms: int) -> Action:
        """Takes the model's answer."""
        self._expect("model")
        reply = self._reply = cleaned(reply, self._turn + 1, self._calls.granted, self._redact)
        self._model_ms = model_ms
        self._allowance.use(reply.usage)
        to_run = self._calls.sort_out(reply.tool_calls)
        if to_run:
            self._expected = "tools"
            return RunTools(tuple(to_run))
        return self._finish_turn()

    def on_tool_results(self, results: Sequence[ToolResult]) -> Action:
        """Takes the outcome of every call that `RunTools` named."""
        self._expect("tools")
        assert self._reply is not None
        self._calls.take(self._reply.tool_calls, results)
        return self._finish_turn()

    def on_model_failed(self, code: str, detail: str, retryable: bool) -> Action:
        """Takes the news that the model can't be asked: the attempt ends."""
        self._expect("model")
        return self._end(failure(code, self._redact(detail), retryable=retryable))

    def on_turn_durable(self, link_sha256: str, now_ms: int) -> Action:
        """Takes the news that the turn can't be lost any more."""
        self._expect("durable")
        self._previous = link_sha256
        if self._failure is not None:
            return self._end(self._failure)
        if self._conclusion is not None:
            return self._end(Succeed(self._conclusion, self.artifacts))
        return self._go_on(now_ms)

    def on_asked(self, now_ms: int) -> Action:
        """Takes the news that the requests are published."""
        self._expect("asked")
        if self._questions.for_person:
            self._allowance.wait_begins(now_ms)
        self._expected = "answer"
        return Wait(self._questions.for_person)

    def on_answer(self, answer: Answer, now_ms: int) -> Action:
        """Takes an answer. An answer to something else, or a second one, changes nothing."""
        self._expect("answer")
        self._questions.hear(answer)
        if self._questions.unanswered():
            return Wait(self._questions.for_person)
        self._allowance.wait_ends(now_ms)
        return self._go_on(now_ms)

    # Between turns

    def _take_up_links(self) -> Fail | None:
        if [link.turn for link in self._links] != list(range(1, self._run.turn + 1)):
            return failure(
                "transcript_inconsistent",
                f"the transcript has the turns {[link.turn for link in self._links][:5]}… where {self._run.turn} are "
                "finished; the artifact store and the log do not belong together",
            )
        for link in self._links:
            self._messages += link.messages
            for artifact in link.artifacts:
                self._artifacts[artifact.name] = artifact
        if not self._links:
            return None
        for link in self._links[:-1]:
            self._without_tool = 0 if link.said.tool_calls else self._without_tool + 1
        last, self._links = self._links[-1], ()
        self._conclusion = last.conclusion
        if last.conclusion is None:
            self._decide_again(last)
        self.signals.take()  # that was told when it happened
        return self._failure

    def _decide_again(self, last: Link) -> None:
        """Finds out what followed from the last turn: its requests, its failure, the word to a silent model."""
        said = last.said
        self._calls.sort_out(said.tool_calls)
        self._steer(said.content, said.tool_calls)
        self._conclusion = None  # the link is the record: it holds none
        answered = {message.call_id for message in last.messages if message.role == "tool"} | self._questions.call_ids
        for request in said.tool_calls:
            # A request that was lawful when it was asked, and is not any more: its agent hears why.
            if request.call_id not in answered:
                self._added.append(self._calls.result(request).message())
        self._turn_is_over(said.tool_calls)

    def _go_on(self, now_ms: int) -> Action:
        unanswered = self._questions.unanswered()
        if unanswered:
            self._expected = "asked"
            return Ask(unanswered)
        for message in self._questions.settle():
            self._added.append(msgspec.structs.replace(message, content=self._redact(message.content)))
        failed = self._allowance.exhausted(self._turn, now_ms)
        if failed is not None:
            return self._end(failed)
        self._expected = "model"
        return CallModel(
            ModelRequest(
                pipeline_id=self._pipeline_id,
                agent_id=self._run.agent_id,
                attempt=self._run.attempt,
                task_id=self._run.task.id,
                role=self._role.name,
                turn=self._turn + 1,
                model=self._model,
                messages=(*self._messages, *self._added),
                tools=self._tools,
                max_output_tokens=self._role.limits.max_output_tokens,
            )
        )

    # Inside a turn

    def _finish_turn(self) -> Action:
        assert self._reply is not None
        reply, calls = self._reply, self._calls
        written = calls.written(reply.tool_calls)
        for artifact in written:
            self._artifacts[artifact.name] = artifact
        self._turn += 1
        self._steer(reply.text, reply.tool_calls)
        prompt = tuple(self._added)
        asking = self._questions.call_ids
        audited = calls.audited(reply.tool_calls, asking)
        added = (
            *prompt,
            ChatMessage("assistant", reply.text, reply.tool_calls),
            *(one.result.message() for one in audited if one.request.call_id not in asking),
        )
        link = Link(self._turn, self._previous, added, written, self._conclusion)
        self._messages += added
        record = TurnRecord(self._turn, link, prompt, reply, audited, self._model_ms)
        self._added = []
        self._turn_is_over(reply.tool_calls)
        self._reply = None
        self._expected = "durable"
        self.signals.turn_finished()
        return FinishTurn(record)

    def _turn_is_over(self, requests: Sequence[ToolCallRequest]) -> None:
        if not requests and self._conclusion is None and self._failure is None:
            self._say("user", self._told_without_tool)
        self._calls.over()

    def _steer(self, text: str, requests: Sequence[ToolCallRequest]) -> None:
        """What follows from a turn once its tools have run. The same again for the last turn of a transcript."""
        try:
            if requests:
                self._without_tool = 0
                self._answer_control()
            else:
                self._answered_without_tool(text)
        except InvalidOutputSchema as error:
            self._failure = failure("invalid_output_schema", str(error))

    def _answer_control(self) -> None:
        """Notes what is asked of others, and answers finish."""
        asks = [(request, arguments) for request, arguments in self._calls.control if request.name != FINISH.name]
        for request, arguments in asks:
            self._questions.ask(request, arguments, self._turn)
        for request, arguments in self._calls.control:
            if request.name != FINISH.name:
                continue
            assert isinstance(arguments, FinishArguments)
            if asks:
                self._calls.refuse(request, "refused: you also asked something; wait for the answer")
            elif self._conclusion is not None:
                self._calls.refuse(request, "refused: the task is finished already")
            else:
                self._try_to_finish(request, arguments)

    def _try_to_finish(self, request: ToolCallRequest, arguments: FinishArguments) -> None:
        conclusion, faults = self._conditions.conclude(arguments.summary, arguments.result, self._artifacts)
        if conclusion is None:
            self._calls.refuse(request, "refused:\n" + "\n".join(f"- {fault}" for fault in faults))
            return
        self._conclusion = conclusion
        self._calls.accept(request)

    def _answered_without_tool(self, text: str) -> None:
        self._without_tool += 1
        self._told_without_tool = prompts.NUDGE
        if self._role.finish_without_tool and text.strip():
            conclusion, faults = self._conditions.conclude(text[:4_000], text, self._artifacts)
            if conclusion is not None:
                self._conclusion = conclusion
                return
            self._told_without_tool = "This is not yet a result:\n" + "\n".join(f"- {fault}" for fault in faults)
        if self._without_tool >= WITHOUT_TOOL_MAX_COUNT:
            self._failure = failure(
                "model_did_not_finish",
                f"the model answered {self._without_tool} times in a row without a tool call or a result that counts",
            )

    def _say(self, role: str, content: str) -> None:
        self._added.append(ChatMessage(role, self._redact(content)))  # type: ignore[arg-type]

    # Order of calls

    def _expect(self, call: str) -> None:
        if self._expected != call:
            raise MachineMisused(f"the machine expects {self._expected!r}; it was given {call!r}")

    def _end(self, action: Succeed | Fail) -> Action:
        self._expected = "nothing"
        return action
