"""Reading one's own writes: when a command's effect is in the read model.

The rule. The spawner takes the commands of a partition in their order, and writes what it decides of them in that order
to the partition of `pipeline.events` that has the same number (both are keyed by the pipeline, with one count). So an
event that was caused by a command tells that this command and all before it in its partition are decided, and that what
they caused was written before: the read model has it. A `pipeline.spawn` whose pipeline exists needs no event: a second
spawn with the same key is the first. A command that changes nothing and is followed by none is not recognised; whoever
waits for it waits until the limit.
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
        self._waiting: OrderedDict[str, Command] = OrderedDict()
        self._at: dict[tuple[int, int], Command] = {}
        self._causes: OrderedDict[str, None] = OrderedDict()

    def command_seen(self, command: Command) -> None:
        """A command is on the topic."""
        if command.id in self._causes:
            self._decided(command)
        elif command.id not in self._waiting:
            self._waiting[command.id] = command
            self._at[command.partition, command.offset] = command
            if len(self._waiting) > REMEMBERED_MAX_COUNT:
                _, forgotten = self._waiting.popitem(last=False)
                self._at.pop((forgotten.partition, forgotten.offset), None)

    def effect_seen(self, causation_id: str | None) -> None:
        """An event of the spawner is in the read model."""
        if causation_id is None:
            return
        self._causes[causation_id] = None
        if len(self._causes) > REMEMBERED_MAX_COUNT:
            self._causes.popitem(last=False)
        command = self._waiting.pop(causation_id, None)
        if command is not None:
            self._at.pop((command.partition, command.offset), None)
            self._decided(command)

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
        return self._at.get((partition, offset))
