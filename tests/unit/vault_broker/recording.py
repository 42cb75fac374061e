"""Writes down what a partition leaves in `token.state` and `token.journal`, for later releases to read.

`python -m tests.unit.vault_broker.recording NAME` makes `recorded/NAME.msgpack`, and beside it `NAME.json`: what must
come back from it, every field by its name. Recordings are histories: one that exists is never made anew. Add another
where an entity was added, or a field.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import msgspec

from sluice_contracts import codec, topics
from sluice_contracts.envelope import CloudEvent, OutgoingRecord, Record
from sluice_contracts.messages.alert import AlertRaised
from sluice_contracts.messages.base import Message
from sluice_contracts.messages.token import TokenRenew, TokenRequest, TokenRevoke
from sluice_runtime.broker import TopicPartition
from sluice_runtime.memory import MemoryLog
from sluice_runtime.processor import journal
from sluice_runtime.processor.partition import Injected, Partition
from sluice_vault_broker.adapters.inputs import injected
from sluice_vault_broker.domain.facts import VaultMinted
from sluice_vault_broker.domain.policy import BrokerPolicy
from sluice_vault_broker.domain.state import TokenEntity
from sluice_vault_broker.handlers import BrokerDecider
from tests.doubles import ManualClock

FOLDER = Path(__file__).parent / "recorded"
JOURNAL, STATE = "token.journal", "token.state"
INPUTS = ("token.commands", "alerts")
LIVES, CLOSED, ENDED, NEW, WAITS, TAKEN, FORETOLD = (
    f"{number}" * 8 + "-1111-4111-8111-111111111111" for number in (1, 2, 3, 4, 5, 6, 7)
)


class Recording(msgspec.Struct, frozen=True):
    """Keys and values of the state topic; offsets and values of the journal, which begins behind the checkpoint."""

    state: list[tuple[bytes, bytes | None]]
    journal: list[tuple[int, bytes]]

    def restored(self) -> Partition:
        """The partition as whoever takes it over has it."""
        partition = empty_partition()
        partition.restore_checkpoint(
            Record(STATE, 0, offset, 0, key, value, ()) for offset, (key, value) in enumerate(self.state)
        )
        assert partition.journal_start == self.journal[0][0]
        partition.restore_journal(Record(JOURNAL, 0, offset, 0, None, value, ()) for offset, value in self.journal)
        return partition


def empty_partition() -> Partition:
    return Partition(0, BrokerDecider(BrokerPolicy()), service="vault-broker", partition_of=lambda _: 0)


class Recorder:
    """One partition, and the answers of a Vault that does at once what is wanted."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        names = topics.concrete_topics(queues=["default"], partitions=1)
        self.log = MemoryLog({one.name: 1 for one in names}, self.clock)
        self.partition = empty_partition()
        self.state: list[tuple[bytes, bytes | None]] = []
        self._count = 0
        self._read = dict.fromkeys(INPUTS, 0)
        claim = journal.Claim(owner="recorder", now_ms=self.clock.now_ms())
        offset = self.log.append(OutgoingRecord(JOURNAL, None, journal.encode(claim)))
        self.partition.restore_journal(self.log.read(TopicPartition(JOURNAL, 0), offset))
        self.partition.claimed(offset)

    def say(self, pipeline_id: str, message: Message, tenant: str = "acme") -> None:
        self._count += 1
        self.clock.advance(10)
        monitor = isinstance(message, AlertRaised)
        event = CloudEvent(
            f"in-{self._count}", "monitor" if monitor else "spawner", tenant, pipeline_id, self.clock.now_ms(), message,
            sequence=None if monitor else 1_000 + self._count,
            traceparent=f"00-{self._count:032x}-2222222222222222-01",
        )  # fmt: skip
        self.log.append(codec.encode(event, topic=topics.topic_of(type(message)).name, key=pipeline_id))
        self.decide()

    def request(self, pipeline_id: str, agent_id: str, attempt: int = 1, parent: str | None = None) -> None:
        message = TokenRequest(
            agent_id=agent_id, attempt=attempt, queue="default", parent_agent_id=parent, may_have_agents=agent_id == "a"
        )
        self.say(pipeline_id, message)

    def mint(self, pipeline_id: str, *agents: str | None) -> None:
        for agent_id in agents:
            key = f"{pipeline_id}/root" if agent_id is None else f"{pipeline_id}/token/{agent_id}"
            token, root = self.partition.state[key], self.partition.state[f"{pipeline_id}/root"]
            assert isinstance(token, TokenEntity)
            assert isinstance(root, TokenEntity)
            self._count += 1
            now_ms = self.clock.now_ms()
            answer = VaultMinted(
                agent_id=agent_id, attempt=token.attempt, number=token.number, accessor=f"accessor-{self._count}",
                top=f"login-{self._count}" if agent_id is None else None,
                parent_accessor=None if agent_id is None else root.accessor, kept=f"vault:v1:kept-{self._count}",
                sealed=f"vault:v1:{self._count}", policies=("p",), minted_at_ms=now_ms,
                expires_at_ms=now_ms + 7_200_000, ends_at_ms=now_ms + 86_400_000,
            )  # fmt: skip
            self.decide(injected(pipeline_id, "acme", answer, now_ms))

    def decide(self, *answers: Injected) -> None:
        """Decides what waits, and publishes it."""
        inputs: list[Record | Injected] = list(answers)
        for topic, offset in self._read.items():
            records = self.log.read(TopicPartition(topic, 0), offset)
            self._read[topic] += len(records)
            inputs += records
        draft = self.partition.decide(inputs, self.clock.now_ms())
        offset = self.log.append(OutgoingRecord(JOURNAL, None, draft.value))
        for output in self.partition.appended(draft, offset):
            self.log.append(output)
        self.partition.published(offset)

    def checkpoint(self) -> None:
        changed, end = self.partition.take_dirty()
        self.state += [(key.encode(), one and self.partition.encode_entity(one)) for key, one in changed.items()]
        self.state.append((journal.CHECKPOINT_KEY, journal.encode(end)))
        self.log.trim(TopicPartition(JOURNAL, 0), end.journal_offset + 1)

    def recording(self) -> Recording:
        records = self.log.read(TopicPartition(JOURNAL, 0), 0)
        return Recording(self.state, [(one.offset, one.value or b"") for one in records])


def alert(action: str, agent_id: str | None = None, attempt: int | None = None) -> AlertRaised:
    return AlertRaised.model_validate(
        {
            "condition": "policy_violation", "action": action, "agent_id": agent_id, "attempt": attempt, "observed": 1,
            "limit": 0, "window_ms": 60_000, "breached_at_ms": 1, "detail": "it read what is not its own",
        }
    )  # fmt: skip


def record() -> Recording:
    """A pipeline in which everything has happened, one that lost all, one that ended, and one that just began.

    Two have given their tokens up, and Vault has not confirmed it; one of them lost all then. One was revoked before
    anything was asked for it.
    """
    story = Recorder()
    for pipeline_id in (LIVES, CLOSED, ENDED):
        story.request(pipeline_id, "a")
        story.mint(pipeline_id, None, "a")
    story.request(LIVES, "b", parent="a")
    story.request(LIVES, "c")
    story.mint(LIVES, "c")
    story.checkpoint()
    story.request(LIVES, "a", 2)
    story.say(LIVES, alert("revoke_agent", "c", 1))
    story.say(LIVES, TokenRequest(agent_id="d", attempt=1, queue="nowhere"))
    story.say(LIVES, TokenRenew())
    story.mint(LIVES, "a")
    story.request(LIVES, "e", parent="a")
    story.say(CLOSED, alert("revoke_pipeline"))
    story.say(ENDED, TokenRevoke(reason="manual", detail="enough"))
    story.say(ENDED, TokenRevoke(reason="pipeline_ended"))
    story.request(NEW, "a")
    for pipeline_id in (WAITS, TAKEN):
        story.request(pipeline_id, "a")
        story.mint(pipeline_id, None, "a")
        story.say(pipeline_id, TokenRevoke(reason="waiting"))
    story.request(TAKEN, "a", 2)
    story.mint(TAKEN, None, "a")
    story.say(TAKEN, alert("revoke_pipeline"))
    story.say(FORETOLD, alert("revoke_pipeline"), tenant="other")
    return story.recording()


def main(name: str) -> None:
    from tests.unit.spawner.recording import told

    path = FOLDER / f"{name}.msgpack"
    if path.exists():
        raise SystemExit(f"{path} exists: a recording is never made anew; choose another name")
    recording = record()
    FOLDER.mkdir(exist_ok=True)
    path.write_bytes(msgspec.msgpack.encode(recording))
    text = json.dumps(told(recording.restored()), indent=1, ensure_ascii=False)
    path.with_suffix(".json").write_text(f"{text}\n")


if __name__ == "__main__":
    main(sys.argv[1])
