"""The entities of the installation's slots (P13), in the state of one partition. What `state` says holds here, too."""

from __future__ import annotations

from sluice_runtime.deciding import Entity


class PoolEntity(Entity, frozen=True, tag="pool"):
    """The slots of the whole installation (P13). There is one, and it is never deleted.

    Attributes:
        granted: What all claims have together.
        first: Head of the queue of claims that wait for more; each names its neighbours.
        grants: How many grants were ever said: the next one's id is made of it.
        looks: How often the timer of those who wait was set; its generation.
    """

    granted: int = 0
    first: str | None = None
    last: str | None = None
    grants: int = 0
    looks: int = 0


class ClaimEntity(Entity, frozen=True, tag="claim"):
    """What one pipeline has of the slots, and wants. It exists as long as the pipeline wants any.

    Attributes:
        tenant: The pipeline's.
        number: Of the latest request that counted.
        previous: The neighbour before it in the queue, nearer to the head.
    """

    tenant: str
    number: int = 0
    wanted: int = 0
    granted: int = 0
    previous: str | None = None
    next: str | None = None

    @property
    def waits(self) -> bool:
        """Whether it stands in the queue."""
        return self.wanted > self.granted
