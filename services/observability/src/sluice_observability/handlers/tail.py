"""Follows the topics from where the past ends, and tells `Live`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from sluice_contracts import codec
from sluice_contracts.errors import InvalidRecord
from sluice_contracts.topics import AGENT_EVENTS, PIPELINE_COMMANDS, PIPELINE_EVENTS, find
from sluice_observability.domain.effects import Position
from sluice_observability.domain.records import check_headers, record_of
from sluice_observability.handlers.live import Live, Told
from sluice_observability.ports import LogSource

logger = logging.getLogger(__name__)

POLL_MAX_MESSAGES = 2_000
"""Folded in one step of the event loop: some ten milliseconds, for which a request waits at most."""

FETCH_WAIT_MAX_MS = 20
POLL_WAIT_S = 0.02
"""How long records may wait at the broker, and then here, to be taken together: people see an event this much later."""


def followed(topic: str) -> bool:
    """Whether the read model is folded from a topic, or needs it to know which commands are decided."""
    return find(topic) in (PIPELINE_COMMANDS, PIPELINE_EVENTS, AGENT_EVENTS)


class Tail:
    """Reads until it is stopped; the reading thread decodes, the event loop folds."""

    def __init__(self, source: LogSource, live: Live) -> None:
        self._source = source
        self._live = live

    async def run(self, stop: asyncio.Event) -> None:
        """Runs until `stop` is set.

        Raises:
            Exception: A defect, or a fatal error of the client.
        """
        try:
            while not stop.is_set():
                self._live.tell(await asyncio.to_thread(self._next))
        finally:
            await asyncio.to_thread(self._source.close)

    def _next(self) -> Sequence[Told]:
        told = []
        for message in self._source.poll(POLL_MAX_MESSAGES, POLL_WAIT_S):
            record = record_of(message, self._source.names[message.topic()][0])
            try:
                check_headers(message)
                event = codec.decode(record)
            except InvalidRecord:
                continue  # whoever refuses the topic's records makes it a dead letter; the log has it as it is
            position = Position(record.topic, record.partition, record.offset)
            told.append(Told(position, event, len(record.value or b"")))
        return told
