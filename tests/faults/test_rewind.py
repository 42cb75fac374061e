"""Groups are rewound to the beginning and commands are sent again: nothing happens twice."""

from __future__ import annotations

import signal
import time
import uuid

import pytest
from confluent_kafka import ConsumerGroupState, ConsumerGroupTopicPartitions, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from sluice_contracts.envelope import OutgoingRecord
from sluice_contracts.messages.agent import AgentStop
from sluice_contracts.messages.pipeline import AgentAttemptRefused, PipelineCancel, PipelineRefused, PipelineTick
from sluice_runtime.kafka.broker import murmur2
from tests.faults.verifying import WORK, verify
from tests.installation import PREFIX, Installation

GROUPS = {
    "spawner": ("pipeline.commands", "admission", "agent.events.default"),
    "agent-runner": ("agent.tasks.default", "agent.inbox.default"),
}
PARTITIONS = 8
SAID = "agent.events.default"


def rewind(admin: AdminClient, service: str) -> None:
    """Commits offset 0 for a group, as its administrator."""
    places = [TopicPartition(PREFIX + topic, number, 0) for topic in GROUPS[service] for number in range(PARTITIONS)]
    asked = admin.alter_consumer_group_offsets([ConsumerGroupTopicPartitions(f"{PREFIX}{service}", places)])
    for place in next(iter(asked.values())).result().topic_partitions:
        if place.error is not None:
            raise KafkaException(place.error)


def is_empty(admin: AdminClient, service: str) -> bool:
    described = admin.describe_consumer_groups([f"{PREFIX}{service}"])
    return next(iter(described.values())).result().state is ConsumerGroupState.EMPTY


def await_marks(installation: Installation) -> None:
    """Waits until the spawner has decided all that stands before a command of now, in every partition."""
    for number in range(PARTITIONS):
        mark = next(one for one in iter(lambda: str(uuid.uuid4()), "") if _partition(one) == number)
        installation.send(mark, PipelineTick())
        installation.await_event(mark, PipelineRefused)


def _partition(key: str) -> int:
    return (int(murmur2(key.encode())) & 0x7FFFFFFF) % PARTITIONS


def decided(installation: Installation) -> set[tuple[str, str]]:
    """What the spawner has said so far, but for its marks; what it repeats after a kill is the same."""
    history = installation.history()
    return {
        (event.type, event.id)
        for topic in history.decided
        for event in history.events(topic)
        if event.subject in installation.spawned
    }


def await_read(installation: Installation, service: str) -> None:
    """Waits until a group has committed all that stands on its topics now."""
    admin = AdminClient(installation.connection().confluent())
    ends = installation.log.ends()

    def is_read() -> bool:
        asked = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(f"{PREFIX}{service}")])
        places = next(iter(asked.values())).result().topic_partitions
        return all(place.offset >= ends[place.topic.removeprefix(PREFIX), place.partition] for place in places)

    installation.until(is_read, what=f"{service} has read all that it is given")


@pytest.mark.covers("P12", "W10", "C2")
def test_rewound_groups(installation: Installation) -> None:
    """A running group can't be rewound; a dead one can, and begins at the first command and the first task."""
    admin = AdminClient(installation.connection().confluent())
    installation.spawn(installation.scenario("work", WORK), tasks=2)
    installation.await_ends()
    for service in GROUPS:
        with pytest.raises(KafkaException) as refused:
            rewind(admin, service)
        assert refused.value.args[0].code() == KafkaError.UNKNOWN_MEMBER_ID
    said = decided(installation)
    for service in GROUPS:
        installation.stack.kill_service(service, signal.SIGSTOP)  # killed, it would be back before its session ends
    for service in GROUPS:
        installation.until(lambda service=service: is_empty(admin, service), what=f"group {service} is empty")
        rewind(admin, service)
        installation.stack.kill_service(service, signal.SIGKILL)
    for service in GROUPS:
        installation.stack.wait_ready(service, 60)
    await_marks(installation)
    await_read(installation, "agent-runner")
    await_marks(installation)
    # A runner that died has no memory: it takes up what is less than a minute old, is refused at once, and stops.
    assert {kind for kind, _ in decided(installation) - said} <= {AgentAttemptRefused.type, AgentStop.type}
    verify(installation)


@pytest.mark.covers("W10")
def test_old_tasks_are_not_taken_up(installation: Installation) -> None:
    """Every task of the topic stands there a second time, with a time at which the spawner has long given it up, when a
    runner comes. (One that was there would know that they are new, whatever their time says.)"""
    installation.spawn(installation.scenario("work", WORK), tasks=2)
    installation.await_ends()
    said, turns = decided(installation), len(installation.history().records(SAID))
    tasks = [
        OutgoingRecord(record.topic, record.key, record.value, record.headers)
        for record in installation.history().records("agent.tasks.default")
    ]
    installation.stack.kill_service("agent-runner", signal.SIGSTOP)
    installation.write(tasks, principal="admin", timestamp_ms=time.time_ns() // 1_000_000 - 10 * 60_000)
    installation.stack.kill_service("agent-runner", signal.SIGKILL)
    installation.stack.wait_ready("agent-runner", 60)
    await_read(installation, "agent-runner")
    assert installation.history().records(SAID)[turns:] == []
    assert decided(installation) == said
    verify(installation)


@pytest.mark.covers("P3", "P12")
def test_commands_sent_again(installation: Installation) -> None:
    """Every command of the topic comes a second time, with its id."""
    cancelled = installation.spawn(installation.scenario("work", WORK), tasks=2)
    installation.send(cancelled, PipelineCancel(reason="enough"))
    installation.await_ends()
    said = decided(installation)
    commands = [
        OutgoingRecord(record.topic, record.key, record.value, record.headers)
        for record in installation.history().records("pipeline.commands")
        if record.key is not None and record.key.decode() in installation.spawned
    ]
    installation.write(commands)
    await_marks(installation)
    assert decided(installation) == said
    verify(installation)
