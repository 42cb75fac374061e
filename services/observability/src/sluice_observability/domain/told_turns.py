"""The fold of an agent's turns. One that was refused, such as a late attempt's, counts for nothing, as in view `turns`.

A refusal stands on another topic than the turn, and may be heard before it. So the newest turns are kept by their
events, until nothing more is to be expected of them.
"""

from __future__ import annotations

from sluice_contracts.messages.agent import AgentTurnFinished
from sluice_observability.domain.views import AgentView, ToldTurn

TOLD_MAX_COUNT = 16
"""Of one agent. A refusal follows its turn within seconds: a late attempt hardly finishes more meanwhile."""


def tell(view: AgentView, event_id: str, told: ToldTurn) -> None:
    """Counts a turn, unless it came before or was refused."""
    if event_id not in view.turns_told and told.turn > view.turns_settled:
        _put(view, event_id, told)


def refuse(view: AgentView, event_id: str) -> None:
    """Takes a turn back; if it is heard later, it counts for nothing."""
    _put(view, event_id, None)


def told_by(data: AgentTurnFinished, time_ms: int) -> ToldTurn:
    """What is kept of a turn."""
    return ToldTurn(data.turn, data.usage, data.model, data.transcript, time_ms)


def show(view: AgentView) -> None:
    """Shows the turns that count. A turn counts once, by whom it was told first; of the last one the latest end does.

    At the task's success the spawner's sums take the place of these.
    """
    counted: dict[int, ToldTurn] = {}
    for one in view.turns_told.values():
        if one is not None:
            counted.setdefault(one.turn, one)
    last = max((one for one in view.turns_told.values() if one is not None), key=_order, default=view.last_settled)
    if not view.is_summed:
        view.turns = max(counted, default=view.turns_settled)
        view.usage = sum((one.usage for one in counted.values()), view.usage_settled)
    view.model, view.transcript, view.turn_finished_at_ms = (
        (None, None, 0) if last is None else (last.model, last.transcript, last.finished_at_ms)
    )


def _put(view: AgentView, event_id: str, told: ToldTurn | None) -> None:
    view.turns_told[event_id] = told
    if len(view.turns_told) > TOLD_MAX_COUNT:
        refused = (name for name, one in view.turns_told.items() if one is None)
        name = next(refused, None)
        if name is None:
            _settle(view)
        else:
            del view.turns_told[name]
    show(view)


def _settle(view: AgentView) -> None:
    """Takes the lowest turn for good."""
    lowest = min(one.turn for one in view.turns_told.values() if one is not None)
    same = [(name, one) for name, one in view.turns_told.items() if one is not None and one.turn == lowest]
    view.turns_settled, view.usage_settled = lowest, view.usage_settled + same[0][1].usage
    view.last_settled = max((one for _, one in same), key=_order)
    for name, _ in same:
        del view.turns_told[name]


def _order(one: ToldTurn) -> tuple[int, int]:
    return one.turn, one.finished_at_ms
