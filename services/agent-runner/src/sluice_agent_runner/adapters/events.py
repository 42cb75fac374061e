"""Events into the log, through the broker's port."""

from __future__ import annotations

from collections.abc import Sequence

from sluice_agent_runner.ports import PublishFailed
from sluice_contracts import codec
from sluice_contracts.envelope import CloudEvent
from sluice_contracts.messages.base import Message
from sluice_runtime.broker import Broker, BrokerUnavailable


class BrokerEventPublisher:
    """Publishes through a broker, in memory or Kafka's."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._partitions: dict[str, int] = {}

    async def publish(self, event: CloudEvent[Message], *, topic: str, key: str) -> None:
        """See `ports.EventPublisher.publish`."""
        record = codec.encode(event, topic=topic, key=key)
        try:
            # A topic's count never changes, and the broker keeps a key's hash: cheaper than to ask at every event.
            count = self._partitions.get(topic)
            if count is None:
                count = self._partitions[topic] = await self._broker.partitions(topic)
            await self._broker.append(record, self._broker.partition_for(record.key or b"", count))
        except BrokerUnavailable as error:
            raise PublishFailed(f"{event.type} of {event.subject}: {error}") from error

    async def publish_all(self, events: Sequence[tuple[CloudEvent[Message], str]], *, key: str) -> None:
        """See `ports.EventPublisher.publish_all`."""
        records = [codec.encode(event, topic=topic, key=key) for event, topic in events]
        try:
            await self._broker.append_all(records)
        except BrokerUnavailable as error:
            first, _ = events[0]
            raise PublishFailed(f"{first.type} of {first.subject}: {error}") from error
