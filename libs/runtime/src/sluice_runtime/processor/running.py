"""A deciding service while it runs: its parts side by side, and whether it is ready."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from sluice_runtime.http import Readiness
from sluice_runtime.metrics import PARTITIONS_OWNED, Metrics
from sluice_runtime.processor.processor import Processor

READY_LOOK_S = 0.1
"""How late `/readyz` may be: what restores a partition takes longer."""

RESTORED = "partitions"
"""What the service waits for: it is in its group, and all its partitions are restored."""


async def run_parts(
    processor: Processor,
    *beside: Coroutine[Any, Any, None],
    stop: asyncio.Event,
    readiness: Readiness,
    metrics: Metrics,
) -> None:
    """Runs the processor, and the parts beside it, until `stop` is set; tells meanwhile whether it is ready.

    Raises:
        ExceptionGroup: A part failed, or ended though nobody had asked it to; the others are cancelled.
    """
    parts = (processor.run(stop), *beside, _tell_readiness(processor, stop, readiness, metrics))
    async with asyncio.TaskGroup() as tasks:
        for part in parts:
            tasks.create_task(_until_stopped(part, stop))


async def _tell_readiness(processor: Processor, stop: asyncio.Event, readiness: Readiness, metrics: Metrics) -> None:
    while not stop.is_set():
        if processor.ready:
            readiness.met(RESTORED)
        else:
            readiness.missing(RESTORED, "not in the group, or a partition is being restored")
        metrics.gauge(PARTITIONS_OWNED).set(len(processor.partitions))
        await asyncio.sleep(READY_LOOK_S)


async def _until_stopped(part: Coroutine[Any, Any, None], stop: asyncio.Event) -> None:
    """Runs a part. One that ends sooner ends the process; a task group would not notice that it was cancelled.

    Raises:
        RuntimeError: The part ended, and nobody had asked it to.
    """
    try:
        await part
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
    if not stop.is_set():
        raise RuntimeError("a part of the service ended, and nobody had asked it to")
