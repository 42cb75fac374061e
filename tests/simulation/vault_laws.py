"""What must hold of a course of the vault-broker: what stands on the topics, and what Vault holds in the end."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from sluice_contracts import topics
from sluice_contracts.codec import decode
from sluice_contracts.envelope import CloudEvent, Record
from sluice_contracts.messages import Message
from sluice_contracts.messages.token import (
    FULL_REVOCATIONS,
    TokenDenied,
    TokenExpired,
    TokenGranted,
    TokenRenewed,
    TokenRevoked,
)
from tests.vault import CANARY, MemoryStore

TOLD = (*(one.name for one in topics.TOPICS if not one.per_queue), "dlq.token.commands", "dlq.alerts")
Events = Sequence[CloudEvent[Message]]


def check(
    records: Mapping[str, Sequence[Record]],
    asked: Events,
    store: MemoryStore,
    installation: str,
    queue: str,
    ended: set[str],
    lines: Sequence[str],
) -> None:
    """Checks all.

    Args:
        records: Of every topic.
        asked: Each request, once.
        store: The Vault, after all was reconciled.
        installation: Whose tokens are looked at.
        queue: For which grants are sealed.
        ended: Pipelines that have ended.
        lines: All that was logged.
    """
    events: dict[str, CloudEvent[Message]] = {}
    for record in records["token.events"]:
        event = decode(record)
        assert events.setdefault(event.id, event) == event, f"two contents of {event.id}"
    told = sorted(events.values(), key=lambda one: (one.subject, one.sequence or 0))
    _check_sequences(told)
    _check_answers(told, asked)
    _check_grants(told, store, queue)
    _check_vault(told, store, installation, ended)
    _check_secrecy(records, lines)


def _check_sequences(told: Events) -> None:
    by_pipeline: dict[str, list[int]] = defaultdict(list)
    for event in told:
        if event.sequence is not None:
            by_pipeline[event.subject].append(event.sequence)
    for pipeline_id, numbers in by_pipeline.items():
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers))), f"{pipeline_id}: {numbers}"


def _check_answers(told: Events, asked: Events) -> None:
    """Each attempt that was asked for is answered, and no request twice."""
    answers: dict[str, list[Message]] = defaultdict(list)
    groups = set()
    for event in told:
        if isinstance(event.data, TokenGranted | TokenDenied):
            groups.add((event.subject, event.data.agent_id, event.data.attempt))
            answers[f"{event.causation_id} {event.data.agent_id}"].append(event.data)
    twice = {one: found for one, found in answers.items() if len(found) > 1}
    assert not twice, f"answered twice: {twice}"
    for one in asked:
        group = one.subject, getattr(one.data, "agent_id", None), getattr(one.data, "attempt", None)
        assert group in groups, f"nobody answered {one}"


def _check_grants(told: Events, store: MemoryStore, queue: str) -> None:
    revoked: set[str] = set()
    for event in told:
        data = event.data
        if isinstance(data, TokenRevoked) and data.agent_id is None and data.reason in FULL_REVOCATIONS:
            revoked.add(event.subject)
        if isinstance(data, TokenGranted):
            assert event.subject not in revoked, f"granted after all was revoked: {event}"
            token = store.made[data.accessor]
            label = (token.label.pipeline_id, token.label.agent_id, token.label.attempt)
            assert label == (event.subject, data.agent_id, data.attempt), f"{event} was minted for {token.label}"
            if data.grant is not None:
                context = f"{event.subject}/{data.agent_id}/{data.attempt}"
                assert store.sealed[data.grant.sealed] == (f"queue-{queue}", context, token.secret)


def _check_vault(told: Events, store: MemoryStore, installation: str, ended: set[str]) -> None:
    """After reconciling Vault holds what the log says: no token more, and none less."""
    living = _living(told)
    held = {one.accessor: one for one in store.tokens.values() if one.installation == installation}
    logins = {one.accessor for one in held.values() if one.parent is None}
    only_vault, only_log = held.keys() - logins - living.keys(), living.keys() - held.keys()
    assert not only_vault, f"only Vault: {only_vault}"
    assert not only_log, f"only the log: {only_log}"
    used = {one.parent for one in held.values()}
    assert logins <= used, f"logins without a token: {logins - used}"
    assert not ended & set(living.values())
    foreign = {one.label.pipeline_id for one in store.tokens.values() if one.installation != installation}
    entities = store.entities.keys() - foreign
    assert entities == set(living.values()), f"entities: {entities ^ set(living.values())}"
    for one in held.values():
        has = "" if one.parent is None else store.entities[one.label.pipeline_id]
        assert one.entity_id == has, f"without its entity it is no use: {one}"


def check_expiries(records: Sequence[Record], store: MemoryStore) -> None:
    """What is told to have expired did so by itself: no instance ended it, not even one that had lost its partition."""
    for record in records:
        event = decode(record)
        if isinstance(event.data, TokenExpired):
            above: str | None = event.data.accessor
            while above is not None:
                assert store.revoked.get(above, event.time_ms) >= event.time_ms, f"ended by us: {event}"
                above = store.made[above].parent


def _living(told: Events) -> dict[str, str]:
    """The tokens that live, as the log says: accessor and pipeline."""
    living: dict[str, str] = {}
    for event in told:
        match event.data:
            case TokenGranted(accessor=accessor):
                assert accessor not in living, f"granted twice: {event}"
                living[accessor] = event.subject
            case TokenRenewed(accessor=accessor):
                assert accessor in living, f"renewed, and not alive: {event}"
            case TokenRevoked(accessors=accessors):
                for one in accessors:
                    living.pop(one, None)
            case TokenExpired(accessor=accessor):
                assert living.pop(accessor, None) is not None, f"expired, and not alive: {event}"
    return living


def _check_secrecy(records: Mapping[str, Sequence[Record]], lines: Sequence[str]) -> None:
    """No token stands anywhere: on no topic, also not in the journal and the state, and in no line of a log."""
    canary = CANARY.encode()
    for topic, found in records.items():
        for record in found:
            parts = [record.key or b"", record.value or b"", *(value or b"" for _, value in record.headers)]
            assert not any(canary in part for part in parts), f"a token stands on {topic}: {record.offset}"
    assert not [line for line in lines if CANARY in line]
    assert not records["dlq.token.commands"], "a command was refused"
