"""What the api loads when it starts: all that it folds, whatever was said, in answers that the endpoint gives."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sluice_contracts.envelope import CloudEvent
from sluice_contracts.limits import INLINE_BODY_MAX_BYTES
from sluice_contracts.messages import Message, agent
from sluice_contracts.messages.base import Body
from sluice_observability.adapters.clickhouse import ClickHouse
from sluice_observability.adapters.read_only import EmbeddedReadOnly
from sluice_observability.domain.policy import QueryLimits
from sluice_observability.domain.read_model import ReadModel
from sluice_observability.handlers.history import History
from sluice_observability.ports import QueryRefused
from tests.unit.observability.events import START_MS, Teller, spawning, turn, whole_life
from tests.unit.observability.test_views import stored

TURNS = 4
PIPELINES = 6
RESULT_MAX_BYTES = 1024 * 1024
"""Stands for the endpoint's 128 MiB: a tenth of what was said here."""


class Endpoint:
    """The store's endpoint without HTTP, which notes what it gave."""

    def __init__(self, directory: Path) -> None:
        self._database = EmbeddedReadOnly(directory, QueryLimits(result_max_bytes=RESULT_MAX_BYTES))
        self.answers: list[int] = []
        self.queries: list[str] = []

    async def rows(
        self, query: str, parameters: Mapping[str, str] | None = None, *, timeout_s: float | None = None
    ) -> list[dict[str, Any]]:
        self.queries.append(query)
        answer = self._database.query(
            query, default_format="JSONEachRow", parameters=parameters or {}, database=None
        )  # fmt: skip
        self.answers.append(len(answer.body))
        return [json.loads(line) for line in answer.body.splitlines()]


def talkative(teller: Teller, number: int) -> CloudEvent[Message]:
    """A turn with the largest bodies that stand in an event."""
    event = turn(teller, number)
    assert isinstance(event.data, agent.AgentTurnFinished)
    body = Body(text=chr(96 + number) * (INLINE_BODY_MAX_BYTES - 2) + '"\n')
    call = event.data.tool_calls[0].model_copy(update={"result": body})
    said = {"prompt": body, "response": body, "tool_calls": (call,)}
    return replace(event, data=event.data.model_copy(update=said))


def told(name: str) -> list[CloudEvent[Message]]:
    teller = Teller(name, start_ms=START_MS + int(name[1:]) * 1_000)
    return [*spawning(teller), *(talkative(teller, number) for number in range(1, TURNS + 1))]


def folded(events: list[CloudEvent[Message]]) -> list[Any]:
    model = ReadModel(100)
    for event in events:
        model.apply(event)
    return list(model.living())


async def loaded(history: History) -> list[list[CloudEvent[Message]]]:
    return [page async for page in history.living_events()]


@pytest.mark.covers("O3", "U1")
def test_what_was_said_does_not_stand_in_the_way_of_a_start(engine: ClickHouse, engine_directory: Path) -> None:
    lives = [told(f"p{number}") for number in range(PIPELINES)]
    stored(engine, [event for life in lives for event in life] + whole_life("finished"))
    endpoint = Endpoint(engine_directory)
    with pytest.raises(QueryRefused):
        asyncio.run(endpoint.rows("SELECT payload FROM log"))
    pages = asyncio.run(loaded(History(endpoint)))
    assert len(pages) == 1
    assert max(endpoint.answers) < RESULT_MAX_BYTES / 10
    assert folded(pages[0]) == folded([event for life in lives for event in life])
    agents = [one for view in folded(pages[0]) for one in view.agents.values()]
    assert [(one.turns, one.model, one.usage.input_tokens) for one in agents] == [
        (TURNS, "m1", 100 * TURNS)
    ] * PIPELINES


@pytest.mark.covers("O3", "U1")
def test_a_start_reads_what_lives_and_nothing_else(engine: ClickHouse, engine_directory: Path) -> None:
    """However long the log is: each question to it goes by its order."""
    again = Teller("twice", start_ms=START_MS + 9_000_000)
    lives = [*told("p1"), *told("p2")]
    stored(engine, [*whole_life("finished"), *lives, *whole_life("twice"), *spawning(again, team="second")])
    endpoint = Endpoint(engine_directory)
    [page] = asyncio.run(loaded(History(endpoint)))
    assert {event.subject for event in page} == {"p1", "p2", "twice"}
    assert [view.pipeline_id for view in folded(page)] == ["p1", "p2", "twice"]
    assert folded(page)[2].labels == {"team": "second"}
    asked_of_log = [query for query in endpoint.queries if " FROM log " in query]
    assert len(asked_of_log) == 2
    for query in asked_of_log:
        text = "\n".join(row[0] for row in engine.rows(f"EXPLAIN indexes = 1 {query}"))
        condition = text[text.index("PrimaryKey") :]
        assert "tenant in" in condition
        assert "pipeline_id in" in condition


@pytest.mark.covers("U1")
def test_whose_a_pipeline_is(engine: ClickHouse, engine_directory: Path) -> None:
    stored(engine, [*whole_life("p1", tenant="other"), *spawning(Teller("p2"))])
    history = History(Endpoint(engine_directory))
    assert [asyncio.run(history.tenant(name)) for name in ("p1", "p2", "nobody")] == ["other", "acme", None]


def test_pages_hold_what_fits_and_a_long_pipeline_comes_in_slices(engine: ClickHouse, engine_directory: Path) -> None:
    lives = [told(f"p{number}") for number in range(PIPELINES)]
    events = [event for life in lives for event in life]
    stored(engine, events)
    two = asyncio.run(loaded(History(Endpoint(engine_directory), page_max_bytes=2 * 14 * 1024)))
    assert [len({event.subject for event in page}) for page in two] == [2] * (PIPELINES // 2)
    assert folded([event for page in two for event in page]) == folded(events)
    slices = asyncio.run(loaded(History(Endpoint(engine_directory), page_max_bytes=4 * 1024)))
    assert max(len(page) for page in slices) == 4  # turns without bodies, and no two pipelines
    assert all(len({event.subject for event in page}) == 1 for page in slices)
    assert [event.id for page in slices for event in page] == [event.id for event in events]


def test_a_past_pipeline_is_whole_in_whatever_slices(engine: ClickHouse, engine_directory: Path) -> None:
    stored(engine, whole_life("p1"))
    for page_max_bytes in (1, 4 * 1024, 1024 * 1024):
        found = asyncio.run(History(Endpoint(engine_directory), page_max_bytes=page_max_bytes).pipeline("p1"))
        assert found is not None
        assert (found.state, found.tasks["look"].status) == ("COMPLETED", "succeeded")
    assert asyncio.run(History(Endpoint(engine_directory)).pipeline("nobody")) is None


@pytest.mark.covers("U1")
def test_of_an_id_that_was_used_again_the_last_life_is_answered(engine: ClickHouse, engine_directory: Path) -> None:
    again = Teller("p1", start_ms=START_MS + 60_000)
    stored(engine, [*whole_life("p1"), *spawning(again)])
    found = asyncio.run(History(Endpoint(engine_directory), page_max_bytes=1).pipeline("p1"))
    assert found is not None
    assert (found.state, list(found.agents)) == ("RUNNING", [again.agent_id])


@pytest.mark.covers("U1")
def test_events_come_in_pages_by_count_and_by_size(engine: ClickHouse, engine_directory: Path) -> None:
    events = told("p1")
    stored(engine, events)

    def pages(history: History, limit: int) -> list[list[str]]:
        found: list[list[str]] = []
        more = True
        while more:
            rows, more = asyncio.run(history.events("p1", types=(), limit=limit, offset=sum(map(len, found))))
            assert not any("found" in row or "bytes_before" in row for row in rows)
            found.append([row["id"] for row in rows])
        return found

    ids = [event.id for event in events]
    whole = History(Endpoint(engine_directory))
    assert pages(whole, 1_000) == [ids]
    assert pages(whole, len(ids)) == [ids]
    assert pages(whole, 4) == [ids[at : at + 4] for at in range(0, len(ids), 4)]
    small = pages(History(Endpoint(engine_directory), page_max_bytes=1), 1_000)
    assert small == [[one] for one in ids]
    assert asyncio.run(whole.events("nobody", types=(), limit=9, offset=0)) == ([], False)
