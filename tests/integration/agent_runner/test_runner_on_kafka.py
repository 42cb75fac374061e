"""The runner on real Kafka: a task from its record to the last event, and everything that arrives wrong."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from sluice_agent_runner.bootstrap import AgentRunner, agent_runner
from sluice_agent_runner.entrypoints.consumer import Consumer
from sluice_agent_runner.settings import RunnerSettings
from sluice_contracts import codec, topics
from sluice_contracts.envelope import CloudEvent, OutgoingRecord, Record
from sluice_contracts.errors import InvalidRecord
from sluice_contracts.messages import Message
from sluice_contracts.messages.agent import AgentAnswer, AgentInputRequested, AgentStop, Answer, AttemptEvent
from sluice_runtime.broker import TopicPartition
from sluice_runtime.kafka.broker import KafkaBroker
from sluice_runtime.lag import Lag
from sluice_runtime.metrics import Metrics
from tests.kafka import TestKafka
from tests.unit.agent_runner.builders import agent_run, task, until

PARTITIONS = 4
QUEUE = "q"

SCENARIO = """
agents:
  - turns:
      - {tool_calls: [{name: list_files}], repeat: 3}
      - tool_calls: [{name: write_artifact, arguments: {name: a.md, kind: report, content: found}}]
      - tool_calls: [{name: finish, arguments: {summary: done}}]
  - task: slow
    turns: [{tool_calls: [{name: list_files}], delay_ms: 600000}]
  - task: asks
    turns:
      - tool_calls: [{name: ask_human, arguments: {question: "which?", default: a}}]
      - capture: [{tool: ask_human, pattern: '(?P<answer>.+)'}]
        tool_calls: [{name: finish, arguments: {summary: "told {{answer}}"}}]
"""


class Installation:
    """The topics of one test."""

    def __init__(self, broker: KafkaBroker, settings: RunnerSettings) -> None:
        self.broker = broker
        self.settings = settings

    async def send(self, data: Message, agent_id: str, topic: str) -> CloudEvent[Message]:
        event: CloudEvent[Message] = CloudEvent(
            str(uuid.uuid4()), "spawner", "acme", f"pipeline-{agent_id}", 1_800_000_000_000, data
        )
        await self.broker.append(codec.encode(event, topic=topic, key=agent_id))
        return event

    async def run(self, agent_id: str, **changes: Any) -> CloudEvent[Message]:
        spec = task(role="researcher", **changes.pop("task", {}))
        run = agent_run(spec, agent_id=agent_id, **{"deadline_at_ms": 2**50, **changes})
        return await self.send(run, agent_id, f"agent.tasks.{QUEUE}")

    async def records(self, topic: str) -> list[Record]:
        found: list[Record] = []
        count = await self.broker.partitions(topic)
        for at in [TopicPartition(topic, number) for number in range(count)]:
            bounds = (await self.broker.bounds([at]))[at]
            await self.broker.read(at, bounds.first, bounds.end, found.extend)
        return found

    async def events(self, agent_id: str | None = None) -> list[CloudEvent[Message]]:
        """The agents' events; every one of them can be decoded."""
        decoded = [codec.decode(record) for record in await self.records(f"agent.events.{QUEUE}")]
        return [event for event in decoded if agent_id in (None, agent_of(event))]

    async def until(self, holds: Callable[[list[CloudEvent[Message]]], Any]) -> list[CloudEvent[Message]]:
        async with asyncio.timeout(60):
            while True:
                events = await self.events()
                if holds(events):
                    return events

    async def until_type(self, agent_id: str, type_: str) -> list[CloudEvent[Message]]:
        def holds(events: list[CloudEvent[Message]]) -> bool:
            return any(event.type == type_ and agent_of(event) == agent_id for event in events)

        await self.until(holds)
        return await self.events(agent_id)


@pytest.fixture
def installation(kafka: TestKafka, tmp_path: Path) -> Callable[[], Any]:
    prefix = f"runner-{uuid.uuid4().hex[:8]}."
    kafka.create_topics(prefix, [QUEUE], PARTITIONS)
    (tmp_path / "s.yaml").write_text(SCENARIO)
    settings = RunnerSettings(
        kafka_bootstrap_servers=kafka.connection.bootstrap_servers,
        topic_prefix=prefix,
        queues=(QUEUE,),
        artifacts_url=f"file://{tmp_path}/artifacts",
        workspaces_directory=tmp_path / "workspaces",
        scenario_file=tmp_path / "s.yaml",
        instance_id="test",
    )

    @asynccontextmanager
    async def made() -> AsyncIterator[Installation]:
        async with KafkaBroker(kafka.connection, prefix=prefix, client_id="test") as broker:
            yield Installation(broker, settings)

    return made


@asynccontextmanager
async def running(there: Installation, kafka: TestKafka) -> AsyncIterator[AgentRunner]:
    settings = there.settings
    async with (
        KafkaBroker(kafka.connection, prefix=settings.topic_prefix, client_id="runner") as broker,
        agent_runner(settings, broker) as wired,
    ):
        lag = Lag(broker, Metrics("agent-runner", "test"))
        consumer = Consumer(broker, wired.runner, settings.queues, wired.services.time, wired.services.measures, lag)
        parts = [asyncio.create_task(consumer.run()), asyncio.create_task(wired.runner.keep_alive())]
        try:
            async with asyncio.timeout(60):
                await consumer.ready.wait()
            yield wired
        finally:
            await wired.runner.stop(10)
            for part in parts:
                part.cancel()
            await asyncio.gather(*parts, return_exceptions=True)


def agent_of(event: CloudEvent[Message]) -> str:
    assert isinstance(event.data, AttemptEvent)
    return event.data.agent_id


def types(events: list[CloudEvent[Message]]) -> list[str]:
    return [event.type for event in events]


@pytest.mark.covers("W2", "W10", "O1", "W7")
def test_tasks_run_to_their_end(kafka: TestKafka, installation: Callable[[], Any]) -> None:
    async def scenario() -> None:
        async with installation() as there, running(there, kafka):
            causes = [await there.run(f"agent-{n}") for n in range(20)]
            await there.until(lambda events: types(events).count("agent.succeeded") == 20)
            for n, cause in enumerate(causes):
                events = await there.events(f"agent-{n}")
                assert types(events) == [
                    "agent.attempt_started", *["agent.turn_finished"] * 5, "agent.succeeded",
                ]  # fmt: skip
                assert {event.causation_id for event in events} == {cause.id}
                assert {event.tenant for event in events} == {"acme"}
                assert len({event.id for event in events}) == len(events)
                assert [one.data.turn for one in events[1:-1]] == [1, 2, 3, 4, 5]
                assert [one.name for one in events[-1].data.artifacts] == ["a.md"]
            beats = [codec.decode(record) for record in await there.records("runner.heartbeats")]
            assert beats
            await until(lambda: not list(there.settings.workspaces_directory.glob("*/*")))

    asyncio.run(scenario())


@pytest.mark.covers("P12")
def test_another_runner_goes_on_from_the_last_finished_turn(kafka: TestKafka, installation: Callable[[], Any]) -> None:
    async def scenario() -> None:
        async with installation() as there:
            async with running(there, kafka):
                await there.run("agent-1")
                first = await there.until_type("agent-1", "agent.succeeded")
            third = first[3].data
            async with running(there, kafka):
                await there.run("agent-1", attempt=2, turn=3, transcript=third.transcript, usage=third.usage)
                second = (await there.until(lambda events: types(events).count("agent.succeeded") == 2))[len(first) :]
            assert types(second) == ["agent.attempt_started", *["agent.turn_finished"] * 2, "agent.succeeded"]
            assert [one.data.turn for one in second[1:-1]] == [4, 5]
            # The model is deterministic, so the same turns make the same links: nothing was forgotten on the way.
            assert [one.data.transcript for one in second[1:-1]] == [one.data.transcript for one in first[4:6]]

    asyncio.run(scenario())


@pytest.mark.covers("W10")
def test_a_stop_is_heard_in_time_and_after(kafka: TestKafka, installation: Callable[[], Any]) -> None:
    async def scenario() -> None:
        async with installation() as there, running(there, kafka) as wired:
            await there.run("agent-1", task={"id": "slow"})
            await there.until_type("agent-1", "agent.attempt_started")
            await there.send(
                AgentStop(agent_id="agent-1", attempt=1, reason="enough"), "agent-1", f"agent.inbox.{QUEUE}"
            )
            await until(lambda: not list(there.settings.workspaces_directory.glob("*/*")))
            # A late task of a stopped attempt is not started; a newer attempt is.
            await there.run("agent-1")
            await there.run("agent-1", attempt=2)
            events = await there.until_type("agent-1", "agent.succeeded")
            assert [one.data.attempt for one in events if one.type == "agent.attempt_started"] == [1, 2]
            settings = there.settings
            assert wired.runner.room == settings.runner_slots + settings.runner_backlog_max_count

    asyncio.run(scenario())


@pytest.mark.covers("P10")
def test_an_answer_reaches_the_agent_that_waits(kafka: TestKafka, installation: Callable[[], Any]) -> None:
    async def scenario() -> None:
        async with installation() as there, running(there, kafka):
            await there.run("agent-1", task={"id": "asks"})
            asked = (await there.until_type("agent-1", "agent.input_requested"))[-1].data
            assert isinstance(asked, AgentInputRequested)
            assert (asked.question, asked.default, asked.timeout_s) == ("which?", "a", 3_600)
            await there.send(
                AgentAnswer(agent_id="agent-1", answer=Answer(request_id=asked.request_id, answer="b")),
                "agent-1",
                f"agent.inbox.{QUEUE}",
            )
            events = await there.until_type("agent-1", "agent.succeeded")
            assert events[-1].data.summary == "told b"

    asyncio.run(scenario())


@pytest.mark.covers("C2")
def test_what_is_invalid_is_one_dead_letter_and_delays_nobody(
    kafka: TestKafka, installation: Callable[[], Any]
) -> None:
    async def scenario() -> None:
        async with installation() as there, running(there, kafka):
            for topic in (f"agent.tasks.{QUEUE}", f"agent.inbox.{QUEUE}"):
                for value in (b"not json", b"\xff\xfe", None, b"x" * 300_000):
                    await there.broker.append(OutgoingRecord(topic, b"agent-1", value, (("ce_type", b"agent.run"),)))
            stranger = AgentStop(agent_id="agent-1", attempt=1, reason="not here")
            await there.send(stranger, "agent-1", f"agent.tasks.{QUEUE}")
            await there.run("agent-1")
            await there.until_type("agent-1", "agent.succeeded")
            async with asyncio.timeout(30):
                while True:
                    letters = [
                        record for topic in ("tasks", "inbox")
                        for record in await there.records(topics.dead_letter_topic(f"agent.{topic}.{QUEUE}"))
                    ]  # fmt: skip
                    if len(letters) >= 9:
                        break
            assert len(letters) == 9
            reasons = {dict(letter.headers)["dlq_reason"] for letter in letters}
            assert reasons == {b"bad_headers", b"no_value", b"too_large", b"unlawful_type"}
            with pytest.raises(InvalidRecord):
                codec.decode(letters[0])

    asyncio.run(scenario())


@pytest.mark.covers("W10")
def test_two_runners_share_the_work_and_no_task_is_started_twice(
    kafka: TestKafka, installation: Callable[[], Any]
) -> None:
    async def scenario() -> None:
        async with installation() as there, running(there, kafka), running(there, kafka):
            for n in range(40):
                await there.run(f"agent-{n}")
            events = await there.until(lambda events: types(events).count("agent.succeeded") == 40)
            assert types(events).count("agent.attempt_started") == 40
            started = [one for one in events if one.type == "agent.attempt_started"]
            assert len({one.data.runner_id for one in started}) == 2

    asyncio.run(scenario())
