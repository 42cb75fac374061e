"""One partition in the hands of one instance: the real protocol, stepped by hand.

A step is as small as a crash can tell apart: open the transactional id, claim, restore, publish what was left, decide,
append, publish one output, checkpoint, trim. Whoever is crashed between two steps is dropped; whoever is frozen keeps
his memory, and goes on later as if nothing had happened.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from typing import Protocol

from sluice_contracts.envelope import OutgoingRecord, Record
from sluice_runtime.broker import TopicPartition
from sluice_runtime.memory import MemoryBroker, MemoryGroups, MemoryLog
from sluice_runtime.processor import journal
from sluice_runtime.processor.partition import Draft, Injected, Partition
from sluice_runtime.processor.publishing import missing
from tests.doubles import ManualClock


class Instance(Protocol):
    """The process that owns partitions.

    Attributes:
        journal: The topic's name; so `checkpoints`, where they go.
        group: The stem of the transactional ids.
    """

    name: str
    log: MemoryLog
    clock: ManualClock
    random: random.Random
    inputs: list[str]
    journal: str
    checkpoints: str
    group: str

    def make_partition(self, number: int) -> Partition: ...


class Owner:
    """One partition in the hands of one instance."""

    def __init__(self, instance: Instance, number: int) -> None:
        self._instance = instance
        self._log = instance.log
        self._random = instance.random
        self.number = number
        self._at_journal = TopicPartition(instance.journal, number)
        self._at_state = TopicPartition(instance.checkpoints, number)
        self._transactional_id = f"{instance.group}-checkpoint-{number}"
        self._epoch: int | None = None
        self._claim: int | None = None
        self._draft: Draft | None = None
        self._sensed: list[Injected] = []
        self._answers: list[Injected] = []
        self._unsent: deque[tuple[int | None, OutgoingRecord | None]] = deque()
        self._trim_to: int | None = None
        self.partition = instance.make_partition(number)

    @property
    def restored(self) -> bool:
        return self._claim is not None and not (self._unsent and self._unsent[0][0] is None)

    @property
    def busy(self) -> bool:
        """Whether something is under way that only more steps finish."""
        waits = self._sensed or self._answers or self._unsent
        return not self.restored or self._draft is not None or bool(waits)

    def sense(self, inputs: list[Injected]) -> None:
        self._sensed += inputs

    def answer(self, inputs: list[Injected]) -> None:
        self._answers += inputs

    def step(self) -> None:
        """One step.

        Raises:
            Fenced: Another instance took the partition over.
        """
        if self._epoch is None:
            self._epoch = self._log.open_transactional_id(self._transactional_id)
        elif self._claim is None:
            self._claim_and_restore()
        elif self._unsent and (not self.restored or self._random.random() < 0.6):
            self._send_one()
        elif self._trim_to is not None:
            self._log.trim(self._at_journal, self._trim_to)
            self._trim_to = None
        elif self._draft is not None:
            self._append()
        elif self._random.random() < 0.03 and not self._unsent:
            self._checkpoint()
        else:
            self._decide()

    def _claim_and_restore(self) -> None:
        claim = journal.Claim(owner=self._instance.name, now_ms=self._instance.clock.now_ms())
        offset = self._log.append(OutgoingRecord(self._at_journal.topic, None, journal.encode(claim)), self.number)
        self.partition.restore_checkpoint(self._log.read(self._at_state, 0))
        start = self.partition.journal_start
        assert self._log.bounds(self._at_journal).first <= start, "decisions are missing"
        self.partition.restore_journal(self._log.read(self._at_journal, start, offset + 1))
        self.partition.claimed(offset)
        self._claim = offset
        broker = MemoryBroker(self._log, MemoryGroups())
        left = asyncio.run(missing(broker, self.partition.unpublished(), self.partition.unpublished_since_ms))
        self._unsent.extend((None, record) for record in left)
        self._unsent.append((None, None))

    def _send_one(self) -> None:
        offset, record = self._unsent.popleft()
        if record is not None:
            self._log.append(record)
        elif offset is None:
            self.partition.published(self.partition.last_offset)
        else:
            self.partition.published(offset)

    def _decide(self) -> None:
        now_ms = self._instance.clock.now_ms()
        inputs: list[Record | Injected] = []
        fresh = {topic: self._waiting(topic) for topic in self._instance.inputs}
        lanes: list[list[Record | Injected]] = [
            [*records[: self._random.randint(0, 6)]] for records in fresh.values() if records
        ]
        lanes.append(self._answers)  # these may come at any moment
        while lanes := [lane for lane in lanes if lane]:  # any interleaving of topics, in order within each
            lane = self._random.choice(lanes)
            inputs.append(lane.pop(0))
        self._answers = []
        if not any(fresh.values()):  # a timer never overtakes what is in the log
            inputs += [*self.partition.due(now_ms, 100), *self._sensed]
            self._sensed = []
        if inputs:
            self._draft = self.partition.decide(inputs, now_ms)
            assert self._draft.inputs == len(inputs)

    def _waiting(self, topic: str) -> list[Record]:
        at = TopicPartition(topic, self.number)
        return self._log.read(at, self.partition.positions.get(topic, 0))

    def idle(self, now_ms: int) -> bool:
        """Whether there is nothing to decide now."""
        due = self.partition.next_due_ms
        waiting = any(self._waiting(topic) for topic in self._instance.inputs)
        return self.restored and not self.busy and not waiting and (due is None or due > now_ms)

    def _append(self) -> None:
        assert self._draft is not None
        draft, self._draft = self._draft, None
        offset = self._log.append(OutgoingRecord(self._at_journal.topic, None, draft.value), self.number)
        between = self._log.read(self._at_journal, self.partition.last_offset + 1, offset)
        outputs = self.partition.appended(draft, offset, between)
        if outputs:
            self._unsent.extend((offset, record) for record in outputs)
            self._unsent.append((offset, None))

    def _checkpoint(self) -> None:
        assert self._epoch is not None
        changed, end = self.partition.take_dirty()
        records = [
            OutgoingRecord(
                self._at_state.topic, key.encode(), None if one is None else self.partition.encode_entity(one)
            )
            for key, one in changed.items()
        ]
        records.append(OutgoingRecord(self._at_state.topic, journal.CHECKPOINT_KEY, journal.encode(end)))
        self._log.write_transaction(self._transactional_id, self._epoch, [(one, self.number) for one in records])
        self._trim_to = end.journal_offset + 1
        if self._random.random() < 0.5:
            self._log.compact(self._at_state)
