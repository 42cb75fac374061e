"""The topic of uses, and the position in the audit file: both written in one transaction, or neither."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sluice_contracts.envelope import OutgoingRecord, Record
from sluice_contracts.topics import AUDIT_POSITION, VAULT_AUDIT
from sluice_runtime.broker import Broker, TopicPartition, Transaction
from sluice_vault_broker.audit.domain.lines import Position
from sluice_vault_broker.audit.domain.telling import SOURCE, position_record, read_position

POSITIONS = TopicPartition(AUDIT_POSITION.name, 0)


@dataclass(frozen=True, slots=True)
class PositionsKept:
    """What the topic of positions keeps.

    Attributes:
        trim_interval_count: After so many positions the older ones are deleted.
        offsets_count: So many offsets stay. The last position is the last record but for markers of transactions; the
            others are for people.
    """

    trim_interval_count: int = 1_000
    offsets_count: int = 100


class AuditTopic:
    """The right to write, of one process: whoever opens it later fences this one.

    Attributes:
        position: The last one that is durable.
    """

    def __init__(
        self,
        broker: Broker,
        transaction: Transaction,
        partitions: int,
        position: Position | None,
        kept: PositionsKept,
    ) -> None:
        self.position = position
        self._broker, self._transaction, self._partitions = broker, transaction, partitions
        self._kept = kept
        self._writes = 0

    @classmethod
    async def opened(cls, broker: Broker, kept: PositionsKept) -> AuditTopic:
        """Fences whoever wrote before, and reads how far he came.

        Raises:
            BrokerUnavailable: The broker is away, or a topic does not exist.
            ValueError: What stands as the last position is none.
        """
        partitions = await broker.partitions(VAULT_AUDIT.name)
        await broker.partitions(AUDIT_POSITION.name)
        transaction = await broker.open_transaction(SOURCE)
        try:
            return cls(broker, transaction, partitions, await _last_position(broker, kept), kept)
        except BaseException:
            await transaction.close()
            raise

    async def write(self, records: Sequence[OutgoingRecord], position: Position) -> None:
        """Makes records and position durable together.

        Raises:
            Fenced: Another process has opened the topic; nothing was written.
            BrokerUnavailable: The outcome is unknown: open it anew, and see.
        """
        placed = [(one, self._broker.partition_for(one.key or b"", self._partitions)) for one in records]
        await self._transaction.write([*placed, (position_record(position), POSITIONS.partition)])
        self.position = position
        self._writes += 1
        if self._writes % self._kept.trim_interval_count == 0:
            end = (await self._broker.bounds([POSITIONS]))[POSITIONS].end
            await self._broker.trim(POSITIONS, max(0, end - self._kept.offsets_count))

    async def close(self) -> None:
        """Gives the right up."""
        await self._transaction.close()


async def _last_position(broker: Broker, kept: PositionsKept) -> Position | None:
    """The last record, looked for from the end: behind it stand markers, and transactions that were given up."""
    bounds = (await broker.bounds([POSITIONS]))[POSITIONS]
    count = kept.offsets_count
    while True:
        start = max(bounds.first, bounds.end - count)
        found: list[Record] = []
        await broker.read(POSITIONS, start, bounds.end, found.extend)
        if found or start == bounds.first:
            return read_position(record.value for record in found)
        count *= 10
