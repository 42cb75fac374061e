"""Follows the topics from where the past ends, and tells `Live`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

from sluice_contracts import codec
from sluice_contracts.envelope import Record
from sluice_contracts.errors import InvalidRecord
from sluice_contracts.messages.signal import ProgressReported, WatchChanged
from sluice_contracts.topics import (
    AGENT_EVENTS,
    ALERTS,
    PIPELINE_COMMANDS,
    PIPELINE_EVENTS,
    REPORTS,
    SIGNALS,
    TOKEN_COMMANDS,
    TOKEN_EVENTS,
    find,
)
from sluice_observability.domain.effects import Position
from sluice_observability.domain.records import check_headers, record_of
from sluice_observability.domain.safeguards import without_grant
from sluice_observability.domain.secrets import by_strangers, clean_bytes
from sluice_observability.handlers.live import Live, Told
from sluice_observability.ports import LogSource, StoreUnavailable
from sluice_runtime.broker import TopicPartition

Through = Mapping[TopicPartition, int]

logger = logging.getLogger(__name__)

POLL_MAX_MESSAGES = 2_000
"""Folded in one step of the event loop: some ten milliseconds, for which a request waits at most."""

FETCH_WAIT_MAX_MS = 20
POLL_WAIT_S = 0.02
"""How long records may wait at the broker, and then here, to be taken together: people see an event this much later."""


_FOLLOWED = (
    PIPELINE_COMMANDS, PIPELINE_EVENTS, AGENT_EVENTS, TOKEN_COMMANDS, TOKEN_EVENTS, SIGNALS, ALERTS, REPORTS,
)  # fmt: skip

_PASSED_OVER = frozenset({WatchChanged.type.encode(), ProgressReported.type.encode()})
"""Signals that nobody is shown, one for each turn: they are not even decoded."""


def followed(topic: str) -> bool:
    """Whether the read model is folded from a topic, or needs it to know which commands are decided."""
    return find(topic) in _FOLLOWED


class Tail:
    """Reads until it is stopped; the reading thread decodes, the event loop folds."""

    def __init__(self, source: LogSource, live: Live) -> None:
        self._source = source
        self._live = live
        self._asking: list[asyncio.Future[Through]] = []
        self._ended = False

    async def through(self) -> Through:
        """How far each partition is in the read model: whatever stands below is folded, or nothing to fold.

        Raises:
            StoreUnavailable: Nothing is followed any more.
        """
        if self._ended:
            raise StoreUnavailable("the topics are not followed any more")
        asked: asyncio.Future[Through] = asyncio.get_running_loop().create_future()
        self._asking.append(asked)
        return await asked

    async def run(self, stop: asyncio.Event) -> None:
        """Runs until `stop` is set.

        Raises:
            Exception: A defect, or a fatal error of the client.
        """
        try:
            while not stop.is_set():
                asking = len(self._asking)
                told, through = await asyncio.to_thread(self._next, asking > 0)
                self._live.tell(told)
                for asked in self._asking[:asking]:
                    if not asked.done():
                        asked.set_result(through)
                del self._asking[:asking]
        finally:
            self._ended = True
            for asked in self._asking:
                if not asked.done():
                    asked.set_exception(StoreUnavailable("the topics are not followed any more"))
            await asyncio.to_thread(self._source.close)

    def _next(self, is_asked: bool) -> tuple[Sequence[Told], Through]:
        told = []
        for message in self._source.poll(POLL_MAX_MESSAGES, POLL_WAIT_S):
            record = record_of(message, self._source.names[message.topic()][0])
            if dict(record.headers).get("ce_type") in _PASSED_OVER:
                continue
            try:
                check_headers(message)
                event = without_grant(codec.decode(_cleaned(record)))
            except InvalidRecord:
                continue  # whoever refuses the topic's records makes it a dead letter; the log has it as it is
            position = Position(record.topic, record.partition, record.offset)
            told.append(Told(position, event, len(record.value or b"")))
        progress = self._source.progress() if is_asked else ()
        return told, {TopicPartition(one.place.topic, one.place.partition): one.consumed_through for one in progress}


def _cleaned(record: Record) -> Record:
    """A record without the secrets of strangers, where what they say is shown; of their commands nothing is."""
    if record.value is None or record.topic == PIPELINE_COMMANDS.name or not by_strangers(record.topic):
        return record
    return replace(record, value=clean_bytes(record.value))
