"""Signals made from a seed, written as other services write them, and what the oracle has to say of them."""

from __future__ import annotations

import random
import uuid
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from sluice_contracts import codec
from sluice_contracts.envelope import CloudEvent, Record
from sluice_contracts.errors import InvalidRecord
from sluice_contracts.messages import Message
from sluice_contracts.messages.signal import ErrorReported, ProgressReported, ViolationReported, WatchChanged
from sluice_runtime.clock import Clock, SystemClock
from tests.unit.observability.budget_oracle import Heard, Told, expected, told

TENANTS = ("acme", "other")


class Signals:
    """Signals of some pipelines, about as many as break a budget, some late, some again, some of another
    tenant than the pipeline's.

    Args:
        seed: The same seed makes the same pipelines and the same course.
        pipelines: How many there are.
        watched: Whether progress is expected of agents.
        clock: What time it is.
    """

    def __init__(self, seed: int, pipelines: int = 20, *, watched: bool = False, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._random = random.Random(seed)
        self.pipelines = [str(uuid.UUID(int=self._random.getrandbits(128), version=4)) for _ in range(pipelines)]
        self._said: list[CloudEvent[Message]] = []
        self._watched = watched

    def some(self, count: int) -> list[CloudEvent[Message]]:
        return [self._one() for _ in range(count)]

    def _one(self) -> CloudEvent[Message]:
        draw = self._random
        if self._said and draw.random() < 0.1:
            return draw.choice(self._said)
        number = draw.randrange(len(self.pipelines))
        age_ms = draw.choice([0, 0, draw.randrange(5_000), draw.randrange(240_000), draw.choice([299_000, 400_000])])
        data, is_foreign = self._data(number), draw.random() < 0.05
        source = "spawner" if isinstance(data, WatchChanged) else "runner/1"
        tenant = TENANTS[(number + (is_foreign and source != "spawner")) % 2]
        event = CloudEvent(
            str(uuid.UUID(int=draw.getrandbits(128), version=4)), source, tenant, self.pipelines[number],
            self._clock.now_ms() - age_ms, data,
        )  # fmt: skip
        self._said.append(event)
        return event

    def _data(self, number: int) -> Message:
        draw, agent = self._random, f"agent-{self._random.randrange(3)}"
        kind, course = draw.random(), number % 4
        if course == 0 and kind < 0.3:
            return ErrorReported(code="timeout", agent_id=agent, attempt=1, api_calls=draw.choice([0, 1]))
        if course == 1 and kind < 0.1:
            return ViolationReported(policy="egress", severity=draw.choice(["LOW", "HIGH", "CRITICAL"]))
        if self._watched and kind < 0.5:
            return WatchChanged(agent_id=agent, attempt=draw.choice([1, 1, 2]), watched=draw.random() < 0.6)
        calls = draw.choice([0, 9, 30]) if course == 2 else 0
        return ProgressReported(agent_id=agent, attempt=draw.choice([1, 1, 2]), turn=draw.randrange(9), api_calls=calls)


def streams(records: Sequence[Record], **limits: int) -> Mapping[str, list[Heard]]:
    """What stands on `signals`, by pipeline, in its order; without what is no signal."""
    found: dict[str, list[Heard]] = defaultdict(list)
    for record in sorted(records, key=lambda one: (one.partition, one.offset)):
        try:
            found[(record.key or b"").decode()].append(Heard(codec.decode(record), record.timestamp_ms, **limits))
        except (InvalidRecord, UnicodeDecodeError):
            continue
    return found


def wanted(signals: Sequence[Record], heard_ms: int, **limits: int) -> list[Told]:
    """The alerts that the oracle wants, of all pipelines."""
    found: list[Told] = []
    for stream in streams(signals, **limits).values():
        found += expected(stream, heard_ms, limits.get("progress_ms", 60_000))
    return sorted(found, key=lambda one: str(one["id"]))


def raised(records: Sequence[Record]) -> list[Told]:
    """The alerts on the topic, repetitions too."""
    alerts: list[CloudEvent[Any]] = [codec.decode(record) for record in records]
    return sorted((told(alert) for alert in alerts), key=lambda one: str(one["id"]))
