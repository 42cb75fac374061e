"""An artifact store that tries again: what was paid must not be lost to a short outage."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from sluice_agent_runner.ports import ArtifactStore, Time
from sluice_contracts.messages.base import ArtifactRef
from sluice_runtime.artifacts import DEFAULT_MEDIA_TYPE, ArtifactStoreUnavailable

WAITS_S = (0.1, 0.5, 2.0, 5.0, 10.0)
"""Waits between tries: an object store's hiccup, or a full disk that is being cleared, is over by then."""

T = TypeVar("T")


class PatientArtifactStore:
    """Another store, with retries.

    Raises:
        ArtifactStoreUnavailable: From `put` and `get`, once all tries failed.
    """

    def __init__(self, store: ArtifactStore, time: Time) -> None:
        self._store = store
        self._time = time

    async def put(
        self, body: bytes, *, media_type: str = DEFAULT_MEDIA_TYPE, name: str | None = None, kind: str | None = None
    ) -> ArtifactRef:
        """See `ArtifactStore.put`."""
        try:
            return await self._store.put(body, media_type=media_type, name=name, kind=kind)
        except ArtifactStoreUnavailable:
            return await self._again(lambda: self._store.put(body, media_type=media_type, name=name, kind=kind))

    async def get(self, sha256: str) -> bytes:
        """See `ArtifactStore.get`."""
        try:
            return await self._store.get(sha256)
        except ArtifactStoreUnavailable:
            return await self._again(lambda: self._store.get(sha256))

    async def _again(self, work: Callable[[], Awaitable[T]]) -> T:
        for wait_s in WAITS_S[:-1]:
            await self._time.sleep(wait_s)
            try:
                return await work()
            except ArtifactStoreUnavailable:
                continue
        await self._time.sleep(WAITS_S[-1])
        return await work()
