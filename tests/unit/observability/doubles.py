"""Doubles of the store's ports: a log in memory, and a real engine that fails when it is told to."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sluice_observability.domain.places import Gap, Place, Progress
from sluice_observability.ports import Database, FetchedMessage, Header, StoreUnavailable

PREFIX = "t."


@dataclass
class Message:
    """A record as the client hands it out."""

    name: str
    number: int
    at: int
    body: bytes | None = b"{}"
    pairs: Sequence[Header] = ()
    identity: bytes | None = b"p1"
    time_ms: int = 1_790_000_000_000

    def topic(self) -> str:
        return PREFIX + self.name

    def partition(self) -> int:
        return self.number

    def offset(self) -> int:
        return self.at

    def timestamp(self) -> tuple[int, int]:
        return 1, self.time_ms

    def key(self) -> bytes | None:
        return self.identity

    def value(self) -> bytes | None:
        return self.body

    def headers(self) -> Sequence[Header] | None:
        return self.pairs


@dataclass
class MemorySource:
    """A `LogSource` that hands out what it was given, from given positions on."""

    messages: list[Message]
    begin: Mapping[Place, int] = field(default_factory=dict)
    incarnations: dict[str, str] = field(default_factory=dict)
    away: int = 0
    gaps: list[Gap] = field(default_factory=list)
    on_poll: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        self._names = {one.topic(): (one.name, self.incarnations.get(one.name, "i1")) for one in self.messages}
        self._left = [one for one in self.messages if one.at >= self.begin.get(self._place(one), 0)]
        self._progress: dict[Place, int] = {}
        self.reread_topics: list[str] = []
        self.published: list[Mapping[Place, int]] = []
        self.closed = False
        self._idle = threading.Event()

    def _place(self, message: Message) -> Place:
        return Place(*self._names[message.topic()], message.number)

    @property
    def names(self) -> Mapping[str, tuple[str, str]]:
        return self._names

    @property
    def partition_counts(self) -> Mapping[str, int]:
        return {name: 1 + max(one.number for one in self.messages if one.topic() == name) for name in self._names}

    def poll(self, max_messages: int, timeout_s: float) -> Sequence[FetchedMessage]:
        self.on_poll()
        found, self._left = self._left[:max_messages], self._left[max_messages:]
        for one in found:
            self._progress[self._place(one)] = one.at + 1
        if not found:
            self._idle.wait(timeout_s)
        return found

    def stale_topics(self, incarnations: Mapping[str, str]) -> Collection[str]:
        if self.away:
            self.away -= 1
            raise StoreUnavailable("Kafka is away by order")
        return [topic for topic, read_as in incarnations.items() if self.incarnations.get(topic, "i1") != read_as]

    def reread(self, topics: Collection[str]) -> None:
        self.reread_topics += topics

    def progress(self) -> Sequence[Progress]:
        return [Progress(place, offset, offset) for place, offset in self._progress.items()]

    def take_gaps(self) -> Sequence[Gap]:
        gaps, self.gaps = self.gaps, []
        return gaps

    def publish_position(self, positions: Mapping[Place, int]) -> None:
        self.published.append(positions)

    def close(self) -> None:
        self.closed = True


class FaultyDatabase:
    """A database that fails on demand: before an insert, after it, when the answer is lost, or while it goes on."""

    def __init__(self, real: Database) -> None:
        self._real = real
        self.fail_before = 0
        self.fail_after = 0
        self.outlive = 0
        self.failed = threading.Event()
        self._late: list[Callable[[], None]] = []

    def insert(self, table: str, rows: Any, *, token: str | None = None) -> None:
        if table == "log" and self.outlive:
            self.outlive -= 1
            self._late.append(lambda: self._real.insert(table, rows, token=token))
            raise StoreUnavailable("no answer in time by order")
        if table == "log" and self.fail_before:
            self.fail_before -= 1
            self.failed.set()
            raise StoreUnavailable("refused by order")
        self._real.insert(table, rows, token=token)
        while table == "log" and self._late:
            self._late.pop()()
        if table == "log" and self.fail_after:
            self.fail_after -= 1
            self.failed.set()
            raise StoreUnavailable("the answer was lost by order")

    def rows(self, query: str, parameters: Mapping[str, Any] | None = None) -> list[tuple[Any, ...]]:
        return self._real.rows(query, parameters)

    def command(self, statement: str) -> None:
        self._real.command(statement)

    def close(self) -> None:
        self._real.close()
