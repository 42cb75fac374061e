"""The read model and SQL say the same of every credential, and both say what Vault holds, whatever course it took."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from typing import Any, get_args

import pytest
from hypothesis import given, settings

from sluice_contracts.envelope import CloudEvent
from sluice_contracts.messages import Message, token
from sluice_observability.adapters.clickhouse import ClickHouse
from sluice_observability.domain.token_effects import TokenEffects
from tests.token_lives import check_shown, life_of, lives_by_fold
from tests.unit.observability.breaches import Safeguard
from tests.unit.observability.events import Teller, spawning
from tests.unit.observability.test_views import stored
from tests.unit.vault_broker.test_laws import courses, run

Event = CloudEvent[Message]
AGENTS = (None, "a", "b")
REASONS = get_args(token.RevocationReason)
TIME_MS = 1_790_000_000_000

COURSES, STEPS = 100, 14


def course_of(rng: random.Random) -> Iterator[tuple[Any, ...]]:
    """Steps of a course. A stray is made, and not granted."""
    for _ in range(rng.randint(0, STEPS)):
        at = rng.randint(0, 9)
        match rng.choice(("grant", "grant", "renew", "expire", "revoke", "revoke")):
            case "grant":
                yield "grant", (rng.choice(AGENTS), rng.randint(1, 3), rng.random() < 0.8)
            case "revoke":
                named = {rng.randint(0, 9) for _ in range(rng.randint(0, 3))}
                yield "revoke", rng.choice(AGENTS), rng.choice(REASONS), named, rng.randint(0, 20)
            case what:
                yield what, at


def told_of(course: Iterable[tuple[Any, ...]], pipeline_id: str) -> list[Event]:
    """What a broker might tell, and more: any revocation of any, while clocks of instances differ."""
    teller = Teller(pipeline_id)
    events, made = list(spawning(teller)), []
    numbers = iter(range(1, 1_000))

    def tell(data: Message, back_ms: int = 0) -> None:
        number = next(numbers)
        time_ms = TIME_MS + 5 * number - back_ms
        events.append(
            CloudEvent(f"{pipeline_id}-{number}", "vault-broker", "acme", pipeline_id, time_ms, data, sequence=number)
        )

    for number, step in enumerate(course):
        match step:
            case "grant", (agent_id, attempt, is_granted):
                made.append((f"{pipeline_id}.{number}", agent_id, attempt, is_granted))
                if is_granted:
                    tell(
                        token.TokenGranted(
                            accessor=made[-1][0], agent_id=agent_id, attempt=attempt, expires_at_ms=1, ends_at_ms=2
                        ),
                        back_ms=number % 3 * 7,
                    )
            case "renew" | "expire" as what, at if at < len(made) and made[at][3]:
                accessor, agent_id, attempt, _ = made[at]
                about = {"accessor": accessor, "agent_id": agent_id, "attempt": attempt}
                tell(token.TokenExpired(**about) if what == "expire" else token.TokenRenewed(**about, expires_at_ms=3))
            case "revoke", agent_id, reason, named, latency_ms:
                accessors = tuple(made[at][0] for at in sorted(named) if at < len(made))
                tell(token.TokenRevoked(accessors=accessors, agent_id=agent_id, reason=reason, latency_ms=latency_ms))
    return events


@pytest.mark.covers("V7", "O2", "O5")
@pytest.mark.parametrize("seed", range(2))
def test_the_read_model_and_sql_agree(engine: ClickHouse, seed: int) -> None:
    rng = random.Random(seed)
    events = [event for number in range(COURSES) for event in told_of(course_of(rng), f"p{number}")]
    stored(engine, events)
    shown = lives_by_fold(events)
    assert life_of(engine.rows) == shown
    assert {state for state, *_ in shown.values()} == {"granted", "renewed", "revoked", "expired"}


@pytest.mark.covers("V6", "V7")
@settings(max_examples=200)
@given(courses)
def test_what_the_broker_tells_says_what_lives(moves: list[tuple[str, str, int]]) -> None:
    """Orphans, attempts that are followed by others, waiting, the end: what Vault still holds is what is shown."""
    said = [output.event for output in run(moves).world.said]
    check_shown(said)


@pytest.mark.covers("V6", "V7")
def test_the_end_of_a_stray_ends_nothing_else(engine: ClickHouse) -> None:
    safeguard = Safeguard(Teller("p1"))
    agent_id = safeguard.teller.agent_id
    strays = [
        safeguard.broker(token.TokenRevoked(accessors=("stray-1",), reason="orphaned")),
        safeguard.broker(
            token.TokenRevoked(accessors=("stray-2",), agent_id=agent_id, attempt=1, reason="orphaned")
        ),
    ]  # fmt: skip
    events = [*spawning(safeguard.teller), *safeguard.granted(), *strays]
    stored(engine, events)
    assert life_of(engine.rows) == lives_by_fold(events)
    assert {accessor: state for accessor, (state, *_) in lives_by_fold(events).items()} == {
        safeguard.root: "granted", safeguard.child: "renewed",
    }  # fmt: skip
    effects = TokenEffects()
    for offset, asked in enumerate((token.TokenRevoke(), token.TokenRevoke(agent_id=agent_id))):
        effects.command_seen((0, offset), safeguard.tell(asked, "observability/1"))
    for event in strays:
        effects.event_seen(event)
    assert [effects.reached((0, offset)) for offset in range(2)] == [False, False]


@pytest.mark.covers("V6", "V8")
def test_what_is_granted_while_a_revocation_waits_for_vault_lives_on(engine: ClickHouse) -> None:
    """All waited, and Vault was away when their credentials should end; one was answered, and goes on."""
    safeguard = Safeguard(Teller("p1"))
    first, second = safeguard.granted(), token.TokenGranted(accessor="again", expires_at_ms=1, ends_at_ms=2)
    granted = safeguard.broker(second)
    told = safeguard.broker(
        token.TokenRevoked(accessors=(safeguard.root, safeguard.child), reason="waiting", latency_ms=2)
    )
    events = [*first, granted, told]
    stored(engine, events)
    assert life_of(engine.rows) == lives_by_fold(events)
    assert {accessor: state for accessor, (state, *_) in lives_by_fold(events).items()} == {
        safeguard.root: "revoked", safeguard.child: "revoked", "again": "granted",
    }  # fmt: skip
