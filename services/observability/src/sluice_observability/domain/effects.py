"""Reading one's own writes: when a command's effect is in the read model.

The rule. The spawner takes the commands of a partition in their order, and writes what it decides of them in that order
to the partition of `pipeline.events` that has the same number (both are keyed by the pipeline, with one count). So an
event that was caused by a command tells that this command and all before it in its partition are decided, and that what
they caused was written before: the read model has it. A `pipeline.spawn` whose pipeline exists needs no event: a second
spawn with the same key is the first. A command that changes nothing and is followed by none is not recognised; whoever
waits for it waits until the limit.

A command may stand on the topic twice, with one id. What it caused is the first one's: whether the second is decided,
and what stands before it, is not known from that. A refusal is all that its command caused, so another is the second's.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

REMEMBERED_MAX_COUNT = 50_000
"""Commands without an effect so far, and causes whose command was not seen yet: minutes of heavy traffic."""


@dataclass(frozen=True, slots=True)
class Position:
    """A record's place, as `Sluice-Position` gives it: `<topic>/<partition>/<offset>`."""

    topic: str
    partition: int
    offset: int

    @classmethod
    def parse(cls, text: str) -> Position:
        """Reads a position.

        Raises:
            ValueError: It is none.
        """
        topic, _, rest = text.rpartition("/")
        topic, _, partition = topic.rpartition("/")
        if not topic or not all(part.isascii() and part.isdigit() and len(part) < 19 for part in (partition, rest)):
            raise ValueError(f"{text[:100]!r} is no position; it is <topic>/<partition>/<offset>")
        return cls(topic, int(partition), int(rest))

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}/{self.offset}"


@dataclass(frozen=True, slots=True)
class Command:
    """A command as the read model remembers it."""

    id: str
    type: str
    pipeline_id: str
    partition: int
    offset: int


class Effects:
    """Which commands are known to be decided."""

    def __init__(self) -> None:
        self._decided_through: dict[int, int] = {}
        self._waiting: OrderedDict[tuple[int, int], Command] = OrderedDict()
        self._by_id: dict[str, list[Command]] = {}
        self._causes: OrderedDict[str, bool] = OrderedDict()
        """Ids of which an effect was seen, and whether the command was: then it is not a later command's effect."""

    def command_seen(self, command: Command) -> None:
        """A command is on the topic."""
        if self._causes.get(command.id) is False:
            self._causes[command.id] = True
            self._decided(command)
        elif not self.decided(command.partition, command.offset):
            self._waiting[command.partition, command.offset] = command
            self._by_id.setdefault(command.id, []).append(command)
            if len(self._waiting) > REMEMBERED_MAX_COUNT:
                _, forgotten = self._waiting.popitem(last=False)
                self._forget(forgotten)

    def effect_seen(self, causation_id: str | None, *, is_all: bool = False) -> None:
        """An event of the spawner is in the read model.

        Args:
            causation_id: The command that caused it.
            is_all: It is all that the command caused.
        """
        if causation_id is None:
            return
        waiting = self._by_id.get(causation_id)
        is_known = self._causes.get(causation_id, False)
        self._causes[causation_id] = is_known or bool(waiting)
        if len(self._causes) > REMEMBERED_MAX_COUNT:
            self._causes.popitem(last=False)
        if waiting and (is_all or not is_known):
            command = waiting[0]
            del self._waiting[command.partition, command.offset]
            self._forget(command)
            self._decided(command)

    def _forget(self, command: Command) -> None:
        same = self._by_id[command.id]
        same.remove(command)
        if not same:
            del self._by_id[command.id]

    def _decided(self, command: Command) -> None:
        before = self._decided_through.get(command.partition, -1)
        self._decided_through[command.partition] = max(before, command.offset)

    def answered(self, command_id: str) -> bool:
        """Whether an event caused by the command was seen lately."""
        return command_id in self._causes

    def decided(self, partition: int, offset: int) -> bool:
        """Whether the command there, and all before it, are decided."""
        return self._decided_through.get(partition, -1) >= offset

    def waiting(self, partition: int, offset: int) -> Command | None:
        """The command there, if it was seen and nothing of it is known."""
        return self._waiting.get((partition, offset))
