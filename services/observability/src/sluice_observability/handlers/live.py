"""What lives: the read model, whoever waits for it, and the live stream. All of it belongs to the event loop."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from sluice_contracts.envelope import CloudEvent
from sluice_contracts.messages import Message
from sluice_contracts.messages.base import Problem
from sluice_contracts.messages.pipeline import PipelineRefused
from sluice_contracts.topics import PIPELINE_COMMANDS, PIPELINE_EVENTS, TOKEN_COMMANDS, TOKEN_EVENTS
from sluice_observability.domain import stream_names
from sluice_observability.domain.effects import Command, Effects, Position
from sluice_observability.domain.places import Place
from sluice_observability.domain.policy import StreamLimits
from sluice_observability.domain.read_model import ReadModel
from sluice_observability.domain.token_effects import TokenEffects

REFUSALS_MAX_COUNT = 10_000
"""Refusals remembered for those who wait for the answer to their command."""


CLIENTS_MAX_COUNT = 200
"""Clients of the stream at a time: each may hold a queue of events."""

TAKEN_MAX_COUNT = 100
"""Events that a client is sent before its queue is looked at again: they count no more as waiting."""

EVENT_BYTES = 2_048
"""What an event takes beside its data."""

_ANSWERED_ON = {PIPELINE_COMMANDS.name: PIPELINE_EVENTS.name, TOKEN_COMMANDS.name: TOKEN_EVENTS.name}
"""Where it is told what came of the commands of a topic: in the partition of the same number."""


@dataclass(frozen=True)
class Told:
    """An event with its place, and the size of its data as a record's value."""

    position: Position
    event: CloudEvent[Message]
    value_bytes: int = 0

    @property
    def size_bytes(self) -> int:
        """For budgets: about what it takes."""
        return self.value_bytes + EVENT_BYTES

    @cached_property
    def text(self) -> str:
        """The event as the stream shows it, a JSON object; made once, however many clients it goes to."""
        event = self.event
        attributes = {
            "position": str(self.position),
            "id": event.id,
            "type": event.type,
            "name": stream_names.name_of(event),
            "source": event.source,
            "tenant": event.tenant,
            "pipeline_id": event.subject,
            "time_ms": event.time_ms,
            "sequence": event.sequence,
            "causation_id": event.causation_id,
        }
        return f'{json.dumps(attributes, ensure_ascii=False)[:-1]}, "data": {event.data.model_dump_json()}}}'


class SlowClient(Exception):
    """The client did not take its events in time: close its connection; it can come back with the last position."""


class PositionGone(Exception):
    """The position is not among the events kept: begin anew, and read what lies between by SQL."""


class TooManyClients(Exception):
    """The stream has as many clients as it may: come again later."""


class Subscription:
    """One client of the stream: a queue of events, bounded in number and bytes; one event always has a place."""

    def __init__(self, matches: Callable[[Told], bool], max_count: int, max_bytes: int) -> None:
        self._matches = matches
        self._queue: deque[Told] = deque()
        self._max_count = max_count
        self._left_bytes = max_bytes
        self._arrived = asyncio.Event()
        self._overrun = self._closed = False

    def offer(self, told: Told) -> None:
        """Gives the client an event, if it is one of those it asked for."""
        if self._overrun or not self._matches(told):
            return
        if self._queue and (len(self._queue) >= self._max_count or told.size_bytes > self._left_bytes):
            self._overrun = True
        else:
            self._queue.append(told)
            self._left_bytes -= told.size_bytes
        self._arrived.set()

    def close(self) -> None:
        """Ends `take`: the client has gone."""
        self._closed = True
        self._arrived.set()

    async def take(self) -> Sequence[Told]:
        """Waits for events and returns those that are there, some at a time; none once the client has gone.

        Raises:
            SlowClient: An event had no place any more; those that had are handed out first.
        """
        while not self._queue and not self._closed:
            if self._overrun:
                raise SlowClient
            self._arrived.clear()
            await self._arrived.wait()
        if self._closed:
            return ()
        taken = [self._queue.popleft() for _ in range(min(len(self._queue), TAKEN_MAX_COUNT))]
        self._left_bytes += sum(told.size_bytes for told in taken)
        return taken


class Live:
    """Folds what is told, wakes those who wait, and feeds the stream.

    Args:
        limits: Of the stream.
    """

    def __init__(self, model: ReadModel, limits: StreamLimits = StreamLimits()) -> None:
        self.model = model
        self.effects = Effects()
        self.token_effects = TokenEffects()
        self._refusals: dict[str, PipelineRefused] = {}
        self._through: dict[tuple[str, int], int] = {}
        self._begun: dict[tuple[str, int], int] = {}
        self._kept: deque[Told] = deque()
        self._kept_bytes = 0
        self._limits = limits
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

    def remember(self, topic: str, command: Command, is_decided: bool) -> None:
        """Takes a command of that past."""
        if topic == TOKEN_COMMANDS.name:
            if is_decided:
                self.token_effects.done((command.partition, command.offset), command.id)
            return
        self.effects.command_seen(command)
        if is_decided:
            self.effects.effect_seen(command.id)

    def horizon(self, position: Position) -> Position:
        """What the log must have, so that what a command caused is in it: all that is here of its partition."""
        answers = _ANSWERED_ON.get(position.topic)
        if answers is None:
            return position
        through = self._through.get((answers, position.partition))
        return position if through is None else Position(answers, position.partition, through)

    def tell(self, told: Sequence[Told]) -> None:
        """Folds what arrived, in its order."""
        for one in told:
            at, event = one.position, one.event
            self._through[at.topic, at.partition] = at.offset
            if at.topic == PIPELINE_COMMANDS.name:
                self.effects.command_seen(Command(event.id, event.type, event.subject, at.partition, at.offset))
                continue
            news = self.model.apply(event)
            if at.topic == TOKEN_COMMANDS.name:
                self.token_effects.command_seen((at.partition, at.offset), event, self._living(event.subject))
                continue
            if at.topic == PIPELINE_EVENTS.name:
                self._hear(event)
            elif at.topic == TOKEN_EVENTS.name:
                self.token_effects.event_seen(event)
            if news:
                self._keep(one)
                for client in self._clients:
                    client.offer(one)
        if told:
            self._changed.set()
            self._changed = asyncio.Event()

    def _living(self, pipeline_id: str) -> list[str]:
        view = self.model.heard_of(pipeline_id)
        tokens = () if view is None else view.tokens.values()
        return [one.accessor for one in tokens if one.accessor is not None and one.ended_at_ms is None]

    def _keep(self, told: Told) -> None:
        self._kept.append(told)
        self._kept_bytes += told.size_bytes
        while len(self._kept) > self._limits.buffer_max_count or self._kept_bytes > self._limits.buffer_max_bytes:
            self._kept_bytes -= self._kept.popleft().size_bytes

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

    def problem_of(self, command_id: str) -> Problem | None:
        """Why a command was refused by the spawner, or denied by the vault-broker, if it was."""
        refused = self._refusals.get(command_id)
        return self.token_effects.denial(command_id) if refused is None else refused.problem

    def was_refused(self, command_id: str) -> bool:
        """Whether `problem_of` has one."""
        return self.problem_of(command_id) is not None

    def answered(self, command_id: str, position: Position) -> bool:
        """Whether what a command caused is here."""
        known = self.effects.answered(command_id) or self.token_effects.answered(command_id)
        return known or self.reached(position)

    def reached(self, position: Position) -> bool:
        """Whether what happened at a position, and what a command there caused, is in the read model."""
        if position.topic == TOKEN_COMMANDS.name:
            return self.token_effects.reached((position.partition, position.offset))
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
            TooManyClients: There are `CLIENTS_MAX_COUNT`.
            PositionGone: The position is not among the events kept.
        """
        if len(self._clients) >= CLIENTS_MAX_COUNT:
            raise TooManyClients(f"{CLIENTS_MAX_COUNT} clients are served at a time; come again later")
        # What is missed may be as much as is kept, so that a client that comes back is not slow from its start.
        count, size = (len(self._kept), self._kept_bytes) if after else (0, 0)
        client = Subscription(matches, self._limits.client_max_count + count, self._limits.client_max_bytes + size)
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
