"""Events into the log, through the broker's port."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence

from sluice_agent_runner.ports import Time
from sluice_contracts import codec
from sluice_contracts.envelope import CloudEvent
from sluice_contracts.messages.base import Message
from sluice_runtime.broker import Broker, BrokerUnavailable

log = logging.getLogger(__name__)

AWAY_WAIT_S = 1.0
"""Between tries while the broker is away; a try itself lasts up to 20 s."""


class BrokerEventPublisher:
    """Publishes through a broker, in memory or Kafka's, and tries for as long as that is away.

    An event whose fate is unknown is written again as it was, so that whoever reads it twice knows it by its id.
    """

    def __init__(self, broker: Broker, time: Time) -> None:
        self._broker = broker
        self._time = time
        self._partitions: dict[str, int] = {}

    async def publish(self, event: CloudEvent[Message], *, topic: str, key: str) -> None:
        """See `ports.EventPublisher.publish`."""
        record = codec.encode(event, topic=topic, key=key)

        async def write() -> None:
            # A topic's count never changes, and the broker keeps a key's hash: cheaper than to ask at every event.
            count = self._partitions.get(topic)
            if count is None:
                count = self._partitions[topic] = await self._broker.partitions(topic)
            await self._broker.append(record, self._broker.partition_for(record.key or b"", count))

        await self._patiently(write, event)

    async def publish_all(self, events: Sequence[tuple[CloudEvent[Message], str]], *, key: str) -> None:
        """See `ports.EventPublisher.publish_all`."""
        records = [codec.encode(event, topic=topic, key=key) for event, topic in events]
        await self._patiently(lambda: self._broker.append_all(records), events[0][0])

    async def _patiently(self, write: Callable[[], Awaitable[None]], event: CloudEvent[Message]) -> None:
        while True:
            try:
                return await write()
            except BrokerUnavailable as error:
                log.warning("%s of %s is written again: %s", event.type, event.subject, error)
            await self._time.sleep(AWAY_WAIT_S)
