"""A stack in a process of its own, for tests that kill the supervisor: `… <directory> <die with it: yes|no>`.

Prints one line of JSON when the stack is ready, and waits.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from sluice_localstack import KafkaBroker, LocalStack
from tests.integration.localstack.tools import ACLS, PRINCIPALS, TOPICS, sleeper

stack = LocalStack(
    Path(sys.argv[1]),
    topics=TOPICS,
    principals=PRINCIPALS,
    acls=ACLS,
    services=lambda own: (sleeper(environment={"PORT": str(own.port("http"))}),),
    die_with_supervisor=sys.argv[2] == "yes",
)
with stack:
    kafka = stack.kafka.pid if isinstance(stack.kafka, KafkaBroker) else None
    state = {"kafka": kafka, "service": stack.pid("sleeper"), "at": stack.bootstrap_servers}
    print(json.dumps(state), flush=True)
    stack.wait()
