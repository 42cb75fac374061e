"""Each Kafka principal may do what its service does, and nothing else (D2): the whole matrix, asked of real Kafka."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest
from aiokafka.client import AIOKafkaClient
from aiokafka.protocol.fetch import FetchRequest
from confluent_kafka import KafkaError, KafkaException, Message, Producer, TopicCollection
from confluent_kafka.admin import AdminClient, NewTopic

from sluice_contracts import topics
from sluice_contracts.topics import Principal
from tests.installation import PREFIX, QUEUE, Installation

PARTITIONS = 8
CONCRETE = topics.concrete_topics(queues=[QUEUE], partitions=PARTITIONS)
NAMES = [PREFIX + one.name for one in CONCRETE]
RULES = topics.acls(CONCRETE, prefix=PREFIX)
GROUPS = [*(f"{PREFIX}{principal}{end}" for principal in Principal for end in ("", "-more")), "another", "sluice"]
CALL_S = 15.0
FETCH_MAX_BYTES = 1 << 20

DENIED_TOPIC = (KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC)


def allowed(principal: Principal, kind: str) -> dict[str, set[str]]:
    """By resource, what the topic table gives a principal."""
    found: dict[str, set[str]] = defaultdict(set)
    for rule in RULES:
        if (rule.principal, rule.resource_type) == (principal, kind):
            found[rule.resource] |= set(rule.operations)
    return found


def settings(installation: Installation, principal: str, **more: object) -> dict[str, object]:
    return {**installation.connection(principal).confluent(), "log_level": 0, **more}


def code_of(call: Callable[[], object]) -> int | None:
    """The code with which Kafka refuses a call; None if it does not."""
    try:
        call()
    except KafkaException as error:
        return int(error.args[0].code())
    return None


def operations(asked: Future[Any], denied: int) -> set[str]:
    """What may be done with a resource; nothing where even looking at it is denied."""
    code = code_of(asked.result)
    assert code in (None, denied)
    if code is not None:
        return set()
    return {one.name.lower() for one in asked.result().authorized_operations or ()}


@pytest.mark.covers("D2")
@pytest.mark.parametrize("principal", list(Principal))
def test_the_whole_matrix(installation: Installation, principal: Principal) -> None:
    """What Kafka says that the principal may do with each topic, each group and the cluster."""
    admin = AdminClient(settings(installation, principal))
    expected = allowed(principal, "topic")
    topics_asked = TopicCollection(NAMES)
    asked = admin.describe_topics(topics_asked, include_authorized_operations=True, request_timeout=CALL_S)
    found = {name: operations(future, KafkaError.TOPIC_AUTHORIZATION_FAILED) for name, future in asked.items()}
    assert {name: those for name, those in found.items() if those} == expected

    prefixes = allowed(principal, "group")
    groups = admin.describe_consumer_groups(GROUPS, include_authorized_operations=True, request_timeout=CALL_S)
    assert {name: operations(future, KafkaError.GROUP_AUTHORIZATION_FAILED) for name, future in groups.items()} == {
        name: {one for prefix, those in prefixes.items() if name.startswith(prefix) for one in those} for name in GROUPS
    }
    cluster = admin.describe_cluster(include_authorized_operations=True, request_timeout=CALL_S)
    assert operations(cluster, KafkaError.CLUSTER_AUTHORIZATION_FAILED) == set()
    made = admin.create_topics([NewTopic(f"{PREFIX}mine", 1, 1)], request_timeout=CALL_S)[f"{PREFIX}mine"]
    with pytest.raises(KafkaException) as refused:
        made.result()
    assert refused.value.args[0].code() in (
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    )


@pytest.mark.covers("D2")
@pytest.mark.parametrize("principal", list(Principal))
def test_what_is_not_allowed_does_not_work(installation: Installation, principal: Principal) -> None:
    """Every write and every read that the table does not list, tried; of what it lists, that it is read."""
    mine = allowed(principal, "topic")
    unwritable = [name for name in NAMES if "write" not in mine[name]]
    told: dict[str, KafkaError | None] = {}
    producer = Producer(settings(installation, principal))

    def delivered(error: KafkaError | None, message: Message) -> None:
        told[str(message.topic())] = error

    for name in unwritable:
        producer.produce(name, b"{}", b"forbidden", on_delivery=delivered)
    producer.flush(CALL_S)
    assert told.keys() == set(unwritable)
    assert {name: error for name, error in told.items() if error is None or error.code() not in DENIED_TOPIC} == {}
    installation.log.catch_up()
    assert [one for records in installation.log.records.values() for one in records if one.key == b"forbidden"] == []
    assert asyncio.run(_readable(installation, principal)) == {name for name in NAMES if "read" in mine[name]}


@pytest.mark.covers("D2")
@pytest.mark.parametrize("principal", list(Principal))
def test_transactional_ids(installation: Installation, principal: Principal) -> None:
    prefixes = allowed(principal, "transactional_id")
    for name in (f"{PREFIX}spawner-checkpoint-999", f"{PREFIX}{principal}s", "another"):
        may = any(name.startswith(prefix) for prefix in prefixes)
        producer = Producer(settings(installation, principal, **{"transactional.id": name}))
        denied = code_of(lambda producer=producer: producer.init_transactions(CALL_S))
        assert denied == (None if may else KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED), name


@pytest.mark.covers("D2")
def test_nobody_comes_in_without_a_password(installation: Installation) -> None:
    good = installation.connection("operator").confluent()
    strangers = {
        "another password": {**good, "sasl.password": "guessed"},
        "an unknown user": {**good, "sasl.username": "nobody"},
        "no login": {"bootstrap.servers": good["bootstrap.servers"]},
        "the weaker mechanism": {**good, "sasl.mechanism": "PLAIN"},
    }
    for name, config in strangers.items():
        admin = AdminClient({**config, "log_level": 0})
        assert code_of(lambda admin=admin: admin.list_topics(timeout=3)) is not None, name


async def _readable(installation: Installation, principal: Principal) -> set[str]:
    """The topics of which Kafka answers a fetch; every other one it refuses.

    The request itself: clients tell of a refused topic when they like.
    """
    client = AIOKafkaClient(**installation.connection(principal).aiokafka())
    await client.bootstrap()
    try:
        wanted = [(name, [(0, 0, FETCH_MAX_BYTES)]) for name in NAMES]
        fetch = FetchRequest(max_wait_time=0, min_bytes=0, max_bytes=FETCH_MAX_BYTES, isolation_level=0, topics=wanted)
        answer = await client.send(client.get_random_node(), fetch)
    finally:
        await client.close()
    codes = {name: partitions[0][1] for name, partitions in answer.topics}
    assert codes.keys() == set(NAMES)
    assert set(codes.values()) <= {KafkaError.NO_ERROR, KafkaError.TOPIC_AUTHORIZATION_FAILED}
    return {name for name, code in codes.items() if code == KafkaError.NO_ERROR}
