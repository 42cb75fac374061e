"""What makes a handoff report incomplete, and that it says so; an artifact store that is away is waited for."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from sluice_contracts import codec, topics
from sluice_contracts.envelope import CloudEvent, OutgoingRecord, Record
from sluice_contracts.handoff import HandoffReport
from sluice_contracts.messages import Message
from sluice_contracts.messages.base import ArtifactRef
from sluice_observability.adapters.clickhouse import ClickHouse
from sluice_observability.domain.read_model import ReadModel
from sluice_observability.domain.retrying import Backoff
from sluice_observability.handlers.handing_off import REPORTS_AT_ONCE_MAX_COUNT, HandingOff
from sluice_observability.handlers.history import History
from sluice_observability.handlers.live import Live
from sluice_observability.handlers.reports import Reports
from sluice_observability.ports import Sql, StoreUnavailable
from sluice_runtime.artifact_files import FileArtifactStore
from sluice_runtime.artifacts import ArtifactStore, ArtifactStoreUnavailable
from sluice_runtime.broker import Bounds, BrokerUnavailable, TopicPartition
from sluice_runtime.memory import MemoryBroker, MemoryGroups, MemoryLog
from tests.doubles import ManualClock
from tests.unit.observability.breaches import breach, reported
from tests.unit.observability.events import Teller
from tests.unit.observability.test_history import Endpoint
from tests.unit.observability.test_views import stored

COUNTS = {one.name: 1 for one in topics.concrete_topics(queues=["default"], partitions=1)}


class Away:
    """An SQL endpoint that is not there, or that never answers."""

    def __init__(self, answers: bool = True) -> None:
        self._answers = answers

    async def rows(self, *_: object, **__: object) -> list[dict[str, Any]]:
        if not self._answers:
            await asyncio.Event().wait()
        raise StoreUnavailable("the SQL endpoint did not answer: ConnectError")


class Kafka(MemoryBroker):
    """A broker that may be away."""

    is_away = False

    async def bounds(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, Bounds]:
        if self.is_away:
            raise BrokerUnavailable("no broker answers")
        return await super().bounds(partitions)


class World:
    """Topics, a read model that has heard some of what stands on them, and what makes reports."""

    def __init__(self, directory: Path, sql: Sql) -> None:
        self.log = MemoryLog(COUNTS, ManualClock())
        self.kafka = Kafka(self.log, MemoryGroups())
        self.live = Live(ReadModel(10))
        self.heard: dict[TopicPartition, int] = {TopicPartition(name, 0): 0 for name in COUNTS}
        self.store: ArtifactStore = FileArtifactStore(directory / "artifacts")
        self.sql = sql

    def tell(self, *events: CloudEvent[Message], heard: bool = True) -> None:
        """Writes events onto their topics; the read model has them, or is behind."""
        for event in events:
            topic = topics.topic_of(type(event.data)).for_queue("default")
            self.log.append(codec.encode(event, topic=topic, key=event.subject), 0)
            if heard:
                self.live.model.apply(event)
                self.heard[TopicPartition(topic, 0)] += 1

    def reports(self, past_wait_s: float = 0.05) -> Reports:
        async def through() -> Mapping[TopicPartition, int]:
            return self.heard

        return Reports(
            self.live, History(self.sql), self.store, self.kafka, ManualClock(), "o1", through=through,
            complete_wait_s=0.05, past_wait_s=past_wait_s,
        )  # fmt: skip

    def report_on(self, revoked: CloudEvent[Any]) -> tuple[CloudEvent[Any], HandoffReport, str]:
        """The event, the report and its text."""

        async def make() -> tuple[CloudEvent[Any], bytes, bytes]:
            event = (await self.reports().on_revocation(revoked, 0)).event
            data = event.data
            return event, await self.store.get(data.report.sha256), await self.store.get(data.markdown.sha256)

        event, report, markdown = asyncio.run(make())
        return event, HandoffReport.model_validate_json(report), markdown.decode()


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path, Away())


def test_with_all_that_was_said_it_is_complete(world: World) -> None:
    told = breach(Teller("p1"))
    world.tell(*told)
    event, report, text = world.report_on(told[-1])
    assert (event.data.complete, report.complete, report.incomplete_because) == (True, True, "")
    assert "Not complete" not in text


@pytest.mark.covers("O5")
def test_what_was_not_heard_in_time_is_named(world: World) -> None:
    told = breach(Teller("p1"))
    world.tell(*told[:-2])
    world.tell(*told[-2:], heard=False)
    event, report, text = world.report_on(told[-1])
    assert (event.data.complete, report.complete) == (False, False)
    ends = {name: world.log.bounds(TopicPartition(name, 0)).end for name in ("alerts", "token.events")}
    lacking = ", ".join(f"{name}/0 up to {end}" for name, end in sorted(ends.items()))
    assert report.incomplete_because == f"not heard within 0.05 s: {lacking}"
    assert f"**Not complete:** not heard within 0.05 s: {lacking}." in text
    assert report.summary.errors == 6, "what was heard is in it"


@pytest.mark.covers("O5")
def test_where_kafka_does_not_say_how_far_its_topics_are_the_report_comes_all_the_same(world: World) -> None:
    told = breach(Teller("p1"))
    world.tell(*told)
    world.kafka.is_away = True
    event, report, _ = world.report_on(told[-1])
    assert not event.data.complete
    assert report.incomplete_because == "where the topics end is not known: no broker answers"
    assert report.summary.errors == 6


@pytest.mark.covers("O5")
@pytest.mark.parametrize("answers", [True, False], ids=["away", "hanging"])
def test_a_pipeline_that_is_known_to_nobody_while_the_log_is_away(tmp_path: Path, answers: bool) -> None:
    world = World(tmp_path, Away(answers))
    *_, revoked = told = breach(Teller("p1"))
    world.tell(revoked)
    event, report, text = world.report_on(revoked)
    assert len(told) > 1
    assert not event.data.complete
    assert report.incomplete_because == "nothing is known of the pipeline's plan"
    assert "**Not complete:** nothing is known of the pipeline's plan." in text
    assert [one.code for one in report.recommended_actions] == ["read_log"]
    assert report.summary.revocation is not None


@pytest.mark.covers("O5", "O1")
def test_a_pipeline_that_the_read_model_has_forgotten_is_read_from_the_log(
    engine: ClickHouse, tmp_path: Path, engine_directory: Path
) -> None:
    told = breach(Teller("p1"))
    stored(engine, told)
    world = World(tmp_path, Endpoint(engine_directory))
    event, report, _ = world.report_on(told[-1])
    assert not event.data.complete
    assert report.incomplete_because == "read from the log, which may be a moment behind"
    assert report.summary.errors == 6
    assert [one.task_id for one in report.context.tasks] == ["look"]


class Full:
    """A store that is full for some writes; then it is the real one."""

    def __init__(self, real: ArtifactStore, failures: int) -> None:
        self._real, self.left = real, failures

    async def put(self, body: bytes, **more: Any) -> ArtifactRef:
        if self.left:
            self.left -= 1
            raise ArtifactStoreUnavailable("artifact store: could not store: No space left on device")
        return await self._real.put(body, **more)

    async def get(self, sha256: str) -> bytes:
        return await self._real.get(sha256)


class MemoryOutbox:
    """`ports.Outbox` in memory: what is answered or passed over does not come again."""

    def __init__(self, records: list[Record], done: Callable[[], object], live: Live) -> None:
        self._records, self._done, self._live = records, done, live
        self.answers: list[OutgoingRecord] = []

    def poll(self, timeout_s: float) -> Sequence[Record]:
        return list(self._records)

    def passed(self, record: Record) -> None:
        assert self._records.pop(0) == record, "what comes before it is not done"
        if not self._records:
            self._done()

    def answer(self, record: Record, answer: OutgoingRecord) -> None:
        self.answers.append(answer)
        self._live.model.apply(codec.decode(Record(answer.topic, 0, 0, 0, answer.key, answer.value, answer.headers)))
        self.passed(record)

    def close(self) -> None:
        pass


def handed_off(world: World, *records: Record, wait_s: float, past_wait_s: float = 0.05) -> list[OutgoingRecord]:
    """What the api has answered when it was told to stop: when all is answered, or when the time is up."""

    async def run() -> list[OutgoingRecord]:
        stop, loop = asyncio.Event(), asyncio.get_running_loop()
        outbox = MemoryOutbox([*records], lambda: loop.call_soon_threadsafe(stop.set), world.live)
        reports = world.reports(past_wait_s)
        working = asyncio.create_task(HandingOff(lambda: outbox, reports, Backoff(0.001, 0.01)).run(stop))
        loop.call_later(wait_s, stop.set)
        await working
        return outbox.answers

    return asyncio.run(run())


def revocation(world: World, told: list[CloudEvent[Message]]) -> Record:
    at = TopicPartition("token.events", 0)
    return next(one for one in world.log.read(at, 0) if dict(one.headers)["ce_id"] == told[-1].id.encode())


@pytest.mark.covers("O5", "W7")
@pytest.mark.parametrize("failures", [1, 2, 7], ids=["the report", "its text", "again and again"])
def test_a_full_artifact_store_is_waited_for_and_the_report_comes_once(world: World, failures: int) -> None:
    told = breach(Teller("p1"))
    world.tell(*told)
    world.store = Full(world.store, failures)
    [answer] = handed_off(world, revocation(world, told), wait_s=30)
    event = codec.decode(Record(answer.topic, 0, 0, 0, answer.key, answer.value, answer.headers))
    data = reported(event)

    async def read() -> tuple[bytes, bytes]:
        return await world.store.get(data.report.sha256), await world.store.get(data.markdown.sha256)

    report, _ = asyncio.run(read())
    assert json.loads(report)["pipeline_id"] == "p1"


@pytest.mark.covers("O5")
def test_an_api_that_is_stopped_while_the_store_is_full_leaves_the_report_to_the_next(world: World) -> None:
    told = breach(Teller("p1"))
    world.tell(*told)
    full = Full(world.store, 1_000_000)
    world.store = full
    record = revocation(world, told)
    assert handed_off(world, record, wait_s=0.2) == []
    full.left = 0
    assert len(handed_off(world, record, wait_s=30)) == 1


class Hanging:
    """An SQL endpoint that answers nobody until so many have asked."""

    def __init__(self, count: int) -> None:
        self._left, self._open = count, asyncio.Event()

    async def rows(self, *_: object, **__: object) -> list[dict[str, Any]]:
        self._left -= 1
        if self._left <= 0:
            self._open.set()
        await self._open.wait()
        return []


@pytest.mark.covers("O5")
def test_pipelines_that_are_revoked_together_do_not_wait_for_one_another(tmp_path: Path) -> None:
    count = REPORTS_AT_ONCE_MAX_COUNT
    world = World(tmp_path, Hanging(count))
    courses = [breach(Teller(f"p{number}")) for number in range(count)]
    for told in courses:
        world.tell(*told)
    records = world.log.read(TopicPartition("token.events", 0), 0)
    answers = handed_off(world, *records, wait_s=60, past_wait_s=3_600)
    assert [answer.key for answer in answers] == [told[0].subject.encode() for told in courses], "in their order"


@pytest.mark.covers("O5")
def test_a_revocation_that_stands_there_twice_has_one_report(world: World) -> None:
    told = breach(Teller("p1"))
    world.tell(*told, told[-1])
    records = world.log.read(TopicPartition("token.events", 0), 0)
    assert len(handed_off(world, *records, wait_s=60)) == 1
