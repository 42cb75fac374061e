"""Where a record stands, and the arithmetic of positions and gaps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

GapReason = Literal["retention", "recreated", "truncated"]


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A partition of one incarnation of a topic. `topic` has no prefix; `incarnation` is Kafka's topic id."""

    topic: str
    incarnation: str
    partition: int


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a partition has come: every record below `consumed_through` was handed out."""

    place: Place
    consumed_through: int
    end_offset: int


@dataclass(frozen=True, slots=True)
class Gap:
    """Records that Kafka no longer has and the log never got."""

    place: Place
    first_offset: int
    next_offset: int
    reason: GapReason
    detail: str


@dataclass(frozen=True, slots=True)
class Start:
    """Where to begin reading a partition; None if it can't be read without mixing up two histories."""

    offset: int | None
    gap: Gap | None = None


def starting_point(place: Place, position: int | None, first: int, end: int) -> Start:
    """Decides where to read on.

    Args:
        place: The partition.
        position: The offset after the last one in the log; None if the log has nothing of this incarnation.
        first: The first offset that Kafka still has.
        end: The offset after Kafka's last.
    """
    wanted = 0 if position is None else position
    if wanted < first:
        if position is None:
            detail = f"the log begins at {first}: Kafka had deleted the rest before the store first saw the topic"
        else:
            detail = (
                f"Kafka deleted {wanted}..{first - 1} unread: keep the store running, or let the topic retain longer"
            )
        return Start(first, Gap(place, wanted, first, "retention", detail))
    if wanted > end:
        detail = (
            f"the log has offsets up to {wanted - 1}, Kafka ends at {end}: the broker lost its end. What it writes now"
            " would stand beside other records of the same offsets: delete the topic and create it anew"
        )
        return Start(None, Gap(place, end, wanted, "truncated", detail))
    return Start(wanted)
