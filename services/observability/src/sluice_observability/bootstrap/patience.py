"""Waiting for the database at the start."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from sluice_observability.domain.retrying import Backoff
from sluice_observability.ports import StoreUnavailable

logger = logging.getLogger(__name__)

R = TypeVar("R")


async def patiently(work: Callable[[], Awaitable[R]]) -> R:
    """Does the work, again and again while ClickHouse is away."""
    backoff, failures = Backoff(), 0
    while True:
        try:
            return await work()
        except StoreUnavailable as error:
            failures += 1
            wait_s = backoff.wait_s(failures)
            logger.warning("ClickHouse is away, trying again in %.1f s: %s", wait_s, error)
            await asyncio.sleep(wait_s)
