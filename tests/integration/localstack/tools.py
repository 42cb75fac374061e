"""What the tests of the local stack share: tables, a service, and plain clients that ask a broker from outside."""

from __future__ import annotations

import sys
import time
import uuid
from collections.abc import Callable, Mapping

import psutil
from confluent_kafka import Consumer, KafkaError, Producer

from sluice_localstack import AclRule, Principal, ServiceSpec, TopicSpec

QUIET = {"log_level": 0}
WAIT_S = 20.0
TOPICS = (TopicSpec("orders", 3, {"retention.ms": "86400000"}), TopicSpec("payments", 1, {"cleanup.policy": "compact"}))
PRINCIPALS = (Principal("alice"), Principal("mallory"))
ACLS = (
    AclRule("alice", "topic", "literal", "orders", ("read", "write", "describe", "delete")),
    AclRule("alice", "group", "prefixed", "alice-", ("read",)),
    AclRule("alice", "transactional_id", "prefixed", "alice-", ("write", "describe")),
)


def sleeper(name: str = "sleeper", **changes: object) -> ServiceSpec:
    """A service that starts a child of its own, so that a test sees whether both end."""
    code = "import subprocess, time; subprocess.Popen(['sleep', '600']); print('up', flush=True); time.sleep(600)"
    return ServiceSpec(name, (sys.executable, "-c", code), **changes)  # type: ignore[arg-type]


def web(port: int) -> ServiceSpec:
    """A service that answers over HTTP."""
    argv = (sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1")
    return ServiceSpec("web", argv, ready_url=f"http://127.0.0.1:{port}/")


def produce(config: Mapping[str, str], topic: str, *values: bytes) -> KafkaError | None:
    """Produce the values durably; the first error, None if all were acknowledged."""
    errors: list[KafkaError] = []
    producer = Producer({**config, **QUIET, "enable.idempotence": True})
    for value in values:
        producer.produce(topic, value, key=value, on_delivery=lambda error, _: errors.append(error) if error else None)
    assert producer.flush(WAIT_S) == 0
    return errors[0] if errors else None


def consume(config: Mapping[str, str], topic: str, count: int, *, group: str = "") -> list[bytes]:
    """The first `count` values of a topic from its beginning, sorted; fewer if they do not come."""
    consumer = Consumer({**config, **QUIET, "group.id": group or f"g-{uuid.uuid4()}", "auto.offset.reset": "earliest"})
    consumer.subscribe([topic])
    values: list[bytes] = []
    deadline = time.monotonic() + WAIT_S
    while len(values) < count and time.monotonic() < deadline:
        message = consumer.poll(0.2)
        if message is not None and message.error() is None:
            values.append(message.value() or b"")
    if group:
        consumer.commit(asynchronous=False)
    consumer.close()
    return sorted(values)


def refusal_of_reading(config: Mapping[str, str], topic: str, group: str) -> KafkaError:
    """The error a reader gets."""
    consumer = Consumer({**config, **QUIET, "group.id": group, "auto.offset.reset": "earliest"})
    consumer.subscribe([topic])
    deadline = time.monotonic() + WAIT_S
    try:
        while time.monotonic() < deadline:
            message = consumer.poll(0.2)
            if message is not None and (error := message.error()) is not None:
                return error
    finally:
        consumer.close()
    raise AssertionError(f"reading {topic} as {group} was not refused within {WAIT_S} s")


def until(condition: Callable[[], bool], timeout_s: float = WAIT_S) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"it did not come about within {timeout_s} s"
        time.sleep(0.05)


def runs(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
