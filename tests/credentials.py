"""What must hold of everything that was told of credentials, however the vault-broker and Vault were treated.

The simulation and the tests on the real stack check the same laws; only where the events come from differs.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from sluice_contracts.envelope import CloudEvent
from sluice_contracts.messages import Message
from sluice_contracts.messages.token import (
    FULL_REVOCATIONS,
    TokenDenied,
    TokenExpired,
    TokenGranted,
    TokenRenew,
    TokenRenewed,
    TokenRevoke,
    TokenRevoked,
)

Events = Sequence[CloudEvent[Message]]


def each_once(events: Iterable[CloudEvent[Message]]) -> Events:
    """The events in their order, each once: what was published again is the same."""
    told: dict[str, CloudEvent[Message]] = {}
    for event in events:
        assert told.setdefault(event.id, event) == event, f"two contents of {event.id}"
    return sorted(told.values(), key=lambda one: (one.subject, one.sequence or 0))


def check_sequences(told: Events) -> None:
    """No pipeline's sequence has a gap."""
    by_pipeline: dict[str, list[int]] = defaultdict(list)
    for event in told:
        if event.sequence is not None:
            by_pipeline[event.subject].append(event.sequence)
    for pipeline_id, numbers in by_pipeline.items():
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers))), f"{pipeline_id}: {numbers}"


def check_answers(told: Events, asked: Events) -> None:
    """Each attempt that was asked for is answered, and no request twice."""
    answers: dict[str, list[Message]] = defaultdict(list)
    groups = set()
    for event in told:
        data = event.data
        if isinstance(data, TokenGranted) or (isinstance(data, TokenDenied) and data.command == "token.request"):
            groups.add((event.subject, data.agent_id, data.attempt))
            answers[f"{event.causation_id} {data.agent_id}"].append(data)
    twice = {one: found for one, found in answers.items() if len(found) > 1}
    assert not twice, f"answered twice: {twice}"
    for one in asked:
        group = one.subject, getattr(one.data, "agent_id", None), getattr(one.data, "attempt", None)
        assert group in groups, f"nobody answered {one}"


def check_people_are_answered(told: Events, commands: Events) -> None:
    """Each revocation by a person is answered once, revoked or denied; no renewal is denied twice, and each names its
    command, if it has one."""
    answers = Counter(event.causation_id for event in told if isinstance(event.data, TokenRevoked | TokenDenied))
    for one in commands:
        if isinstance(one.data, TokenRevoke) and one.data.reason == "manual":
            assert answers[one.id] == 1, f"{answers[one.id]} answers to {one}"
        elif isinstance(one.data, TokenRenew):
            assert answers[one.id] <= 1, f"denied twice: {one}"
    renewals = {one.id for one in commands if isinstance(one.data, TokenRenew)}
    for event in told:
        if isinstance(event.data, TokenRenewed):
            assert (event.data.reason == "manual") == (event.causation_id in renewals), f"not its cause: {event}"


def check_revocations_are_final(told: Events) -> None:
    """After a full revocation nothing is granted."""
    revoked: set[str] = set()
    for event in told:
        data = event.data
        if isinstance(data, TokenRevoked) and data.agent_id is None and data.reason in FULL_REVOCATIONS:
            revoked.add(event.subject)
        assert not (isinstance(data, TokenGranted) and event.subject in revoked), f"granted after all ended: {event}"


def living(told: Events) -> dict[str, str]:
    """The tokens that live, as the log says: accessor and pipeline. None is renewed or expires that does not live."""
    found: dict[str, str] = {}
    for event in told:
        match event.data:
            case TokenGranted(accessor=accessor):
                assert accessor not in found, f"granted twice: {event}"
                found[accessor] = event.subject
            case TokenRenewed(accessor=accessor):
                assert accessor in found, f"renewed, and not alive: {event}"
            case TokenRevoked(accessors=accessors):
                for one in accessors:
                    found.pop(one, None)
            case TokenExpired(accessor=accessor):
                assert found.pop(accessor, None) is not None, f"expired, and not alive: {event}"
    return found


def check_each_ended_once(told: Events) -> None:
    """Where all pipelines have ended: each granted token was told to be revoked or expired, and only once."""
    granted = {one.data.accessor for one in told if isinstance(one.data, TokenGranted)}
    ends: Counter[str] = Counter()
    for event in told:
        match event.data:
            case TokenRevoked(accessors=accessors):
                ends.update(granted & set(accessors))
            case TokenExpired(accessor=accessor):
                ends[accessor] += 1
    assert not (unended := granted - ends.keys()), f"without an end: {unended}"
    assert not (several := {one: count for one, count in ends.items() if count > 1}), f"ended several times: {several}"
