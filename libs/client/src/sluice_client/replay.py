"""Dead letters (C3): found by SQL, read from Kafka whole, and written again to their topic, each once.

That a letter was replayed is recorded where it can't be lost: the record that is written carries the letter's id in its
header `dlq_replay_of`. The event log has that record, so whoever replays asks the log first, and only when the log has
come as far as the topics. One lock for each installation keeps two replays on one machine apart; two people on two
machines are not kept apart.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sluice_client.errors import InputInvalid, SluiceError, TimedOut
from sluice_client.installation import Installation
from sluice_client.sql import Sql
from sluice_contracts.dead_letters import LetterIncomplete, original_record
from sluice_contracts.envelope import OutgoingRecord, Record
from sluice_runtime.broker import Broker, BrokerUnavailable, TopicPartition

REPLAY_OF = "dlq_replay_of"
"""Header of a replayed record: the id of its dead letter."""

CAUGHT_UP_TIMEOUT_S = 15.0
"""The log is a second behind the topics while it runs; after this it does not run."""
POLL_S = 0.2
LETTERS_MAX_COUNT = 10_000
"""Of one replay: all of them are held in memory, without their bodies. The next one goes on behind them."""
THROUGH = (
    "SELECT topic, partition, argMax(consumed_through, recorded_at) AS through FROM positions"
    " WHERE has(splitByChar(',', {topics:String}), topic) GROUP BY topic, partition",
    "SELECT topic, partition, argMax(offset, ingest_time) + 1 AS through FROM log"
    " WHERE has(splitByChar(',', {topics:String}), topic) GROUP BY topic, partition",
)
"""How far the log has come: recorded once a second, and what arrived since."""

RATE_DEFAULT_PER_S = 50.0
"""A replay must not be a flood: the reader refused them once already."""


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter, without its body. `replayed_at_ms` is None where it was never replayed."""

    letter_id: str
    refused_at_ms: int
    topic: str
    partition: int
    offset: int
    reason: str
    detail: str
    refused_by: str
    original_type: str
    key: str
    value_bytes: int
    letter_topic: str
    letter_partition: int
    letter_offset: int
    replayed_at_ms: int | None


@dataclass(frozen=True, slots=True)
class Choice:
    """Which letters. Nothing chosen is all. `replayed` chooses by whether they were replayed before."""

    ids: Sequence[str] = ()
    topic: str | None = None
    reason: str | None = None
    type: str | None = None
    limit: int = LETTERS_MAX_COUNT
    replayed: bool | None = None


def find_letters(sql: Sql, choice: Choice) -> list[Letter]:
    """The letters of a choice, oldest first. An id may be shortened to eight characters or more.

    Raises:
        InputInvalid: An id is too short, or, of all letters whether replayed or not, names none or several.
    """
    conditions, parameters = ["1"], {"limit": str(choice.limit)}
    for column, value in (("topic", choice.topic), ("reason", choice.reason), ("original_type", choice.type)):
        if value is not None:
            conditions.append(f"d.{column} = {{{column}:String}}")
            parameters[column] = value
    if choice.ids:
        for number, one in enumerate(choice.ids):
            if len(one) < 8:
                raise InputInvalid(f"id {one!r} is too short; give at least eight characters")
            parameters[f"id{number}"] = one
        conditions.append(
            "(" + " OR ".join(f"startsWith(d.letter_id, {{id{n}:String}})" for n in range(len(choice.ids))) + ")"
        )
    if choice.replayed is not None:
        conditions.append(f"replayed_at_ms IS {'NOT ' if choice.replayed else ''}NULL")
    replays = (
        f"SELECT headers['{REPLAY_OF}'] AS letter_id, max(append_time) AS replayed_at FROM log"
        f" WHERE NOT startsWith(topic, 'dlq.') AND mapContains(headers, '{REPLAY_OF}') GROUP BY letter_id"
    )
    rows = sql.rows(
        "SELECT d.letter_id AS letter_id, toUnixTimestamp64Milli(d.refused_at) AS refused_at_ms, d.topic AS topic,"
        " d.partition AS partition, d.offset AS offset, d.reason AS reason, d.detail AS detail,"
        " d.refused_by AS refused_by, d.original_type AS original_type, d.key AS key, d.value_bytes AS value_bytes,"
        " d.letter_topic AS letter_topic, d.letter_partition AS letter_partition, d.letter_offset AS letter_offset,"
        # A topic that was deleted and made anew gives the same ids again: only what came after the refusal counts.
        " if(r.letter_id != '' AND r.replayed_at >= d.refused_at, toUnixTimestamp64Milli(r.replayed_at), NULL)"
        " AS replayed_at_ms"
        f" FROM dead_letters AS d LEFT JOIN ({replays}) AS r ON r.letter_id = d.letter_id"
        f" WHERE {' AND '.join(conditions)}"
        " ORDER BY d.refused_at, d.letter_topic, d.letter_partition, d.letter_offset LIMIT {limit:UInt64}",
        parameters,
    )
    letters = [Letter(**{**row, "replayed_at_ms": _number(row["replayed_at_ms"])}) for row in rows]
    for one in choice.ids if choice.replayed is None else ():
        found = {letter.letter_id for letter in letters if letter.letter_id.startswith(one)}
        if len(found) != 1:
            raise InputInvalid(f"id {one!r} names {len(found)} dead letters; sluice dlq list shows them")
    return letters


def letter_body(sql: Sql, letter: Letter) -> dict[str, Any]:
    """What the log has of a letter: headers, and its value as text, or in hexadecimal where it is no text."""
    rows = sql.rows(
        "SELECT headers, payload, hex(raw) AS raw_hex FROM log WHERE topic = {topic:String}"
        " AND partition = {partition:UInt32} AND offset = {offset:UInt64} AND event_id = {id:String} LIMIT 1",
        {
            "topic": letter.letter_topic,
            "partition": str(letter.letter_partition),
            "offset": str(letter.letter_offset),
            "id": letter.letter_id,
        },
    )
    return rows[0] if rows else {}


@dataclass(frozen=True, slots=True)
class Replayed:
    """A letter that was written again, and where it stands now. `offset` is None in a dry run."""

    letter: Letter
    record: OutgoingRecord
    offset: int | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a replay did.

    Attributes:
        written: What was (or would be) written, in order.
        left: Left alone because they were replayed before: the oldest, as many as were looked at.
        incomplete: Left alone because they lack headers of their records (`dlq_headers_dropped`).
    """

    written: list[Replayed]
    left: list[Letter]
    incomplete: list[Letter]


class OutcomeUnknown(SluiceError):
    """Kafka did not answer: whether the letter was written is not known yet. Look again: the log will tell."""


async def replay(
    broker: Broker,
    sql: Sql,
    choice: Choice,
    *,
    again: bool = False,
    dry_run: bool = False,
    rate_per_s: float = RATE_DEFAULT_PER_S,
    done: Callable[[Replayed], None] = lambda one: None,
    sleep: Callable[[float], Any] = asyncio.sleep,
    looked_at_max_count: int = LETTERS_MAX_COUNT,
) -> Outcome:
    """Writes chosen letters again to the topics on which they were refused.

    Guarantee: a letter that the log shows as replayed is left alone, unless `again`. Key, value and headers are the
    original's, byte for byte, or nothing is written; the partition follows from the key. What is still wrong becomes a
    new letter.

    Args:
        broker: The log, as the principal that may do this.
        sql: The event log.
        choice: Which; its limit counts those that are written.
        again: Also those that were replayed before.
        dry_run: Write nothing.
        rate_per_s: At most so many in a second.
        done: Is told of each.
        sleep: Between two.
        looked_at_max_count: Letters looked at, of those to be written and of those that are left alone.

    Raises:
        TimedOut: The log is behind the topics: what was replayed can't be told.
        OutcomeUnknown: Kafka did not answer in the middle.
        InputInvalid: A letter is no longer on its topic.
    """
    if choice.ids:
        await asyncio.to_thread(find_letters, sql, replace(choice, limit=looked_at_max_count))  # each names a letter
    wanted = replace(choice, limit=min(choice.limit, looked_at_max_count), replayed=None if again else False)
    fresh = await asyncio.to_thread(find_letters, sql, wanted)
    if fresh and not dry_run:
        await _caught_up(broker, sql, sorted({letter.topic for letter in fresh}))
        fresh = await asyncio.to_thread(find_letters, sql, wanted)
    before = replace(choice, limit=looked_at_max_count, replayed=True)
    left = [] if again else await asyncio.to_thread(find_letters, sql, before)
    written: list[Replayed] = []
    incomplete: list[Letter] = []
    for letter in fresh:
        try:
            record = _again(await _read(broker, letter), letter)
        except LetterIncomplete:
            incomplete.append(letter)
            continue
        offset = None
        if not dry_run:
            if written:
                await sleep(1 / rate_per_s)
            try:
                offset = await broker.append(record)
            except BrokerUnavailable as error:
                raise OutcomeUnknown(
                    f"Kafka did not answer while {letter.letter_id} was written, after {len(written)} others "
                    f"({error}); "
                    "replay once more when Kafka is back: what was written is in the log by then, and left alone"
                ) from error
        written.append(Replayed(letter, record, offset))
        done(written[-1])
    return Outcome(written, left, incomplete)


@contextlib.contextmanager
def alone(installation: Installation) -> Iterator[None]:
    """Keeps two replays of one installation on this machine apart.

    Raises:
        InputInvalid: Another one runs.
    """
    if installation.credentials_directory is None:
        yield
        return
    path = Path(installation.credentials_directory) / "replay.lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputInvalid(f"another replay runs ({path} is locked); wait until it has ended") from None
        yield
    finally:
        os.close(descriptor)


async def _caught_up(broker: Broker, sql: Sql, topics: Sequence[str]) -> None:
    partitions = [TopicPartition(name, number) for name in topics for number in range(await broker.partitions(name))]
    ends = {at: bounds.end for at, bounds in (await broker.bounds(partitions)).items() if bounds.end > bounds.first}
    given = {"topics": ",".join(topics)}
    until = time.monotonic() + CAUGHT_UP_TIMEOUT_S
    while True:
        through: dict[TopicPartition, int] = {}
        for query in THROUGH:
            for row in await asyncio.to_thread(sql.rows, query, given):
                at = TopicPartition(row["topic"], int(row["partition"]))
                through[at] = max(through.get(at, 0), int(row["through"]))
        behind = [at for at, end in ends.items() if through.get(at, 0) < end]
        if not behind:
            return
        if time.monotonic() > until:
            at = behind[0]
            raise TimedOut(
                f"the event log is behind: {at.topic}/{at.partition} ends at {ends[at]}, the log has "
                f"{through.get(at, 0)}; what was replayed before can't be told. Does the store run? sluice doctor"
            )
        await asyncio.sleep(POLL_S)


async def _read(broker: Broker, letter: Letter) -> Record:
    at = TopicPartition(letter.letter_topic, letter.letter_partition)
    bounds = (await broker.bounds([at]))[at]
    found: list[Record] = []
    if bounds.first <= letter.letter_offset < bounds.end:
        await broker.read(at, letter.letter_offset, letter.letter_offset + 1, found.extend)
    if not found or (dict(found[0].headers).get("ce_id") or b"").decode() != letter.letter_id:
        raise InputInvalid(
            f"dead letter {letter.letter_id} is no longer on {at.topic}: its retention has passed, or the topic was "
            "made anew; what the log has of it: sluice dlq show"
        )
    return found[0]


def _again(record: Record, letter: Letter) -> OutgoingRecord:
    original = original_record(record)
    headers = tuple((name, value) for name, value in original.headers if name != REPLAY_OF)
    return replace(original, headers=(*headers, (REPLAY_OF, letter.letter_id.encode())))


def _number(value: Any) -> int | None:
    return None if value is None else int(value)
