"""The past, by SQL: what the read model does not hold, folded by the same fold, and lists for people."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from sluice_contracts.envelope import CloudEvent
from sluice_contracts.limits import IDENTIFIER_PATTERN
from sluice_contracts.messages import Message, registry
from sluice_contracts.messages.agent import AgentTurnFinished, AttemptEvent
from sluice_contracts.messages.pipeline import PipelineSpawned
from sluice_contracts.topics import TOKEN_COMMANDS
from sluice_observability.domain.effects import Command, Position
from sluice_observability.domain.places import Place
from sluice_observability.domain.read_model import DIAGNOSTICS_MAX_COUNT, FOLDS, ReadModel
from sluice_observability.domain.safeguards import without_grant
from sluice_observability.domain.views import AgentView, DiagnosticView, PipelineView
from sluice_observability.handlers.questions import POSITIONS_QUERY
from sluice_observability.ports import Sql

PAGE_MAX_BYTES = 16 * 1024 * 1024
"""Events of one query, by what is known of their size: the endpoint's answers have a limit of 128 MiB, and both ends
build them in memory."""

PAGE_MAX_PIPELINES = 1_000
"""Their names stand in the query, whose length has a limit."""

LOADING_TIMEOUT_S = 300.0
"""For what is asked at the start: the store ends a query before (30 s by default) and says why. Whoever gives up sooner
leaves it running there, in one of few places, and asks again beside it."""

ROW_BYTES = 1024
"""What a row takes beside its payload, or with one without bodies."""

_TURN = AgentTurnFinished.type
_FOLDED_OF_RUNNERS = ", ".join(sorted(f"'{cls.type}'" for cls in FOLDS if issubclass(cls, AttemptEvent)))
_FOLDED_OF_OTHERS = "('error.reported', 'violation.reported', 'token.request')"
_FOLDED = (
    "(topic IN ('pipeline.events', 'token.events', 'alerts', 'reports')"
    f" OR (startsWith(topic, 'agent.events.') AND type IN ({_FOLDED_OF_RUNNERS}))"
    f" OR (topic IN ('signals', 'token.commands') AND type IN {_FOLDED_OF_OTHERS}))"
)
_BODILESS = (
    "concat('{\"prompt\":{},\"response\":{}', arrayStringConcat(arrayMap(part -> concat(',', toJSONString(part.1), ':',"
    " part.2), arrayFilter(part -> part.1 NOT IN ('prompt', 'response', 'tool_calls'),"
    " JSONExtractKeysAndValuesRaw(payload)))), '}')"
)
"""A turn's payload without what was said in it: the read model keeps none of it, and it is most of what a log holds."""

_EVENT = (
    "type, type_version, event_id, source, tenant, pipeline_id, causation_id, sequence,"
    f" if(type = '{_TURN}', {_BODILESS}, payload) AS told,"
    " toUnixTimestamp64Milli(event_time) AS time_ms, topic, partition, offset"
)
_BYTES = f"sum({ROW_BYTES} + if(type = '{_TURN}', 0, value_bytes)) AS bytes"
_IDENTIFIER = re.compile(IDENTIFIER_PATTERN)


class History:
    """Questions to the event log. Every method raises `StoreUnavailable` when it is not answered.

    Args:
        sql: Where the log is asked.
        page_max_bytes: The size of one answer with events; a pipeline's events of one millisecond may exceed it.
    """

    def __init__(self, sql: Sql, *, page_max_bytes: int = PAGE_MAX_BYTES) -> None:
        self._sql = sql
        self._page_max_bytes = page_max_bytes

    async def positions(self) -> dict[Place, int]:
        """How far the log has come."""
        found = await self._sql.rows(POSITIONS_QUERY)
        return {
            Place(row["topic"], row["incarnation"], int(row["partition"])): int(row["next_offset"]) for row in found
        }

    async def living_events(self) -> AsyncIterator[list[CloudEvent[Message]]]:
        """All folded events of the pipelines whose last mark is their beginning, each one's in order, without bodies.

        Some may have ended all the same: the fold tells. They come in pages that fit into the endpoint's answers,
        whatever the pipelines have said. What was never asked about is not read: the time that it takes grows with
        the number of pipelines there ever were, two rows for each, and with what those say that live.

        Raises:
            StoreUnavailable: It was not answered.
            QueryTooLarge: A limit of the store is too low for this installation.
        """
        query = (
            f"SELECT pipeline_id, tenant FROM pipeline_marks FINAL WHERE type = '{PipelineSpawned.type}'"
            " ORDER BY append_time"
        )
        marked = await self._sql.rows(query, timeout_s=LOADING_TIMEOUT_S)
        # An invalid record has any text as its names, and would be no pipeline.
        living = [one for row in marked if all(map(_IDENTIFIER.match, one := (row["pipeline_id"], row["tenant"])))]
        for first in range(0, len(living), PAGE_MAX_PIPELINES):
            async for events in self._events_of_some(living[first : first + PAGE_MAX_PIPELINES]):
                yield events

    async def _events_of_some(self, living: Sequence[tuple[str, str]]) -> AsyncIterator[list[CloudEvent[Message]]]:
        query = f"SELECT pipeline_id, {_BYTES} FROM log WHERE {_about(living)} AND {_FOLDED} GROUP BY pipeline_id"
        rows = await self._sql.rows(query, timeout_s=LOADING_TIMEOUT_S)
        sizes = {row["pipeline_id"]: int(row["bytes"]) for row in rows}
        page: list[tuple[str, str]] = []
        page_bytes = 0
        for one in living:
            size = sizes.get(one[0], 0)
            if page and page_bytes + size > self._page_max_bytes:
                yield await self._events_of(_about(page))
                page, page_bytes = [], 0
            if size > self._page_max_bytes:
                async for events in self._events_of_one(_about([one])):
                    yield events
            else:
                page.append(one)
                page_bytes += size
        if page:
            yield await self._events_of(_about(page))

    async def pipeline(self, pipeline_id: str) -> PipelineView | None:
        """A pipeline of the past."""
        model = ReadModel(1)
        async for events in self._events_of_one("pipeline_id = {pipeline:String}", {"pipeline": pipeline_id}):
            for event in events:
                model.apply(event)
        return model.pipeline(pipeline_id)

    async def diagnostics(self, view: PipelineView) -> list[DiagnosticView]:
        """The pipelines that diagnose one of the past; the newest last."""
        query = (
            "SELECT DISTINCT pipeline_id, append_time FROM log WHERE tenant = {tenant:String}"
            f" AND topic = 'pipeline.events' AND type = '{PipelineSpawned.type}'"
            " AND JSONExtractString(payload, 'diagnosed', 'pipeline_id') = {pipeline:String}"
            " ORDER BY append_time DESC LIMIT {limit:UInt32}"
        )
        given = {"tenant": view.tenant, "pipeline": view.pipeline_id, "limit": str(DIAGNOSTICS_MAX_COUNT)}
        names = dict.fromkeys(row["pipeline_id"] for row in reversed(await self._sql.rows(query, given)))
        found = [one for name in names if (one := await self.pipeline(name)) is not None]
        return [DiagnosticView(one.pipeline_id, one.state, one.findings) for one in found]

    async def alerts(
        self, *, pipeline_id: str | None, tenant: str | None, limit: int, offset: int
    ) -> list[dict[str, Any]]:
        """Breaches of budgets, newest first."""
        query = (
            "SELECT alert_id, tenant, pipeline_id, condition, action, agent_id, attempt, observed, allowed, window_ms,"
            " toUnixTimestamp64Milli(breached_at) AS breached_at_ms, toUnixTimestamp64Milli(raised_at) AS raised_at_ms,"
            " toUnixTimestamp64Milli(revoked_at) AS revoked_at_ms, detail, evidence FROM alerts"
            f" WHERE {_conditions(pipeline_id=pipeline_id, tenant=tenant)}"
            " ORDER BY raised_at DESC, alert_id LIMIT {limit:UInt32} OFFSET {skip:UInt32}"
        )
        given = _given(pipeline_id=pipeline_id, tenant=tenant)
        return await self._sql.rows(query, {**given, "limit": str(limit), "skip": str(offset)})

    async def agent(self, agent_id: str) -> AgentView | None:
        """An agent of the past."""
        query = (
            "SELECT pipeline_id FROM log WHERE topic = 'pipeline.events' AND type = 'agent.created'"
            " AND agent_id = {agent:String} LIMIT 1"
        )
        found = await self._sql.rows(query, {"agent": agent_id})
        view = await self.pipeline(found[0]["pipeline_id"]) if found else None
        return None if view is None else view.agents.get(agent_id)

    async def tenant(self, pipeline_id: str) -> str | None:
        """Whose a pipeline is; None where the log has no such pipeline."""
        query = "SELECT tenant FROM pipeline_marks WHERE pipeline_id = {pipeline:String} LIMIT 1"
        found = await self._sql.rows(query, {"pipeline": pipeline_id})
        return found[0]["tenant"] if found else None

    async def _events_of_one(
        self, about: str, given: Mapping[str, str] | None = None
    ) -> AsyncIterator[list[CloudEvent[Message]]]:
        """A pipeline's events in slices of its time, each as many milliseconds as fit into a page."""
        query = (
            f"SELECT toUnixTimestamp64Milli(append_time) AS ms, {_BYTES} FROM log"
            f" WHERE {about} AND {_FOLDED} GROUP BY ms ORDER BY ms"
        )
        begin_ms: int | None = None
        slice_bytes = 0
        for row in await self._sql.rows(query, given):
            ms, size = int(row["ms"]), int(row["bytes"])
            if begin_ms is None:
                begin_ms = ms
            elif slice_bytes + size > self._page_max_bytes:
                yield await self._events_of(about, given, begin_ms, ms)
                begin_ms, slice_bytes = ms, 0
            slice_bytes += size
        if begin_ms is not None:
            yield await self._events_of(about, given, begin_ms)

    async def _events_of(
        self,
        about: str,
        given: Mapping[str, str] | None = None,
        begin_ms: int | None = None,
        end_ms: int | None = None,
    ) -> list[CloudEvent[Message]]:
        given = dict(given or {})
        slice_ = ""
        for name, compared, ms in (("begin", ">=", begin_ms), ("end", "<", end_ms)):
            if ms is not None:
                slice_ += f" AND append_time {compared} fromUnixTimestamp64Milli({{{name}:Int64}})"
                given[name] = str(ms)
        query = (
            f"SELECT {_EVENT} FROM log WHERE {about} AND {_FOLDED}{slice_}"
            " ORDER BY tenant, pipeline_id, append_time, topic, partition, offset"
        )
        found = await self._sql.rows(query, given)
        return [event for row in found if (event := _event(row)) is not None]

    async def command(self, position: Position) -> tuple[Command, bool] | None:
        """The command at a position, and whether an event of who decides it tells that it was."""
        query = (
            "SELECT event_id, type, pipeline_id, toUnixTimestamp64Milli(append_time) AS ms FROM log"
            " WHERE topic = {topic:String}"
            " AND partition = {partition:UInt32} AND offset = {offset:UInt64} ORDER BY ingest_time DESC LIMIT 1"
        )
        found = await self._sql.rows(query, _place(position))
        if not found:
            return None
        row = found[0]
        command = Command(row["event_id"], row["type"], row["pipeline_id"], position.partition, position.offset)
        told = "topic = 'pipeline.events' AND causation_id = {id:String}"
        if position.topic == TOKEN_COMMANDS.name:  # Vault's answer need not name what asked for it
            told = "topic = 'token.events' AND append_time >= fromUnixTimestamp64Milli({ms:Int64})"
        query = f"SELECT 1 FROM log WHERE pipeline_id = {{pipeline:String}} AND {told} LIMIT 1"
        given = {"pipeline": command.pipeline_id, "id": command.id, "ms": str(row["ms"])}
        decided = await self._sql.rows(query, given)
        return command, bool(decided)

    async def has_event(self, pipeline_id: str, topic: str, event_id: str) -> bool:
        """Whether the log has an event of a pipeline."""
        query = (
            "SELECT 1 FROM log WHERE pipeline_id = {pipeline:String} AND topic = {topic:String}"
            " AND event_id = {id:String} LIMIT 1"
        )
        return bool(await self._sql.rows(query, {"pipeline": pipeline_id, "topic": topic, "id": event_id}))

    async def events(
        self, pipeline_id: str, *, types: Sequence[str], limit: int, offset: int
    ) -> tuple[list[dict[str, Any]], bool]:
        """Events of a pipeline, in order, with their data as text, and whether there are more.

        At most `limit`, and none behind the one that fills a page.
        """
        query = (
            "SELECT * EXCEPT bytes_before FROM ("
            "SELECT *, sum(length(payload)) OVER (ROWS UNBOUNDED PRECEDING) - length(payload) AS bytes_before,"
            " count() OVER () AS found FROM ("
            "SELECT event_id AS id, type, source, tenant, pipeline_id, causation_id,"
            " toUnixTimestamp64Milli(event_time) AS time_ms, sequence, agent_id, task_id, attempt, turn, payload,"
            " concat(topic, '/', toString(partition), '/', toString(offset)) AS position"
            " FROM events WHERE pipeline_id = {pipeline:String}"
            " AND (empty({types:Array(String)}) OR type IN {types:Array(String)})"
            " ORDER BY append_time, topic, partition, offset LIMIT {asked:UInt32} OFFSET {skip:UInt32}))"
            " WHERE bytes_before < {bytes:UInt64} LIMIT {limit:UInt32}"
        )
        given = {
            "pipeline": pipeline_id, "types": _array(types), "asked": str(limit + 1), "limit": str(limit),
            "skip": str(offset), "bytes": str(self._page_max_bytes),
        }  # fmt: skip
        rows = await self._sql.rows(query, given)
        found = [int(row.pop("found")) for row in rows]
        return rows, bool(rows) and found[0] > len(rows)

    async def story(self, pipeline_id: str, *, limit: int, offset: int) -> list[dict[str, Any]]:
        """What happened in a pipeline, line by line."""
        query = (
            "SELECT position, toUnixTimestamp64Milli(at) AS time_ms, actor, what, type FROM pipeline_story"
            " WHERE pipeline_id = {pipeline:String} ORDER BY position LIMIT {limit:UInt32} OFFSET {skip:UInt32}"
        )
        return await self._sql.rows(query, {"pipeline": pipeline_id, "limit": str(limit), "skip": str(offset)})

    async def errors(
        self, *, pipeline_id: str | None, tenant: str | None, code: str | None, limit: int, offset: int
    ) -> list[dict[str, Any]]:
        """Events that carry a problem, newest first."""
        query = (
            "SELECT tenant, pipeline_id, toUnixTimestamp64Milli(event_time) AS time_ms, type, code, detail, agent_id,"
            " task_id, attempt, event_id FROM errors"
            f" WHERE {_conditions(pipeline_id=pipeline_id, tenant=tenant, code=code)}"
            " ORDER BY event_time DESC LIMIT {limit:UInt32} OFFSET {skip:UInt32}"
        )
        given = _given(pipeline_id=pipeline_id, tenant=tenant, code=code)
        return await self._sql.rows(query, {**given, "limit": str(limit), "skip": str(offset)})

    async def dead_letters(
        self, *, topic: str | None, reason: str | None, limit: int, offset: int
    ) -> list[dict[str, Any]]:
        """Refused records, newest first."""
        query = (
            "SELECT toUnixTimestamp64Milli(refused_at) AS time_ms, topic, partition, offset, reason, detail,"
            " refused_by, original_type, original_source, key, leftUTF8(payload, 2000) AS payload,"
            " leftUTF8(hex(raw), 2000) AS raw_hex, value_bytes, letter_id,"
            " concat(letter_topic, '/', toString(letter_partition), '/', toString(letter_offset)) AS position"
            f" FROM dead_letters WHERE {_conditions(topic=topic, reason=reason)}"
            " ORDER BY refused_at DESC, letter_offset DESC LIMIT {limit:UInt32} OFFSET {skip:UInt32}"
        )
        given = _given(topic=topic, reason=reason)
        return await self._sql.rows(query, {**given, "limit": str(limit), "skip": str(offset)})


def _event(row: Mapping[str, Any]) -> CloudEvent[Message] | None:
    """An event as the log has it; None for what no reader accepts."""
    cls = registry().get((row["type"], int(row["type_version"])))
    if cls is None:
        return None
    try:
        data = cls.model_validate_json(row["told"])
    except ValidationError:
        return None
    event: CloudEvent[Message] = CloudEvent(
        id=row["event_id"],
        source=row["source"],
        tenant=row["tenant"],
        subject=row["pipeline_id"],
        time_ms=int(row["time_ms"]),
        data=data,
        causation_id=row["causation_id"] or None,
        sequence=None if row["sequence"] is None else int(row["sequence"]),
    )
    return without_grant(event)


def _place(position: Position) -> dict[str, str]:
    return {"topic": position.topic, "partition": str(position.partition), "offset": str(position.offset)}


def _about(pipelines: Sequence[tuple[str, str]]) -> str:
    """A condition on the first two columns of the log's order: ids and tenants, in the text, which has more room than
    an address. Each pipeline has one tenant, so pairs need not be kept together.
    """
    names, tenants = (dict.fromkeys(column) for column in zip(*pipelines, strict=True))
    return f"tenant IN {_array(list(tenants))} AND pipeline_id IN {_array(list(names))}"


def _array(names: Sequence[str]) -> str:
    """An array parameter's text. Identifiers only: they need no quoting, so there is none to get wrong."""
    assert all(_IDENTIFIER.match(name) for name in names)
    return "[" + ",".join(f"'{name}'" for name in names) + "]"


def _conditions(**wanted: str | None) -> str:
    """Columns that must have the values given as parameters of the same names."""
    return " AND ".join([f"{name} = {{{name}:String}}" for name, value in wanted.items() if value is not None]) or "1"


def _given(**wanted: str | None) -> dict[str, str]:
    return {name: value for name, value in wanted.items() if value is not None}
