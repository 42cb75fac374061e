"""What is shown of credentials, by the read model and by SQL, in one form: to compare them, and both with Vault."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from sluice_contracts.envelope import CloudEvent
from sluice_contracts.messages import Message
from sluice_contracts.messages.token import TokenRevoked
from sluice_observability.domain.read_model import ReadModel
from sluice_observability.domain.safeguards import without_grant
from sluice_observability.domain.views import PipelineView
from tests.credentials import Events, living

Life = tuple[str, int, int | None, str, str]
"""State, renewals, end in epoch milliseconds, reason, alert."""

QUERY = (
    "SELECT accessor, state, renewals, toUnixTimestamp64Milli(ifNull(revoked_at, expired_at)), reason, alert_id"
    " FROM token_lives"
)


def life_of(rows: Callable[[str], Sequence[Sequence[Any]]]) -> Mapping[str, Life]:
    """Each credential as view `token_lives` shows it, by its accessor."""
    return {
        accessor: (state, int(renewals), None if ended is None else int(ended), reason, alert_id)
        for accessor, state, renewals, ended, reason, alert_id in rows(QUERY)
    }


def lives_by_fold(events: Iterable[CloudEvent[Message]]) -> Mapping[str, Life]:
    """Each credential as the read model shows it, by its accessor."""
    model, pipelines = ReadModel(10_000), set()
    for event in events:
        model.apply(without_grant(event))
        pipelines.add(event.subject)
    views = [view for one in pipelines if (view := model.heard_of(one)) is not None]
    return {accessor: life for view in views for accessor, life in _lives(view).items()}


def alive(shown: Mapping[str, Life]) -> set[str]:
    """Those of them that live."""
    return {accessor for accessor, (state, *_) in shown.items() if state in ("granted", "renewed")}


def check_shown(told: Events) -> None:
    """After each event the read model shows the credentials alive that were granted and not told to have ended.

    After all of a pipeline ended, one whose own end is told later is shown to have ended already: it has.
    """
    model, so_far = ReadModel(10_000), defaultdict(list)
    whole: set[str] = set()
    for event in told:
        model.apply(without_grant(event))
        so_far[event.subject].append(event)
        if isinstance(event.data, TokenRevoked) and event.data.is_whole:
            whole.add(event.subject)
        view = model.heard_of(event.subject)
        shown = set() if view is None else alive(_lives(view))
        lives = living(so_far[event.subject]).keys()
        assert shown == lives or (event.subject in whole and shown < lives), f"{shown ^ lives} after {event}"


def _lives(view: PipelineView) -> dict[str, Life]:
    return {
        one.accessor: (one.state, one.renewals, one.ended_at_ms, one.reason or "", one.alert_id or "")
        for one in view.tokens.values()
        if one.accessor is not None
    }
