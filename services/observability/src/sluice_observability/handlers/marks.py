"""Where pipelines begin and end: rows of table `pipeline_marks`, from which the api knows what lives."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from sluice_contracts.messages.pipeline import (
    PipelineCancelled,
    PipelineCompleted,
    PipelineFailed,
    PipelineSpawned,
)
from sluice_contracts.topics import PIPELINE_EVENTS
from sluice_observability.domain import arrow

_MARKS = (PipelineSpawned.type, PipelineCompleted.type, PipelineFailed.type, PipelineCancelled.type)
_COLUMNS = ["pipeline_id", "tenant", "type", "append_time"]


def mark_rows(rows: Any) -> Any:
    """The rows of `pipeline_marks` for rows of `log`, in their order.

    A pipeline that lives is always marked if its mark is written before the row that it is made of. A row that comes
    again makes the same mark again, which changes nothing: the newest counts.
    """
    told = pc.is_in(rows["type"].cast(pa.string()), arrow.strings(_MARKS))
    by_spawner = pc.equal(rows["topic"].cast(pa.string()), PIPELINE_EVENTS.name)
    return rows.select(_COLUMNS).filter(pc.and_(told, by_spawner))
