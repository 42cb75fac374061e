"""Bodies of an attempt in the artifact store: its transcript, and texts that don't fit into their message."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import msgspec

from sluice_agent_runner.domain.conversation import Link, decode_link
from sluice_agent_runner.domain.events import Texts, too_large
from sluice_agent_runner.ports import ArtifactStore
from sluice_contracts.messages.base import ArtifactRef
from sluice_runtime.artifacts import ArtifactCorrupt, ArtifactMissing


class TranscriptBroken(Exception):
    """A finished turn's link is missing or damaged: no attempt can go on. Restore the artifact store."""


LINKS_AT_ONCE_COUNT = 32
"""A store of files reads small links without any wait: after so many, a few milliseconds, others have their turn."""


async def load_links(artifacts: ArtifactStore, last: ArtifactRef | None, turns: int) -> list[Link]:
    """A transcript, from the first turn to the last.

    Raises:
        TranscriptBroken: A link is missing or damaged, or there are more links than turns.
        ArtifactStoreUnavailable: The store does not work.
    """
    links: list[Link] = []
    sha256 = last.sha256 if last is not None else None
    while sha256 is not None:
        if len(links) >= turns:
            raise TranscriptBroken(f"the transcript has more than {turns} links, and so many turns are finished")
        try:
            links.append(decode_link(await artifacts.get(sha256)))
        except (ArtifactMissing, ArtifactCorrupt, msgspec.MsgspecError) as error:
            raise TranscriptBroken(f"link {turns - len(links)} of the transcript, {sha256}: {error}") from None
        sha256 = links[-1].previous
        if len(links) % LINKS_AT_ONCE_COUNT == 0:
            await asyncio.sleep(0)
    links.reverse()
    return links


async def store_large(artifacts: ArtifactStore, texts: Texts) -> Mapping[str, ArtifactRef]:
    """Stores the texts that don't fit into their message, by their names.

    Raises:
        ArtifactStoreUnavailable: The store does not work.
    """
    return {name: await artifacts.put(texts[name].encode()) for name in too_large(texts)}
