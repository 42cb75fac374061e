"""What must hold of any installation's topics, however it was treated: read from the records alone.

The simulation and the fault tests check the same laws; only where the records come from differs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

from sluice_contracts.codec import decode
from sluice_contracts.envelope import CloudEvent, Record
from sluice_contracts.messages import Message
from sluice_contracts.messages.admission import AdmissionGranted, AdmissionRequested
from sluice_contracts.messages.agent import AgentRun, AgentTurnFinished
from sluice_contracts.messages.blackboard import (
    BlackboardConflictDetected,
    BlackboardConflictResolved,
    BlackboardDeleted,
    BlackboardWritten,
)
from sluice_contracts.messages.pipeline import (
    AgentAttemptRefused,
    PipelineResult,
    PipelineSpawned,
    TaskSucceeded,
)

EVENTS, ADMISSION = "pipeline.events", "admission"


class History:
    """Every record of an installation.

    Args:
        records: Per topic, all partitions' records, each partition's in its order.
        queue: The queue whose topics are looked at.
    """

    def __init__(self, records: Mapping[str, Sequence[Record]], queue: str) -> None:
        self._records = records
        self.tasks, self.inbox, self.said = f"agent.tasks.{queue}", f"agent.inbox.{queue}", f"agent.events.{queue}"
        self.decided = [EVENTS, self.tasks, self.inbox, ADMISSION]
        self._events: dict[str, list[CloudEvent[Message]]] = {}

    def records(self, topic: str) -> Sequence[Record]:
        return self._records.get(topic, ())

    def events(self, topic: str) -> list[CloudEvent[Message]]:
        if topic not in self._events:
            self._events[topic] = [decode(record) for record in self.records(topic)]
        return self._events[topic]

    @property
    def refused(self) -> set[str]:
        return {one.data.refused_id for one in self.events(EVENTS) if isinstance(one.data, AgentAttemptRefused)}

    @property
    def accepted_turns(self) -> dict[tuple[str, int], set[str]]:
        """Per agent and turn, the transcripts with which it was said and not refused."""
        refused = self.refused
        turns: dict[tuple[str, int], set[str]] = defaultdict(set)
        for event in self.events(self.said):
            if isinstance(event.data, AgentTurnFinished) and event.id not in refused:
                turns[event.data.agent_id, event.data.turn].add(event.data.transcript.sha256)
        return turns

    @property
    def ended(self) -> dict[str, set[str]]:
        """Per pipeline, the ids of its terminal events."""
        ends: dict[str, set[str]] = defaultdict(set)
        for event in self.events(EVENTS):
            if isinstance(event.data, PipelineResult):
                ends[event.subject].add(event.id)
        return ends

    @property
    def lives(self) -> dict[str, list[bool]]:
        """Per pipeline, its spawns (False) and ends (True), each once, in their order: an id may be used again."""
        lives: dict[str, dict[int | None, bool]] = defaultdict(dict)
        for event in self.events(EVENTS):
            if isinstance(event.data, PipelineSpawned | PipelineResult):
                lives[event.subject][event.sequence] = isinstance(event.data, PipelineResult)
        return {pipeline: [told[number] for number in sorted(told, key=int)] for pipeline, told in lives.items()}


def each_id_has_one_content(history: History, spawned: set[str]) -> None:
    for topic in history.decided:
        contents: dict[str, bytes | None] = {}
        for record in history.records(topic):
            identity = dict(record.headers)["ce_id"].decode()
            assert contents.setdefault(identity, record.value) == record.value, f"{topic}: two contents: {identity}"


def sequences_have_each_event_once_in_order(history: History, spawned: set[str]) -> None:
    """Dropping what is not greater than the last sequence leaves every event, each once, in its order."""
    for topic in (EVENTS, history.tasks, history.inbox):
        last: dict[str, int] = defaultdict(int)
        kept: set[str] = set()
        for event in history.events(topic):
            key = event.subject if topic == EVENTS else getattr(event.data, "agent_id")  # noqa: B009
            if event.sequence is None:
                kept.add(event.id)
            elif event.sequence > last[key]:
                last[key] = event.sequence
                assert event.id not in kept, f"{topic}: {event.id} has two sequences"
                kept.add(event.id)
        missing = [event for event in history.events(topic) if event.id not in kept]
        assert not missing, f"{topic}: dropping by sequence loses {missing[0]}"


def every_spawned_pipeline_has_one_terminal_event(history: History, spawned: set[str]) -> None:
    assert set(history.ended) == spawned, f"without an end: {spawned - set(history.ended)}"
    wrong = {pipeline: told for pipeline, told in history.lives.items() if told != [False, True] * (len(told) // 2)}
    assert not wrong, f"not each spawn has one end: {wrong}"


def no_finished_turn_is_run_again(history: History, spawned: set[str]) -> None:
    """An attempt starts after the last turn that was accepted before it was decided; each turn is accepted once."""
    accepted = history.accepted_turns
    several = {turn: links for turn, links in accepted.items() if len(links) > 1}
    assert not several, f"turns accepted with two contents: {several}"
    runs: dict[str, dict[int, int]] = defaultdict(dict)
    for event in history.events(history.tasks):
        assert isinstance(event.data, AgentRun)
        runs[event.data.agent_id][event.data.attempt] = event.data.turn
    for agent, turns in runs.items():
        in_order = [turns[attempt] for attempt in sorted(turns)]
        assert in_order == sorted(in_order), f"agent {agent}: an attempt begins before a finished turn: {in_order}"
    for event in history.events(EVENTS):
        if isinstance(event.data, TaskSucceeded):
            mine = {turn for (agent, turn) in accepted if agent == event.data.agent_id}
            assert set(range(1, event.data.turns + 1)) <= mine, f"{event.data}: accepted were the turns {mine}"


def nothing_was_refused_as_invalid(history: History, spawned: set[str]) -> None:
    for topic in ("pipeline.commands", ADMISSION, history.said, history.tasks, history.inbox):
        assert not history.records(f"dlq.{topic}")


def requests_are_numbered_and_give_all_back(history: History, spawned: set[str]) -> None:
    """A number asks for one thing, or gives back what came late; grants answer requests; the last gives all back."""
    wanted: dict[str, dict[int, int]] = defaultdict(lambda: {0: 0})
    for event in history.events(ADMISSION):
        if isinstance(event.data, AdmissionRequested):
            request = event.data
            assert event.sequence is None
            known = wanted[request.pipeline_id].get(request.number, 0)
            assert 0 in (known, request.slots) or known == request.slots, event
            wanted[request.pipeline_id][request.number] = max(known, request.slots)
    for event in history.events(ADMISSION):
        if isinstance(event.data, AdmissionGranted):
            assert event.data.slots <= wanted[event.subject].get(event.data.number, 0), f"nobody asked for {event}"
    kept = {pipeline: slots[max(slots)] for pipeline, slots in wanted.items() if slots[max(slots)] > 0}
    assert not {one for one in kept if one in history.ended}, f"not given back: {kept}"


def versions_of_each_key_rise_by_one(history: History, spawned: set[str]) -> None:
    """In each life of a pipeline the accepted writes of a key have the versions 1, 2, 3 … without holes."""
    for (pipeline, _), events in _by_life(history).items():
        versions: dict[str, list[int]] = defaultdict(list)
        for event in events:
            if isinstance(event.data, BlackboardWritten | BlackboardDeleted):
                versions[event.data.key].append(event.data.key_version)
        wrong = {key: told for key, told in versions.items() if told != list(range(1, len(told) + 1))}
        assert not wrong, f"{pipeline}: versions with holes, or twice: {wrong}"


def each_conflict_is_settled_once_before_the_end(history: History, spawned: set[str]) -> None:
    for (pipeline, _), events in _by_life(history).items():
        detected = [one.data.conflict_id for one in events if isinstance(one.data, BlackboardConflictDetected)]
        resolved = [one.data.conflict_id for one in events if isinstance(one.data, BlackboardConflictResolved)]
        assert len(detected) == len(set(detected)), f"{pipeline}: a conflict twice: {detected}"
        if any(isinstance(one.data, PipelineResult) for one in events):
            assert sorted(resolved) == sorted(detected), f"{pipeline}: detected {detected}, resolved {resolved}"


def _by_life(history: History) -> dict[tuple[str, int], list[CloudEvent[Message]]]:
    """What the spawner told of each pipeline, each event once and in its order, by the number of the life."""
    told: dict[str, dict[int, CloudEvent[Message]]] = defaultdict(dict)
    for event in history.events(EVENTS):
        if event.sequence is not None:
            told[event.subject][event.sequence] = event
    lives: dict[tuple[str, int], list[CloudEvent[Message]]] = defaultdict(list)
    for pipeline, events in told.items():
        life = 0
        for number in sorted(events):
            life += isinstance(events[number].data, PipelineSpawned)
            lives[pipeline, life].append(events[number])
    return lives


CHECKS: list[Callable[[History, set[str]], None]] = [
    each_id_has_one_content,
    sequences_have_each_event_once_in_order,
    every_spawned_pipeline_has_one_terminal_event,
    no_finished_turn_is_run_again,
    requests_are_numbered_and_give_all_back,
    nothing_was_refused_as_invalid,
    versions_of_each_key_rise_by_one,
    each_conflict_is_settled_once_before_the_end,
]


def check(history: History, spawned: set[str]) -> None:
    """All laws."""
    for one in CHECKS:
        one(history, spawned)
