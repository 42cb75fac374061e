"""What of a former owner's outputs is not on the topics yet."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from sluice_contracts.envelope import OutgoingRecord, Record
from sluice_runtime.broker import Broker, TopicPartition

CLOCK_SLACK_MS = 5_000
"""A record carries the time of who wrote it, who appended the batch before it. His clock may have been set back between
both: by seconds, if it is kept by NTP."""


async def missing(broker: Broker, outputs: Sequence[OutgoingRecord], since_ms: int) -> list[OutgoingRecord]:
    """Looks at the topics for outputs that may have been published, and returns those that are not there, in order.

    Without it everything would be published again after a crash. Readers would know the repetitions by their ids; but
    an `agent.run` that comes again may reach another runner, which would pay for a turn that is finished.

    Args:
        broker: Where the topics are.
        outputs: Each with an id (`ce_id`), or it counts as missing.
        since_ms: When the first was decided, by the clock of who decided and published them.

    Raises:
        BrokerUnavailable: The broker is away.
    """
    if not outputs:
        return []
    wanted: dict[TopicPartition, set[bytes]] = defaultdict(set)
    for record in outputs:
        identity = _identity(record)
        if identity is not None:
            wanted[await _place(broker, record)].add(identity)
    found: set[tuple[str, bytes]] = set()
    bounds = await broker.bounds(list(wanted))
    for at, ids in wanted.items():
        start = await broker.offset_at(at, since_ms - CLOCK_SLACK_MS)

        def look(records: Sequence[Record], at: TopicPartition = at, ids: set[bytes] = ids) -> None:
            found.update((at.topic, identity) for one in records if (identity := _identity(one)) in ids)

        await broker.read(at, start, bounds[at].end, look)
    return [record for record in outputs if (record.topic, _identity(record)) not in found]


def _identity(record: OutgoingRecord | Record) -> bytes | None:
    return dict(record.headers).get("ce_id")


async def _place(broker: Broker, record: OutgoingRecord) -> TopicPartition:
    count = await broker.partitions(record.topic)
    # Only dead letters may have no key, and their topics have one partition.
    return TopicPartition(record.topic, 0 if count == 1 else broker.partition_for(record.key or b"", count))
