"""An agent that is not ours: runs the tasks of one queue with a Kafka client and files; nothing of Sluice is imported.

    python runner.py CREDENTIALS.json QUEUE ARTIFACTS_DIRECTORY

CREDENTIALS.json is that of the principal `agent-runner`; no runner of Sluice may serve the queue. It takes one attempt
after the other, "works" for three turns, and succeeds. docs/producing.md has the rules; their numbers stand here.
Start it as often as you like: the instances share the tasks.
"""

import hashlib
import json
import os
import sys
import threading
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path

from confluent_kafka import Consumer, Producer, TopicPartition
from login import login

PREFIX = "sluice."
HEARTBEAT_S = 1.0
TASK_AGE_MAX_MS = 60_000
SESSION_TIMEOUT_MS = 6_000
TURNS = 3
TURN_S = 0.5


class Runner:
    """One instance; it holds one attempt at a time."""

    def __init__(self, settings: dict[str, str], queue: str, artifacts: Path) -> None:
        self.runner_id = f"foreign-{uuid.uuid4()}"
        self.queue, self.artifacts = queue, artifacts
        self.held: list[dict] = []
        self.stopped: dict[str, int] = {}
        self.producer = Producer({**settings, "partitioner": "murmur2_random", "enable.idempotence": True})
        group = f"{PREFIX}agent-runner.{queue}"  # a group's name has to begin with the principal's
        reading = {
            **settings, "group.id": group, "session.timeout.ms": SESSION_TIMEOUT_MS, "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
        }  # fmt: skip
        # Rule 6: every instance hears the whole inbox, outside the group, and before it takes its first task.
        self.inbox = Consumer(reading)
        topic = f"{PREFIX}agent.inbox.{queue}"
        numbers = self.inbox.list_topics(topic, timeout=30).topics[topic].partitions
        ends = [self.inbox.get_watermark_offsets(TopicPartition(topic, one), timeout=30)[1] for one in numbers]
        self.inbox.assign([TopicPartition(topic, one, end) for one, end in zip(numbers, ends, strict=True)])
        self.tasks = Consumer(reading)
        self.tasks.subscribe([f"{PREFIX}agent.tasks.{queue}"])

    def serve(self) -> None:
        """Takes one task after the other."""
        threading.Thread(target=self.keep_alive, daemon=True).start()
        print(f"{self.runner_id} serves {self.queue}", flush=True)
        while True:
            record = self.tasks.poll(0.2)
            if record is None or record.error() is not None:
                continue
            self.tasks.commit(record, asynchronous=False)  # rule 1: before the work
            headers = dict(record.headers())
            if headers["ce_type"] != b"agent.run" or record.timestamp()[1] < _now_ms() - TASK_AGE_MAX_MS:
                continue
            self.run(headers["ce_subject"].decode(), headers["ce_tenant"].decode(), json.loads(record.value()))

    def run(self, pipeline_id: str, tenant: str, run: dict) -> None:
        """One attempt, from `agent.run` to its last event."""
        attempt = {"agent_id": run["agent_id"], "attempt": run["attempt"], "runner_id": self.runner_id}

        def say(type_: str, **body: object) -> None:
            self.say(f"agent.events.{self.queue}", type_, pipeline_id, tenant, {**attempt, **body})

        say("agent.attempt_started")
        self.held = [{"agent_id": run["agent_id"], "attempt": run["attempt"], "state": "running"}]
        try:
            # Rule 3: go on after the last turn that was accepted.
            turn = run.get("turn", 0)
            said = json.loads(self.get(run["transcript"])) if turn else []
            tokens = sum(run.get("usage", {}).get(kind, 0) for kind in ("input_tokens", "output_tokens"))
            while turn < TURNS:
                if self.is_stopped(run):
                    return
                if problem := limit_reached(run, turn, tokens):
                    say("agent.failed", problem=problem, retryable=False)
                    return
                time.sleep(TURN_S)  # the work
                turn += 1
                text = f"Part {turn} of {run['task']['objective']!r} is done, by a program of another make."
                said.append(text)
                tokens += 10
                transcript = self.put(json.dumps(said).encode(), "application/json")
                say(
                    "agent.turn_finished", turn=turn, transcript=transcript, provider="none", model="none",
                    finish_reason="stop", usage={"output_tokens": 10}, model_ms=int(TURN_S * 1_000),
                    prompt={"text": "[]"}, response={"text": text},
                )  # fmt: skip
                # It calls no model, so no call is counted. Without this signal it looks stuck after a minute.
                progress = {"agent_id": run["agent_id"], "attempt": run["attempt"], "turn": turn}
                self.say("signals", "progress.reported", pipeline_id, tenant, progress)
            if not self.is_stopped(run):
                say("agent.succeeded", summary=said[-1], result={"text": "\n".join(said)})
        finally:
            self.held = []

    def is_stopped(self, run: dict) -> bool:
        """Reads what is new in the inbox, and says whether this attempt is to stop."""
        while (record := self.inbox.poll(0)) is not None:
            if record.error() is None and dict(record.headers())["ce_type"] == b"agent.stop":
                stop = json.loads(record.value())
                if stop.get("runner_id") in (None, self.runner_id):
                    self.stopped[stop["agent_id"]] = max(stop["attempt"], self.stopped.get(stop["agent_id"], 0))
        return run["attempt"] <= self.stopped.get(run["agent_id"], 0)

    def keep_alive(self) -> None:
        """Names every second all attempts that it holds. A heartbeat that is lost is followed by the next."""
        while True:
            body = {"runner_id": self.runner_id, "queues": [self.queue], "slots": 1, "attempts": self.held}
            try:
                self.say("runner.heartbeats", "runner.heartbeat", self.runner_id, "system", body)
            except OSError as error:
                print(error, file=sys.stderr)
            time.sleep(HEARTBEAT_S)

    def say(self, topic: str, type_: str, key: str, tenant: str, body: dict) -> None:
        """Writes one event, and waits until Kafka has it: nothing may follow from what can be lost."""
        headers = {
            "ce_specversion": "1.0", "ce_id": str(uuid.uuid4()), "ce_source": f"agent-runner/{self.runner_id}",
            "ce_type": type_, "ce_time": datetime.now(UTC).isoformat(), "ce_subject": key, "ce_tenant": tenant,
            "content-type": "application/json",
        }  # fmt: skip
        outcome: list[object] = []
        self.producer.produce(
            PREFIX + topic, key=key, value=json.dumps(body), headers=list(headers.items()),
            on_delivery=lambda error, _: outcome.append(error),
        )  # fmt: skip
        while not outcome:  # librdkafka gives up after five minutes
            self.producer.poll(0.1)
        if outcome[0] is not None:
            raise OSError(f"{type_} is not known to be in the log: {outcome[0]}")

    def put(self, body: bytes, media_type: str) -> dict:
        """Puts a body into the artifact store: a file under its hash, written elsewhere first."""
        digest = hashlib.sha256(body).hexdigest()
        place, temporary = self.artifacts / digest[:2] / digest, self.artifacts / "tmp" / str(uuid.uuid4())
        for folder in (place.parent, temporary.parent):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(body)
        temporary.rename(place)
        return {"sha256": digest, "size_bytes": len(body), "media_type": media_type}

    def get(self, reference: dict) -> bytes:
        """Reads a body, and checks that it is the one that was meant."""
        body = (self.artifacts / reference["sha256"][:2] / reference["sha256"]).read_bytes()
        if hashlib.sha256(body).hexdigest() != reference["sha256"]:
            raise ValueError(f"the body of {reference['sha256']} is another")
        return body


def limit_reached(run: dict, turn: int, tokens: int) -> dict | None:
    """Rule 4: which limit the next turn would break. This work costs no money, so `cost_usd` holds whatever it is."""
    budget = run["task"].get("budget", {}).get("tokens")
    if turn >= run.get("max_iterations", 50):
        return {"code": "max_iterations", "detail": f"{turn} turns are all that there may be"}
    if budget is not None and tokens >= budget:
        return {"code": "budget_exhausted", "detail": f"{tokens} of {budget} tokens are used"}
    if _now_ms() >= run["deadline_at_ms"]:
        return {"code": "agent_timeout", "detail": "the deadline has passed"}
    return None


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


if __name__ == "__main__":
    runner = Runner(login(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
    try:
        runner.serve()
    except KeyboardInterrupt:
        runner.tasks.close()  # so that the others have its share at once
