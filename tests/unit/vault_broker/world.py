"""A world of one partition: the real decider, its state, virtual time, and the answers that Vault would give.

No double: what stands around the decider is a dict for the state and a loop for the timers. Everything that is decided
goes through the codecs, so that what can't be written or read back fails here.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import Any, TypeVar

import msgspec

from sluice_contracts import codec, ids
from sluice_contracts.envelope import CloudEvent, Record
from sluice_contracts.messages.alert import AlertAction, AlertCondition, AlertRaised
from sluice_contracts.messages.base import Message
from sluice_contracts.messages.token import TokenDenied, TokenRequest, TokenRevoke
from sluice_runtime.deciding import Decision, Entity, Output, Timer, TimerDue
from sluice_vault_broker.domain.facts import (
    OrphanFound,
    VaultGone,
    VaultMinted,
    VaultRenewed,
    VaultRevoked,
)
from sluice_vault_broker.domain.policy import BrokerPolicy
from sluice_vault_broker.domain.state import RevocationEntity, TokenEntity
from sluice_vault_broker.handlers import BrokerDecider

M = TypeVar("M", bound=Message)

PIPELINE = "11111111-1111-4111-8111-111111111111"
TENANT = "acme"
START_MS = 1_800_000_000_000
TTL_MS = 7_200_000
MAX_TTL_MS = 86_400_000


class World:
    """Runs the decider and keeps what it said.

    Attributes:
        state: The partition's.
        said: Every output, in order.
        heard: Every input with its decision, in order.
        now_ms: Virtual time.
    """

    def __init__(self, policy: BrokerPolicy | None = None) -> None:
        self.policy = policy or BrokerPolicy()
        self.decider = BrokerDecider(self.policy)
        self.state: dict[str, Entity] = {}
        self.said: list[Output] = []
        self.heard: list[tuple[CloudEvent[Message], int, Decision]] = []
        self.now_ms = START_MS
        self._ids = count(1)
        self._accessors = count(1)
        self._entities = msgspec.msgpack.Decoder(self.decider.entity_type)

    # Inputs

    def event(
        self, message: Message, *, pipeline_id: str = PIPELINE, tenant: str = TENANT, id_: str | None = None,
        source: str = "tests", sequence: int | None = None,
    ) -> CloudEvent[Message]:  # fmt: skip
        number = next(self._ids)
        return CloudEvent(
            id=id_ or f"in-{number}", source=source, tenant=tenant, subject=pipeline_id, time_ms=self.now_ms,
            data=message, sequence=sequence,
            traceparent="00-11111111111111111111111111111111-2222222222222222-01",
        )  # fmt: skip

    def hear(self, event: CloudEvent[Message]) -> list[Message]:
        """Decides an input; returns what was said."""
        decision = self.decider.decide(self.state, event, self.now_ms)
        for key, entity in decision.deltas.items():
            assert key.startswith(f"{event.subject}/")
            if entity is None:
                assert key in self.state, f"{key} is deleted, but was never there"
                del self.state[key]
            else:
                self.state[key] = self._entities.decode(msgspec.msgpack.encode(entity))
                assert self.state[key] == entity
        self.heard.append((event, self.now_ms, decision))
        for output in decision.outputs:
            record = codec.encode(output.event, topic=output.topic, key=output.key)
            assert codec.decode(Record(record.topic, 0, 0, 0, record.key, record.value, record.headers)) == output.event
            self.said.append(output)
        return [output.event.data for output in decision.outputs]

    def say(self, message: Message, **more: Any) -> list[Message]:
        """Decides a message as a new input."""
        return self.hear(self.event(message, **more))

    def request(
        self, agent_id: str | None = "a", attempt: int | None = 1, *, queue: str | None = "default",
        parent: str | None = None, is_parent: bool = False, **more: Any,
    ) -> list[Message]:  # fmt: skip
        if agent_id is None:
            return self.say(TokenRequest(), **more)
        message = TokenRequest(
            agent_id=agent_id, attempt=attempt, queue=queue, parent_agent_id=parent, may_have_agents=is_parent
        )
        return self.say(message, **more)

    def revoke(
        self, agent_id: str | None = None, attempt: int | None = None, *, reason: Any, **more: Any
    ) -> list[Message]:
        return self.say(TokenRevoke(agent_id=agent_id, attempt=attempt, reason=reason), **more)

    def alert(
        self, action: AlertAction, agent_id: str | None = None, attempt: int | None = None,
        condition: AlertCondition = "error_budget_exceeded", **more: Any,
    ) -> list[Message]:  # fmt: skip
        message = AlertRaised(
            condition=condition, action=action, agent_id=agent_id, attempt=attempt, observed=6, limit=5,
            window_ms=60_000, breached_at_ms=1, detail="six errors",
        )  # fmt: skip
        return self.say(message, **more)

    # Vault

    def token(self, agent_id: str | None = None, pipeline_id: str = PIPELINE) -> TokenEntity:
        entity = self.find(agent_id, pipeline_id)
        assert entity is not None
        return entity

    def find(self, agent_id: str | None = None, pipeline_id: str = PIPELINE) -> TokenEntity | None:
        entity = self.state.get(f"{pipeline_id}/root" if agent_id is None else f"{pipeline_id}/token/{agent_id}")
        assert entity is None or isinstance(entity, TokenEntity)
        return entity

    def minting(self, agent_id: str | None = None, accessor: str | None = None) -> VaultMinted:
        """Vault's answer to what is wanted now."""
        token = self.token(agent_id)
        number = next(self._accessors)
        parent = None
        if agent_id is not None:
            named = self.find(token.parent_agent_id) if token.parent_agent_id else None
            parent = named if named is not None and named.is_parent else self.token()
        own = accessor or f"accessor-{number}"
        return VaultMinted(
            agent_id=agent_id, attempt=token.attempt, number=token.number, accessor=own,
            top=None if parent else f"login-{number}", parent_accessor=parent.accessor if parent else None,
            kept=f"vault:v1:kept-{own}" if token.is_parent else "", sealed=f"vault:v1:{own}" if parent else None,
            policies=("p",),
            minted_at_ms=self.now_ms, expires_at_ms=self.now_ms + TTL_MS, ends_at_ms=self.now_ms + MAX_TTL_MS,
        )  # fmt: skip

    def mint(self, agent_id: str | None = None) -> list[Message]:
        return self.say(self.minting(agent_id))

    def grant(self, *agents: str, **more: Any) -> None:
        """Asks for tokens, and has Vault make them."""
        for agent_id in agents:
            self.request(agent_id, **more)
            if not self.token().lives:
                self.mint()
            self.mint(agent_id)

    def end(self, accessor: str) -> list[Message]:
        wanted = self.state.get(f"{PIPELINE}/revocation/{accessor}")
        also = wanted.also if isinstance(wanted, RevocationEntity) else ()
        return self.say(VaultRevoked(accessor=accessor, also=also))

    def gone(self, agent_id: str | None = None) -> list[Message]:
        return self.say(VaultGone(agent_id=agent_id, accessor=self.token(agent_id).accessor))

    def prolong(self, agent_id: str | None = None, ttl_ms: int = TTL_MS) -> list[Message]:
        token = self.token(agent_id)
        message = VaultRenewed(
            agent_id=agent_id, accessor=token.accessor, renewed_at_ms=self.now_ms,
            expires_at_ms=min(self.now_ms + ttl_ms, token.ends_at_ms),
        )  # fmt: skip
        return self.say(message)

    def orphan(
        self, accessor: str, agent_id: str | None = None, attempt: int | None = None, number: int = 1
    ) -> list[Message]:
        found = OrphanFound(tenant=TENANT, agent_id=agent_id, attempt=attempt, number=number, accessor=accessor)
        return self.say(found)

    def revocations(self) -> list[RevocationEntity]:
        return [entity for entity in self.state.values() if isinstance(entity, RevocationEntity)]

    # Time

    def timers(self) -> list[Timer]:
        found = [entity for entity in self.state.values() if isinstance(entity, Timer)]
        return sorted(found, key=lambda timer: (timer.due_at_ms, timer.key, timer.generation))

    def wait(self, seconds: float) -> list[Message]:
        """Lets time pass; what is due fires in its order."""
        until_ms = self.now_ms + int(seconds * 1_000)
        said: list[Message] = []
        while (due := self.timers()) and due[0].due_at_ms <= until_ms:
            self.now_ms = max(self.now_ms, due[0].due_at_ms)
            said += self.fire(due[0])
            assert due[0] not in self.timers(), "a fired timer must be deleted or set anew"
        self.now_ms = until_ms
        return said

    def fire(self, timer: Timer) -> list[Message]:
        id_ = ids.derived_id("timer", timer.pipeline_id, timer.name, timer.generation)
        message = TimerDue(name=timer.name, generation=timer.generation)
        return self.say(message, pipeline_id=timer.pipeline_id, tenant=timer.tenant, id_=id_)

    # What was said

    def all(self, cls: type[M]) -> list[M]:
        return of(cls, [output.event.data for output in self.said])

    def last(self, cls: type[M]) -> M:
        return self.all(cls)[-1]


def of(cls: type[M], messages: Sequence[Message]) -> list[M]:
    return [message for message in messages if isinstance(message, cls)]


def types(messages: Sequence[Message]) -> list[str]:
    return [message.type for message in messages]


def codes(messages: Sequence[Message]) -> list[str]:
    return [message.problem.code for message in of(TokenDenied, messages)]
