"""Whatever arrives on a topic: one dead letter each, whole and with its reason; the neighbours go on (C2)."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest

from sluice_contracts import codec, limits, topics
from sluice_contracts.envelope import CloudEvent, Headers, OutgoingRecord
from sluice_contracts.errors import Refusal
from sluice_contracts.ids import INSTALLATION_ID as INSTALLATION
from sluice_contracts.messages import Message
from sluice_contracts.messages.admission import AdmissionGranted, AdmissionRequested
from sluice_contracts.messages.agent import (
    AgentAttemptStarted,
    AgentRun,
    AgentStop,
    AgentTurnFinished,
    RunnerHeartbeat,
)
from sluice_contracts.messages.alert import AlertRaised, BudgetSet
from sluice_contracts.messages.audit import AuditLinesLost
from sluice_contracts.messages.base import ArtifactRef
from sluice_contracts.messages.pipeline import (
    AgentAttemptLost,
    AgentAttemptRefused,
    PipelineCompleted,
    PipelineRefused,
    PipelineStateChanged,
    PipelineTick,
)
from sluice_contracts.messages.plan import TaskSpec
from sluice_contracts.messages.report import HandoffReported
from sluice_contracts.messages.signal import ViolationReported
from sluice_contracts.messages.token import TokenGranted, TokenRenewed, TokenRequest
from sluice_runtime.kafka.broker import murmur2
from tests.installation import PREFIX, QUEUE, Installation
from tests.kafka import write_unreadable

PARTITIONS = 8
ADMISSION = "admission"
WORK = """
agents:
  - turns:
      - {text: look, tool_calls: [{name: list_files}], delay_ms: 100, repeat: 40}
      - {tool_calls: [{name: finish, arguments: {summary: done}}]}
"""
"""Longer than a lease: its heartbeats must be heard."""

Break = Callable[[OutgoingRecord], OutgoingRecord]


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """Of its own: what other tests say of all records holds of lawful ones."""
    with Installation(tmp_path_factory.mktemp("bad-records")) as running:
        yield running


def headed(**changed: bytes | None) -> Break:
    """Other headers; None leaves one out."""

    def change(good: OutgoingRecord) -> OutgoingRecord:
        headers: dict[str, bytes | None] = {**dict(good.headers), **changed}
        return replace(good, headers=tuple((name, value) for name, value in headers.items() if value is not None))

    return change


def valued(value: bytes | None) -> Break:
    return lambda good: replace(good, value=value)


def with_null_header(good: OutgoingRecord) -> OutgoingRecord:
    """Not JSON, and a header without a value, which its dead letter keeps."""
    return replace(good, value=b"<xml/>", headers=(*good.headers, ("without-value", None)))


def structured(good: OutgoingRecord, **changed: Any) -> OutgoingRecord:
    """The same event in structured mode."""
    attributes = {name.removeprefix("ce_"): value.decode() for name, value in good.headers if name.startswith("ce_")}
    document = {**attributes, "data": json.loads(good.value or b"null"), **changed}
    headers: Headers = (("content-type", b"application/cloudevents+json; charset=utf-8"),)
    return replace(good, value=json.dumps(document).encode(), headers=headers)


def elsewhere(good: OutgoingRecord) -> OutgoingRecord:
    """The same record under a key that belongs into another partition: the test writes it into the first one's."""
    key = next(one for one in iter(lambda: str(uuid.uuid4()), "") if home(one) != home((good.key or b"").decode()))
    value = json.loads(good.value or b"{}")
    value |= {"agent_id": key} if "agent_id" in value else {}
    changed = replace(good, key=key.encode(), value=json.dumps(value).encode())
    if good.topic == ADMISSION:  # a request has one key only; its body is a grant's as well
        changed = headed(ce_type=AdmissionGranted.type.encode(), ce_dataschema=None)(changed)
    return headed(ce_subject=key.encode())(changed)


BROKEN: dict[str, tuple[Refusal, Break]] = {
    "null": (Refusal.NO_VALUE, valued(None)),
    "large": (Refusal.TOO_LARGE, valued(b'"' + b"x" * limits.MESSAGE_VALUE_MAX_BYTES + b'"')),
    "deep": (Refusal.TOO_DEEP, valued(b'{"x": ' + b"[" * 1_000 + b"]" * 1_000 + b"}")),
    "deep, structured": (
        Refusal.TOO_DEEP, lambda good: structured(valued(b"[" * 40 + b"]" * 40)(good)),
    ),
    "not UTF-8": (Refusal.NOT_UTF8, valued(b'{"x": "\xff\xfe"}')),
    "not JSON": (Refusal.NOT_JSON, valued(b"<xml/>")),
    "not JSON, a header without value": (Refusal.NOT_JSON, with_null_header),
    "truncated": (Refusal.NOT_JSON, lambda good: replace(good, value=(good.value or b"")[:-1] or b"{")),
    "empty": (Refusal.NOT_JSON, valued(b"")),
    "no headers": (Refusal.BAD_HEADERS, lambda good: replace(good, headers=())),
    "header not UTF-8": (Refusal.BAD_HEADERS, headed(ce_id=b"\xff")),
    "no id, structured": (Refusal.BAD_HEADERS, lambda good: structured(good, id=None)),
    "unknown type": (Refusal.UNKNOWN_TYPE, headed(ce_type=b"world.ended", ce_dataschema=None)),
    "unknown version": (
        Refusal.UNKNOWN_VERSION,
        lambda good: headed(ce_dataschema=b"urn:sluice:" + dict(good.headers)["ce_type"] + b":v77")(good),
    ),
    "unknown version, structured": (
        Refusal.UNKNOWN_VERSION,
        lambda good: structured(good, dataschema=f"urn:sluice:{dict(good.headers)['ce_type'].decode()}:v77"),
    ),
    "forged source": (Refusal.FORGED_SOURCE, lambda good: headed(ce_source=FORGED[good.topic])(good)),
    "other key": (Refusal.BAD_KEY, lambda good: replace(good, key=b"another")),
    "no key": (Refusal.BAD_KEY, lambda good: replace(good, key=None)),
    "wrong body": (Refusal.INVALID_BODY, valued(b"[1, 2, 3]")),
    "unlawful": (
        Refusal.UNLAWFUL_TYPE, lambda good: headed(ce_type=UNLAWFUL[good.topic], ce_dataschema=None)(good),
    ),
    "elsewhere": (Refusal.WRONG_PARTITION, elsewhere),
}  # fmt: skip
ONE_PARTITION = ("runner.heartbeats", "budgets")
COMPACTED = ("budgets",)
"""Kafka itself takes no record without a key, and one without a value deletes."""
CONSUMED = (
    "pipeline.commands", f"agent.events.{QUEUE}", f"agent.tasks.{QUEUE}", f"agent.inbox.{QUEUE}", "runner.heartbeats",
    "pipeline.events", ADMISSION, "token.commands", "token.events", "signals", "budgets", "alerts", "reports",
    "vault.audit",
)  # fmt: skip
FORGED = {
    "pipeline.commands": b"agent-runner/x", f"agent.events.{QUEUE}": b"spawner/1",
    f"agent.tasks.{QUEUE}": b"agent-runner/x",
    f"agent.inbox.{QUEUE}": b"observability", "runner.heartbeats": b"spawner", "pipeline.events": b"agent-runner/x",
    ADMISSION: b"agent-runner/x", "token.commands": b"agent-runner/x", "token.events": b"spawner",
    "signals": b"vault-broker", "budgets": b"spawner", "alerts": b"spawner", "reports": b"spawner",
    "vault.audit": b"vault-broker",
}  # fmt: skip
UNLAWFUL = dict.fromkeys(CONSUMED, b"pipeline.tick") | {"pipeline.commands": b"pipeline.spawned"}


_REF = ArtifactRef(sha256="0" * 64, size_bytes=0)
SAFEGUARDS: dict[str, tuple[str, Message]] = {
    "token.events": ("vault-broker", TokenRenewed(agent_id="nobody", attempt=1, accessor="a", expires_at_ms=1)),
    "budgets": ("a-stranger", BudgetSet(scope="installation")),
    "alerts": (
        "monitor",
        AlertRaised(
            condition="no_progress", action="revoke_agent", agent_id="nobody", attempt=1, observed=2, limit=1,
            window_ms=1, breached_at_ms=1, detail="nobody came on",
        ),
    ),
    "reports": (
        "observability-api",
        HandoffReported(cause="demand", cause_id="c", reason="r", summary="s", report=_REF, markdown=_REF),
    ),
    "vault.audit": ("vault-audit", AuditLinesLost(file="0" * 64, offset=1)),
}  # fmt: skip
"""Topics on which a record about nobody changes nothing: by whom, and what."""


def home(key: str) -> int:
    """The partition of a key."""
    return (int(murmur2(key.encode())) & 0x7FFFFFFF) % PARTITIONS


@dataclass(frozen=True)
class Good:
    """A lawful record, and how one sees that it was handled."""

    record: OutgoingRecord
    identity: str
    handled: Callable[[], Any]


def test_every_case_is_here() -> None:
    assert {refusal for refusal, _ in BROKEN.values()} == set(Refusal)
    consumed = {row.for_queue(QUEUE) for row in topics.TOPICS if row.refused_by is not None}
    assert consumed == set(CONSUMED)


@pytest.mark.covers("C2", "C1", "C3", "O1")
def test_bad_records_on_every_topic(installation: Installation) -> None:
    model = installation.scenario("bad-records-neighbour", WORK)
    long = installation.spawn(model)
    agent = installation.await_event(long, AgentTurnFinished, topic=SAID).data.agent_id
    written: dict[tuple[str, int, int], tuple[str, Refusal, OutgoingRecord]] = {}
    goods: list[Good] = []
    for topic in CONSUMED:
        first, second, third = (_good(installation, topic, long, agent, model, number) for number in range(3))
        goods += [first, second, third]
        partition = 0 if topic in ONE_PARTITION else home((first.record.key or b"").decode())
        cases = {
            name: (refusal, change(first.record)) for name, (refusal, change) in BROKEN.items()
            if (topic not in ONE_PARTITION or refusal != Refusal.WRONG_PARTITION)
            and (topic not in COMPACTED or name not in ("no key", "null"))
        }  # fmt: skip
        homes = {home((one.record.key or b"").decode()) for one in (first, second, third)}
        assert topic in ONE_PARTITION or homes == {partition}
        records = [first.record, *(record for _, record in cases.values()), second.record, structured(third.record)]
        places = installation.write(records, principal="admin", partition=partition)
        for (name, (refusal, record)), place in zip(cases.items(), places[1:-2], strict=True):
            written[topic, *place] = name, refusal, record
        key, value = first.record.key or b"", b"unreadable"
        unreadable = write_unreadable(installation.connection(), PREFIX + topic, partition, key, value)
        offset = asyncio.run(unreadable)
        bare = OutgoingRecord(topic, key, value, ())
        written[topic, partition, offset] = "a header's name is not UTF-8", Refusal.BAD_HEADERS, bare
    for good in goods:
        installation.until_read(good.handled, what=f"{good.record.topic}: {good.identity} is handled")

    def letters() -> dict[tuple[str, int, int], list[Any]]:
        found: dict[tuple[str, int, int], list[Any]] = {place: [] for place in written}
        for topic in CONSUMED:
            for letter in installation.log.records.get(topics.dead_letter_topic(topic), ()):
                headers = dict(letter.headers)
                place = topic, int(headers["dlq_partition"]), int(headers["dlq_offset"])
                found[place].append(letter)  # a letter of any other record is a fault of its own: KeyError
        return found

    def lacking() -> dict[tuple[str, int, int], str]:
        return {place: written[place][0] for place, found in letters().items() if not found}

    try:
        installation.until_read(lambda: not lacking(), what="each bad record has a dead letter")
    except AssertionError as error:
        raise AssertionError(f"no dead letter of {lacking()}") from error
    installation.await_event(long, PipelineCompleted)
    assert not installation.events(long, AgentAttemptLost), "heartbeats were not heard"
    installation.log.catch_up()
    for place, found in letters().items():
        name, refusal, record = written[place]
        assert len(found) == 1, f"{place[0]}, {name}: {len(found)} dead letters"
        headers = dict(found[0].headers)
        assert headers["dlq_reason"].decode() == refusal, f"{place[0]}, {name}: {headers['dlq_detail']!r}"
        assert (found[0].key, found[0].value) == (record.key, record.value), f"{place[0]}, {name}"
        originals = {one: value for one, value in found[0].headers if one.startswith("dlq_original_")}
        assert originals == {f"dlq_original_{one}": value for one, value in record.headers}, f"{place[0]}, {name}"

    query = "SELECT topic, partition, offset, reason, letter_topic FROM dead_letters"
    rows = installation.until(
        lambda: len(found := installation.sql(query)) >= len(written) and found, what="SQL has them"
    )
    told = {(row["topic"], int(row["partition"]), int(row["offset"])): row["reason"] for row in rows}
    assert told == {place: refusal.value for place, (_, refusal, _) in written.items()}
    listed = installation.get("api", f"/api/dead-letters?limit=500&topic=agent.inbox.{QUEUE}").json["items"]
    assert len(listed) == sum(1 for topic, _, _ in written if topic == f"agent.inbox.{QUEUE}")


SAID = f"agent.events.{QUEUE}"


def _good(installation: Installation, topic: str, pipeline: str, agent: str, model: str, number: int) -> Good:
    """A lawful record for a topic, of whom it can be seen that it was handled."""
    made: Message
    identity, subject, key, source = str(uuid.uuid4()), pipeline, pipeline, "spawner"
    if topic == "pipeline.commands":
        # A pipeline that nobody knows, in the partition of the living one.
        subject = key = next(one for one in iter(lambda: str(uuid.uuid4()), "") if home(one) == home(pipeline))
        made, source = PipelineTick(), "a-stranger"
        name = subject

        def handled() -> Any:
            return installation.events(name, PipelineRefused)

    elif topic == SAID:
        made, source = AgentAttemptStarted(agent_id=agent, attempt=99, runner_id="nobody"), "agent-runner/nobody"

        def handled() -> Any:
            refused = installation.events(pipeline, AgentAttemptRefused)
            return [one for one in refused if one.data.refused_id == identity]

    elif topic == f"agent.tasks.{QUEUE}":
        key = next(one for one in iter(lambda: str(uuid.uuid4()), "") if home(one) == home(agent))
        subject = str(uuid.uuid4())
        deadline_at_ms = time.time_ns() // 1_000_000 + 600_000
        task = TaskSpec(id="t", objective="work", role="researcher", model=model)
        made = AgentRun(agent_id=key, attempt=1, task=task, objective="work", deadline_at_ms=deadline_at_ms)
        nobody = subject

        def handled() -> Any:
            started = installation.events(nobody, AgentAttemptStarted, SAID)
            return [one for one in started if one.causation_id == identity]

    elif topic == f"agent.inbox.{QUEUE}":
        # Stops one of the agents that the lines above have started.
        installation.until_read(
            lambda: len(_running(installation) - {agent}) == 3, what="agents run that may be stopped"
        )
        key = sorted(_running(installation) - {agent})[number]
        made = AgentStop(agent_id=key, attempt=1, reason="the test is over")
        stopped = key

        def handled() -> Any:
            return stopped not in _running(installation)

    elif topic in ("token.commands", "signals"):
        # About pipelines that nobody else knows, in the partition of the living one.
        subject = key = next(one for one in iter(lambda: str(uuid.uuid4()), "") if home(one) == home(pipeline))
        unknown, source = subject, "a-stranger"
        answer: tuple[type[Message], str]
        if topic == "signals":
            made, answer = ViolationReported(policy="p", severity="CRITICAL"), (AlertRaised, "alerts")
        else:
            made, answer = TokenRequest(), (TokenGranted, "token.events")

        def handled() -> Any:
            return installation.events(unknown, *answer)

    elif topic in SAFEGUARDS:
        source, made = SAFEGUARDS[topic]
        if topic == "budgets":
            made, subject = BudgetSet(scope="pipeline", name=identity), identity
            key = f"pipeline/{identity}"

        def handled() -> Any:
            return installation.sql(f"SELECT 1 FROM events WHERE event_id = '{identity}'")

    elif topic == ADMISSION:
        # For a pipeline that nobody knows: what it is granted comes back.
        nobody = str(uuid.uuid4())
        made, subject, key = AdmissionRequested(pipeline_id=nobody, slots=1, number=1), INSTALLATION, INSTALLATION
        asking = nobody

        def handled() -> Any:
            return installation.events(asking, AdmissionGranted, ADMISSION)

    elif topic == "runner.heartbeats":
        subject = key = f"nobody-{identity[:8]}"
        made, source = RunnerHeartbeat(runner_id=subject, queues=(QUEUE,), slots=1), f"agent-runner/{subject}"

        def handled() -> Any:
            return installation.sql(f"SELECT 1 FROM events WHERE event_id = '{identity}'")

    else:
        made = PipelineStateChanged(from_state="RUNNING", to_state="RUNNING", reason="a neighbour")

        def handled() -> Any:
            return installation.sql(f"SELECT 1 FROM events WHERE event_id = '{identity}'")

    event: CloudEvent[Message] = CloudEvent(identity, source, "tenant", subject, time.time_ns() // 1_000_000, made)
    return Good(codec.encode(event, topic=topic, key=key), identity, handled)


def _running(installation: Installation) -> set[str]:
    """The agents that the real runner named last."""
    for record in reversed(installation.log.records.get("runner.heartbeats", ())):
        try:
            heartbeat = codec.decode(record).data
        except Exception:
            continue
        if isinstance(heartbeat, RunnerHeartbeat) and not heartbeat.runner_id.startswith("nobody"):
            return {one.agent_id for one in heartbeat.attempts}
    return set()


def test_homes_are_those_of_kafkas_partitioner() -> None:
    """The partition that this test computes is the one that the contract's ids get from Kafka's default partitioner."""
    assert home("21") == (-973932308 & 0x7FFFFFFF) % PARTITIONS  # a test vector of Kafka's own UtilsTest
    assert home("foobar") == (-790332482 & 0x7FFFFFFF) % PARTITIONS
