"""Lines as Vault 1.21 writes them, with a secret in every place where one may stand."""

from __future__ import annotations

import json
from typing import Any

CANARY = "canary0123456789"
TOKEN = "hvs.CANARY0123456789abcdefghij"
PIPELINE = "69c6c39f-be1a-5d44-82b3-d30eee26918e"
AGENT = "559de069-9f97-5cf9-8b59-f4d1d8180e4c"
HMAC = "hmac-sha256:1e64ab70d4e579533f7d1f192508b5e991c79b2b2c2d44183b556e8728f9d909"


def entry(number: int, kind: str = "response", **changes: Any) -> dict[str, Any]:
    """A read of a secret by an agent. `changes` replace members of the entry."""
    data: dict[str, Any] = {
        "auth": {
            "accessor": "8Yk3nD2pQx7VbT1sW5mZr4Lc", "client_token": HMAC, "display_name": "token-sluice",
            "entity_id": "", "policies": ["sluice-parent", "pipeline-agent"],
            "policy_results": {"allowed": True}, "identity_policies": [CANARY],
            "metadata": {
                "installation": "sluice.", "tenant": "acme", "pipeline_id": PIPELINE, "agent_id": AGENT, "attempt": "2",
                "number": CANARY,
            },
        },
        "request": {
            "id": f"request-{number}", "operation": "read", "path": "secret/data/api-keys/openrouter",
            "mount_type": "kv", "client_token": HMAC, "client_token_accessor": "8Yk3nD2pQx7VbT1sW5mZr4Lc",
            "data": {"secret_id": CANARY, "role_id": CANARY}, "headers": {"x-vault-token": [CANARY]},
            "remote_address": "127.0.0.1", "remote_port": 4711,
        },
        "response": {
            "data": {"key": CANARY}, "secret": {"lease_id": CANARY}, "wrap_info": {"token": CANARY},
            "auth": {"accessor": "9Zk3nD2pQx7VbT1sW5mZr4Lc", "client_token": CANARY, "metadata": {"x": CANARY}},
        },
        "time": f"2026-11-21T09:26:{44 + number // 1000:02d}.{number % 1000:03d}123456Z",
        "type": kind,
    }  # fmt: skip
    if kind == "request":
        del data["response"]
    return data | changes


def line(number: int, kind: str = "response", **changes: Any) -> bytes:
    return json.dumps(entry(number, kind, **changes)).encode()
