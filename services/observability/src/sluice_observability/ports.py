"""What the processes need from outside, as shapes. Adapters implement them; tests bring doubles."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from sluice_contracts.envelope import OutgoingRecord, Record
from sluice_observability.domain.places import Gap, Place, Progress

Header = tuple[str, bytes | None]


class StoreUnavailable(Exception):
    """The database or the broker did not do what was asked. Nothing is known to be wrong with the data: try again."""


class QueryRefused(Exception):
    """A query was refused or failed. Tell whoever asked.

    Attributes:
        code: ClickHouse's error code.
        message: ClickHouse's message, in its form.
    """

    def __init__(self, code: int, message: str) -> None:
        self.code = code
        self.message = message
        super().__init__(message)


class QueryTooLarge(QueryRefused):
    """A query broke a limit of time or memory, and would break it again: raise the limit, or ask for less."""


class FetchedMessage(Protocol):
    """A record as the Kafka client hands it out; converting it to another object would cost as much as reading it."""

    def topic(self) -> str:
        """The topic, with the installation's prefix."""
        ...

    def partition(self) -> int:
        """The partition."""
        ...

    def offset(self) -> int:
        """The offset."""
        ...

    def timestamp(self) -> tuple[int, int]:
        """The kind of the timestamp, and milliseconds since the Unix epoch."""
        ...

    def key(self) -> bytes | None:
        """The key."""
        ...

    def value(self) -> bytes | None:
        """The value."""
        ...

    def headers(self) -> Sequence[Header] | None:
        """The headers, in their order."""
        ...


class LogSource(Protocol):
    """Reads every partition of every wanted topic, in each partition's order, without a consumer group."""

    @property
    def names(self) -> Mapping[str, tuple[str, str]]:
        """By Kafka's topic name: the name without prefix, and the incarnation under which it is being read."""
        ...

    @property
    def partition_counts(self) -> Mapping[str, int]:
        """By Kafka's topic name: how many partitions it has."""
        ...

    def poll(self, max_messages: int, timeout_s: float) -> Sequence[FetchedMessage]:
        """Returns what arrived; empty after the timeout. A broker that is away is waited for, not raised."""
        ...

    def stale_topics(self, incarnations: Mapping[str, str]) -> Collection[str]:
        """Asks the broker which of these topics (without prefix) are another incarnation by now.

        Raises:
            StoreUnavailable: The broker did not answer.
        """
        ...

    def reread(self, topics: Collection[str]) -> None:
        """Has these topics (without prefix) looked up again: they were deleted and made anew."""
        ...

    def progress(self) -> Sequence[Progress]:
        """How far every partition was handed out by `poll`, and where it ends."""
        ...

    def take_gaps(self) -> Sequence[Gap]:
        """The gaps found since the last call."""
        ...

    def publish_position(self, positions: Mapping[Place, int]) -> None:
        """Commits positions to a group for lag tools; nothing is ever read back from there. Never fails."""
        ...

    def close(self) -> None:
        """Ends the connections."""
        ...


@dataclass(frozen=True, slots=True)
class Answer:
    """The result of a query: bytes in the asked format."""

    body: bytes
    format: str


class Database(Protocol):
    """ClickHouse, embedded or a server. Synchronous: use it from threads.

    What it would refuse again (wrong SQL, data that it cannot read) leaves as the client's own error: a defect.
    """

    def insert(self, table: str, rows: Any, *, token: str | None = None) -> None:
        """Inserts a `pyarrow.Table` as one block: all rows become visible at once, or none.

        Args:
            table: Where.
            rows: At most as many as are one block.
            token: Of several inserts with the same one into `log` only one counts, also where an earlier one is still
                under way. It must be new for each block.

        Raises:
            StoreUnavailable: The outcome is unknown: ask before trying again.
        """
        ...

    def rows(self, query: str, parameters: Mapping[str, Any] | None = None) -> list[tuple[Any, ...]]:
        """Runs a query that we wrote, with the sink's rights.

        Raises:
            StoreUnavailable: It was not answered.
        """
        ...

    def command(self, statement: str) -> None:
        """Runs a statement that changes something.

        Raises:
            StoreUnavailable: It was not done.
        """
        ...

    def close(self) -> None:
        """Ends the connection."""
        ...


class ReadOnlyDatabase(Protocol):
    """What analysts may reach."""

    def query(self, sql: str, *, default_format: str, parameters: Mapping[str, str], database: str | None) -> Answer:
        """Runs one read-only statement within the limits.

        Raises:
            QueryRefused: It is not read-only, is not one statement, breaks a limit, or is wrong.
        """
        ...


class Sql(Protocol):
    """SQL over the past, for the api: the store's endpoint or a server."""

    async def rows(
        self, query: str, parameters: Mapping[str, str] | None = None, *, timeout_s: float | None = None
    ) -> list[dict[str, Any]]:
        """Runs a query with parameters written `{name:Type}`.

        Args:
            query: One statement.
            parameters: By name.
            timeout_s: How long to wait for the answer; None: as long as somebody waits for a page.

        Raises:
            StoreUnavailable: It was not answered.
            QueryTooLarge: It broke a limit of the store.
            QueryRefused: It is wrong, and will be refused again.
        """
        ...


@dataclass(frozen=True, slots=True)
class Change:
    """What a partition's table holds for a key from now on; None deletes it.

    Attributes:
        version: Of two values of one key the one of the higher version counts, whichever was written later: an owner
            that does not know yet that he is none writes lower ones. Of equal ones the later.
    """

    partition: int
    key: str
    value: bytes | None
    version: int


class StateTable(Protocol):
    """The monitor's table, as long as this process owns the partitions that it was given."""

    async def write(self, changes: Sequence[Change]) -> int:
        """Makes changes durable, at least one, those of one partition in their order.

        Returns:
            When Kafka appended the last of them, by its own clock.

        Raises:
            BrokerUnavailable: Some may not be; start again from what the table has.
        """
        ...


STEP_MAX_RECORDS = 1_000
"""Records of one step of a watch: some hundred kilobytes of state, written in a few milliseconds."""


class SignalWatch(Protocol):
    """What is done with signals: `handlers.budget_watch.BudgetWatch`."""

    def home(self, key: str) -> int | None:
        """The partition whose table has a key."""
        ...

    async def restore(self, partition: int, stored: Mapping[str, bytes]) -> None:
        """Takes a partition over."""
        ...

    def drop(self, partitions: Collection[int]) -> None:
        """Lets go of partitions."""
        ...

    @property
    def owned(self) -> Collection[int]:
        """The partitions that were taken over."""
        ...

    def position(self, partition: int) -> int | None:
        """The offset after the last signal that was observed."""
        ...

    async def observe(self, records: Sequence[Record], table: StateTable) -> None:
        """Folds records in, at most `STEP_MAX_RECORDS`."""
        ...

    async def ask(self) -> None:
        """Asks where the owned partitions end."""
        ...

    async def listen(self, waiting: Collection[int], table: StateTable) -> dict[int, int]:
        """By partition, until when all signals were observed; reads those that are not handed out."""
        ...

    async def look(self, heard: Mapping[int, int], table: StateTable) -> None:
        """Looks at the timers."""
        ...

    async def rewrite(self, partition: int, table: StateTable) -> None:
        """Writes all of a partition's states again."""
        ...


class Outbox(Protocol):
    """Reads a topic in a consumer group, and answers records of it with records of its own, each once (KIP-447).

    An answer and the position after what it answers are one transaction: whoever is killed, frozen or has lost the
    partition has written both or neither. Synchronous, and for one thread at a time.
    """

    def poll(self, timeout_s: float) -> Sequence[Record]:
        """Returns records in their order, from after the last that were answered or passed over; empty after a time.

        Raises:
            BrokerUnavailable: The client can't go on: open another.
        """
        ...

    def passed(self, record: Record) -> None:
        """Takes note that a record needs no answer. The group is told now and then: it may come again."""
        ...

    def answer(self, record: Record, answer: OutgoingRecord) -> None:
        """Writes the answer to a record, with the position after it.

        Raises:
            Fenced: The partition is somebody else's by now; nothing was written.
            BrokerUnavailable: Whether it was written is not known: open another, and go on from where the group is.
        """
        ...

    def close(self) -> None:
        """Leaves the group."""
        ...
