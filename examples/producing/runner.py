"""An agent that is not ours: runs the tasks of one queue with a Kafka client and files; nothing of Sluice is imported.

    python runner.py CREDENTIALS.json QUEUE ARTIFACTS_DIRECTORY

CREDENTIALS.json is that of the principal `agent-runner`; no runner of Sluice may serve the queue. It takes one attempt
after the other, "works" for one turn, and succeeds. docs/producing.md has the rules that it follows.
"""

import hashlib
import json
import os
import sys
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path

from confluent_kafka import Consumer, Producer

PREFIX = "sluice."
HEARTBEAT_S = 1.0


class Runner:
    """Says what a runner has to say."""

    def __init__(self, login: dict[str, str], queue: str, artifacts: Path) -> None:
        self.runner_id = f"foreign-{uuid.uuid4()}"
        self.queue, self.artifacts = queue, artifacts
        self.producer = Producer({**login, "partitioner": "murmur2_random", "enable.idempotence": True})

    def say(self, topic: str, type_: str, key: str, tenant: str, body: dict) -> None:
        """Writes one event, and waits until Kafka has it: nothing may follow from what can be lost."""
        headers = {
            "ce_specversion": "1.0", "ce_id": str(uuid.uuid4()), "ce_source": f"agent-runner/{self.runner_id}",
            "ce_type": type_, "ce_time": datetime.now(UTC).isoformat(), "ce_subject": key, "ce_tenant": tenant,
            "content-type": "application/json",
        }  # fmt: skip
        self.producer.produce(PREFIX + topic, key=key, value=json.dumps(body), headers=list(headers.items()))
        if self.producer.flush(30):
            raise SystemExit("Kafka did not answer in 30 s")

    def beat(self, attempts: list[dict]) -> None:
        """Names all attempts that it holds. Once a second, from a thread where a turn takes longer than that."""
        body = {"runner_id": self.runner_id, "queues": [self.queue], "slots": 1, "attempts": attempts}
        self.say("runner.heartbeats", "runner.heartbeat", self.runner_id, "system", body)

    def run(self, pipeline_id: str, tenant: str, run: dict) -> None:
        """One attempt, from `agent.run` to its last event."""
        attempt = {"agent_id": run["agent_id"], "attempt": run["attempt"], "runner_id": self.runner_id}
        topic = f"agent.events.{self.queue}"
        self.say(topic, "agent.attempt_started", pipeline_id, tenant, attempt)
        self.beat([{"agent_id": run["agent_id"], "attempt": run["attempt"], "state": "running"}])
        text = f"{run['task']['objective']} Done, by a program of another make."
        transcript = self.put(json.dumps({"said": text}).encode(), "application/json")
        turn = {
            **attempt, "turn": run.get("turn", 0) + 1, "transcript": transcript, "provider": "none", "model": "none",
            "finish_reason": "stop", "usage": {"input_tokens": 0, "output_tokens": 0, "cost_usd": 0.0}, "model_ms": 1,
            "prompt": {"text": "[]"}, "response": {"text": text},
        }  # fmt: skip
        self.say(topic, "agent.turn_finished", pipeline_id, tenant, turn)
        body = {**attempt, "summary": text, "result": {"text": text}}
        self.say(topic, "agent.succeeded", pipeline_id, tenant, body)

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


def main(credentials_file: str, queue: str, artifacts: str) -> None:
    """Serves a queue until it is interrupted."""
    credentials = json.loads(Path(credentials_file).read_text())
    login = {
        "bootstrap.servers": credentials["bootstrap_servers"],
        "security.protocol": "SASL_PLAINTEXT",
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.username": credentials["username"],
        "sasl.password": credentials["password"],
    }
    runner = Runner(login, queue, Path(artifacts))
    group = f"{PREFIX}agent-runner.{queue}"  # a group's name has to begin with the principal's
    tasks = Consumer({**login, "group.id": group, "auto.offset.reset": "earliest", "enable.auto.commit": False})
    tasks.subscribe([f"{PREFIX}agent.tasks.{queue}"])
    print(f"{runner.runner_id} serves {queue}", flush=True)
    beaten = 0.0
    while True:
        record = tasks.poll(0.2)
        if record is not None and record.error() is None:
            tasks.commit(record, asynchronous=False)  # before the work: what is lost now is found by its lease
            headers = dict(record.headers())
            runner.run(headers["ce_subject"].decode(), headers["ce_tenant"].decode(), json.loads(record.value()))
            print(f"did a task of {headers['ce_subject'].decode()}", flush=True)
        if time.monotonic() - beaten > HEARTBEAT_S:
            runner.beat([])
            beaten = time.monotonic()


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except KeyboardInterrupt:
        pass
