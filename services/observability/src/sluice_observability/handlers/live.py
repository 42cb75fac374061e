"""What lives: the read model, whoever waits for it, and the live stream. All of it belongs to the event loop."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from sluice_contracts.envelope import CloudEvent
from sluice_contracts.messages import Message
from sluice_contracts.messages.pipeline import PipelineRefused
from sluice_contracts.topics import PIPELINE_COMMANDS, PIPELINE_EVENTS
from sluice_observability.domain.effects import Command, Effects, Position
from sluice_observability.domain.places import Place
from sluice_observability.domain.read_model import ReadModel

REFUSALS_MAX_COUNT = 10_000
"""Refusals remembered for those who wait for the answer to their command."""


@dataclass(frozen=True, slots=True)
class Told:
    """An event with its place."""

    position: Position
    event: CloudEvent[Message]


class SlowClient(Exception):
    """The client did not take its events in time: close its connection; it can come back with the last position."""


class PositionGone(Exception):
    """The position is not among the events kept: begin anew, and read what lies between by SQL."""


class Subscription:
    """One client of the stream: a bounded queue of events."""

    def __init__(self, matches: Callable[[Told], bool], limit: int) -> None:
        self._matches = matches
        self._queue: deque[Told] = deque()
        self._limit = limit
        self._arrived = asyncio.Event()
        self._overrun = False

    def offer(self, told: Told) -> None:
        """Gives the client an event, if it is one of those it asked for."""
        if self._overrun or not self._matches(told):
            return
        if len(self._queue) >= self._limit:
            self._overrun = True
        else:
            self._queue.append(told)
        self._arrived.set()

    async def next(self) -> Told:
        """Returns the next event.

        Raises:
            SlowClient: An event had no place any more; those that had are handed out first.
        """
        while not self._queue:
            if self._overrun:
                raise SlowClient
            self._arrived.clear()
            await self._arrived.wait()
        return self._queue.popleft()


class Live:
    """Folds what is told, wakes those who wait, and feeds the stream.

    Args:
        stream_buffer_max_count: Events kept for clients that come back.
        stream_client_max_count: Events that may wait for one client.
    """

    def __init__(
        self, model: ReadModel, *, stream_buffer_max_count: int = 10_000, stream_client_max_count: int = 1_000
    ) -> None:
        self.model = model
        self.effects = Effects()
        self._refusals: dict[str, PipelineRefused] = {}
        self._through: dict[tuple[str, int], int] = {}
        self._begun: dict[tuple[str, int], int] = {}
        self._kept: deque[Told] = deque(maxlen=stream_buffer_max_count)
        self._client_max_count = stream_client_max_count
        self._clients: set[Subscription] = set()
        self._changed = asyncio.Event()

    def load(self, event: CloudEvent[Message]) -> None:
        """Folds an event of the past: nobody waits for it, and the stream does not repeat it."""
        self.model.apply(event)
        if event.source.partition("/")[0] == "spawner":
            self.effects.effect_seen(event.causation_id)

    def begin(self, positions: Mapping[Place, int]) -> None:
        """Says where the past ends that was loaded, and what is told begins."""
        self._begun = {(place.topic, place.partition): offset for place, offset in positions.items()}
        self._through = {at: offset - 1 for at, offset in self._begun.items()}

    def before_start(self, position: Position) -> bool:
        """Whether a position lies in the past that was loaded, of which the commands are not known."""
        return position.offset < self._begun.get((position.topic, position.partition), 0)

    def remember(self, command: Command, is_decided: bool) -> None:
        """Takes a command of that past."""
        self.effects.command_seen(command)
        if is_decided:
            self.effects.effect_seen(command.id)

    def horizon(self, position: Position) -> Position:
        """What the log must have, so that what a command caused is in it: all that is here of its partition."""
        if position.topic != PIPELINE_COMMANDS.name:
            return position
        through = self._through.get((PIPELINE_EVENTS.name, position.partition))
        return position if through is None else Position(PIPELINE_EVENTS.name, position.partition, through)

    def tell(self, told: Sequence[Told]) -> None:
        """Folds what arrived, in its order."""
        for one in told:
            at, event = one.position, one.event
            self._through[at.topic, at.partition] = at.offset
            if at.topic == PIPELINE_COMMANDS.name:
                self.effects.command_seen(Command(event.id, event.type, event.subject, at.partition, at.offset))
                continue
            news = self.model.apply(event)
            if at.topic == PIPELINE_EVENTS.name:
                self._hear(event)
            if news:
                self._kept.append(one)
                for client in self._clients:
                    client.offer(one)
        if told:
            self._changed.set()
            self._changed = asyncio.Event()

    def _hear(self, event: CloudEvent[Message]) -> None:
        """Takes what the spawner made of a command. Its last word counts: it may take what it refused before."""
        refused = event.data if isinstance(event.data, PipelineRefused) else None
        if refused is not None:
            self._refusals[refused.command_id] = refused
            if len(self._refusals) > REFUSALS_MAX_COUNT:
                del self._refusals[next(iter(self._refusals))]
        elif event.causation_id is not None:
            self._refusals.pop(event.causation_id, None)
        self.effects.effect_seen(event.causation_id, is_all=refused is not None)

    async def wait_until(self, holds: Callable[[], bool], timeout_s: float) -> bool:
        """Waits until a condition on this object holds, at most so long; says whether it does."""
        try:
            async with asyncio.timeout(timeout_s):
                while not holds():
                    await self._changed.wait()
        except TimeoutError:
            return holds()
        return True

    def refusal(self, command_id: str) -> PipelineRefused | None:
        """How the command was refused, if it was, lately, and nothing else came of it since."""
        return self._refusals.get(command_id)

    def was_refused(self, command_id: str) -> bool:
        """Whether `refusal` has one."""
        return command_id in self._refusals

    def reached(self, position: Position) -> bool:
        """Whether what happened at a position, and what a command there caused, is in the read model."""
        if position.topic != PIPELINE_COMMANDS.name:
            return self._through.get((position.topic, position.partition), -1) >= position.offset
        if self.effects.decided(position.partition, position.offset):
            return True
        command = self.effects.waiting(position.partition, position.offset)
        if command is None or command.type != "pipeline.spawn":
            return False
        return self.model.pipeline(command.pipeline_id) is not None

    def subscribe(self, matches: Callable[[Told], bool], after: Position | None) -> Subscription:
        """Begins a stream: with what follows a position, or with what comes from now on.

        Raises:
            PositionGone: The position is not among the events kept.
        """
        # What is missed may be as much as is kept, so that a client that comes back is not slow from its start.
        client = Subscription(matches, self._client_max_count + (len(self._kept) if after else 0))
        if after is not None:
            kept = list(self._kept)
            places = [one.position for one in kept]
            if after not in places:
                raise PositionGone(str(after))
            for one in kept[places.index(after) + 1 :]:
                client.offer(one)
        self._clients.add(client)
        return client

    def unsubscribe(self, client: Subscription) -> None:
        """Ends a stream."""
        self._clients.discard(client)
