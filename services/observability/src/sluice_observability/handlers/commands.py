"""Commands from HTTP onto `pipeline.commands` and `token.commands`."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256

from sluice_contracts import codec, ids
from sluice_contracts.envelope import CloudEvent, OutgoingRecord
from sluice_contracts.messages import Message
from sluice_contracts.messages.pipeline import PipelineSpawn
from sluice_contracts.topics import Principal, topic_of
from sluice_observability.domain.effects import Position
from sluice_runtime.broker import Broker
from sluice_runtime.clock import Clock


@dataclass(frozen=True, slots=True)
class Sent:
    """A command that is durable on its topic."""

    command_id: str
    pipeline_id: str
    position: Position


class Commands:
    """Writes commands.

    Args:
        new_id: Makes the ids of commands that nobody gave a key.
    """

    def __init__(
        self, broker: Broker, clock: Clock, instance_id: str, new_id: Callable[[], str] = lambda: str(uuid.uuid4())
    ) -> None:
        self._broker = broker
        self._clock = clock
        self._source = f"{Principal.OBSERVABILITY}/{instance_id}"
        self._new_id = new_id

    async def spawn(
        self, data: PipelineSpawn, tenant: str, traceparent: str | None, was_refused: Callable[[str], bool]
    ) -> Sent:
        """Asks for a pipeline. With a dedupe key a second call gives the first pipeline's id. See `send`.

        Raises:
            BrokerUnavailable: Whether it was written is not known; with a key it may be sent again.
        """
        key = data.dedupe_key
        pipeline_id = self._new_id() if key is None else ids.pipeline_id(tenant, key)
        return await self.send(data, pipeline_id, tenant, key, traceparent, was_refused)

    async def send(
        self, data: Message, pipeline_id: str, tenant: str, key: str | None, traceparent: str | None,
        was_refused: Callable[[str], bool],
    ) -> Sent:  # fmt: skip
        """Sends a command about a pipeline. The same command with the same key has the same id, until it is refused.

        Then it is decided, and asking once more is another command: the first one's refusal must not answer it, and
        the spawner would take it for a redelivery.

        Args:
            data: The command.
            pipeline_id: The pipeline.
            tenant: Whose it is.
            key: Tells repetitions of the caller.
            traceparent: Of the request.
            was_refused: Whether the command of an id is known to be refused.

        Raises:
            BrokerUnavailable: Whether it was written is not known; with a key it may be sent again.
        """
        if key is None:
            command_id = self._new_id()
        else:
            content = sha256(data.model_dump_json().encode()).hexdigest()
            command_id = ids.derived_id("command", tenant, pipeline_id, data.type, key, content)
            while was_refused(command_id):
                command_id = ids.derived_id("command", command_id, "again")
        event = CloudEvent(
            id=command_id,
            source=self._source,
            tenant=tenant,
            subject=pipeline_id,
            time_ms=self._clock.now_ms(),
            data=data,
            traceparent=traceparent,
        )
        topic = topic_of(type(data)).name
        record = codec.encode(event, topic=topic, key=pipeline_id)
        return Sent(command_id, pipeline_id, await self.append(record))

    async def append(self, record: OutgoingRecord) -> Position:
        """Writes a record that is keyed by its pipeline, and says where it stands.

        Raises:
            BrokerUnavailable: Whether it was written is not known.
        """
        count = await self._broker.partitions(record.topic)
        partition = self._broker.partition_for(record.key or b"", count)
        return Position(record.topic, partition, await self._broker.append(record, partition))

    def request_id(self, what: str, tenant: str, pipeline_id: str, key: str | None) -> str:
        """The id of a request that is not a command of its own: the same for the same key."""
        return self._new_id() if key is None else ids.derived_id("request", what, tenant, pipeline_id, key)
