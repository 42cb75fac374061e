"""What must hold of a course of the vault-broker: what stands on the topics, and what Vault holds in the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sluice_contracts import topics
from sluice_contracts.codec import decode
from sluice_contracts.envelope import Record
from sluice_contracts.messages.token import TokenExpired, TokenGranted, TokenRequest
from tests.credentials import (
    Events,
    check_answers,
    check_ends,
    check_people_are_answered,
    check_revocations_are_final,
    check_sequences,
    each_once,
    living,
)
from tests.vault import CANARY, MemoryStore

TOLD = (*(one.name for one in topics.TOPICS if not one.per_queue), "dlq.token.commands", "dlq.alerts")


def check(
    records: Mapping[str, Sequence[Record]],
    commands: Events,
    store: MemoryStore,
    installation: str,
    queue: str,
    ended: set[str],
    lines: Sequence[str],
) -> None:
    """Checks all.

    Args:
        records: Of every topic.
        commands: Each command, once.
        store: The Vault, after all was reconciled.
        installation: Whose tokens are looked at.
        queue: For which grants are sealed.
        ended: Pipelines that have ended.
        lines: All that was logged.
    """
    told = each_once(decode(record) for record in records["token.events"])
    check_sequences(told)
    check_answers(told, [one for one in commands if isinstance(one.data, TokenRequest)])
    check_people_are_answered(told, commands)
    check_revocations_are_final(told)
    check_ends(told)
    _check_grants(told, store, queue)
    _check_vault(told, store, installation, ended)
    _check_secrecy(records, lines)


def _check_grants(told: Events, store: MemoryStore, queue: str) -> None:
    for event in told:
        data = event.data
        if isinstance(data, TokenGranted):
            token = store.made[data.accessor]
            label = (token.label.pipeline_id, token.label.agent_id, token.label.attempt)
            assert label == (event.subject, data.agent_id, data.attempt), f"{event} was minted for {token.label}"
            if data.grant is not None:
                context = f"{event.subject}/{data.agent_id}/{data.attempt}"
                assert store.sealed[data.grant.sealed] == (f"queue-{queue}", context, token.secret)


def _check_vault(told: Events, store: MemoryStore, installation: str, ended: set[str]) -> None:
    """After reconciling Vault holds what the log says: no token more, and none less."""
    alive = living(told)
    held = {one.accessor: one for one in store.tokens.values() if one.installation == installation}
    logins = {one.accessor for one in held.values() if one.parent is None}
    only_vault, only_log = held.keys() - logins - alive.keys(), alive.keys() - held.keys()
    assert not only_vault, f"only Vault: {only_vault}"
    assert not only_log, f"only the log: {only_log}"
    used = {one.parent for one in held.values()}
    assert logins <= used, f"logins without a token: {logins - used}"
    assert not ended & set(alive.values())
    foreign = {one.label.pipeline_id for one in store.tokens.values() if one.installation != installation}
    entities = store.entities.keys() - foreign
    assert entities == set(alive.values()), f"entities: {entities ^ set(alive.values())}"
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


def _check_secrecy(records: Mapping[str, Sequence[Record]], lines: Sequence[str]) -> None:
    """No token stands anywhere: on no topic, also not in the journal and the state, and in no line of a log."""
    canary = CANARY.encode()
    for topic, found in records.items():
        for record in found:
            parts = [record.key or b"", record.value or b"", *(value or b"" for _, value in record.headers)]
            assert not any(canary in part for part in parts), f"a token stands on {topic}: {record.offset}"
    assert not [line for line in lines if CANARY in line]
    assert not records["dlq.token.commands"], "a command was refused"
