"""Laws of the life of tokens, for whatever comes in whatever order, once or twice."""

from __future__ import annotations

from collections import defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sluice_contracts.envelope import CloudEvent
from sluice_contracts.messages.base import Message
from sluice_contracts.messages.token import (
    FULL_REVOCATIONS,
    TokenDenied,
    TokenExpired,
    TokenGranted,
    TokenRenew,
    TokenRequest,
    TokenRevoke,
    TokenRevoked,
)
from sluice_vault_broker.domain.facts import VaultMinted
from sluice_vault_broker.domain.state import RevocationEntity, TokenEntity
from tests.unit.vault_broker.world import PIPELINE, TTL_MS, World, codes

AGENTS = ("a", "b", "c")
MOVES = (
    "request", "request", "request", "next", "root", "mint", "mint", "mint", "hold", "late", "ended", "ended",
    "waiting", "all_wait", "agent_ended", "renew", "prolong", "lost", "gone", "orphan", "alert_agent", "alert",
    "manual", "manual_agent", "end", "wait", "twice",
)  # fmt: skip


class Held:
    """What Vault holds of the pipeline, whatever the broker has heard of it."""

    def __init__(self) -> None:
        self._tokens: dict[str, VaultMinted] = {}
        self._expires_at_ms: dict[str, int] = {}

    def mint(self, minted: VaultMinted) -> None:
        self._tokens[minted.accessor] = minted
        self._expires_at_ms[minted.accessor] = minted.expires_at_ms

    def prolong(self, token: TokenEntity, expires_at_ms: int) -> None:
        if self._lives(token.accessor, 0):
            self._expires_at_ms[token.accessor] = expires_at_ms

    def end(self, *accessors: str) -> None:
        for one in [one for one in self._tokens.values() if not {one.accessor, one.top}.isdisjoint(accessors)]:
            del self._tokens[one.accessor]

    def living(self, now_ms: int) -> set[str]:
        return {accessor for accessor in self._tokens if self._lives(accessor, now_ms)}

    def _lives(self, accessor: str, now_ms: int) -> bool:
        minted = self._tokens.get(accessor)
        if minted is None or self._expires_at_ms[accessor] <= now_ms:
            return False
        return minted.parent_accessor is None or self._lives(minted.parent_accessor, now_ms)


class Course:
    """A course of a pipeline, made of moves."""

    def __init__(self) -> None:
        self.world = World()
        self.attempts: dict[str, int] = defaultdict(lambda: 1)
        self.held: list[VaultMinted] = []
        self.orphans = 0
        self.sequence = 0
        self.ended = False
        self.requests: list[tuple[str, str | None, int | None]] = []
        self.of_people: dict[str, bool] = {}
        self.renewed: set[str] = set()
        self.vault = Held()
        self._told = 0

    def move(self, move: str, agent_id: str, seconds: int) -> None:
        world, attempt = self.world, self.attempts[agent_id]
        parent = AGENTS[seconds % 3]
        match move:
            case "request":
                self._ask(
                    TokenRequest(
                        agent_id=agent_id, attempt=attempt, queue="default", parent_agent_id=parent,
                        may_have_agents=seconds % 4 > 0,
                    )
                )  # fmt: skip
            case "next":
                self.attempts[agent_id] += 1
                self._ask(TokenRequest(agent_id=agent_id, attempt=attempt + 1, queue="default"))
            case "root":
                self._ask(TokenRequest())
            case "mint" | "hold":
                wanted = self._wanted()
                if wanted is not None:
                    answer = self._made(wanted)
                    if move == "hold":
                        self.held.append(answer)
                    else:
                        world.say(answer)
            case "late":
                if self.held:
                    world.say(self.held.pop(0))
            case "ended":
                for revocation in world.revocations()[:1]:
                    self._revoked(revocation)
            case "all_wait":
                self.as_spawner(TokenRevoke(reason="waiting"))
            case "waiting" | "agent_ended":
                self.as_spawner(TokenRevoke(agent_id=agent_id, attempt=attempt, reason=move))
            case "renew":
                self._person(TokenRenew())
            case "prolong" | "lost":
                for one in (None, *AGENTS):
                    token = world.find(one)
                    if token is not None and token.renewing_since_ms is not None:
                        self.vault.prolong(token, min(world.now_ms + TTL_MS, token.ends_at_ms))
                        if move == "prolong":
                            world.prolong(one)
            case "gone":
                token = world.find(agent_id)
                if token is not None and token.lives:
                    self.vault.end(token.accessor)
                    world.gone(agent_id)
            case "orphan":
                self.orphans += 1
                world.orphan(f"orphan-{self.orphans}", agent_id, attempt, 1)
            case "alert_agent":
                world.alert("revoke_agent", agent_id, attempt, condition="no_progress")
            case "alert":
                world.alert("revoke_pipeline")
            case "manual":
                self._person(TokenRevoke(detail="enough"))
            case "manual_agent":
                self._person(TokenRevoke(agent_id=agent_id, attempt=(None, attempt, attempt - 1 or None)[seconds % 3]))
            case "end":
                self.end()
            case "wait":
                world.wait(seconds)
            case "twice":
                self._again(seconds)
        self.check_told()

    def check_told(self) -> None:
        """Whoever reads that all was revoked may rely on it: Vault honours nothing that was granted."""
        before = self.world.said[: self._told]
        granted = {one.event.data.accessor for one in before if isinstance(one.event.data, TokenGranted)}
        for output in self.world.said[self._told :]:
            told = output.event.data
            if isinstance(told, TokenRevoked) and told.agent_id is None and told.reason in FULL_REVOCATIONS:
                living = granted & self.vault.living(self.world.now_ms)
                assert not living, f"told to be revoked for {told.reason}, and alive: {living}"
        self._told = len(self.world.said)

    def _made(self, wanted: TokenEntity) -> VaultMinted:
        answer = self.world.minting(wanted.agent_id)
        self.vault.mint(answer)
        return answer

    def _revoked(self, revocation: RevocationEntity) -> None:
        self.vault.end(revocation.accessor, *revocation.also)
        self.world.end(revocation.accessor)

    def _ask(self, message: TokenRequest) -> None:
        if not self.ended:  # the spawner asks for nothing then; a redelivery may come
            self.requests.append((self.as_spawner(message), message.agent_id, message.attempt))

    def as_spawner(self, message: Message) -> str:
        """Says it with a sequence, by which a repetition is known whatever has ended since; returns its id."""
        self.sequence += 1
        event = self.world.event(message, source="spawner", sequence=self.sequence)
        self.world.hear(event)
        return event.id

    def end(self) -> None:
        self.as_spawner(TokenRevoke(reason="pipeline_ended"))
        self.ended = True

    def _person(self, message: TokenRevoke | TokenRenew) -> None:
        state, event = self.world.state, self.world.event(message)
        self.of_people[event.id] = not {f"{PIPELINE}/pipeline", f"{PIPELINE}/finished"}.isdisjoint(state)
        said = self.world.hear(event)
        if isinstance(message, TokenRenew) and not codes(said):
            tokens = (self.world.find(one) for one in (None, *AGENTS))
            assert any(token is not None and token.renewing_since_ms is not None for token in tokens), "nothing follows"
            self.renewed.add(event.id)

    def _again(self, seconds: int) -> None:
        """Anything that was heard comes again, at once or later: nothing new is said of what was answered."""
        if self.world.heard:
            event, _, _ = self.world.heard[seconds % len(self.world.heard)]
            self.world.hear(event)

    def _wanted(self) -> TokenEntity | None:
        """What the hands would do now."""
        for agent_id in (None, *AGENTS):
            token = self.world.find(agent_id)
            if token is None or token.lives:
                continue
            if agent_id is None:
                return token
            above = None if token.parent_agent_id is None else self.world.find(token.parent_agent_id)
            above = above if above is not None and above.is_parent else self.world.find()
            if above is not None and above.lives:
                return token
        return None

    def finish(self) -> None:
        """Vault answers all."""
        for _ in range(200):
            if self.held:
                self.world.say(self.held.pop(0))
            elif self.world.revocations():
                self._revoked(self.world.revocations()[0])
            elif (wanted := self._wanted()) is not None:
                self.world.say(self._made(wanted))
            else:
                return
            self.check_told()
        raise AssertionError("it does not come to rest")


courses = st.lists(st.tuples(st.sampled_from(MOVES), st.sampled_from(AGENTS), st.integers(0, 4_000)), max_size=50)

ENDING = ("request", "mint", "mint", "all_wait", "ended", "lost", "lost", "prolong", "wait", "wait", "wait", "wait")
endings = st.lists(
    st.tuples(st.sampled_from(ENDING), st.sampled_from(AGENTS), st.integers(1_000, 4_000)), min_size=8, max_size=30
)
"""Long times, in which tokens are given up, or end by the clock while Vault has renewed them."""


def run(moves: list[tuple[str, str, int]]) -> Course:
    course = Course()
    for move, agent_id, seconds in moves:
        course.move(move, agent_id, seconds)
    course.finish()
    return course


@pytest.mark.covers("V5", "V6")
@settings(max_examples=400)
@given(endings)
def test_what_is_told_to_be_revoked_is_honoured_no_more(moves: list[tuple[str, str, int]]) -> None:
    run([*moves, ("alert", "a", 0)])


@pytest.mark.covers("V1", "V7")
@settings(max_examples=300)
@given(courses)
def test_every_attempt_that_is_asked_for_is_answered_and_no_request_twice(moves: list[tuple[str, str, int]]) -> None:
    course = run(moves)
    answers: dict[tuple[str | None, str | None], int] = defaultdict(int)
    groups = set()
    for output in course.world.said:
        if isinstance(output.event.data, TokenGranted | TokenDenied) and _asks(output.event.data):
            groups.add((output.event.data.agent_id, output.event.data.attempt))
            answers[output.event.causation_id, output.event.data.agent_id] += 1
    assert not [one for one, count in answers.items() if count > 1]
    for _, agent_id, attempt in course.requests:
        assert (agent_id, attempt) in groups


def _asks(told: TokenGranted | TokenDenied) -> bool:
    return isinstance(told, TokenGranted) or told.command == "token.request"


@pytest.mark.covers("V7")
@settings(max_examples=300)
@given(courses)
def test_every_command_of_a_person_has_one_answer_however_often_it_comes(moves: list[tuple[str, str, int]]) -> None:
    course = run(moves)
    told: dict[str | None, list[str]] = defaultdict(list)
    for output in course.world.said:
        told[output.event.causation_id].append(output.event.type)
    for command_id, is_known in course.of_people.items():
        answers = [one for one in told[command_id] if one in ("token.revoked", "token.denied")]
        if command_id in course.renewed:
            assert answers == [], "it is renewed, and denied"
        elif is_known:
            assert len(answers) == 1, f"{command_id}: {answers}"
        else:  # of what nobody knows nothing is remembered
            assert answers, f"{command_id}: silence"


@pytest.mark.covers("V1", "V3", "V6")
@settings(max_examples=300)
@given(courses)
def test_what_lives_is_what_was_granted_and_has_not_ended(moves: list[tuple[str, str, int]]) -> None:
    world = run(moves).world
    living: set[str] = set()
    closed = False
    for output in world.said:
        match output.event.data:
            case TokenGranted(accessor=accessor):
                assert not closed, "granted after all was revoked"
                assert accessor not in living
                living.add(accessor)
            case TokenExpired(accessor=accessor):
                living.remove(accessor)
            case TokenRevoked(accessors=accessors, reason=reason, agent_id=agent_id):
                living -= set(accessors)
                closed = closed or (agent_id is None and reason in FULL_REVOCATIONS)
    known = [token for one in (None, *AGENTS) if (token := world.find(one)) is not None]
    assert living == {token.accessor for token in known if token.lives}
    for token in known:
        if token.lives and token.agent_id is not None:
            assert token.parent_accessor in living, "it lives, and what it is below does not"


@pytest.mark.covers("V1")
@settings(max_examples=200)
@given(courses)
def test_what_comes_again_at_once_says_nothing_and_changes_nothing(moves: list[tuple[str, str, int]]) -> None:
    course = Course()
    for move, agent_id, seconds in moves:
        before = len(course.world.heard)
        course.move(move, agent_id, seconds)
        for event, _, _ in list(course.world.heard[before:]):
            _repeat(course.world, event)


def _repeat(world: World, event: CloudEvent[Message]) -> None:
    last = world.heard[-1][0]
    if event is not last or event.type == "timer.due":
        return
    state = dict(world.state)
    known = f"{PIPELINE}/pipeline" in state or f"{PIPELINE}/finished" in state
    said = world.hear(event)
    assert world.state == state
    assert said == [] or not known


@pytest.mark.covers("V1")
@settings(max_examples=200)
@given(courses)
def test_after_the_end_nothing_remains(moves: list[tuple[str, str, int]]) -> None:
    course = run(moves)
    world = course.world
    course.end()
    course.finish()
    kinds = {type(one).__name__ for one in world.state.values()}
    assert kinds <= {"FinishedPipeline", "DecidedCommandsEntity", "Timer"}
    numbers = [one.event.sequence for one in world.said if one.event.sequence is not None]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers))) if numbers else True
    world.wait(9 * 86_400)
    assert world.state == {}
