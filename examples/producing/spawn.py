"""Starts a pipeline from another system: a Kafka client, JSON and headers; nothing of Sluice is imported.

    python spawn.py CREDENTIALS.json [DEDUPE_KEY]

prints the pipeline's id. With a dedupe key a second run starts nothing: it is the same pipeline.
"""

import json
import sys
import uuid
from datetime import UTC, datetime

from confluent_kafka import Producer
from login import login

NAMESPACE = uuid.UUID("6f1c5e0a-5a3f-5d0e-9a52-0f4b8f3f6c11")


def main(credentials_file: str, dedupe_key: str | None = None) -> None:
    """Writes one `pipeline.spawn`."""
    producer = Producer(
        {
            **login(credentials_file),
            "partitioner": "murmur2_random",  # the Java client's default; librdkafka's own default is another
            "enable.idempotence": True,
        }
    )
    tenant = "acme"
    task = {"id": "first", "objective": "Find the first error in the logs.", "role": "researcher"}
    # No model is named: the runner's own answers, or where it has none a scenario that only says so.
    command = {"plan": {"objective": "Explain the incident.", "tasks": [task]}}
    if dedupe_key is None:
        pipeline_id = str(uuid.uuid4())
    else:
        command["dedupe_key"] = dedupe_key
        pipeline_id = str(uuid.uuid5(NAMESPACE, "\x1f".join(["pipeline", tenant, dedupe_key])))
    headers = {
        "ce_specversion": "1.0",
        "ce_id": str(uuid.uuid4()),
        "ce_source": "examples/producing",
        "ce_type": "pipeline.spawn",
        "ce_time": datetime.now(UTC).isoformat(),
        "ce_subject": pipeline_id,
        "ce_tenant": tenant,
        "content-type": "application/json",
    }

    def told(error: object, message: object) -> None:
        if error is not None:
            raise SystemExit(f"Kafka did not take the command: {error}")

    producer.produce(
        "sluice.pipeline.commands",
        key=pipeline_id,
        value=json.dumps(command),
        headers=list(headers.items()),
        on_delivery=told,
    )
    if producer.flush(30):
        raise SystemExit("Kafka did not answer in 30 s; look at bootstrap_servers")
    print(pipeline_id)


if __name__ == "__main__":
    main(*sys.argv[1:])
