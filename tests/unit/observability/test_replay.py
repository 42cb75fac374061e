"""Which dead letters are replayed, asked of a real log."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, cast

import pytest

from sluice_client import replay
from sluice_client.errors import InputInvalid
from sluice_client.replay import REPLAY_OF, Choice, Letter, find_letters
from sluice_client.sql import Sql
from sluice_contracts.dead_letters import dead_letter
from sluice_contracts.envelope import OutgoingRecord, Record
from sluice_contracts.errors import Refusal
from sluice_contracts.limits import HEADERS_MAX_COUNT
from sluice_observability.adapters.clickhouse import ClickHouse
from sluice_observability.adapters.columns import LogColumns
from sluice_observability.handlers.positions import with_ingest_time
from sluice_runtime.memory import MemoryBroker, MemoryGroups, MemoryLog
from tests.doubles import ManualClock
from tests.unit.observability.doubles import PREFIX, Message

TOPIC = "pipeline.commands"
DEAD_LETTERS = f"dlq.{TOPIC}"
NAMES = {PREFIX + topic: (topic, "i1") for topic in (TOPIC, DEAD_LETTERS)}


class Asked:
    """The client's questions, by the engine."""

    def __init__(self, engine: ClickHouse) -> None:
        self._engine = engine

    def rows(self, query: str, parameters: Mapping[str, str]) -> list[dict[str, Any]]:
        names = [name for name, *_ in self._engine.rows(f"DESCRIBE ({query})", parameters)]
        return [dict(zip(names, row, strict=True)) for row in self._engine.rows(query, parameters)]


def letters(count: int) -> list[OutgoingRecord]:
    return [
        dead_letter(Record(TOPIC, 0, number, 1, b"p", b"{}"), Refusal.BAD_HEADERS, "d", "spawner", 1_000 + number)
        for number in range(count)
    ]


def insert(engine: ClickHouse, messages: list[Message]) -> None:
    columns = LogColumns()
    columns.add(messages, NAMES)
    engine.insert("log", with_ingest_time(columns.take(), messages[0].time_ms))


def refuse_and_replay(engine: ClickHouse, written: list[OutgoingRecord], replayed: int) -> None:
    """All letters stand in the log, and the first of them were replayed."""
    insert(
        engine, [Message(DEAD_LETTERS, 0, at, one.value, one.headers, time_ms=2_000) for at, one in enumerate(written)]
    )
    ids = [dict(one.headers)["ce_id"] for one in written[:replayed]]
    if ids:
        insert(engine, [Message(TOPIC, 0, at, b"{}", [(REPLAY_OF, one)], time_ms=3_000) for at, one in enumerate(ids)])


def replayed(
    engine: ClickHouse, written: list[OutgoingRecord], choice: Choice, **more: Any
) -> tuple[list[int], list[Letter], list[int]]:
    async def run() -> tuple[list[int], list[Letter], list[int]]:
        log = MemoryLog({TOPIC: 1, DEAD_LETTERS: 1}, ManualClock())
        broker = MemoryBroker(log, MemoryGroups())
        await broker.append_all(written)
        outcome = await replay.replay(broker, cast(Sql, Asked(engine)), choice, dry_run=True, **more)
        incomplete = [one.letter_offset for one in outcome.incomplete]
        return [one.letter.letter_offset for one in outcome.written], outcome.left, incomplete

    return asyncio.run(run())


@pytest.mark.covers("C3")
def test_letters_beyond_the_limit_of_those_replayed_before_are_reached(engine: ClickHouse) -> None:
    five = {"looked_at_max_count": 5}
    written = letters(12)
    refuse_and_replay(engine, written, 7)
    found, left, _ = replayed(engine, written, Choice(), **five)
    assert (found, len(left)) == ([7, 8, 9, 10, 11], 5)
    assert replayed(engine, written, Choice(limit=2), **five) == ([7, 8], left, [])
    assert replayed(engine, written, Choice(limit=2), again=True, **five) == ([0, 1], [], [])


@pytest.mark.covers("C3")
def test_a_letter_that_lacks_headers_is_left_alone(engine: ClickHouse) -> None:
    many = Record(TOPIC, 0, 9, 1, b"p", b"{}", (("x", b"1"),) * (HEADERS_MAX_COUNT + 1))
    written = [*letters(1), dead_letter(many, Refusal.BAD_HEADERS, "d", "spawner", 1_500), *letters(3)[2:]]
    refuse_and_replay(engine, written, 0)
    assert replayed(engine, written, Choice()) == ([0, 2], [], [1])


@pytest.mark.covers("C3")
def test_ids_are_looked_for_among_all_letters(engine: ClickHouse) -> None:
    written = letters(3)
    refuse_and_replay(engine, written, 1)
    before, fresh = (dict(written[number].headers)["ce_id"].decode() for number in (0, 1))
    found, left, _ = replayed(engine, written, Choice(ids=[before[:20], fresh]))
    assert (found, [one.letter_id for one in left]) == ([1], [before])
    with pytest.raises(InputInvalid, match="names 0 dead letters"):
        replayed(engine, written, Choice(ids=["nothing-of-the-sort"]))
    assert [one.letter_offset for one in find_letters(cast(Sql, Asked(engine)), Choice(replayed=True))] == [0]
