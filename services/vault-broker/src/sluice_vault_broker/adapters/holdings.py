"""What the state of the partitions of this instance wants done in Vault, and which tokens it knows.

The processor tells of every change when it is decided; it counts here only once it is durable. So nothing is done for a
decision that never happened: an instance that lost its partition, and does not know it yet, does nothing new.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from sluice_runtime.deciding import Entity
from sluice_vault_broker.domain.state import FinishedPipeline, PipelineEntity, RevocationEntity, TokenEntity


class Kind(IntEnum):
    """What is done first where not all can be done at once."""

    REVOKE = 0
    MINT = 1
    RENEW = 2


@dataclass(frozen=True, slots=True)
class Wanted:
    """One thing to be done in Vault.

    Attributes:
        key: The entity's, unique over all partitions.
        parent: The living token that a wanted one shall be below; None for the pipeline's own.
    """

    kind: Kind
    partition: int
    pipeline_id: str
    tenant: str
    key: str
    entity: TokenEntity | RevocationEntity
    parent: TokenEntity | None = None


class Place(NamedTuple):
    """A place among what is wanted: the lower the number, the longer. No number comes again."""

    number: int
    kind: Kind
    key: str


class Holdings:
    """The durable state of the owned partitions, as far as Vault is concerned; and nothing that is not in it."""

    def __init__(self) -> None:
        self._undurable: dict[int, dict[str, Entity | None]] = defaultdict(dict)
        self._partition_of: dict[str, int] = {}
        self._tokens: dict[str, TokenEntity] = {}
        self._tenants: dict[str, str] = {}
        self._accessors: dict[str, str] = {}
        self._wanted: dict[Kind, dict[str, TokenEntity | RevocationEntity]] = {kind: {} for kind in Kind}
        self._places: dict[str, Place] = {}
        self._place_count = 0
        self._below: dict[str, set[str]] = defaultdict(set)
        self._woken: dict[str, None] = {}
        self._last: dict[str, set[str]] = defaultdict(set)
        self._restored: set[int] = set()
        self._live_count = 0

    # Told by the processor

    def observe(self, partition: int, key: str, entity: Entity | None) -> None:
        """Told of every change in the state, before it is durable."""
        if isinstance(entity, TokenEntity | RevocationEntity | PipelineEntity | FinishedPipeline) or entity is None:
            self._undurable[partition][key] = entity

    def durable(self, partition: int) -> None:
        """All that was observed of a partition is durable."""
        self._restored.add(partition)
        for key, entity in self._undurable.pop(partition, {}).items():
            self._drop(key)
            if entity is not None:
                self._add(partition, key, entity)

    def forget(self, partition: int) -> None:
        """The partition is no longer ours."""
        self._undurable.pop(partition, None)
        self._restored.discard(partition)
        for key in [key for key, number in self._partition_of.items() if number == partition]:
            self._drop(key)

    def _add(self, partition: int, key: str, entity: Entity) -> None:
        self._partition_of[key] = partition
        if isinstance(entity, PipelineEntity):
            self._tenants[key.partition("/")[0]] = entity.tenant
        elif isinstance(entity, TokenEntity):
            self._tokens[key] = entity
            if entity.lives:
                self._live_count += 1
                self._accessors[entity.accessor] = key
                if entity.top is not None:
                    self._accessors[entity.top] = key
                if entity.renewing_since_ms is not None:
                    self._want(Kind.RENEW, key, entity)
            else:
                self._want(Kind.MINT, key, entity)
                for parent in _parents(key, entity):
                    self._below[parent].add(key)
            self._wake_below(key)
        elif isinstance(entity, RevocationEntity):
            self._want(Kind.REVOKE, key, entity)
            for accessor in (entity.accessor, *entity.accessors, *entity.also):
                self._accessors[accessor] = key
            if entity.last:
                self._last[key.partition("/")[0]].add(key)

    def _want(self, kind: Kind, key: str, entity: TokenEntity | RevocationEntity) -> None:
        """Puts it behind all others of its kind."""
        self._wanted[kind].pop(key, None)
        self._wanted[kind][key] = entity
        self._place_count += 1
        self._places[key] = Place(self._place_count, kind, key)
        self._woken[key] = None

    def _wake_below(self, parent: str) -> None:
        """What is wanted below a token that has changed may be doable now."""
        self._woken.update(dict.fromkeys(self._below.get(parent, ())))

    def _drop(self, key: str) -> None:
        self._partition_of.pop(key, None)
        place = self._places.pop(key, None)
        entity = None if place is None else self._wanted[place.kind].pop(key)
        if isinstance(entity, RevocationEntity):
            self._forget_accessors(key, entity.accessor, *entity.accessors, *entity.also)
            self._forget_last(key)
        token = self._tokens.pop(key, None)
        if token is not None:
            for parent in () if token.lives else _parents(key, token):
                self._below[parent].discard(key)
                if not self._below[parent]:
                    del self._below[parent]
            self._wake_below(key)
            self._live_count -= token.lives
            self._forget_accessors(key, token.accessor, token.top or "")
        pipeline_id, _, rest = key.partition("/")
        if rest == "pipeline":
            self._tenants.pop(pipeline_id, None)

    def _forget_accessors(self, key: str, *accessors: str) -> None:
        for accessor in accessors:
            if self._accessors.get(accessor) == key:
                del self._accessors[accessor]

    def _forget_last(self, key: str) -> None:
        pipeline_id = key.partition("/")[0]
        self._last[pipeline_id].discard(key)
        if not self._last[pipeline_id]:
            del self._last[pipeline_id]
            self._woken[f"{pipeline_id}/root"] = None

    # Asked by the hands

    def woken(self) -> list[str]:
        """Keys of what may be doable since this was asked last: it is new, or what it waited for has changed."""
        keys, self._woken = list(self._woken), {}
        return keys

    def place(self, key: str) -> Place | None:
        """Where something that is wanted stands. What was put behind its like counts as wanted since then."""
        return self._places.get(key)

    def current(self, place: Place) -> bool:
        """Whether what stands at a place still does."""
        return self._places.get(place.key) == place

    def at(self, place: Place) -> Wanted | None:
        """What stands at a place, if it can be done now: a token whose parent lives, a renewal, a revocation.

        A pipeline's own token waits until an earlier life of the pipeline's id is ended: with it goes the entity.
        """
        _, kind, key = place
        if not self.current(place):
            return None
        entity, pipeline_id, parent = self._wanted[kind][key], key.partition("/")[0], None
        if kind is Kind.MINT and isinstance(entity, TokenEntity) and entity.agent_id is not None:
            parent = self._parent(key, entity)
            if parent is None:
                return None
        elif kind is Kind.MINT and pipeline_id in self._last:
            return None
        tenant = entity.tenant if isinstance(entity, RevocationEntity) else self._tenants[pipeline_id]
        return Wanted(kind, self._partition_of[key], pipeline_id, tenant, key, entity, parent)

    def wanted(self, kind: Kind) -> Iterator[Wanted]:
        """All of a kind that can be done now, the longest wanted first."""
        for key in self._wanted[kind]:
            found = self.at(self._places[key])
            if found is not None:
                yield found

    def still(self, wanted: Wanted) -> bool:
        """Whether it is still wanted, exactly as it was."""
        return self._wanted[wanted.kind].get(wanted.key) is wanted.entity

    def put_behind(self, wanted: Wanted) -> None:
        """Puts one behind all others of its kind."""
        if self.still(wanted):
            self._want(wanted.kind, wanted.key, wanted.entity)

    def count(self, kind: Kind) -> int:
        """How much of a kind is wanted, whether or not it can be done now."""
        return len(self._wanted[kind])

    def _parent(self, key: str, entity: TokenEntity) -> TokenEntity | None:
        root, *named = (self._tokens.get(parent) for parent in _parents(key, entity))
        own = named[0] if named else None
        parent = own if own is not None and own.is_parent else root
        return parent if parent is not None and parent.lives else None

    # Asked by the reconciler

    def owns(self, partition: int) -> bool:
        """Whether a partition is ours, and restored."""
        return partition in self._restored

    def knows(self, accessor: str) -> bool:
        """Whether a token lives, or is being ended, as far as the state says."""
        return accessor in self._accessors

    @property
    def accessors(self) -> dict[str, str]:
        """All that are known, as they are now, and whose they are by key: a copy, like `tokens` some milliseconds'."""
        return self._accessors.copy()

    def on_its_way(self, pipeline_id: str, agent_id: str | None, number: int) -> bool:
        """Whether a token of this number is wanted and not known to exist: one that exists may be just that."""
        key = f"{pipeline_id}/root" if agent_id is None else f"{pipeline_id}/token/{agent_id}"
        token = self._tokens.get(key)
        return token is not None and token.number == number and not token.lives

    @property
    def tokens(self) -> dict[str, TokenEntity]:
        """All tokens by key, as they are now; those that are only wanted, too."""
        return self._tokens.copy()

    def partition_of(self, key: str) -> int | None:
        """Where something stands; None: it does not stand any more."""
        return self._partition_of.get(key)

    def has_no_token(self, pipeline_id: str) -> bool:
        """Whether a pipeline is known, and has no token of its own, nor wants one: then it needs no entity."""
        known = f"{pipeline_id}/pipeline" in self._partition_of or f"{pipeline_id}/finished" in self._partition_of
        return known and f"{pipeline_id}/root" not in self._tokens

    @property
    def live_tokens(self) -> int:
        """How many tokens live."""
        return self._live_count


def _parents(key: str, entity: TokenEntity) -> tuple[str, ...]:
    """Keys of the tokens that one may be below: the pipeline's own, and the one that was named."""
    pipeline_id = key.partition("/")[0]
    if entity.agent_id is None:
        return ()
    named = () if entity.parent_agent_id is None else (f"{pipeline_id}/token/{entity.parent_agent_id}",)
    return (f"{pipeline_id}/root", *named)
