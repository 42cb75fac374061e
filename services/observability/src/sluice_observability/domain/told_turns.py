"""The fold of an agent's turns. One that was refused, such as a late attempt's, counts for nothing, as in view `turns`.

A refusal stands on another topic than the turn, and may be heard before it. So the newest turns are kept by their
events, until nothing more is to be expected of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from sluice_contracts.messages.agent import AgentTurnFinished
from sluice_contracts.messages.base import ArtifactRef, Usage
from sluice_observability.domain.views import AgentView

TOLD_MAX_COUNT = 16
"""Of one agent. A refusal follows its turn within seconds: a late attempt hardly finishes more meanwhile."""


@dataclass(frozen=True, slots=True)
class Turn:
    """A turn, as a runner told that it is finished."""

    number: int
    usage: Usage
    model: str
    transcript: ArtifactRef
    finished_at_ms: int

    @property
    def order(self) -> tuple[int, int]:
        """Of several the greatest is the last."""
        return self.number, self.finished_at_ms


@dataclass(slots=True)
class Told:
    """What is kept of an agent's turns.

    Attributes:
        newest: By the event that told them; None where that was refused.
        settled: Turns up to this one are not looked at any more: what they used, and the last of them.
        is_summed: Whether the view has the spawner's sums.
    """

    newest: dict[str, Turn | None] = field(default_factory=dict)
    settled: int = 0
    usage: Usage = field(default_factory=Usage)
    last: Turn | None = None
    is_summed: bool = False

    def known(self) -> list[tuple[str, Turn]]:
        """The newest that were not refused, in the order in which they were told."""
        return [(name, one) for name, one in self.newest.items() if one is not None]


def tell(view: AgentView, event_id: str, data: AgentTurnFinished, time_ms: int) -> None:
    """Counts a turn, unless it came before or was refused."""
    told = _told(view)
    if event_id not in told.newest and data.turn > told.settled:
        _put(view, event_id, Turn(data.turn, data.usage, data.model, data.transcript, time_ms))


def refuse(view: AgentView, event_id: str) -> None:
    """Takes a turn back; if it is heard later, it counts for nothing."""
    _put(view, event_id, None)


def sum_up(view: AgentView, turns: int, usage: Usage) -> None:
    """Takes the spawner's sums, at the task's success: what is told of turns does not change them."""
    view.turns, view.usage, _told(view).is_summed = turns, usage, True


def _told(view: AgentView) -> Told:
    if view.told is None:
        view.told = Told()
    assert isinstance(view.told, Told)
    return view.told


def _put(view: AgentView, event_id: str, turn: Turn | None) -> None:
    told = _told(view)
    told.newest[event_id] = turn
    if len(told.newest) > TOLD_MAX_COUNT:
        refused = next((name for name, one in told.newest.items() if one is None), None)
        if refused is None:
            _settle(told)
        else:
            del told.newest[refused]
    _show(view, told)


def _settle(told: Told) -> None:
    """Takes the lowest turn for good."""
    lowest = min(one.number for _, one in told.known())
    same = [(name, one) for name, one in told.known() if one.number == lowest]
    told.settled, told.usage = lowest, told.usage + same[0][1].usage
    told.last = max((one for _, one in same), key=lambda one: one.order)
    for name, _ in same:
        del told.newest[name]


def _show(view: AgentView, told: Told) -> None:
    """Shows what counts: each turn once, by whom it was told first; of the last one its latest end."""
    counted: dict[int, Turn] = {}
    for _, one in told.known():
        counted.setdefault(one.number, one)
    if not told.is_summed:
        view.turns = max(counted, default=told.settled)
        view.usage = sum((one.usage for one in counted.values()), told.usage)
    last = max((one for _, one in told.known()), key=lambda one: one.order, default=told.last)
    view.model = None if last is None else last.model
    view.transcript = None if last is None else last.transcript
    view.turn_finished_at_ms = 0 if last is None else last.finished_at_ms
