"""What the stack is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the doctor's report. Names are unique in a report.

    `next_step` is empty where all is well. With `ok` it is a note: nothing is hindered, and it says what comes next.
    """

    name: str
    ok: bool
    detail: str
    next_step: str = ""


class Component(Protocol):
    """A part of the stack with a life of its own: Kafka, Vault.

    The stack starts components in their order, each when the one before is ready, and stops them in the reverse order.
    A component keeps all its files below the directory it was made with, leaves no process behind after `stop`, and
    ends in `start` what an earlier life that was killed has left.
    """

    @property
    def name(self) -> str:
        """Short and fixed: it stands in logs, file names and the doctor's report."""
        ...

    def start(self) -> None:
        """Return when it is ready for use.

        Raises:
            LocalStackError: It is not, and nothing of it runs any more.
        """
        ...

    def ready(self) -> bool:
        """Whether it can be used now. Quick, never raises."""
        ...

    def stop(self) -> None:
        """End it and keep its data. Without effect if it does not run."""
        ...

    def doctor(self) -> list[Check]:
        """What could keep it from working. Never raises, changes nothing, works before `start`."""
        ...
