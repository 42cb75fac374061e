"""The laws of the topic table and of the names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from sluice_contracts import topics
from sluice_contracts.messages import Message, registry

COMMAND_TOPICS = {
    topics.PIPELINE_COMMANDS.name, topics.AGENT_TASKS.name, topics.AGENT_INBOX.name, topics.TOKEN_COMMANDS.name,
    topics.BUDGETS.name,
}  # fmt: skip
OBSERVED_BY_ANYBODY = {topics.SIGNALS.name}
"""Whoever sees such a fact tells it: none of them is a decision."""
SIGNS_OF_LIFE = {"runner.heartbeat"}
"""Neither asks for anything nor tells that anything happened."""
IRREGULAR_PAST = {"lost", "written"}

messages = pytest.mark.parametrize("message", registry().values(), ids=[f"{name}-v{v}" for name, v in registry()])


@messages
def test_a_message_stands_on_one_topic_with_one_class_of_writers(message: type[Message]) -> None:
    row = topics.topic_of(message)
    assert row.writers, f"nobody may write {message.type}"
    services = [writer for writer in row.writers if writer in topics.SERVICES]
    if row.name not in COMMAND_TOPICS | OBSERVED_BY_ANYBODY:
        assert row.writers == tuple(services), f"{message.type} is an event: one service alone tells it"
        assert len(services) == 1


@messages
def test_versions_of_a_type_stand_on_one_topic(message: type[Message]) -> None:
    rows = {topics.topic_of(other).name for (name, _), other in registry().items() if name == message.type}
    assert len(rows) == 1


@pytest.mark.covers("C1")
@messages
def test_commands_are_imperative_and_events_past_tense(message: type[Message]) -> None:
    assert re.fullmatch(r"[a-z]+\.[a-z]+(_[a-z]+)*", message.type)
    word = message.type.rpartition(".")[2].rpartition("_")[2]
    past = word.endswith("ed") or word in IRREGULAR_PAST
    if message.type not in SIGNS_OF_LIFE:
        assert past == (topics.topic_of(message).name not in COMMAND_TOPICS)


@messages
def test_a_message_says_what_it_means(message: type[Message]) -> None:
    assert message.__doc__, f"{message.type} has no docstring: it is the description in its schema"


@pytest.mark.covers("C2")
@messages
def test_every_number_is_bounded(message: type[Message]) -> None:
    """A number that no state can hold, and no JSON, must be refused where it comes in."""
    for path, part in _numbers(message.model_json_schema()):
        assert "enum" in part or "const" in part or "maximum" in part or "exclusiveMaximum" in part, path


def _numbers(part: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(part, dict):
        if part.get("type") in ("integer", "number"):
            yield path, part
        for name, value in part.items():
            yield from _numbers(value, f"{path}/{name}")
    elif isinstance(part, list):
        for number, value in enumerate(part):
            yield from _numbers(value, f"{path}/{number}")


@pytest.mark.parametrize("row", topics.TOPICS, ids=[row.name for row in topics.TOPICS])
def test_a_topic_is_lawful(row: topics.Topic) -> None:
    assert re.fullmatch(r"[a-z]+(\.[a-z]+)?(\.<q>)?", row.name)
    assert (row.cleanup == "compact") == (row.name.endswith(".state") or row is topics.BUDGETS)
    assert bool(row.messages) == (row.refused_by is not None), "whoever reads messages refuses the invalid ones"
    assert row.refused_by is None or row.refused_by in row.readers
    if row.partitioning == "pipeline":
        assert row.key.startswith("pipeline_id") or row.key == "partition"


def test_topics_are_found_by_their_concrete_names() -> None:
    for row in topics.TOPICS:
        assert topics.find(row.for_queue("default")) is row
        assert topics.find(topics.dead_letter_topic(row.for_queue("default"))) is None
    assert topics.find("agent.tasks.") is None
    assert topics.find("pipeline.commands.x") is None


@pytest.mark.covers("D2")
def test_limits_are_set_by_people_only() -> None:
    """The api and the store read them: whoever takes one of these over can't raise what he is stopped by."""
    rules = topics.acls(topics.concrete_topics(queues=["default"], partitions=1), prefix="")
    writers = {one.principal for one in rules if one.resource == topics.BUDGETS.name and "write" in one.operations}
    assert writers == {topics.Principal.OPERATOR, topics.Principal.DLQ_OPERATOR}
