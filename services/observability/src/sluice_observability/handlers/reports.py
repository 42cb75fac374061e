"""Makes handoff reports: into the artifact store, and as `handoff.reported`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from sluice_contracts import codec, ids
from sluice_contracts.envelope import CloudEvent, OutgoingRecord
from sluice_contracts.handoff import JSON_MEDIA_TYPE, MARKDOWN_MEDIA_TYPE
from sluice_contracts.messages import Message
from sluice_contracts.messages.report import HandoffReported
from sluice_contracts.messages.token import FULL_REVOCATIONS, TokenRevoked
from sluice_contracts.topics import REPORTS, Principal, find
from sluice_observability.domain.report_text import markdown_of
from sluice_observability.domain.reporting import AGENTS_AFFECTED_MAX_COUNT, Occasion, agents_affected, report_on
from sluice_observability.domain.views import PipelineView
from sluice_observability.handlers.history import History
from sluice_observability.handlers.live import Live
from sluice_observability.ports import QueryRefused, StoreUnavailable
from sluice_runtime.artifacts import ArtifactStore
from sluice_runtime.broker import Broker, BrokerUnavailable, TopicPartition
from sluice_runtime.clock import Clock

logger = logging.getLogger(__name__)

Through = Callable[[], Awaitable[Mapping[TopicPartition, int]]]

COMPLETE_WAIT_S = 5.0
"""For the read model to hear all that was on the topics when a revocation was seen. The pipeline's end waits for the
report: what comes later than this is said to be missing."""

LOOK_INTERVAL_S = 0.02
PAST_WAIT_S = 5.0


@dataclass(frozen=True, slots=True)
class Made:
    """A report that is in the artifact store, and the event that tells of it."""

    event: CloudEvent[HandoffReported]
    record: OutgoingRecord


def is_due(event: CloudEvent[Message]) -> bool:
    """Whether an event ends all credentials of a living pipeline, so that it is handed off."""
    data = event.data
    return isinstance(data, TokenRevoked) and data.agent_id is None and data.reason in FULL_REVOCATIONS


class Reports:
    """Makes reports on what the read model knows, or the log where that knows nothing.

    Args:
        through: How far each partition is in the read model; `Tail.through`.
        complete_wait_s: How long the read model is waited for.
        past_wait_s: How long the log's answer is waited for, about a pipeline that the read model lacks.
    """

    def __init__(
        self,
        live: Live,
        history: History,
        artifacts: ArtifactStore,
        broker: Broker,
        clock: Clock,
        instance_id: str,
        *,
        through: Through,
        complete_wait_s: float = COMPLETE_WAIT_S,
        past_wait_s: float = PAST_WAIT_S,
    ) -> None:
        self._live = live
        self._history = history
        self._artifacts = artifacts
        self._broker = broker
        self._clock = clock
        self._source = f"{Principal.OBSERVABILITY}/{instance_id}"
        self._through = through
        self._complete_wait_s = complete_wait_s
        self._past_wait_s = past_wait_s

    async def on_revocation(self, event: CloudEvent[TokenRevoked], partition: int) -> Made:
        """Makes the report on a pipeline whose credentials were ended. Made again, it is another report of one id.

        Args:
            event: The revocation.
            partition: Where it stands: all that is said of its pipeline stands in partitions of this number.

        Raises:
            ArtifactStoreUnavailable: It was not stored; make it again.
        """
        missing = await self._missing(partition)
        view, unknown = await self._view(event.subject, event.tenant)
        occasion = Occasion(
            "revocation", event.id, event.data.reason, self._clock.now_ms(), event.data, event.time_ms,
            "; ".join(one for one in (missing, unknown) if one),
        )  # fmt: skip
        event_id = ids.derived_id(event.id, HandoffReported.type, 1)
        return await self._made(view, occasion, event_id, event.tenant, event.traceparent)

    async def on_demand(self, view: PipelineView, request_id: str, reason: str, traceparent: str | None) -> Made:
        """Makes a report because somebody asks for it.

        Raises:
            ArtifactStoreUnavailable: It was not stored; make it again.
        """
        occasion = Occasion("demand", request_id, reason, self._clock.now_ms())
        event_id = ids.derived_id(request_id, HandoffReported.type, 1)
        return await self._made(view, occasion, event_id, view.tenant, traceparent)

    async def _made(
        self, view: PipelineView, occasion: Occasion, event_id: str, tenant: str, traceparent: str | None
    ) -> Made:
        made = report_on(view, occasion)
        body, text = made.model_dump_json(indent=1).encode(), markdown_of(made).encode()
        store = self._artifacts
        report = await store.put(body, media_type=JSON_MEDIA_TYPE, name="handoff.json", kind="report")
        markdown = await store.put(text, media_type=MARKDOWN_MEDIA_TYPE, name="handoff.md", kind="report")
        cause: Literal["revocation", "demand"] = occasion.cause
        data = HandoffReported(
            cause=cause,
            cause_id=occasion.cause_id,
            reason=occasion.reason,
            summary=made.summary.text,
            report=report,
            markdown=markdown,
            complete=made.complete,
            errors=made.summary.errors,
            agents_affected=agents_affected(view)[:AGENTS_AFFECTED_MAX_COUNT],
        )
        event = CloudEvent(
            id=event_id,
            source=self._source,
            tenant=tenant,
            subject=view.pipeline_id,
            time_ms=self._clock.now_ms(),
            data=data,
            causation_id=occasion.cause_id,
            traceparent=traceparent,
        )
        return Made(event, codec.encode(event, topic=REPORTS.name, key=view.pipeline_id))

    async def _missing(self, partition: int) -> str:
        """Waits until the read model has all that is on the topics now; says what it lacks when the time is up."""
        behind: dict[TopicPartition, int] = {}
        try:
            async with asyncio.timeout(self._complete_wait_s):
                ends = await self._ends(partition)
                while True:
                    through = await self._through()
                    behind = {at: end for at, end in ends.items() if through.get(at, 0) < end}
                    if not behind:
                        return ""
                    await asyncio.sleep(LOOK_INTERVAL_S)
        except TimeoutError:
            lacking = ", ".join(f"{at.topic}/{at.partition} up to {end}" for at, end in sorted(behind.items()))
            return f"not heard within {self._complete_wait_s:g} s: {lacking or 'where the topics end'}"
        except (BrokerUnavailable, StoreUnavailable) as error:
            return f"where the topics end is not known: {error}"

    async def _ends(self, partition: int) -> dict[TopicPartition, int]:
        known = (at for at in await self._through() if at.partition == partition)
        wanted = [at for at in known if (row := find(at.topic)) is not None and row.partitioning == "pipeline"]
        return {at: bounds.end for at, bounds in (await self._broker.bounds(wanted)).items()}

    async def _view(self, pipeline_id: str, tenant: str) -> tuple[PipelineView, str]:
        """The pipeline as it is known, and why that may not be all."""
        view = self._live.model.pipeline(pipeline_id)
        if view is not None:
            return view, ""
        try:
            async with asyncio.timeout(self._past_wait_s):
                past = await self._history.pipeline(pipeline_id)
        except (TimeoutError, StoreUnavailable, QueryRefused) as error:
            logger.warning("pipeline %s is not in the read model, and the log did not answer: %s", pipeline_id, error)
            past = None
        if past is not None:
            return past, "read from the log, which may be a moment behind"
        heard = self._live.model.heard_of(pipeline_id) or PipelineView(pipeline_id, tenant)
        return heard, "nothing is known of the pipeline's plan"

    async def already_reported(self, event: CloudEvent[TokenRevoked]) -> bool:
        """Whether the revocation's report is known to be there: the group's positions may have been lost or reset."""
        event_id = ids.derived_id(event.id, HandoffReported.type, 1)
        view = self._live.model.pipeline(event.subject)
        if view is not None and any(one.event_id == event_id for one in view.handoffs):
            return True
        try:
            async with asyncio.timeout(self._past_wait_s):
                return await self._history.has_event(event.subject, REPORTS.name, event_id)
        except (TimeoutError, StoreUnavailable, QueryRefused):
            return False  # the transaction keeps it from being written twice
