"""Reading one's own writes to `token.commands`: when a command's effect is in the read model.

The vault-broker takes the commands of a partition in their order, but Vault's answers come in any. So a command is
done once an event names it as its cause, or tells of the pipeline what the command asked for: a revocation that covers
its own, or a renewal of each credential that lived. A command that changes nothing is denied.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass

from sluice_contracts.envelope import CloudEvent
from sluice_contracts.messages import Message
from sluice_contracts.messages.base import Problem
from sluice_contracts.messages.token import (
    TokenDenied,
    TokenExpired,
    TokenRenew,
    TokenRenewed,
    TokenRevoke,
    TokenRevoked,
)

REMEMBERED_MAX_COUNT = 10_000
"""Commands that wait, and causes that were heard: minutes of heavy traffic."""

Place = tuple[int, int]
"""Partition and offset of a command."""


@dataclass(frozen=True, slots=True)
class TokenCommand:
    """A command as the read model remembers it."""

    id: str
    pipeline_id: str
    data: Message


class TokenEffects:
    """Which commands about credentials are known to have taken effect."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[Place, TokenCommand] = OrderedDict()
        self._done: OrderedDict[str, None] = OrderedDict()
        self._places_done: OrderedDict[Place, None] = OrderedDict()
        self._denied: OrderedDict[str, Problem] = OrderedDict()
        self._unrenewed: dict[Place, set[str]] = {}

    def command_seen(self, place: Place, event: CloudEvent[Message], living: Collection[str] = ()) -> None:
        """A command is on the topic; `living` names the pipeline's credentials that live then, for a renewal."""
        if not isinstance(event.data, TokenRevoke | TokenRenew):
            return
        if event.id in self._done:
            _remember(self._places_done, place)
            return
        self._waiting[place] = TokenCommand(event.id, event.subject, event.data)
        if isinstance(event.data, TokenRenew) and living:
            self._unrenewed[place] = set(living)
        if len(self._waiting) > REMEMBERED_MAX_COUNT:
            self._unrenewed.pop(self._waiting.popitem(last=False)[0], None)

    def event_seen(self, event: CloudEvent[Message]) -> None:
        """An event of the vault-broker is in the read model."""
        if event.causation_id is not None and not isinstance(event.data, TokenRenewed):
            _remember(self._done, event.causation_id)
            if isinstance(event.data, TokenDenied):
                self._denied[event.causation_id] = event.data.problem
                if len(self._denied) > REMEMBERED_MAX_COUNT:
                    self._denied.popitem(last=False)
        for place in [place for place, one in self._waiting.items() if self._answers(event, place, one)]:
            self._unrenewed.pop(place, None)
            self.done(place, self._waiting.pop(place).id)

    def _answers(self, event: CloudEvent[Message], place: Place, command: TokenCommand) -> bool:
        if event.subject != command.pipeline_id:
            return False
        told = event.data
        unrenewed = self._unrenewed.get(place)
        if unrenewed is None:
            return event.causation_id == command.id or _covers(told, command.data)
        if isinstance(told, TokenDenied):
            return event.causation_id == command.id
        if isinstance(told, TokenRenewed | TokenExpired):
            unrenewed.discard(told.accessor)
        elif isinstance(told, TokenRevoked):
            unrenewed.difference_update(unrenewed if told.is_whole else told.accessors)  # nothing is left to renew
        else:
            return False
        return not unrenewed

    def done(self, place: Place, command_id: str) -> None:
        """A command is known to have taken effect."""
        _remember(self._places_done, place)
        _remember(self._done, command_id)

    def reached(self, place: Place) -> bool:
        """Whether the command there has taken effect."""
        return place in self._places_done

    def answered(self, command_id: str) -> bool:
        """Whether a command has taken effect, or was denied."""
        return command_id in self._done

    def denial(self, command_id: str) -> Problem | None:
        """Why the command was denied, if it was."""
        return self._denied.get(command_id)


def _covers(told: Message, asked: Message) -> bool:
    if isinstance(asked, TokenRenew):
        return isinstance(told, TokenRenewed)  # granted since
    if not isinstance(told, TokenRevoked) or not isinstance(asked, TokenRevoke):
        return False
    is_agents = told.agent_id is not None and told.agent_id == asked.agent_id and told.reason != "orphaned"
    return told.is_whole or is_agents


def _remember(known: OrderedDict[Place, None] | OrderedDict[str, None], one: Place | str) -> None:
    known[one] = None  # type: ignore[index]
    if len(known) > REMEMBERED_MAX_COUNT:
        known.popitem(last=False)
